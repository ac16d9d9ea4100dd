//! The machines that must come up, and the checks on each.
//!
//! A separate file of scenarios makes a [`Boot`] and gives it to [`run_wanted`].

use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Error, Result, anyhow};
use rig::image::cpio::Archive;
use rig::options::{BootOptions, Firmware, MachineOptions};
use rig::workspace;

use crate::Results;
use crate::checks::{self, Check};
use crate::containment;
use crate::host::Host;
use crate::stress;

/// One machine and the checks that share it.
pub struct Boot {
    /// Its name; a check's name follows it after a slash.
    pub name: &'static str,
    /// The machine that QEMU emulates.
    pub machine: MachineOptions,
    /// Makes the options of the boot; called only if the machine is wanted.
    pub boot: fn() -> Result<BootOptions>,
    /// The checks, in this order.
    pub checks: &'static [Check],
}

/// Machines with different hardware: name, CPUs, memory, CPU model, firmware.
const MACHINES: [(&str, u32, &str, &str, Firmware); 4] = [
    ("one-cpu", 1, "1G", "max,-smap", Firmware::Bios),
    ("four-cpus", 4, "6G", "max,-smap", Firmware::Bios),
    ("qemu64", 2, "2G", "qemu64", Firmware::Bios),
    ("uefi", 2, "2G", "max,-smap", Firmware::Uefi),
];

/// The machines that show what every machine does, the usual one first.
fn machines() -> Vec<Boot> {
    let usual = Boot {
        name: "usual",
        machine: MachineOptions::default(),
        boot: || Ok(checks::usual_options()),
        checks: checks::USUAL,
    };
    let others = MACHINES.map(|(name, cpus, memory, model, firmware)| Boot {
        name,
        machine: MachineOptions {
            cpus,
            memory: memory.into(),
            cpu_model: model.into(),
            firmware,
            ..MachineOptions::default()
        },
        boot: || Ok(BootOptions::default()),
        checks: checks::EVERY,
    });
    std::iter::once(usual).chain(others).collect()
}

/// Machines with a hostile program: on the one device memory lies past all RAM, and on the other it
/// lies in its middle.
fn contained() -> [Boot; 2] {
    [("containment", "2G"), ("containment-6g", "6G")].map(|(name, memory)| Boot {
        name,
        machine: MachineOptions { memory: memory.into(), ..MachineOptions::default() },
        boot: containment::options,
        checks: containment::CHECKS,
    })
}

/// Writes a RAM disk without files, for a kernel that would otherwise get the command partition's.
///
/// # Errors
/// The file cannot be written.
pub fn no_files() -> Result<PathBuf> {
    let initrd = workspace::build_dir()?.join("no-files.cpio");
    workspace::write_if_changed(&initrd, &Archive::new().finish())?;
    Ok(initrd)
}

/// Runs the requested checks of machines with different hardware.
pub fn run_machines(results: &mut Results) {
    machines().iter().for_each(|boot| run_wanted(boot, results));
}

/// Runs the requested checks of machines with a hostile program.
pub fn run_contained(results: &mut Results) {
    contained().iter().for_each(|boot| run_wanted(boot, results));
}

/// Runs the requested checks of the machine with `stress-ng`.
pub fn run_stress(results: &mut Results) {
    let machine = MachineOptions::default();
    let boot = Boot { name: "stress", machine, boot: stress::options, checks: stress::CHECKS };
    run_wanted(&boot, results);
}

/// Boots the machine and runs the requested checks on it, if any.
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
        let name = format!("{}/{}", boot.name, check.name);
        let result = (check.run)(&mut host).map_err(|error| with_console(&name, &host, error));
        results.note(&name, start, result);
    }
    let start = Instant::now();
    results.note(&format!("{}/power-off", boot.name), start, host.power_off());
}

/// Keeps the console's log of a failed check under the check's name, since the next machine uses the
/// file, and says where it is.
fn with_console(name: &str, host: &Host, error: Error) -> Error {
    let copy = || {
        let directory = workspace::directory(workspace::build_dir()?.join("failed"))?;
        let path = directory.join(format!("{}.log", name.replace('/', "-")));
        fs::copy(&host.machine.log_path, &path).context("the console's log cannot be copied")?;
        Ok(path)
    };
    let copied: Result<PathBuf> = copy();
    match copied {
        Ok(path) => anyhow!("{error:#}\nThe console is in {}.", path.display()),
        Err(no_copy) => anyhow!("{error:#}\n{no_copy:#}"),
    }
}
