//! Both I/O partitions are dead before the second one has reset what the first one drove.
//!
//! `io-a` dies while it serves a guest's disk, and `io-b` when it is ordered to drive that disk, too.
//! Each owes resets that nobody can make but another I/O partition.

use std::fs::{self, File};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rig::options::{BootOptions, Chipset, DiskFunction, MachineOptions};
use rig::workspace;
use serde_json::Value;

use crate::Results;
use crate::boots::{self, Boot};
use crate::checks::{self, Check};
use crate::guests::{GUEST, minimal_guest};
use crate::host::Host;

/// The time limit of each step: the machine is emulated.
const LIMIT: Duration = Duration::from_secs(120);
/// Sectors of each disk.
const SECTORS: u64 = 64 << 11;

/// Runs the requested checks.
pub fn run_scenarios(results: &mut Results) {
    let boot = Boot {
        name: "io-both-dead",
        machine: machine(),
        // A step takes up to a ring of requests, so few of them are sure to come. The second order of
        // io-b is about the disk of io-a.
        boot: || options_with("inject=die-at:4:taken:20 inject=die-at:5:ordered:2"),
        checks: &[
            Check { name: "disks-go-on", run: disks_go_on },
            Check { name: "resources", run: checks::resources },
        ],
    };
    boots::run_wanted(&boot, results);
}

/// A machine with two disks, of which each I/O partition gets one.
pub fn machine() -> MachineOptions {
    let disk = [0, 1].into_iter().filter_map(|number| disk_file(number).ok()).collect();
    let (chipset, disk_function) = (Chipset::Q35, DiskFunction::Modern);
    MachineOptions { chipset, disk, disk_function, ..MachineOptions::default() }
}

fn disk_file(number: u32) -> Result<PathBuf> {
    let directory = workspace::directory(workspace::build_dir()?.join("disks"))?;
    Ok(directory.join(format!("both-dead-{number}.img")))
}

/// Makes empty disks, and returns boot options with the minimal guest.
pub fn options_with(io_options: &str) -> Result<BootOptions> {
    for number in [0, 1] {
        let file = disk_file(number)?;
        fs::write(&file, [])?;
        File::options().write(true).open(&file)?.set_len(SECTORS * 512)?;
    }
    let (file, io_options) = (vec![minimal_guest()?], io_options.into());
    Ok(BootOptions { file, io_options, ..BootOptions::default() })
}

/// Starts a guest with a program and the disk of an I/O partition, and waits until it is connected.
pub fn start(host: &mut Host, name: &str, program: &str, owner: &str) -> Result<()> {
    let resources: Value = serde_json::from_str(&host.sh("uvtool resources --json")?)?;
    let rows = resources["pci"].as_array().context("no PCI functions")?;
    let row = rows.iter().find(|row| row["owner"] == owner);
    let row = row.with_context(|| format!("{owner} has no function"))?;
    let function = row["address"].as_str().context("a function has no address")?;
    let definition = format!(
        "name = \"{name}\"\nkernel = \"{GUEST}\"\ncommand_line = \"{program}\"\nmemory = \"4M\"\n\
         [[disk]]\ndevice = \"xvda\"\nfunction = \"{function}\"\n"
    );
    let command = format!(
        "cat > /root/{name}.toml && uvtool create /root/{name}.toml && \
         uvtool console --follow {name} | grep -q -m 1 '^disk: connected'"
    );
    let output = host.run(&["sh", "-c", &command], definition.as_bytes(), LIMIT)?;
    ensure!(output.status == 0, "{name}: {}{}", output.stdout, output.stderr);
    Ok(())
}

/// Checks that a guest sees a stall and no error, that another guest can be destroyed meanwhile, and
/// that two other I/O partitions run then, so that both dead ones are gone.
fn disks_go_on(host: &mut Host) -> Result<()> {
    start(host, "victim", "disk 9 100000000", "io-b")?;
    start(host, "front", "disk 7 1500", "io-a")?;
    for number in [4, 5] {
        let stopped = format!("partition {number} stopped: cause");
        host.machine.wait_for(LIMIT, &stopped)?;
    }
    host.sh("uvtool destroy --forget victim")?;
    let last = "uvtool console --follow front | tr -d '\\r' | grep -m 1 -E ' errors$|FAILED'";
    let last = host.run(&["sh", "-c", last], b"", LIMIT)?.stdout;
    ensure!(last.trim_end().ends_with(", 0 errors"), "{last}");
    println!("       {}", last.trim_end());
    for (number, name) in [(4, "io-a"), (5, "io-b")] {
        let gone = format!("partition \"{name}\" ({number}) is gone: noticed after");
        host.machine.wait_for(LIMIT, &gone)?;
    }
    let console = host.machine.console()?;
    let ready = "I/O partition 9 runs, restart 0";
    let first = console.find(ready).with_context(|| format!("no {ready:?}"))?;
    let gone = console.find("partition \"io-a\" (4) is gone").context("io-a is there")?;
    ensure!(first < gone, "io-a was gone before io-c ran: nobody owed it a reset");
    host.machine.wait_for(LIMIT, "I/O partition 10 runs, restart 0")?;
    Ok(())
}
