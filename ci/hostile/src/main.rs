//! A test program that runs in the command partition, as root, and attempts what containment
//! forbids. `hostile` prints a line of JSON for each attempt (`name`, `stands_for`, `held`,
//! `expected`, `came`) and a last one with the counts. It ends with status 1 if an attempt
//! succeeded or was refused with another error than expected.
//!
//! ```text
//! frames      memory of others: map, write, link, pin, load, give back, copy, grant
//! tables      own page tables and descriptors: what may refer to what
//! partitions  others by number: memory, events, grants
//! calls       our own calls, processor state, addresses of the monitor
//! instructions  ring 3 without any call
//! long        batches that take long, while another virtual CPU goes on
//! wild        arguments that make no sense
//! race        two virtual CPUs on the same pages
//! ```
//!
//! The kernel lets root make any hypercall (`/dev/xen/privcmd`, the module's parameter
//! `unrestricted=1`), so the program represents a kernel that was taken over. `hostile WORD…` makes
//! only those attempts whose names contain one of the words.
//!
//! `hostile channels COUNT` is another program: it runs in place of `uvd`, and sends this many
//! messages over the command channel and the build channel; its last line is the result.

mod attempt;
mod calls;
mod channel;
mod frames;
mod ground;
mod instructions;
mod linux;
mod long;
mod partitions;
mod race;
mod report;
mod stage;
mod tables;
mod wild;

use std::collections::BTreeMap;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, ensure};
use attempt::{Attempt, name_of};
use ground::Foreign;
use instructions::{Code, Ends};
use linux::{Ended, Hypercalls};
use pv_abi::xen::domid;
use pv_abi::xen::hypercall as number;
use report::Report;
use serde::Deserialize;
use serde_json::json;
use stage::Stage;
use wild::Wild;

/// The partition that the program runs in.
const OWN: &str = "command";

/// The fields of `uvtool info --json` that are used.
#[derive(Deserialize)]
struct Info {
    number: u32,
    vcpus: u32,
}

/// The fields of `uvtool resources --json` that are used.
#[derive(Deserialize)]
struct Machine {
    cpus: Vec<serde::de::IgnoredAny>,
}

fn main() -> ExitCode {
    match run_attempts() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("hostile: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// The wanted attempts: all, or those with one of these words in their names.
struct Wanted(Vec<String>);

impl Wanted {
    fn has(&self, name: &str) -> bool {
        self.0.is_empty() || self.is_named(name)
    }

    /// Whether one of the words is part of the name.
    fn is_named(&self, name: &str) -> bool {
        self.0.iter().any(|word| name.contains(word))
    }
}

fn run_attempts() -> Result<bool> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if let [first, count] = &words[..]
        && first == "channels"
    {
        report::say(&channel::flood(count.parse().context("COUNT")?)?);
        return Ok(true);
    }
    let wanted = Wanted(words);
    let mut report = Report::default();
    let resources = uvtool(&["resources", "--map", "--json"])?;
    let machine: Machine = serde_json::from_str(&resources).context("uvtool resources --json")?;
    let info = uvtool(&["info", OWN, "--json"])?;
    let info: Info = serde_json::from_str(&info).context("uvtool info --json")?;
    let foreign = ground::foreign_frames(&resources, OWN)?;
    linux::stay_on_cpu(0)?;
    let hypercalls = Hypercalls::open()?;
    let stage = Stage::set(&hypercalls, info.number, info.vcpus, foreign)?;
    let ground = &stage.ground;
    let all = [
        tables::attempts(ground),
        frames::attempts(ground),
        partitions::attempts(ground),
        calls::attempts(),
    ];
    for attempt in all.iter().flatten().filter(|attempt| wanted.has(&attempt.name)) {
        make(&hypercalls, &stage, attempt, &mut report);
    }
    if wanted.has(ABSENT) {
        let kept = linux::keeps_absent_pages()?;
        let why = "entries that a kernel writes for pages without access";
        report.line(ABSENT, why, kept, "kept", if kept { "kept" } else { "lost" });
    }
    map_by_device(&hypercalls, &stage, &wanted, &mut report)?;
    for code in instructions::all(stage::DATA_SELECTOR) {
        if wanted.has(&code.name) {
            run_code(&code, &mut report)?;
        }
    }
    if wanted.has(IDLE) {
        reach_idle(&hypercalls, &stage, &mut report)?;
    }
    if wanted.has(long::LONG) {
        long::all(&hypercalls, &stage.raced, machine.cpus.len(), &mut report)?;
    }
    // It is not part of all attempts, because it has not yet been seen to pass on a machine.
    if wanted.is_named(RACE) {
        race(&stage, &mut report)?;
    }
    stage.clear()?;
    be_wild(&hypercalls, &wanted, &mut report);
    Ok(report.finish())
}

/// The output of `uvtool`.
fn uvtool(words: &[&str]) -> Result<String> {
    let output = Command::new("uvtool").args(words).output().context("uvtool")?;
    let reason = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "uvtool {}: {reason}", words.join(" "));
    Ok(String::from_utf8(output.stdout)?)
}

