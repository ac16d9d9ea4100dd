//! An innocent guest beside guests that make requests without end, all on one CPU with equal
//! weights: how much of its share it keeps, and how long it is ever without the CPU.
//!
//! The machine's time is counted in instructions (`-icount`), so both figures are independent of
//! the test host. A new kind of flood is a line in [`FLOODS`] and a variant in the minimal guest
//! (`ci/guest/src/flood`). `neighbours/floods` prints the table of `docs/src/neighbours.md`;
//! `NEIGHBOURS_SECONDS` sets a longer measurement.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rig::options::{BootOptions, MachineOptions};
use serde_json::Value;

use crate::Results;
use crate::boots::{self, Boot};
use crate::checks::{self, Check};
use crate::guests::{minimal, minimal_guest, must};
use crate::host::Host;
use crate::number;

/// The checks, in this order.
const CHECKS: &[Check] = &[
    Check { name: "memory", run: memory },
    Check { name: "floods", run: floods },
    Check { name: "resources", run: checks::resources },
    Check { name: "kernel-log", run: checks::kernel_log },
];

/// The kinds of floods; the first is the baseline for the others.
const FLOODS: [&str; 12] = [
    "compute",
    "store",
    "watch",
    "transaction",
    "events",
    "ports",
    RESET,
    "console",
    "log",
    "timers",
    "calls",
    "tables",
];
/// A flood that leaves a guest without ports for other floods.
const RESET: &str = "reset";
/// The least part of its due share that an innocent guest must keep.
const KEPT: f64 = 0.9;
/// The longest time in nanoseconds that it may be without the CPU beside one guest. Beside more
/// than one, each other guest has its slice first.
const LONGEST: u64 = 20_000_000;
/// The measured time in seconds.
const SECONDS: u64 = 2;
/// The time limit of a measurement.
const LIMIT: Duration = Duration::from_secs(500);

/// Runs the requested checks.
pub fn run_scenarios(results: &mut Results) {
    let machine = MachineOptions { cpus: 1, icount: true, ..MachineOptions::default() };
    let boot = Boot { name: "neighbours", machine, boot: options, checks: CHECKS };
    boots::run_wanted(&boot, results);
}

/// Boot options with the minimal guest.
fn options() -> Result<BootOptions> {
    Ok(BootOptions { file: vec![minimal_guest()?], ..BootOptions::default() })
}

/// Checks that four guests which write without end, in transactions that stay open, do not exhaust
/// memory, as they once did. The host goes on, and the memory of the guests comes back.
fn memory(host: &mut Host) -> Result<()> {
    let before = heap(host)?;
    let names = ["a", "b", "c", "d"];
    for name in names {
        must(host, &minimal(name, "flood transaction"))?;
    }
    must(host, "sleep 10")?;
    let most = heap(host)?;
    must(host, &format!("{} --console", minimal("other", "hello")))?;
    for name in names.iter().chain(&["other"]) {
        must(host, &format!("uvtool destroy --forget {name}"))?;
    }
    let after = heap(host)?;
    println!("       heap in use: {before} B, {most} B beside four floods, then {after} B");
    ensure!(most < before + (2 << 20), "four guests took {} B", most - before);
    ensure!(after < before + (256 << 10), "{} B did not come back", after - before);
    Ok(())
}

/// Bytes in use of the ultravisor's heap.
fn heap(host: &mut Host) -> Result<u64> {
    let text = host.sh("uvtool resources --json")?;
    let all: Value = serde_json::from_str(&text)?;
    let mut rows = all["heaps"].as_array().context("no heaps")?.iter();
    let row = rows.find(|row| row["partition"] == "ultravisor").context("no ultravisor")?;
    row["in_use_bytes"].as_u64().context("no number")
}

/// Checks that the innocent guest keeps its share and is never long without the CPU: beside a guest
/// for each kind of flood, beside a guest that makes all floods in turn, and beside a guest for
/// each kind at once.
fn floods(host: &mut Host) -> Result<()> {
    must(host, &minimal("innocent", "spin 0"))?;
    println!("{}", Row::HEAD);
    let mut bad = Vec::new();
    let all: Vec<&str> = FLOODS.into_iter().filter(|flood| *flood != RESET).collect();
    let crowd = FLOODS.map(|flood| flood.to_owned());
    let alone = FLOODS.iter().map(|flood| (*flood, std::slice::from_ref(flood)));
    let alone = alone.map(|(name, flood)| (name, flood.iter().map(|one| (*one).into()).collect()));
    let wanted: Vec<(&str, Vec<String>)> =
        alone.chain([("all in one", vec![all.join(" ")]), ("one of each", crowd.into())]).collect();
    for (name, floods) in wanted {
        let row = beside(host, &floods)?;
        println!("{}", row.line(name));
        let late = floods.len() == 1 && row.longest > LONGEST;
        if row.kept() < KEPT || late {
            bad.push(format!("{name}: keeps {:.3}, longest gap {} ns", row.kept(), row.longest));
        }
    }
    must(host, "uvtool destroy --forget innocent")?;
    ensure!(bad.is_empty(), "an innocent guest has too little beside: {bad:?}");
    Ok(())
}

