//! The I/O partitions: that they run, and that the host outlives them.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rig::options::{BootOptions, Chipset, DiskFunction, MachineOptions};
use rig::workspace;
use serde_json::Value;

use crate::Results;
use crate::boots::{self, Boot};
use crate::checks::{self, Check};
use crate::host::Host;

/// The time limit of what happens while the host starts.
const LIMIT: Duration = Duration::from_secs(120);

/// Runs the requested checks.
pub fn run_scenarios(results: &mut Results) {
    let machine = MachineOptions::default;
    let both = Boot {
        name: "io",
        machine: machine(),
        boot: || Ok(always("")),
        checks: &[
            Check { name: "partitions", run: both_run },
            Check { name: "resources", run: checks::resources },
            Check { name: "monitor-log", run: checks::monitor_log },
        ],
    };
    boots::run_wanted(&both, results);
    let dead = Boot {
        name: "io-dead",
        machine: machine(),
        boot: || Ok(always("inject=die:5")),
        checks: &[
            Check { name: "goes-on", run: goes_on },
            Check { name: "resources", run: checks::resources },
        ],
    };
    boots::run_wanted(&dead, results);
    for (name, chipset, disk_function) in [
        ("io-disks", Chipset::Pc, DiskFunction::Transitional),
        ("io-disks-modern", Chipset::Q35, DiskFunction::Modern),
    ] {
        let disk = DISKS.iter().filter_map(|number| disk_file(*number).ok()).collect();
        let lit = Boot {
            name,
            machine: MachineOptions { chipset, disk, disk_function, ..machine() },
            boot: with_disks,
            checks: &[
                Check { name: "first-light", run: first_light },
                Check { name: "resources", run: checks::resources },
                Check { name: "monitor-log", run: checks::monitor_log },
            ],
        };
        boots::run_wanted(&lit, results);
    }
}

/// The numbers of the disks of a machine.
const DISKS: [u32; 3] = [0, 1, 2];

fn disk_file(number: u32) -> Result<PathBuf> {
    let directory = workspace::directory(workspace::build_dir()?.join("disks"))?;
    Ok(directory.join(format!("{number}.img")))
}

/// The mark in the first sector of a disk.
fn mark(number: u32) -> String {
    format!("disk {number} of the test")
}

/// Number of sectors of a disk.
const fn sectors(number: u32) -> u64 {
    2048 + number as u64
}

/// A host on a machine with disks, each of which has its mark and its size.
fn with_disks() -> Result<BootOptions> {
    for number in DISKS {
        let mut contents = mark(number).into_bytes();
        contents.resize(usize::try_from(sectors(number) * 512)?, 0);
        std::fs::write(disk_file(number)?, contents)?;
    }
    Ok(BootOptions::default())
}

/// Checks that the I/O partitions share the disks, that each reads the mark in the first sector of
/// its own with its driver, and that the ultravisor is told so.
fn first_light(host: &mut Host) -> Result<()> {
    for number in DISKS {
        let text = format!("{} sectors, which begin with {:?}", sectors(number), mark(number));
        host.machine.wait_for(LIMIT, |console| console.contains(&text))?;
        let told = format!("Medium {{ sectors: {}, ", sectors(number));
        host.machine.wait_for(LIMIT, |console| console.contains(&told))?;
    }
    let console = host.machine.console()?;
    let of = |name: &str| {
        let own =
            |line: &&str| line.contains(&format!("{name}: function ")) && line.contains("begin");
        console.lines().filter(own).count()
    };
    ensure!([of("io-a"), of("io-b")] == [2, 1], "{} and {} disks", of("io-a"), of("io-b"));
    ensure!(!console.contains("interrupts: false"), "a disk is polled");
    Ok(())
}

/// A host with I/O partitions, though the machine has nothing for them.
fn always(more: &str) -> BootOptions {
    BootOptions { io_options: format!("always {more}"), ..BootOptions::default() }
}

/// The state of a partition, from `uvtool list`.
fn state(host: &mut Host, name: &str) -> Result<String> {
    let list: Value = serde_json::from_str(&host.sh("uvtool list --json")?)?;
    let rows = list.as_array().context("uvtool list --json is no list")?;
    let row = rows.iter().find(|row| row["name"] == name).context("it is not there")?;
    ensure!(row["kind"] == "io", "{name} is {row}");
    Ok(row["state"].as_str().context("it has no state")?.into())
}

fn both_run(host: &mut Host) -> Result<()> {
    for (number, name) in [(4, "io-a"), (5, "io-b")] {
        let ready = format!("I/O partition {number} runs, restart 0");
        host.machine.wait_for(LIMIT, |console| console.contains(&ready))?;
        let state = state(host, name)?;
        ensure!(state == "running", "{name} is {state}");
    }
    Ok(())
}

/// Checks that a death of an I/O partition is told, and that the rest goes on.
fn goes_on(host: &mut Host) -> Result<()> {
    host.machine.wait_for(LIMIT, |console| console.contains("partition 5 stopped: cause"))?;
    let states = [state(host, "io-a")?, state(host, "io-b")?];
    ensure!(states == ["running", "crashed"], "{states:?}");
    host.sh("uvtool why io-b && uvtool info io-b").map(drop)
}