fn make(hypercalls: &Hypercalls, stage: &Stage, attempt: &Attempt, report: &mut Report) {
    stage.set_grant(attempt.grant);
    let outcome = hypercalls.perform(&attempt.call);
    stage.set_grant(None);
    report.line(
        &attempt.name,
        attempt.stands_for,
        attempt.expected.held(&outcome),
        &attempt.expected.text(),
        &attempt.expected.outcome_text(&outcome),
    );
}

/// The name of the check that pages without access keep their contents.
const ABSENT: &str = "control: absent pages";

/// The name for a frame that the partition released: it still belongs to the partition, but is out
/// of its reach.
const IDLE: &str = "own idle frame";

/// Attempts on an idle frame, and attempts to give it to others while the monitor keeps it for the
/// partition.
fn reach_idle(hypercalls: &Hypercalls, stage: &Stage, report: &mut Report) -> Result<()> {
    stage.give_back(stage.ground.data)?;
    let frame = Foreign { what: IDLE.into(), mfn: stage.ground.data.mfn, owner: None };
    for attempt in frames::on(&stage.ground, &frame) {
        make(hypercalls, stage, &attempt, report);
    }
    let why = "the monitor's memory for a partition stays with that partition";
    let came = release(stage.ground.number, frame.mfn)?;
    report.line(&format!("release: {IDLE}"), why, came == "busy", "busy", &came);
    let same = stage.take_back(stage.ground.data)?;
    report.line(&format!("populate: {IDLE}"), why, same, "true", &same.to_string());
    Ok(())
}

/// The name of the attempt with two virtual CPUs at once.
const RACE: &str = "race on the same pages";

/// Lets two virtual CPUs change the same pages. Afterwards nothing may hold a reference to a page:
/// each page is released and taken again.
fn race(stage: &Stage, report: &mut Report) -> Result<()> {
    /// Steps of each virtual CPU, which take a second or two.
    const STEPS: u64 = 30_000;
    let why = "XSA-343: state that virtual CPUs share changes as a whole";
    let done = race::race_on(&stage.raced, &stage.raced_grants, STEPS)?;
    report.line(RACE, why, done > STEPS / 10, "steps done", &done.to_string());
    for (index, page) in stage.raced.iter().enumerate() {
        let name = format!("page {index} after the race");
        let came = match stage.give_back(*page).and_then(|()| stage.take_back(*page)) {
            Ok(true) => "given back and taken".to_owned(),
            Ok(false) => "another frame taken".to_owned(),
            Err(error) => error.to_string(),
        };
        let held = came.starts_with("given");
        report.line(&name, "no reference is left over", held, "given back and taken", &came);
    }
    Ok(())
}

/// Asks the ultravisor to release a frame; returns the code of the refusal.
fn release(partition: u32, frame: u64) -> Result<String> {
    let (partition, frame) = (partition.to_string(), frame.to_string());
    let mut uvtool = Command::new("uvtool");
    uvtool.args(["diag", "release", "--json", "--frames", "1"]);
    let output = uvtool.args(["--partition", &partition, "--first", &frame]).output()?;
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout)
        .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
    Ok(answer["refusal"]["code"].as_str().unwrap_or("released").to_owned())
}

/// Attempts to map foreign frames by the kernel's own interface.
fn map_by_device(
    hypercalls: &Hypercalls,
    stage: &Stage,
    wanted: &Wanted,
    report: &mut Report,
) -> Result<()> {
    let numbers = stage.ground.foreign.iter().filter_map(|frame| frame.owner);
    let mut owners: Vec<u16> = numbers.map(|number| number as u16 & 0x7fff).collect();
    owners.sort_unstable();
    owners.dedup();
    owners.extend([domid::SELF, domid::IO, domid::XEN]);
    let frames: Vec<u64> = stage.ground.foreign.iter().map(|frame| frame.mfn).collect();
    for owner in owners {
        let name = format!("map foreign frames by the kernel, of partition {owner:#x}");
        if !wanted.has(&name) {
            continue;
        }
        let (_, errors) = hypercalls.map(owner, &frames)?;
        let mapped = errors.iter().filter(|error| **error >= 0).count();
        let came = format!("{mapped} of {} mapped", frames.len());
        let why = "memory belongs to one partition";
        report.line(&name, why, mapped == 0, "none mapped", &came);
    }
    Ok(())
}

