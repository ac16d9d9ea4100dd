//! A thousand minimal guests on 8 GiB: made by one apply, seen to run, and taken away by another.
//!
//! It takes minutes, so it runs only by name.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use xtask::options::MachineOptions;

use crate::Results;
use crate::boots::{self, Boot};
use crate::checks::{self, Check};
use crate::guests::{definition, minimal_options, must};
use crate::host::Host;

const CHECKS: &[Check] = &[
    Check { name: "thousand", run: thousand },
    Check { name: "resources", run: checks::resources },
    Check { name: "kernel-log", run: checks::kernel_log },
    Check { name: "monitor-log", run: checks::monitor_log },
];

/// Guests.
const COUNT: usize = 1000;
/// How long one step may take.
const LIMIT: Duration = Duration::from_secs(1800);

/// Runs the checks, where they were asked for by name.
pub fn run(results: &mut Results) {
    let machine = MachineOptions { memory: "8G".into(), ..MachineOptions::default() };
    let boot = Boot { name: "guests-8g", machine, boot: minimal_options, checks: CHECKS };
    if results.asked_for("guests-8g/thousand") {
        boots::run_wanted(&boot, results);
    }
}

fn thousand(host: &mut Host) -> Result<()> {
    let keeper = definition("keeper", "idle");
    apply(host, &keeper)?;
    let before = accounts(host)?;
    let all: String =
        (1..=COUNT).map(|index| definition(&format!("many-{index}"), "idle")).collect();
    let start = Instant::now();
    apply(host, &(keeper.clone() + &all))?;
    let made = start.elapsed();
    let rows: Value = serde_json::from_str(&must(host, "uvtool list --json")?)?;
    let rows = rows.as_array().context("uvtool list printed no array")?.iter();
    let many =
        rows.filter(|row| row["name"].as_str().is_some_and(|name| name.starts_with("many-")));
    let (mut count, mut ran) = (0, 0);
    for row in many {
        ensure!(row["state"] == "running", "{row}");
        count += 1;
        ran += usize::from(row["cpu_time_ns"].as_u64().is_some_and(|time| time > 0));
    }
    ensure!(count == COUNT, "{count} of {COUNT} guests run");
    ensure!(ran == COUNT, "{ran} of {COUNT} guests had the CPU");
    let records = must(host, "uvtool log --json")?;
    let start = Instant::now();
    apply(host, &keeper)?;
    println!(
        "       {COUNT} guests: made in {:.0} s, taken away in {:.0} s",
        made.as_secs_f32(),
        start.elapsed().as_secs_f32()
    );
    ensure!(records.contains("many-1000"), "the log does not tell of the guests");
    // Memory is given back in turns of the ultravisor's loop.
    must(host, "while uvtool list --all --json | grep -q '\"many-'; do sleep 1; done")?;
    let after = accounts(host)?;
    ensure!(before == after, "before: {before}\nafter: {after}");
    must(host, "uvtool destroy --forget keeper").map(drop)
}

/// Makes these definitions true in one transaction, and nothing else.
fn apply(host: &mut Host, definitions: &str) -> Result<()> {
    let command = "cat > /root/all.toml && uvtool apply --prune --yes /root/all.toml";
    let output = host.run(&["sh", "-c", command], definitions.as_bytes(), LIMIT)?;
    ensure!(output.status == 0, "`{command}`: {}{}", output.stdout, output.stderr);
    Ok(())
}

/// Frames of each owner that keeps running.
fn accounts(host: &mut Host) -> Result<Value> {
    let mut all: Value = serde_json::from_str(&must(host, "uvtool resources --json")?)?;
    checks::keep_accounts(&mut all)?;
    Ok(all)
}
