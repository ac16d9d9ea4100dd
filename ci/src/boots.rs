//! The machines that must come up, and what is checked on each.

use std::time::Instant;

use anyhow::Result;
use xtask::options::{BootOptions, Firmware, MachineOptions};

use crate::Results;
use crate::checks::{self, Check};
use crate::host::Host;

/// One machine and the checks that share it.
struct Boot {
    name: &'static str,
    machine: MachineOptions,
    boot: BootOptions,
    checks: &'static [Check],
}

/// The machines, the usual one first.
fn all() -> Vec<Boot> {
    let usual = MachineOptions::default;
    let boot = |name, machine, checks| Boot {
        name,
        machine,
        boot: BootOptions::default(),
        checks,
    };
    vec![
        Boot {
            boot: checks::usual_options(),
            ..boot("usual", usual(), checks::USUAL)
        },
        boot(
            "one-cpu",
            MachineOptions {
                cpus: 1,
                memory: "1G".into(),
                ..usual()
            },
            checks::EVERY,
        ),
        boot(
            "four-cpus",
            MachineOptions {
                cpus: 4,
                memory: "6G".into(),
                ..usual()
            },
            checks::EVERY,
        ),
        boot(
            "qemu64",
            MachineOptions {
                cpu_model: "qemu64".into(),
                ..usual()
            },
            checks::EVERY,
        ),
        boot(
            "uefi",
            MachineOptions {
                firmware: Firmware::Uefi,
                ..usual()
            },
            checks::EVERY,
        ),
    ]
}

/// Runs the boots that were asked for.
pub fn run(results: &mut Results) {
    for boot in all() {
        let name = |check: &Check| format!("{}/{}", boot.name, check.name);
        let wanted: Vec<_> = boot
            .checks
            .iter()
            .filter(|c| results.wanted(&name(c)))
            .collect();
        if !wanted.is_empty() {
            run_boot(&boot, &wanted, results);
        }
    }
}

fn run_boot(boot: &Boot, checks: &[&Check], results: &mut Results) {
    let start = Instant::now();
    let mut host = match Host::boot(&boot.machine, &boot.boot) {
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
