//! Attempts the things that a partition must not be able to do. `hostile` makes the calls of a
//! kernel that was taken over, and the ultravisor is asked to release memory that is in use.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rig::image::command_image::FileToSend;
use rig::options::{BootOptions, MachineOptions};
use rig::workspace;
use serde_json::Value;

use crate::Results;
use crate::boots::{self, Boot};
use crate::checks::{self, Check};
use crate::guests::{minimal, minimal_guest};
use crate::host::Host;

/// The checks, in this order; after the attempts, everything must be as before.
pub const CHECKS: &[Check] = &[
    Check { name: "hostile", run: hostile },
    Check { name: "private", run: private },
    Check { name: "channels", run: channels },
    Check { name: "release-in-use", run: release_in_use },
    Check { name: "release-of-others", run: release_of_others },
    Check { name: "resources", run: checks::resources },
    Check { name: "kernel-log", run: checks::kernel_log },
    Check { name: "monitor-log", run: checks::monitor_log },
];

/// The checks with a compromised ultravisor.
const TAKEN: &[Check] = &[
    Check { name: "takes-instances", run: takes_instances },
    Check { name: "resources", run: checks::resources },
    Check { name: "kernel-log", run: checks::kernel_log },
];

/// The checks with an ultravisor that forgets a partition's memory.
const DROPPED: &[Check] = &[
    Check { name: "names-no-memory", run: names_no_memory },
    Check { name: "resources", run: checks::resources },
    Check { name: "kernel-log", run: checks::kernel_log },
];

/// The checks with an ultravisor whose heap is full.
const FULL: &[Check] = &[
    Check { name: "refuses", run: heap_is_full },
    Check { name: "resources", run: checks::resources },
    Check { name: "kernel-log", run: checks::kernel_log },
    Check { name: "monitor-log", run: checks::monitor_log },
];

/// Runs the host with such ultravisors.
pub fn run_scenarios(results: &mut Results) {
    let machine = MachineOptions::default();
    let boot = || with_ultravisor("inject=take");
    boots::run_wanted(&Boot { name: "bad-ultravisor", machine, boot, checks: TAKEN }, results);
    let machine = MachineOptions::default();
    let boot = || with_ultravisor("inject=drop");
    boots::run_wanted(&Boot { name: "lax-ultravisor", machine, boot, checks: DROPPED }, results);
    let machine = MachineOptions::default();
    let boot = || with_ultravisor("inject=fill");
    boots::run_wanted(&Boot { name: "full-heap", machine, boot, checks: FULL }, results);
}

/// Boot options with the minimal guest and these options of the ultravisor.
fn with_ultravisor(options: &str) -> Result<BootOptions> {
    let file = vec![minimal_guest()?];
    Ok(BootOptions { file, ultravisor_options: options.into(), ..Default::default() })
}

/// Checks that an ultravisor without memory refuses what takes memory, answers all else, and goes on
/// when the way out in its refusal is taken. Its heap is full while the guest `filler` exists.
fn heap_is_full(host: &mut Host) -> Result<()> {
    host.sh(&minimal("filler", "beat 0"))?;
    host.machine.wait_for(LIMIT, "injected: the heap is full")?;
    let other = minimal("other", "beat 0");
    for command in [other.as_str(), "uvtool set filler --weight 300", "uvtool rename filler web"] {
        let output = host.run(&["sh", "-c", &format!("{command} --json")], b"", LIMIT)?;
        ensure!(output.status == 1, "`{command}` ended with {}", output.status);
        let said: Value = serde_json::from_str(&output.stderr)
            .with_context(|| format!("`{command}` said {}", output.stderr))?;
        let refusal = &said["error"];
        ensure!(refusal["code"] == "no-memory", "`{command}` was refused: {refusal}");
        ensure!(refusal["object"] == "ultravisor" && refusal["field"] == "heap", "{refusal}");
        ensure!(refusal["way_out"] == "destroy a partition", "{refusal}");
    }
    // Nothing of what was refused was done, and what takes no memory is done.
    let list = json(host, "uvtool list --json")?;
    let names: Vec<_> =
        list.as_array().context("no list")?.iter().map(|row| &row["name"]).collect();
    ensure!(names == ["ultravisor", "boot", "command", "filler"], "{names:?}");
    host.sh("uvtool info filler && uvtool resources && uvtool log")?;
    host.sh("uvtool pause filler && uvtool unpause filler")?;
    // The way out.
    host.sh("uvtool destroy --forget filler")?;
    host.sh(&other)?;
    host.sh("uvtool console --follow other | grep -q -m 1 '^beat 2 '")?;
    host.sh("uvtool set other --weight 300 && uvtool destroy --forget other").map(drop)
}

