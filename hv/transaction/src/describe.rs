//! Descriptions of operations, for the log and for people who plan.

use alloc::format;
use alloc::string::String;

use control::command::{DiskNumber, Medium, Operation, Outcome, Target};
use pv_abi::uv::database::{asked, channel_kind};
use pv_abi::uv::devices::DeviceFunction;

use crate::cpus;
use crate::devices::label_of;
use crate::operations::state_name;

/// The partition that an operation concerns.
pub(crate) fn target_of(operation: &Operation, index: u32) -> Option<Target> {
    match operation {
        Operation::CreatePartition { .. } => Some(Target::CreatedBy(index)),
        other => other.target(),
    }
}

/// An amount of memory, in frames of 4 KiB, as text.
fn memory(frames: u64) -> String {
    match (frames.is_multiple_of(256), frames) {
        (true, _) => format!("{} MiB", frames / 256),
        (false, 1) => "1 frame".into(),
        (false, _) => format!("{frames} frames"),
    }
}

/// Describes an operation; `named` is the name of its partition, and `functions` are those of the
/// machine.
pub(crate) fn describe(
    operation: &Operation,
    named: &str,
    functions: &[DeviceFunction],
    outcome: Option<&Outcome>,
) -> String {
    match operation {
        Operation::CreatePartition { name, vcpus, .. } => match outcome {
            Some(Outcome::Partition(n)) => format!("create \"{name}\" ({n}), {vcpus} vCPUs"),
            _ => format!("create \"{}\", {vcpus} vCPUs", name.escape_default()),
        },
        Operation::AssignMemory { frames, .. } => format!("assign {} to {named}", memory(*frames)),
        Operation::ReleaseMemory { ranges, .. } => {
            let frames = ranges.iter().fold(0u64, |sum, range| sum.saturating_add(range.frames));
            format!("release {} of {named}", memory(frames))
        }
        Operation::CreateChannel { kind, .. } => {
            format!("create {} channel of {named}", channel_word(*kind))
        }
        Operation::SetStart { start, .. } => format!("set start of {named} to {:#x}", start.entry),
        Operation::SetState { state, .. } => format!("set {named} {}", state_name(*state)),
        Operation::SetCpu { .. } => format!("set {named}:{}", cpu_words(operation)),
        Operation::Rename { name, .. } => format!("rename {named} \"{}\"", name.escape_default()),
        Operation::SetMemoryTarget { frames, .. } => {
            format!("set memory target of {named} to {}", memory(*frames))
        }
        Operation::SetVcpusOnline { vcpus, .. } => {
            format!("set vCPUs online of {named} to {vcpus}")
        }
        Operation::Ask { what, .. } => match *what {
            asked::POWER_OFF => format!("ask {named} to power off"),
            asked::REBOOT => format!("ask {named} to reboot"),
            other => format!("ask {named} ({other})"),
        },
        Operation::DestroyPartition { .. } => format!("destroy {named}"),
        Operation::Complete { request } => format!("complete request {request}"),
        Operation::AssignDevice { function, .. } => {
            format!("assign {} to {named}", label_of(functions, *function))
        }
        Operation::ReleaseDevice { function, .. } => {
            format!("release {} of {named}", label_of(functions, *function))
        }
        Operation::MoveDevice { function, .. } => {
            format!("move {} to {named}", label_of(functions, *function))
        }
        Operation::AttachDisk { device, medium, read_only, .. } => {
            let how = if *read_only { " to read" } else { "" };
            let medium = medium_words(functions, medium);
            format!("attach {} of {named}{how}: {medium}", DiskNumber(*device))
        }
        Operation::DetachDisk { device, .. } => {
            format!("detach {} of {named}", DiskNumber(*device))
        }
    }
}

fn medium_words(functions: &[DeviceFunction], medium: &Medium) -> String {
    match medium {
        Medium::Disk { function } => format!("disk of {}", label_of(functions, *function)),
        Medium::Partition { function, number } => {
            format!("partition {number} of the disk of {}", label_of(functions, *function))
        }
        Medium::Extents(extents) => {
            let sectors = extents.iter().fold(0u64, |sum, e| sum.saturating_add(e.sectors));
            format!("{sectors} sectors in {} extents", extents.len())
        }
    }
}

fn cpu_words(operation: &Operation) -> String {
    let mut words = String::new();
    if let Operation::SetCpu { weight, cap, affinity, dedicated, .. } = operation {
        if let Some(weight) = weight {
            words += &format!(" weight {weight}");
        }
        if let Some(cap) = cap {
            words += &format!(" cap {cap}");
        }
        if let Some(affinity) = affinity {
            let mask = cpus::mask("", affinity, 256).unwrap_or_default();
            words += " CPUs ";
            words += &if affinity.is_empty() { "all".into() } else { cpus::words(&mask) };
        }
        if let Some(dedicated) = dedicated {
            words += if *dedicated { " dedicated" } else { " not dedicated" };
        }
    }
    words
}

fn channel_word(kind: u32) -> &'static str {
    match kind {
        channel_kind::COMMAND => "command",
        channel_kind::CONSOLE => "console",
        channel_kind::STORE => "store",
        channel_kind::BUILD => "build",
        channel_kind::IO => "I/O",
        _ => "unknown",
    }
}
