//! What differs between two definitions of a partition.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::{Definition, Policy, units};

/// A field that differs between two definitions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldChange {
    /// The field as it is written, such as `cpu.weight`.
    pub field: String,
    /// Its value before.
    pub from: String,
    /// Its value after.
    pub to: String,
    /// It can be changed while the partition runs.
    pub live: bool,
}

/// The fields that differ, in the order in which a definition is written. What is not
/// [live](FieldChange::live) takes effect when the partition is started anew.
#[must_use]
pub fn changes(old: &Definition, new: &Definition) -> Vec<FieldChange> {
    const LIVE: bool = true;
    const RESTART: bool = false;
    let (was, is) = (written(old), written(new));
    // More than the partition has now needs a restart, whatever the new limit says.
    let memory = new.memory <= old.max_memory;
    let vcpus = new.vcpus <= old.max_vcpus;
    let live = [
        LIVE, RESTART, RESTART, RESTART, memory, RESTART, vcpus, RESTART, LIVE, LIVE, LIVE, LIVE,
        RESTART, LIVE, LIVE, LIVE, LIVE,
    ];
    was.into_iter()
        .zip(is)
        .zip(live)
        .filter(|((was, is), _)| was != is)
        .map(|(((field, from), (_, to)), live)| FieldChange {
            field: field.to_owned(),
            from,
            to,
            live,
        })
        .collect()
}

/// All fields with their values as text.
fn written(definition: &Definition) -> [(&'static str, String); 17] {
    let path = |path: &Path| path.display().to_string();
    let none = || "none".to_owned();
    let policy = |policy: Policy| policy.to_string();
    let cpu = &definition.cpu;
    [
        ("name", definition.name.clone()),
        ("kernel", path(&definition.kernel)),
        ("initrd", definition.initrd.as_deref().map_or_else(none, path)),
        ("command_line", definition.command_line.clone()),
        ("memory", units::size(definition.memory)),
        ("max_memory", units::size(definition.max_memory)),
        ("vcpus", definition.vcpus.to_string()),
        ("max_vcpus", definition.max_vcpus.to_string()),
        ("cpu.weight", cpu.weight.to_string()),
        ("cpu.cap", if cpu.cap == 0 { none() } else { format!("{}%", cpu.cap) }),
        ("cpu.affinity", affinity(&cpu.affinity)),
        ("cpu.dedicated", cpu.dedicated.to_string()),
        ("grant_frames", definition.grant_frames.to_string()),
        ("on.poweroff", policy(definition.on.poweroff)),
        ("on.reboot", policy(definition.on.reboot)),
        ("on.crash", policy(definition.on.crash)),
        ("domain", definition.domain.clone().unwrap_or_else(none)),
    ]
}

fn affinity(cpus: &[u32]) -> String {
    if cpus.is_empty() { "all".to_owned() } else { units::cpus(cpus) }
}