/// Checks that the monitor does not forget a partition whose page tables the ultravisor did not
/// name: its destruction is refused. The ultravisor finds such tables, and then all memory comes
/// back.
fn names_no_memory(host: &mut Host) -> Result<()> {
    host.sh(&minimal("victim", "beat 0"))?;
    let text = "injected: destruction without ranges: ";
    let answer = |console: &str| {
        let (_, rest) = console.split_once(text)?;
        rest.split_once('\n').map(|(answer, _)| answer.trim_end().to_owned())
    };
    let sees = host.machine.sees(LIMIT, |console| answer(console).is_some())?;
    ensure!(sees, "the ultravisor tried nothing");
    let found = answer(&host.machine.console()?).context("the ultravisor tried nothing")?;
    let expected = "Err(Errno(16))";
    ensure!(found == expected, "destruction without ranges: {found} instead of {expected}");
    host.sh("uvtool destroy --forget victim").map(drop)
}

/// Checks the frames that the ultravisor must not get: a frame that ring 0 writes for a partition,
/// a frame of the monitor, and RAM as I/O memory, which is not scrubbed. Its requests for the
/// instance of a running guest are refused, and the guest goes on.
fn takes_instances(host: &mut Host) -> Result<()> {
    host.sh(&minimal("victim", "beat 0"))?;
    host.sh("uvtool console --follow victim | grep -q -m 1 '^beat 2 '")?;
    let console = host.machine.console()?;
    let of = |what: &str| {
        let line = console.lines().rfind(|line| line.contains("injected: ") && line.contains(what));
        line.with_context(|| format!("no line about {what}"))
    };
    let line = of("frames of an instance are busy")?;
    let words: Vec<_> = line.split_whitespace().collect();
    let at = words.iter().position(|word| *word == "of").context("no counts")?;
    let (busy, all) = (words.get(at - 1), words.get(at + 1));
    ensure!(busy == all, "the ultravisor took frames of an instance: {line}");
    let line = of("the monitor as a partition")?;
    ensure!(line.contains("Err(Errno(22))"), "{line}");
    let line = of("RAM as I/O memory")?;
    ensure!(line.contains("Err(Errno(1))"), "{line}");
    host.sh("uvtool destroy --forget victim").map(drop)
}

/// The time limit of the attempts, some of which wait for an event.
const LIMIT: Duration = Duration::from_secs(240);
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Builds `hostile`, and returns boot options with it and the minimal guest.
///
/// # Errors
/// A program does not build.
pub fn options() -> Result<BootOptions> {
    let target_dir = workspace::root().join("target/hostile");
    let mut cargo = workspace::cargo("build");
    cargo
        .args(["--target", TARGET, "--package", "hostile"])
        .env("CARGO_TARGET_DIR", &target_dir)
        .env("CARGO_PROFILE_DEV_DEBUG", "0")
        .env("RUSTFLAGS", "-C target-feature=+crt-static");
    workspace::run_command(&mut cargo, "building the hostile program")?;
    let program = target_dir.join(TARGET).join("debug/hostile");
    let program = FileToSend { host: program, guest: "/usr/bin/hostile".into() };
    let file = vec![program, minimal_guest()?];
    Ok(BootOptions { file, command_vcpus: Some(2), ..BootOptions::default() })
}

/// Checks that every attempt is refused as expected, that each refusal is recorded with its cause,
/// and that the machine goes on.
pub fn hostile(host: &mut Host) -> Result<()> {
    let before = refused(host)?;
    attempts(host, "", 1000)?;
    let after = refused(host)?;
    let causes = host.sh("grep -o '\"came\":\"E[A-Z0-9]*\"' /tmp/attempts | sort | uniq -c")?;
    ensure!(
        causes.contains("EPERM") && causes.contains("EINVAL"),
        "few calls were refused: \
        {causes}"
    );
    for line in causes.lines() {
        let (count, cause) = line.trim().split_once(' ').context("no count")?;
        let cause = cause.trim_start_matches("\"came\":").trim_matches('"');
        let recorded = |of: &Value| of[cause].as_u64().unwrap_or(0);
        let more = recorded(&after) - recorded(&before);
        ensure!(
            more >= count.parse()?,
            "{count} calls were refused with {cause}, {more} are recorded"
        );
    }
    Ok(())
}

