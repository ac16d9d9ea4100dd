//! How long a takeover lasts, phase by phase, in instructions of the whole machine.
//!
//! The machine's time is counted in instructions (`-icount`), so the figures are independent of the
//! test host. `io-a` dies while it serves the disk of a guest; the phases stand in the last record
//! about it, and the guest's front end tells how long it waited for an answer at most.

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
/// The phases, by the words before the time in the record, and the thousands of instructions from the
/// death on after which each must be over. `docs/src/budgets.md` has the figures.
const PHASES: [(&str, f64); 5] = [
    ("noticed", 160.0),
    ("fenced", 1500.0),
    ("to partition \"io-b\" (5)", 1600.0),
    ("reset confirmed", 2200.0),
    ("gone", 3200.0),
];
/// Thousands of instructions that the longest time without an answer for the guest may take.
const WAIT: f64 = 50_000.0;

/// Runs the requested checks, by name alone.
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
    both_dead::options_with("inject=die-at:4:taken:20")
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
    let mut times = Vec::new();
    for (words, most) in PHASES {
        times.push((words, after(line, words)? * PER_MS, most));
    }
    times.push(("longest wait for an answer", stall.parse::<f64>()? * PER_MS, WAIT));
    println!("       thousands of instructions from the death on");
    for (words, time, most) in &times {
        println!("       {words:<28} {time:>8.0} of {most:>8.0}");
    }
    for (words, time, most) in times {
        ensure!(time <= most, "{words}: {time:.0} thousand instructions; at most {most:.0}");
    }
    Ok(())
}
