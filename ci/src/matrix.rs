//! Every combination of CPUs, memory, CPU model and firmware that the host supports. It takes as
//! long as all other scenarios together, so it runs only on request: `cargo xtask test matrix`.

use std::time::Instant;

use anyhow::{Context, Result};
use rig::options::{BootOptions, Firmware, MachineOptions};

use crate::Results;
use crate::checks::EVERY;
use crate::host::Host;

const CPUS: [u32; 3] = [1, 2, 4];
const MEMORY: [&str; 2] = ["1G", "6G"];
const MODELS: [&str; 2] = ["qemu64", "max,-smap"];
const FIRMWARE: [(&str, Firmware); 2] = [("bios", Firmware::Bios), ("uefi", Firmware::Uefi)];

/// Runs the machines that were requested by name.
pub fn run_scenarios(results: &mut Results) {
    for (name, machine) in machines() {
        if results.asked_for(&name) {
            let start = Instant::now();
            results.note(&name, start, check(&machine));
        }
    }
}

fn machines() -> Vec<(String, MachineOptions)> {
    let mut machines = Vec::new();
    for cpus in CPUS {
        for memory in MEMORY {
            for model in MODELS {
                for (firmware_name, firmware) in FIRMWARE {
                    let name = format!("matrix/{firmware_name}-{model}-{memory}-{cpus}");
                    let (memory, cpu_model) = (memory.into(), model.into());
                    let options = MachineOptions::default();
                    let options = MachineOptions { cpus, memory, cpu_model, firmware, ..options };
                    machines.push((name, options));
                }
            }
        }
    }
    machines
}

/// Boots the machine, runs the checks for every machine, and powers it off.
fn check(machine: &MachineOptions) -> Result<()> {
    let mut host = Host::boot(machine, &BootOptions::default())?;
    for check in EVERY {
        (check.run)(&mut host).context(check.name)?;
    }
    host.power_off()
}
