//! Checks that nobody waits while a large partition is created and destroyed: the ultravisor's loop
//! turns every few milliseconds, and answers others meanwhile.
//!
//! The time to scrub its memory afterwards, in idle time, is charged to the client that destroyed
//! it.
//!
//! The machine's time is counted in instructions (`-icount`), so a turn takes the same time
//! whatever else the test host does. The same check with 16 GiB takes minutes, so it runs only by
//! name. It needs little of the test host's memory, because memory that was never written is only
//! read.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rig::options::{BootOptions, MachineOptions};
use serde_json::Value;

use crate::Results;
use crate::boots::{self, Boot};
use crate::checks::{self, Check};
use crate::guests::{GUEST, minimal_guest, must};
use crate::host::Host;

const CHECKS: &[Check] = &[
    Check { name: "large", run: large },
    Check { name: "resources", run: checks::resources },
    Check { name: "kernel-log", run: checks::kernel_log },
];

const CHECKS_16G: &[Check] = &[
    Check { name: "16g", run: sixteen },
    Check { name: "resources", run: checks::resources },
    Check { name: "kernel-log", run: checks::kernel_log },
];

/// The least number of lists that must be answered while a partition is created. If the loop
/// created a partition of this size in one turn, the turn would take a quarter of a second.
const LISTS: u64 = 3;
/// The time limit of a step.
const LIMIT: Duration = Duration::from_secs(1200);
/// The least nanoseconds to check a free frame, which has 512 words.
const LOOK: u64 = 500;

/// Runs the requested checks.
pub fn run_scenarios(results: &mut Results) {
    let machine = || MachineOptions { cpus: 1, icount: true, ..MachineOptions::default() };
    let boot = Boot { name: "turns", machine: machine(), boot: options, checks: CHECKS };
    boots::run_wanted(&boot, results);
    if results.asked_for("turns/16g") {
        let machine = MachineOptions { memory: "18G".into(), ..machine() };
        boots::run_wanted(&Boot { machine, checks: CHECKS_16G, ..boot }, results);
    }
}

fn options() -> Result<BootOptions> {
    let command_memory = Some("256M".into());
    Ok(BootOptions { file: vec![minimal_guest()?], command_memory, ..BootOptions::default() })
}

/// The state of the loop, and of memory to scrub, in `uvtool resources`.
struct Loop {
    unscrubbed: u64,
    longest: u64,
    long: u64,
}

impl Loop {
    fn read(host: &mut Host) -> Result<Self> {
        let all: Value = serde_json::from_str(&must(host, "uvtool resources --json")?)?;
        let number = |key: &str| all[key].as_u64().with_context(|| format!("no {key}: {all}"));
        Ok(Self {
            unscrubbed: number("unscrubbed_frames")?,
            longest: number("longest_turn_ns")?,
            long: number("long_turns")?,
        })
    }
}

/// Waits until all free memory is scrubbed.
fn settle(host: &mut Host) -> Result<()> {
    let output = host.run(&["sh", "-c", bench::SCRUBBED], b"", LIMIT)?;
    ensure!(output.status == 0, "{}{}", output.stdout, output.stderr);
    Ok(())
}

/// Runs a command while another client lists partitions over and over; returns how many lists were
/// answered.
fn beside_lists(host: &mut Host, command: &str) -> Result<u64> {
    let script = format!(
        "rm -f /run/lists; (while uvtool list > /dev/null; do echo >> /run/lists; done) & \
         trap \"kill $!\" EXIT; \
         until [ -s /run/lists ]; do sleep 0.05; done; \
         before=$(wc -l < /run/lists); {command} > /dev/null || exit 1; \
         after=$(wc -l < /run/lists); echo lists $((after - before))"
    );
    let output = host.run(&["sh", "-c", &script], b"", LIMIT)?;
    ensure!(output.status == 0, "{}{}", output.stdout, output.stderr);
    let lists = output.stdout.lines().find_map(|line| line.strip_prefix("lists "));
    Ok(lists.context("the script printed nothing")?.trim().parse()?)
}

/// Nanoseconds that the ultravisor has spent on the command partition.
fn service(host: &mut Host) -> Result<u64> {
    let row: Value = serde_json::from_str(&must(host, "uvtool info command --json")?)?;
    row["service_time_ns"].as_u64().with_context(|| format!("no service time: {row}"))
}

/// Uses most of the free memory of the usual machine.
fn large(host: &mut Host) -> Result<()> {
    comes_and_goes(host, "1536M")
}

fn sixteen(host: &mut Host) -> Result<()> {
    comes_and_goes(host, "16G")
}

/// Creates a partition from clean memory, destroys it, and creates it again from memory that is not
/// scrubbed yet.
fn comes_and_goes(host: &mut Host, memory: &str) -> Result<()> {
    settle(host)?;
    let before = Loop::read(host)?;
    println!("       longest turn of the start {} us", before.longest / 1000);
    let create = format!(
        "uvtool create --name large --kernel {GUEST} --memory {memory} --command-line idle"
    );
    let destroy = "uvtool destroy --forget large";
    for (what, command) in
        [("clean", create.as_str()), ("destroy", destroy), ("dirty", &create), ("destroy", destroy)]
    {
        let lists = beside_lists(host, command)?;
        let now = Loop::read(host)?;
        println!(
            "       {what}: {lists} lists meanwhile, longest turn {} us, {} frames to be scrubbed",
            now.longest / 1000,
            now.unscrubbed
        );
        ensure!(lists >= LISTS, "only {lists} lists were answered during {what}");
    }
    let (spent, left) = (service(host)?, Loop::read(host)?.unscrubbed);
    settle(host)?;
    let spent = service(host)? - spent;
    println!("       {} ms booked for {left} frames that were scrubbed", spent / 1_000_000);
    ensure!(spent >= left * LOOK, "{spent} ns are booked for {left} frames that were scrubbed");
    let after = Loop::read(host)?;
    let (long, longest) = (after.long, after.longest / 1000);
    ensure!(long == 0, "{long} turns above 5 ms since the start, the longest {longest} us");
    must(host, "uvtool resources --verify")?;
    Ok(())
}