/// The refused calls of the command partition, by cause.
fn refused(host: &mut Host) -> Result<Value> {
    Ok(json(host, "uvtool info command --json")?["refused_calls"].take())
}

/// Checks that the command partition, which administers a guest, reaches none of the guest's memory
/// while the guest runs or is paused, and that the guest goes on.
fn private(host: &mut Host) -> Result<()> {
    host.sh(&minimal("private", "beat 0"))?;
    host.sh("uvtool console --follow private | grep -q -m 1 '^beat 1 '")?;
    for state in ["running", "paused"] {
        if state == "paused" {
            host.sh("uvtool pause private")?;
        }
        let there = memory(host)?;
        ensure!(!ranges(&there, "private")?.is_empty(), "the page map has nothing of the guest's");
        attempts(host, "private 'map foreign frames'", 20)
            .with_context(|| format!("while the guest is {state}"))?;
    }
    let count = "uvtool console --once private | grep -c '^beat '";
    let before = host.number(count)?;
    host.sh("uvtool unpause private")?;
    // Lines arrive again, and more than those that were already in transit.
    host.sh(&format!("uvtool console --follow private | grep -q -m 1 '^beat {} '", before + 2))?;
    host.sh("uvtool destroy --forget private")?;
    Ok(())
}

/// Messages over each channel.
const MESSAGES: u32 = 10_000;

/// Checks that a client that sends arbitrary messages over the command channel and the build
/// channel, in place of `uvd`, stops neither a server nor a guest. What it left is removed, and
/// guests can be built again.
fn channels(host: &mut Host) -> Result<()> {
    let before = memory(host)?;
    host.sh(&minimal("beside", "beat 0"))?;
    let flood = format!(
        "mv /usr/bin/uvd /usr/bin/uvd-kept && mkfifo /run/flood && {{ echo '#!/bin/sh'; \
         echo 'exec hostile channels {MESSAGES} > /run/flood 2>&1'; }} > /usr/bin/uvd && \
         chmod +x /usr/bin/uvd && kill $(pidof uvd) && cat /run/flood; \
         mv /usr/bin/uvd-kept /usr/bin/uvd"
    );
    let output = host.run(&["sh", "-c", &flood], b"", LIMIT)?;
    let last = output.stdout.lines().last().context("it printed nothing")?;
    let came: Value = serde_json::from_str(last).with_context(|| output.stdout.clone())?;
    println!("       {came}");
    for channel in ["command", "build"] {
        let number = |what: &str| came[channel][what].as_u64().context("no number");
        ensure!(number("answers")? > u64::from(MESSAGES) / 20, "{channel}: few answers: {came}");
        ensure!(number("rings_made_anew")? > 0, "{channel}: no ring was made anew: {came}");
    }
    // The partitions that it made belong to the command partition, as those of any client do.
    host.sh(
        "for guest in $(uvtool list --json | tr ',' '\n' | sed -n 's/.*\"number\": *//p'); do \
         [ $guest -lt 6 ] || uvtool destroy --forget $guest; done",
    )?;
    host.sh(&format!("{} --console", minimal("after", "hello")))?;
    host.sh("uvtool destroy --forget after")?;
    ensure!(memory(host)? == before, "the database is not as before");
    host.sh("uvtool resources --verify").map(drop)
}

/// Makes the attempts whose names have one of the words; there must be at least `least`.
pub fn attempts(host: &mut Host, words: &str, least: u64) -> Result<()> {
    // The lines stay in the partition, because there are thousands, and only those of failures
    // matter.
    let script = format!(
        "hostile {words} > /tmp/attempts; status=$?; \
        grep -v '\"held\":true' /tmp/attempts | head -n 50; exit $status"
    );
    let output = host.run(&["sh", "-c", &script], b"", LIMIT)?;
    ensure!(output.status == 0, "{}{}", output.stdout, output.stderr);
    let last = output.stdout.lines().last().context("it printed nothing")?;
    let counts: Value = serde_json::from_str(last).context("the counts are not JSON")?;
    let attempts = counts["attempts"].as_u64().unwrap_or(0);
    ensure!(attempts >= least && counts["failed"] == 0, "{last}");
    Ok(())
}