fn run_code(code: &Code, report: &mut Report) -> Result<()> {
    let ended = linux::run_code(&code.bytes).with_context(|| code.name.clone())?;
    let (held, expected) = match code.ends {
        Ends::Faults => (ended != Ended::Returned, "a signal"),
        Ends::Returns => (ended == Ended::Returned, "return"),
        Ends::Somehow => (true, "a signal or return"),
    };
    let came = format!("{ended:?}").to_lowercase();
    report.line(&code.name, code.stands_for, held, expected, &came);
    Ok(())
}

/// Makes calls with wild arguments. Results are only counted, because the kernel truncates them to
/// 32 bits, and some calls return any value.
fn be_wild(hypercalls: &Hypercalls, wanted: &Wanted, report: &mut Report) {
    let (zeros, bytes) = hypercalls.memory();
    let wild = Wild { zeros, bytes, frames: 1 << 24 };
    for call_number in Wild::numbers() {
        let name = format!("wild arguments of call {call_number}");
        if !wanted.has(&name) {
            continue;
        }
        let (mut spared, mut results) = (0, BTreeMap::<String, u64>::new());
        for call in wild.calls(call_number) {
            if wild.is_spared(call) {
                spared += 1;
                continue;
            }
            let result = hypercalls.plain(call.0, call.1);
            let result = if result < 0 { name_of(result) } else { "done".into() };
            *results.entry(result).or_default() += 1;
            settle(hypercalls, call.0);
        }
        report.print(
            true,
            &json!({ "name": name, "stands_for": "XSA-29: any argument is answered",
                     "held": true, "spared": spared, "came": results }),
        );
    }
}

/// Restores state of the virtual CPU that calls with this number may have changed.
fn settle(hypercalls: &Hypercalls, call_number: u64) {
    if Wild::stops_timer(call_number) {
        // This time is past, so the kernel gets its interrupt and sets the timer again.
        hypercalls.plain(number::SET_TIMER_OP, [1, 0, 0, 0, 0]);
    }
    if call_number == number::SET_DEBUGREG {
        for register in [0, 1, 2, 3, 6] {
            hypercalls.plain(number::SET_DEBUGREG, [register, 0, 0, 0, 0]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_attempt_has_a_name_of_its_own_and_says_what_it_stands_for() {
        let ground = ground::samples::ground();
        let all = [
            tables::attempts(&ground),
            frames::attempts(&ground),
            partitions::attempts(&ground),
            calls::attempts(),
        ];
        let mut names = BTreeSet::new();
        for attempt in all.iter().flatten() {
            assert!(names.insert(&attempt.name), "{} twice", attempt.name);
            assert!(!attempt.stands_for.is_empty() && attempt.call.args.len() <= 5);
        }
        assert!(names.len() > 1000, "{}", names.len());
    }

    /// The words of the book's table of advisories that name attempts.
    fn words_of_the_book() -> Vec<&'static str> {
        let book = include_str!("../../../docs/src/advisories.md");
        let cells =
            book.lines().filter(|line| line.starts_with("| ")).flat_map(|l| l.split(['|', ';']));
        let ours = cells.filter_map(|cell| cell.trim().strip_prefix("hostile "));
        ours.flat_map(|cell| cell.split('`').skip(1).step_by(2)).collect()
    }

    #[test]
    fn the_book_names_attempts_that_there_are() {
        let ground = ground::samples::ground();
        let attempts = [
            tables::attempts(&ground),
            frames::attempts(&ground),
            partitions::attempts(&ground),
            calls::attempts(),
        ];
        let mut names: Vec<String> = attempts.into_iter().flatten().map(|a| a.name).collect();
        names.extend(instructions::all(stage::DATA_SELECTOR).into_iter().map(|code| code.name));
        names.extend([RACE, IDLE, long::LONG, "wild arguments of call 1"].map(String::from));
        let words = words_of_the_book();
        assert!(words.len() > 40, "{words:?}");
        let absent: Vec<_> =
            words.iter().filter(|word| !names.iter().any(|name| name.contains(**word))).collect();
        assert!(absent.is_empty(), "{absent:?}");
    }
}
