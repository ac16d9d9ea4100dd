//! A large partition is made and given back, and nobody waits for that: the ultravisor's loop comes
//! round every few milliseconds, and answers others meanwhile.
//!
//! The machine's time is counted in instructions (`-icount`), so a turn takes what it takes, whatever
//! else the test host does.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use xtask::bench;
use xtask::options::{BootOptions, MachineOptions};

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

/// Memory of the partition: most of what the machine has free.
const MEMORY: &str = "1536M";
/// What a partition of this size would hold the loop for, were it made in one turn, is a quarter of a
/// second: lists that are answered meanwhile.
const LISTS: u64 = 3;
/// How long a step may take.
const LIMIT: Duration = Duration::from_secs(300);

/// Runs the checks that were asked for.
pub fn run(results: &mut Results) {
    let machine = MachineOptions { cpus: 1, icount: true, ..MachineOptions::default() };
    boots::run_wanted(&Boot { name: "turns", machine, boot: options, checks: CHECKS }, results);
}

fn options() -> Result<BootOptions> {
    let command_memory = Some("256M".into());
    Ok(BootOptions { file: vec![minimal_guest()?], command_memory, ..BootOptions::default() })
}

/// What `uvtool resources` says of the loop and of memory to be scrubbed.
struct Loop {
    unscrubbed: u64,
    longest: u64,
    long: u64,
}

impl Loop {
    fn look(host: &mut Host) -> Result<Self> {
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

/// Runs a command while another client lists partitions over and over; how many lists were answered.
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
    Ok(lists.context("the script told nothing")?.trim().parse()?)
}

/// Makes a large partition of clean memory, gives it back, and makes it again of memory that is not
/// scrubbed yet.
fn large(host: &mut Host) -> Result<()> {
    settle(host)?;
    let before = Loop::look(host)?;
    println!("       longest turn of the start {} us", before.longest / 1000);
    let create = format!(
        "uvtool create --name large --kernel {GUEST} --memory {MEMORY} --command-line idle"
    );
    let destroy = "uvtool destroy --forget large";
    for (what, command) in
        [("clean", create.as_str()), ("destroy", destroy), ("dirty", &create), ("destroy", destroy)]
    {
        let lists = beside_lists(host, command)?;
        let now = Loop::look(host)?;
        println!(
            "       {what}: {lists} lists meanwhile, longest turn {} us, {} frames to be scrubbed",
            now.longest / 1000,
            now.unscrubbed
        );
        ensure!(lists >= LISTS, "only {lists} lists were answered during {what}");
    }
    settle(host)?;
    let after = Loop::look(host)?;
    let long = after.long - before.long;
    ensure!(long == 0, "{long} turns above 5 ms, the longest {} us", after.longest / 1000);
    must(host, "uvtool resources --verify")?;
    Ok(())
}
