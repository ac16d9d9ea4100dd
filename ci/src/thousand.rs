//! A thousand minimal guests on 8 GiB: created by one apply, seen to run, changed and changed back,
//! and destroyed by another apply.
//!
//! The boot takes minutes, so it runs only by name.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rig::options::MachineOptions;
use serde_json::Value;

use crate::Results;
use crate::boots::{self, Boot};
use crate::checks::{self, Check};
use crate::guests::{definition, minimal_options, must, try_to};
use crate::host::Host;

const CHECKS: &[Check] = &[
    Check { name: "thousand", run: thousand },
    Check { name: "resources", run: checks::resources },
    Check { name: "kernel-log", run: checks::kernel_log },
    Check { name: "monitor-log", run: checks::monitor_log },
];

/// The number of guests.
const COUNT: usize = 1000;
/// The most bytes in the refusal of an undo.
const MOST_SAID: usize = 2000;
/// The time limit of a step.
const LIMIT: Duration = Duration::from_secs(1800);

/// Runs the checks, if they were requested by name.
pub fn run_scenarios(results: &mut Results) {
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
    let planned = must(host, "uvtool plan --prune /root/all.toml")?;
    let nothing =
        format!("0 to create, 0 to change, 0 to destroy, {} as they should be", COUNT + 1);
    ensure!(planned.contains(&nothing), "{planned}");
    let records = must(host, "uvtool log --json")?;
    undo(host, &all)?;
    let start = Instant::now();
    apply(host, &keeper)?;
    println!(
        "       {COUNT} guests: created in {:.0} s, destroyed in {:.0} s",
        made.as_secs_f32(),
        start.elapsed().as_secs_f32()
    );
    ensure!(records.contains("many-1000"), "the log has no records of the guests");
    // Memory is released in turns of the ultravisor's loop.
    must(host, "while uvtool list --all --json | grep -q '\"many-'; do sleep 1; done")?;
    let after = accounts(host)?;
    ensure!(before == after, "before: {before}\nafter: {after}");
    must(host, "uvtool destroy --forget keeper").map(drop)
}

/// Checks that the start of a thousand kernels cannot be undone, and is refused in a short message,
/// but that a change of a thousand weights can.
fn undo(host: &mut Host, all: &str) -> Result<()> {
    let (started, before) = (last_apply(host)?, weight(host)?);
    let (status, said) = try_to(host, &format!("uvtool undo {started}"))?;
    ensure!(status != 0 && said.contains("cannot change back to building"), "{status}: {said}");
    ensure!(said.len() < MOST_SAID, "{said}");
    let heavier = "[[partition]]\ncpu = { weight = 300 }\n";
    apply_some(host, &all.replace("[[partition]]\n", heavier))?;
    ensure!(weight(host)? == 300 && before != 300, "{before}");
    let changed = last_apply(host)?;
    must(host, &format!("uvtool undo {changed}"))?;
    let after = weight(host)?;
    ensure!(before == after, "before: {before}, after: {after}");
    // This also restores the definitions.
    apply_some(host, all)
}

/// CPU weight of the last guest.
fn weight(host: &mut Host) -> Result<u64> {
    let info: Value = serde_json::from_str(&must(host, "uvtool info --json many-1000")?)?;
    info["cpu_weight"].as_u64().context("the plan shows no weight")
}

/// Sequence number of the newest committed record of an apply in the log.
fn last_apply(host: &mut Host) -> Result<u64> {
    let records: Value = serde_json::from_str(&must(host, "uvtool log --json")?)?;
    let of_apply = |record: &&Value| {
        let reason = record["reason"].as_str().unwrap_or_default();
        record["outcome"] == "committed" && reason.starts_with("apply")
    };
    let newest = records.as_array().context("no log")?.iter().rev().find(of_apply);
    newest.and_then(|record| record["sequence"].as_u64()).context("no apply was committed")
}

/// Applies these definitions, and leaves other partitions as they are.
fn apply_some(host: &mut Host, definitions: &str) -> Result<()> {
    let command = "cat > /root/some.toml && uvtool apply /root/some.toml";
    let output = host.run(&["sh", "-c", command], definitions.as_bytes(), LIMIT)?;
    ensure!(output.status == 0, "`{command}`: {}{}", output.stdout, output.stderr);
    Ok(())
}

/// Applies these definitions, and no others, in one transaction.
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