/// The measured times, in nanoseconds.
struct Row {
    ran: u64,
    waited: u64,
    longest: u64,
    /// The number of guests that flood.
    guests: usize,
    /// The time of the ultravisor's services that was charged to them.
    service: u64,
    /// CPU time of the flooding guests, of the ultravisor and of the command partition between two
    /// samples. The samples lie further apart than the measured time.
    others: [u64; 3],
    /// The time between the samples.
    around: u64,
}

impl Row {
    const HEAD: &'static str = "       | beside | keeps | longest gap | hostile | ultravisor | of it \
        for them | command |\n       |---|---|---|---|---|---|---|";

    /// The part of its share that the innocent guest kept.
    fn kept(&self) -> f64 {
        let due = 1.0 / (self.guests as f64 + 1.0);
        self.ran as f64 / (self.ran + self.waited) as f64 / due
    }

    fn line(&self, name: &str) -> String {
        let percent = |part: u64| 100.0 * part as f64 / self.around as f64;
        let [hostile, ultravisor, command] = self.others.map(percent);
        format!(
            "       | {name} | {:.1} % | {:.1} ms | {hostile:.1} % | {ultravisor:.1} % | {:.1} % | \
             {command:.1} % |",
            100.0 * self.kept(),
            self.longest as f64 / 1e6,
            percent(self.service),
        )
    }
}

/// Measures the innocent guest beside a guest for each of these lists of kinds.
fn beside(host: &mut Host, floods: &[String]) -> Result<Row> {
    let seconds = number("NEIGHBOURS_SECONDS", SECONDS)?;
    let names: Vec<String> = (0..floods.len()).map(|index| format!("flood-{index}")).collect();
    for (name, kinds) in names.iter().zip(floods) {
        must(host, &minimal(name, &format!("flood {kinds}")))?;
    }
    // The measured seconds begin after the first sample and end before the second one, because a
    // sample is work of the command partition, which runs before guests. The last second that the
    // innocent guest reports may have begun before the sleep ended, and ended during later work.
    let look = "uvtool list --json | tr -d '\\n'; echo; cut -d' ' -f1 /proc/uptime";
    let tail = format!("tail -n {} | head -n {seconds}", seconds + 1);
    let script = format!(
        "{look}; sleep {}; {look}; uvtool console --once innocent | grep '^second' | {tail}",
        seconds + 2
    );
    let output = host.run(&["sh", "-c", &script], b"", LIMIT)?;
    ensure!(output.status == 0, "{}{}", output.stdout, output.stderr);
    let lines: Vec<&str> = output.stdout.lines().collect();
    let [before, begin, after, end, ref told @ ..] = lines[..] else {
        anyhow::bail!("not four lines: {}", output.stdout)
    };
    let (before, after): (Value, Value) =
        (serde_json::from_str(before)?, serde_json::from_str(after)?);
    let used = |name: &str| Ok(cpu_time(&after, name)?.saturating_sub(cpu_time(&before, name)?));
    let hostile: Result<Vec<u64>> = names.iter().map(|name| used(name)).collect();
    let around = end.trim().parse::<f64>()? - begin.trim().parse::<f64>()?;
    let mut row = Row {
        ran: 0,
        waited: 0,
        longest: 0,
        guests: floods.len(),
        service: 0,
        others: [hostile?.iter().sum(), used("ultravisor")?, used("command")?],
        around: (around * 1e9) as u64,
    };
    ensure!(told.len() as u64 == seconds, "the innocent guest printed {} lines", told.len());
    for line in told {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let ["second", _, "ran", ran, "waited", waited, "longest", longest, ..] = words[..] else {
            anyhow::bail!("the innocent guest prints `{line}`")
        };
        row.ran += ran.parse::<u64>()?;
        row.waited += waited.parse::<u64>()?;
        row.longest = row.longest.max(longest.parse()?);
    }
    ensure!(row.ran > 0, "the innocent guest did not run");
    for name in &names {
        let info: Value = serde_json::from_str(&host.sh(&format!("uvtool info {name} --json"))?)?;
        row.service += info["service_time_ns"].as_u64().context("no service time")?;
        must(host, &format!("uvtool destroy --forget {name}"))?;
    }
    Ok(row)
}

/// CPU time of a partition in `uvtool list`.
fn cpu_time(list: &Value, name: &str) -> Result<u64> {
    let rows = list.as_array().context("uvtool list printed no array")?;
    let row = rows.iter().find(|row| row["name"] == name).with_context(|| format!("no {name}"))?;
    ensure!(row["state"] == "running", "{name} does not run: {row}");
    row["cpu_time_ns"].as_u64().context("no CPU time")
}
