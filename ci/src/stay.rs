//! The longest stay in ring 0 while a partition tries to make it long.
//!
//! Ring 0 runs with interrupts off, so nothing else runs on a CPU during a stay. Stays are counted
//! in instructions of the CPU itself (`bench/instruction-counter`), on a machine whose time is
//! instructions, so the figure does not depend on the test host.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use bench::stays;
use rig::build::hv_build;
use rig::interrupt::Scratch;
use rig::options::MachineOptions;
use rig::workspace;

use crate::Results;
use crate::boots::{self, Boot};
use crate::checks::{self, Check};
use crate::containment;
use crate::guests::minimal;
use crate::host::Host;

/// The limit of a stay, in microseconds of the machine's time.
const BOUND: u64 = 100;
/// The most stays that a failure lists.
const TOLD: usize = 8;

const CHECKS: &[Check] = &[
    Check { name: "hostile", run: containment::hostile },
    Check { name: "create-destroy", run: create_and_destroy },
    Check { name: "longest", run: longest },
    Check { name: "monitor-log", run: checks::monitor_log },
];

/// Names a file for stays. The file is removed when the returned value is dropped.
pub fn file(name: &str) -> Result<Scratch> {
    let name = format!("stays-{name}-{}", std::process::id());
    Ok(Scratch::new(workspace::build_dir()?.join(name)))
}

/// A machine whose stays are written to `file`. It has one CPU, because instructions of another CPU
/// would take time of this machine, too.
pub fn machine(file: &Path) -> MachineOptions {
    let stays = Some(file.to_owned());
    MachineOptions { cpus: 1, icount: true, stays, ..MachineOptions::default() }
}

/// Runs the requested checks.
pub fn run_scenarios(results: &mut Results) {
    let Ok(file) = file("hostile") else { return };
    let machine = machine(file.path());
    let boot = Boot { name: "stay", machine, boot: containment::options, checks: CHECKS };
    boots::run_wanted(&boot, results);
}

/// Measures stays while a guest is created and destroyed: its memory is taken, scrubbed and
/// released.
fn create_and_destroy(host: &mut Host) -> Result<()> {
    for name in ["one", "two"] {
        host.sh(&minimal(name, "spin 0"))?;
    }
    for name in ["one", "two"] {
        host.sh(&format!("uvtool destroy {name} --forget"))?;
    }
    Ok(())
}

fn longest(host: &mut Host) -> Result<()> {
    judge(host.options.stays.as_deref().context("no file of stays")?)
}

/// Prints the longest of the stays in a file, which must not exceed the limit.
///
/// # Errors
/// A stay exceeds the limit; the message has the longest ones.
pub fn judge(file: &Path) -> Result<()> {
    let stays = stays::read(file, &hv_build::build()?.monitor)?;
    let longest = stays.first().context("no stay was written down")?;
    println!("longest stay in ring 0: {longest}");
    let too_long: Vec<_> = stays.iter().filter(|stay| stay.microseconds() > BOUND).collect();
    let told: Vec<_> = too_long.iter().take(TOLD).map(|stay| format!("  {stay}")).collect();
    ensure!(too_long.is_empty(), "stays of more than {BOUND} \u{b5}s:\n{}", told.join("\n"));
    Ok(())
}
