//! The machines that must come up, and what is checked on each.
//!
//! A file of scenarios of its own makes a [`Boot`] and gives it to [`run_wanted`].

use std::time::Instant;

use anyhow::Result;
use xtask::options::{BootOptions, Firmware, MachineOptions};

use crate::Results;
use crate::checks::{self, Check};
use crate::containment;
use crate::host::Host;
use crate::stress;

/// One machine and the checks that share it.
pub struct Boot {
    /// What it is called; a check's name follows it after a slash.
    pub name: &'static str,
    /// What QEMU makes.
    pub machine: MachineOptions,
    /// What is booted; called only when the machine is wanted.
    pub boot: fn() -> Result<BootOptions>,
    /// What is checked, in this order.
    pub checks: &'static [Check],
}

/// Machines that differ in what QEMU makes: name, CPUs, memory, CPU model, firmware.
const MACHINES: [(&str, u32, &str, &str, Firmware); 4] = [
    ("one-cpu", 1, "1G", "max,-smap", Firmware::Bios),
    ("four-cpus", 4, "6G", "max,-smap", Firmware::Bios),
    ("qemu64", 2, "2G", "qemu64", Firmware::Bios),
    ("uefi", 2, "2G", "max,-smap", Firmware::Uefi),
];

/// The machines, the usual one first and the one that takes longest last.
fn all() -> Vec<Boot> {
    let machine = MachineOptions::default;
    let usual = Boot {
        name: "usual",
        machine: machine(),
        boot: || Ok(checks::usual_options()),
        checks: checks::USUAL,
    };
    // One machine where device memory lies past all RAM, and one where it lies amid it.
    let contained = [("containment", "2G"), ("containment-6g", "6G")].map(|(name, memory)| Boot {
        name,
        machine: MachineOptions { memory: memory.into(), ..machine() },
        boot: containment::options,
        checks: containment::CHECKS,
    });
    let stress =
        Boot { name: "stress", machine: machine(), boot: stress::options, checks: stress::CHECKS };
    let others = MACHINES.map(|(name, cpus, memory, model, firmware)| Boot {
        name,
        machine: MachineOptions {
            cpus,
            memory: memory.into(),
            cpu_model: model.into(),
            firmware,
            ..machine()
        },
        boot: || Ok(BootOptions::default()),
        checks: checks::EVERY,
    });
    std::iter::once(usual).chain(others).chain(contained).chain([stress]).collect()
}

/// Runs the boots that were asked for.
pub fn run(results: &mut Results) {
    for boot in all() {
        run_wanted(&boot, results);
    }
}

/// Boots the machine and checks what was asked for of it, if anything was.
pub fn run_wanted(boot: &Boot, results: &mut Results) {
    let name = |check: &Check| format!("{}/{}", boot.name, check.name);
    let wanted: Vec<_> = boot.checks.iter().filter(|c| results.wanted(&name(c))).collect();
    if !wanted.is_empty() {
        run_boot(boot, &wanted, results);
    }
}

fn run_boot(boot: &Boot, checks: &[&Check], results: &mut Results) {
    let start = Instant::now();
    let mut host = match (boot.boot)().and_then(|options| Host::boot(&boot.machine, &options)) {
        Ok(host) => host,
        Err(error) => return results.note(&format!("{}/boot", boot.name), start, Err(error)),
    };
    results.note(&format!("{}/boot", boot.name), start, Ok(()));
    for check in checks {
        let start = Instant::now();
        let result: Result<()> = (check.run)(&mut host);
        results.note(&format!("{}/{}", boot.name, check.name), start, result);
    }
    let start = Instant::now();
    results.note(&format!("{}/power-off", boot.name), start, host.power_off());
}