fn json(host: &mut Host, command: &str) -> Result<Value> {
    let text = host.sh(command)?;
    serde_json::from_str(&text).with_context(|| format!("`{command}` printed no JSON"))
}

/// The database's view of memory, without the usage of CPUs and heaps.
fn memory(host: &mut Host) -> Result<Value> {
    let mut resources = json(host, "uvtool resources --map --json")?;
    checks::keep_accounts(&mut resources)?;
    Ok(resources)
}

/// The ranges of an owner in the page map: the first frame, and the number of frames.
fn ranges(memory: &Value, owner: &str) -> Result<Vec<(u64, u64)>> {
    let rows = memory["map"].as_array().context("no page map")?;
    let of = rows.iter().filter(|row| row["owner"] == owner);
    let range = |row: &Value| Some((row["first_frame"].as_u64()?, row["frames"].as_u64()?));
    of.map(|row| range(row).context("a range without numbers")).collect()
}

/// Asks to release frames, which must be refused; returns the refusal.
fn refusal(host: &mut Host, partition: u32, (first, frames): (u64, u64)) -> Result<Value> {
    let command = format!(
        "uvtool diag release --partition {partition} --first {first} --frames {frames} --json"
    );
    let output = host.run(&["sh", "-c", &command], b"", LIMIT)?;
    ensure!(output.status == 1, "`{command}` ended with status {}", output.status);
    let answer: Value = serde_json::from_str(&output.stdout)
        .with_context(|| format!("`{command}`: {}{}", output.stdout, output.stderr))?;
    let refusal = &answer["refusal"];
    for field in ["object", "field", "reason", "way_out"] {
        let text = refusal[field].as_str().unwrap_or_default();
        ensure!(!text.is_empty(), "`{command}`: the refusal has no {field}: {refusal}");
    }
    Ok(refusal.clone())
}

fn refused_as(host: &mut Host, partition: u32, range: (u64, u64), code: &str) -> Result<()> {
    let refusal = refusal(host, partition, range)?;
    let (first, frames) = range;
    if refusal["code"] != code {
        bail!("{frames} frames from {first:#x} of partition {partition}, not {code}: {refusal}");
    }
    Ok(())
}

/// The number of the command partition.
const COMMAND: u32 = 3;

/// Checks that memory in use by the command partition is not released, whole or in parts, and that
/// its contents do not change.
fn release_in_use(host: &mut Host) -> Result<()> {
    let before = memory(host)?;
    let largest = ranges(&before, "command")?.into_iter().max_by_key(|(_, frames)| *frames);
    let (first, frames) = largest.context("the command partition has no memory")?;
    let middle = first + frames / 2;
    // The whole memory includes frames that the channels and the start state name; the rest is
    // simply in use.
    refused_as(host, COMMAND, (first, frames), "named")?;
    for range in [(first, 1), (middle, 1024), (middle + 5, 3)] {
        refused_as(host, COMMAND, range, "busy")?;
    }
    ensure!(memory(host)? == before, "the database is not as before");
    host.sh("uvtool resources --verify")?;
    Ok(())
}

/// Checks that the command partition can release neither memory of others nor instances.
fn release_of_others(host: &mut Host) -> Result<()> {
    let before = memory(host)?;
    for (number, owner) in [(1, "ultravisor"), (2, "boot"), (7, "monitor"), (8, "firmware")] {
        for (first, _) in ranges(&before, owner)? {
            refused_as(host, number, (first, 1), "system-partition")?;
            refused_as(host, COMMAND, (first, 1), "not-owner")?;
        }
    }
    for (first, frames) in ranges(&before, "free")? {
        refused_as(host, COMMAND, (first, frames), "not-owner")?;
        refused_as(host, 0, (first, frames), "no-such-partition")?;
    }
    // This range of its own memory holds its monitor instance.
    let smallest = ranges(&before, "command")?.into_iter().min_by_key(|(_, frames)| *frames);
    let (instance, _) = smallest.context("the command partition has no memory")?;
    refused_as(host, COMMAND, (instance, 1), "not-owner")?;
    refused_as(host, COMMAND, (instance, 0), "invalid-value")?;
    refused_as(host, COMMAND, (instance, u64::MAX), "not-owner")?;
    ensure!(memory(host)? == before, "the database is not as before");
    Ok(())
}
