//! Debian's fio in a stock guest: it verifies what it wrote, with many requests in flight.
//!
//! The program and its libraries come from Debian's packages, unmodified. They are on the disk with
//! the guest's root file system; fio writes to another disk. `FIO_SECONDS` in the environment sets a
//! longer time than CI can spend.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use rig::build::debian;
use rig::image::command_image::FileToSend;
use rig::options::BootOptions;
use rig::workspace;

use super::{Guest, ROOT, definition_from, functions, linux, machine, options};
use crate::host::Host;
use crate::{Results, number};

/// The program, in the tree of unpacked packages.
const PROGRAM: &str = "usr/bin/fio";
/// Seconds of a run.
const SECONDS: u64 = 8;
/// Seconds of the run that runs only by name.
const LONG: u64 = 120;
/// What the I/O partition with fio's disk dies of, in the middle of the run.
const DEATH: &str = "inject=die-at:5:issued:400";

/// What a kernel logs once when a timer interrupt lasted long.
const LATE: &str = "hrtimer: interrupt took";

/// Runs the scenarios that run only by name.
pub fn run_scenarios(results: &mut Results) {
    let start = Instant::now();
    if results.asked_for("disk-fio/long") {
        results.note("disk-fio/long", start, long());
    }
    let start = Instant::now();
    if results.asked_for("disk-fio/death") {
        results.note("disk-fio/death", start, death());
    }
}

/// Downloads fio, and returns the program with its libraries.
pub fn files() -> Result<Vec<FileToSend>> {
    let tree = workspace::directory(workspace::build_dir()?.join("packages"))?.join("fio");
    if !tree.exists() {
        let packages = debian::closure("fio")?;
        let packages: Vec<_> = packages.iter().map(String::as_str).collect();
        debian::unpack(&packages, &tree)?;
    }
    debian::programs(&tree, &[PROGRAM])
}

/// Checks that fio verifies what it wrote on a guest's disk, and that the guest's kernel logs nothing
/// meanwhile.
pub fn verifies(host: &mut Host) -> Result<()> {
    run(host, number("FIO_SECONDS", SECONDS)?)
}

fn long() -> Result<()> {
    let mut host = Host::boot(&machine(), &options()?)?;
    run(&mut host, number("FIO_SECONDS", LONG)?)?;
    host.power_off()
}

/// Checks that fio verifies what it wrote although the I/O partition that serves the disk dies.
fn death() -> Result<()> {
    let boot = BootOptions { io_options: DEATH.into(), ..options()? };
    let mut host = Host::boot(&machine(), &boot)?;
    run_between(&mut host, number("FIO_SECONDS", SECONDS)?, &|host| {
        ensure!(!has_died(host)?, "the I/O partition ended before fio began");
        Ok(())
    })?;
    ensure!(has_died(&mut host)?, "the I/O partition did not end");
    host.power_off()
}

fn has_died(host: &mut Host) -> Result<bool> {
    Ok(host.machine.console()?.contains("partition 5 stopped: cause"))
}

fn run(host: &mut Host, seconds: u64) -> Result<()> {
    run_between(host, seconds, &|_| Ok(()))
}

/// Runs fio in a guest, after a check of the host.
fn run_between(
    host: &mut Host,
    seconds: u64,
    before: &dyn Fn(&mut Host) -> Result<()>,
) -> Result<()> {
    let functions = functions(host)?;
    // The disk of fio is another I/O partition's than the root file system.
    let disks = [("xvda", functions[ROOT as usize].as_str()), ("xvdb", functions[1].as_str())];
    let definition = definition_from(&linux(" root=/dev/xvda1"), "fio", 2, &disks);
    let limit = Duration::from_secs(300 + seconds * 10);
    let mut guest = Guest::start_from(host, "fio", &definition, limit)?;
    guest.step("there xvdb")?;
    before(guest.host)?;
    guest.step("log")?;
    let said = guest.step(&format!("fio xvdb {seconds}"))?;
    println!("       {}", said.replace('\n', "\n       "));
    ensure!(said.matches("err= 0").count() == JOBS, "{said}");
    let log = guest.step("log")?;
    // An emulated CPU that stood still is no matter of the disk.
    let complaints: Vec<&str> = log.lines().filter(|line| !line.contains(LATE)).collect();
    ensure!(complaints.is_empty(), "the guest's kernel logged: {}", complaints.join("\n"));
    guest.end()
}

/// Jobs of fio that a step runs.
const JOBS: usize = 2;
