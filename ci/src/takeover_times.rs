//! How long a takeover lasts, phase by phase, in instructions of the whole machine.
//!
//! The machine's time is counted in instructions (`-icount`), so the figures are independent of the
//! test host. `io-a` dies while it serves the disk of a guest; the phases stand in the last record
//! about it, and the guest's front end tells how long it waited for an answer.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rig::options::{BootOptions, MachineOptions};

use crate::Results;
use crate::boots::{self, Boot};
use crate::checks::{self, Check};
use crate::host::Host;
use crate::{both_dead, number};

/// The time limit of a step.
const LIMIT: Duration = Duration::from_secs(300);
/// Thousands of instructions in a millisecond of the machine: an instruction takes 2 ns.
const PER_MS: f64 = 500.0;
/// The phases, by the words before the time in the record.
const PHASES: [&str; 5] =
    ["noticed", "fenced", "to partition \"io-b\" (5)", "reset confirmed", "gone"];

/// Runs the requested checks, by name alone: they print figures, and have no bounds yet.
pub fn run_scenarios(results: &mut Results) {
    let machine = both_dead::machine();
    let boot = Boot {
        name: "io-times",
        machine: MachineOptions { cpus: 1, icount: true, ..machine },
        boot: options,
        checks: &[
            Check { name: "takeover", run: takeover },
            Check { name: "resources", run: checks::resources },
        ],
    };
    if results.asked_for("io-times/takeover") {
        boots::run_wanted(&boot, results);
    }
}

fn options() -> Result<BootOptions> {
    both_dead::options_with("inject=die-at:4:taken:90")
}

/// The milliseconds after these words in a record.
fn after(line: &str, words: &str) -> Result<f64> {
    let rest = line.split_once(&format!("{words} after ")).map(|(_, rest)| rest);
    let rest = rest.with_context(|| format!("no {words:?} in {line}"))?;
    Ok(rest.split_once(" ms").context("no time")?.0.parse()?)
}

fn takeover(host: &mut Host) -> Result<()> {
    let seed = number("SEED", 1)?;
    both_dead::start(host, "front", &format!("disk {seed} 1000"), "io-a")?;
    let last = "uvtool console --follow front | tr -d '\\r' | grep -m 1 -E ' errors$|FAILED'";
    let last = host.run(&["sh", "-c", last], b"", LIMIT)?.stdout;
    ensure!(last.trim_end().ends_with(", 0 errors"), "{last}");
    host.machine.wait_for(LIMIT, "I/O partition 9 runs")?;
    let log = host.sh("uvtool log -n 200")?;
    let line = log.lines().find(|line| line.contains("(4) is gone: noticed after"));
    let line = line.with_context(|| format!("no takeover in {log}"))?;
    let stall = last.split_once("longest stall ").map(|(_, rest)| rest);
    let stall = stall.and_then(|rest| rest.split_once(" ms")).context("no stall")?.0;
    println!("       thousands of instructions from the death on");
    for words in PHASES {
        println!("       {words:<28} {:>8.0}", after(line, words)? * PER_MS);
    }
    println!("       {:<28} {:>8.0}", "first answer", stall.parse::<f64>()? * PER_MS);
    Ok(())
}
