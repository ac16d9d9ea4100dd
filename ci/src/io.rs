//! The I/O partitions: that they run, that one takes over from the other, and that the host outlives
//! them.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rig::options::{BootOptions, Chipset, DiskFunction, MachineOptions};
use rig::workspace;
use serde_json::Value;

use crate::Results;
use crate::boots::{self, Boot};
use crate::both_dead;
use crate::checks::{self, Check};
use crate::guests::minimal_guest;
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
    let early = Boot {
        name: "io-dead-early",
        machine: machine(),
        boot: || Ok(always("inject=die:5")),
        checks: &[
            Check { name: "comes-back", run: comes_back },
            Check { name: "resources", run: checks::resources },
        ],
    };
    boots::run_wanted(&early, results);
    let disk = DISKS.iter().filter_map(|number| disk_file(*number).ok()).collect();
    let dead = Boot {
        name: "io-dead",
        machine: MachineOptions { disk, ..machine() },
        boot: || {
            let file = vec![minimal_guest()?];
            Ok(BootOptions { file, ..with_disks("inject=die-at:4:bound:1")? })
        },
        checks: &[
            Check { name: "takes-over", run: takes_over },
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
            boot: || with_disks(""),
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

/// Writes the images of the disks, each with its mark and its size, and returns the boot options.
fn with_disks(io_options: &str) -> Result<BootOptions> {
    for number in DISKS {
        let mut contents = mark(number).into_bytes();
        contents.resize(usize::try_from(sectors(number) * 512)?, 0);
        std::fs::write(disk_file(number)?, contents)?;
    }
    Ok(BootOptions { io_options: io_options.into(), ..BootOptions::default() })
}

/// The number of disks whose first sector a partition has read.
fn lit(console: &str, name: &str) -> usize {
    let own = |line: &&str| line.contains(&format!("{name}: function ")) && line.contains("begin");
    console.lines().filter(own).count()
}

/// Checks that the I/O partitions share the disks, that each reads the mark in the first sector of
/// its own with its driver, and that the ultravisor is told so.
fn first_light(host: &mut Host) -> Result<()> {
    for number in DISKS {
        let text = format!("{} sectors, which begin with {:?}", sectors(number), mark(number));
        host.machine.wait_for(LIMIT, &text)?;
        let told = format!("Medium {{ sectors: {}, ", sectors(number));
        host.machine.wait_for(LIMIT, &told)?;
    }
    let console = host.machine.console()?;
    let of = ["io-a", "io-b"].map(|name| lit(&console, name));
    ensure!(of == [2, 1], "{of:?} disks");
    ensure!(!console.contains("interrupts: false"), "a disk is polled");
    Ok(())
}

/// Boot options of a host with I/O partitions, though the machine has no functions for them.
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
        host.machine.wait_for(LIMIT, &ready)?;
        let state = state(host, name)?;
        ensure!(state == "running", "{name} is {state}");
    }
    Ok(())
}

/// Waits until a dead I/O partition is gone and the first spare number runs in its place beside
/// `other`. Checks that the audit log tells why.
fn is_made_good(host: &mut Host, (number, name): (u32, &str), other: &str) -> Result<()> {
    let gone = format!("partition \"{name}\" ({number}) is gone: noticed after");
    host.machine.wait_for(LIMIT, &gone)?;
    let ready = "I/O partition 9 runs, restart 0";
    host.machine.wait_for(LIMIT, ready)?;
    let states = [state(host, other)?, state(host, "io-c")?];
    ensure!(states == ["running", "running"], "{states:?}");
    ensure!(state(host, name).is_err(), "{name} is there");
    // What `uvtool why` tells is about the present life.
    let log = host.sh("uvtool log -n 200")?;
    for part in ["said that it crashed", "give up partition", "is gone: noticed after"] {
        ensure!(log.contains(part), "no {part:?} in {log}");
    }
    Ok(())
}

/// Checks that another I/O partition is built in the place of one that died, and that the rest goes
/// on.
fn comes_back(host: &mut Host) -> Result<()> {
    host.machine.wait_for(LIMIT, "partition 5 stopped: cause")?;
    is_made_good(host, (5, "io-b"), "io-a")
}

/// Checks that the other I/O partition drives the disks of one that died, and keeps them when
/// another is there in its place. The first one dies when it serves a guest, so both run then.
fn takes_over(host: &mut Host) -> Result<()> {
    both_run(host)?;
    let share = host.machine.sees(LIMIT, |console| lit(console, "io-a") == 2)?;
    ensure!(share, "io-a drives {} disks", lit(&host.machine.console()?, "io-a"));
    both_dead::start(host, "front", "disk 7 100", "io-a")?;
    host.machine.wait_for(LIMIT, "partition 4 stopped: cause")?;
    let all = host.machine.sees(LIMIT, |console| lit(console, "io-b") == DISKS.len())?;
    ensure!(all, "io-b drives {} disks", lit(&host.machine.console()?, "io-b"));
    is_made_good(host, (4, "io-a"), "io-b")?;
    let console = host.machine.console()?;
    let moved = "2 functions to partition \"io-b\" (5) after";
    ensure!(console.contains(moved), "no {moved:?}");
    ensure!(lit(&console, "io-a") == 2, "io-a drove {} disks", lit(&console, "io-a"));
    let resources: Value = serde_json::from_str(&host.sh("uvtool resources --json")?)?;
    let functions = resources["pci"].as_array().context("no functions")?;
    let of = |owner: &str| functions.iter().filter(|row| row["owner"] == owner).count();
    ensure!((of("io-c"), of("io-b")) == (0, DISKS.len()), "{functions:?}");
    Ok(())
}
