//! CPU time: weights, caps and dedicated CPUs, changed while the guests run and compute.
//!
//! Each share is taken from the monitor's accounts (`uvtool list`) and from the output of the
//! guests: a line each second with the time that they ran and that they waited for a CPU. Both are
//! in the machine's time, so a busy test host makes slices longer, but does not change shares.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rig::options::{BootOptions, MachineOptions};
use serde_json::Value;

use crate::Results;
use crate::boots::{self, Boot};
use crate::checks::{self, Check};
use crate::guests::{minimal, minimal_guest};
use crate::host::Host;

/// The checks, in this order.
const CHECKS: &[Check] = &[
    Check { name: "weights", run: weights },
    Check { name: "cap", run: cap },
    Check { name: "dedicated", run: dedicated },
    Check { name: "resources", run: checks::resources },
    Check { name: "monitor-log", run: checks::monitor_log },
];

/// The measured time in seconds.
const SECONDS: u64 = 10;
/// The time limit for two samples.
const LIMIT: Duration = Duration::from_secs(240);

/// Runs the requested checks.
pub fn run_scenarios(results: &mut Results) {
    let machine = MachineOptions { cpus: 3, ..MachineOptions::default() };
    boots::run_wanted(&Boot { name: "cpu-time", machine, boot: options, checks: CHECKS }, results);
}

/// Boot options with the minimal guest.
fn options() -> Result<BootOptions> {
    Ok(BootOptions { file: vec![minimal_guest()?], ..BootOptions::default() })
}

/// Starts guests that compute for ever on these CPUs.
fn compute(host: &mut Host, names: &[&str], cpus: &str) -> Result<()> {
    for name in names {
        let create = minimal(name, "spin 0");
        host.sh(&format!("{create} && uvtool set {name} --cpus {cpus}"))?;
    }
    Ok(())
}

/// Destroys the guests.
fn end(host: &mut Host, names: &[&str]) -> Result<()> {
    names.iter().try_for_each(|name| host.sh(&format!("uvtool destroy {name} --forget")).map(drop))
}

/// The output of `uvtool list` at one time.
struct Sample(Value);

impl Sample {
    /// CPU time of a partition.
    fn cpu_time(&self, name: &str) -> Result<u64> {
        let rows = self.0.as_array().context("uvtool list printed no array")?;
        let row = rows.iter().find(|row| row["name"] == name);
        row.and_then(|row| row["cpu_time_ns"].as_u64()).with_context(|| format!("no {name}"))
    }
}

/// Takes two samples, [`SECONDS`] apart or a little more.
fn sample_twice(host: &mut Host) -> Result<(Sample, Sample)> {
    let script =
        format!("one() {{ uvtool list --json | tr -d '\\n'; echo; }}; one; sleep {SECONDS}; one");
    let output = host.run(&["sh", "-c", &script], b"", LIMIT)?;
    ensure!(output.status == 0, "{}{}", output.stdout, output.stderr);
    let lines: Vec<&str> = output.stdout.lines().collect();
    let [a, b] = lines[..] else { anyhow::bail!("not two samples: {}", output.stdout) };
    Ok((Sample(serde_json::from_str(a)?), Sample(serde_json::from_str(b)?)))
}

/// CPU time of partitions between two samples.
fn used((before, after): &(Sample, Sample), names: &[&str]) -> Result<f64> {
    let one = |name: &&str| Ok((after.cpu_time(name)? - before.cpu_time(name)?) as f64);
    names.iter().map(one).sum()
}

/// The fractions of the last [`SECONDS`] that the guest ran and waited, by its own account.
fn own_view(host: &mut Host, name: &str) -> Result<(f64, f64)> {
    let text =
        host.sh(&format!("uvtool console --once {name} | grep '^second' | tail -n {SECONDS}"))?;
    let (mut ran, mut waited, mut lines) = (0.0, 0.0, 0);
    for line in text.lines() {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let ["second", _, "ran", a, "waited", b, ..] = words[..] else {
            anyhow::bail!("{name} prints `{line}`")
        };
        ran += a.parse::<f64>()?;
        waited += b.parse::<f64>()?;
        lines += 1;
    }
    ensure!(lines == SECONDS, "{name} printed {lines} lines");
    // A line comes after at least a second, and the later the more the guest waits.
    Ok((ran / (ran + waited), waited / (ran + waited)))
}

/// Checks that the share of a partition is as wanted, within `by`, in both accounts. For the
/// monitor's account, the clock is the CPU time of partitions that together fill a CPU, because it
/// is read at the same moment.
fn has(
    host: &mut Host,
    samples: &(Sample, Sample),
    clock: &[&str],
    name: &str,
    (wanted, by): (f64, f64),
) -> Result<()> {
    let (account, own) = (used(samples, &[name])? / used(samples, clock)?, own_view(host, name)?.0);
    println!(
        "       {name}: {account:.4} of a CPU, {own:.4} by its own account, entitled to \
        {wanted:.4}"
    );
    for got in [account, own] {
        ensure!(
            (got - wanted).abs() <= by,
            "{name} had {got:.4} of a CPU and was entitled to {wanted:.4}"
        );
    }
    Ok(())
}

/// Checks that two guests computing on one CPU share it one to three and, after a change while they
/// run, one to one.
fn weights(host: &mut Host) -> Result<()> {
    let names = ["light", "heavy"];
    // The command partition's CPU time would be in nobody's share, and its amount depends on the
    // test host. how much depends on the test host.
    host.sh("uvtool set command --cpus 0")?;
    compute(host, &names, "1")?;
    host.sh("uvtool set light --weight 100 && uvtool set heavy --weight 300")?;
    host.sh("sleep 1")?;
    let samples = sample_twice(host)?;
    has(host, &samples, &names, "light", (0.25, 0.02))?;
    has(host, &samples, &names, "heavy", (0.75, 0.02))?;
    host.sh("uvtool set light --weight 300 && sleep 1")?;
    let samples = sample_twice(host)?;
    has(host, &samples, &names, "light", (0.5, 0.02))?;
    has(host, &samples, &names, "heavy", (0.5, 0.02))?;
    checks::cpu_times(host)?;
    end(host, &names)
}

/// Checks that a cap of a fifth of a CPU holds, on an otherwise idle CPU and on a busy one.
fn cap(host: &mut Host) -> Result<()> {
    let names = ["capped", "other"];
    compute(host, &names, "1")?;
    host.sh("uvtool set capped --cap 20 && uvtool set other --cpus 2 && sleep 2")?;
    let samples = sample_twice(host)?;
    // A CPU of a busy test host wakes late, and the guest loses that time; but it must not exceed
    // its cap by more than 1 % of a CPU.
    has(host, &samples, &["other"], "capped", (0.19, 0.02))?;
    has(host, &samples, &["other"], "other", (1.0, 0.03))?;
    host.sh("uvtool set other --cpus 1 && sleep 2")?;
    let samples = sample_twice(host)?;
    has(host, &samples, &names, "capped", (0.195, 0.015))?;
    has(host, &samples, &names, "other", (0.8, 0.03))?;
    end(host, &names)
}

/// Checks that a CPU dedicated to one guest runs nothing else, while others compute on all CPUs and
/// go on.
fn dedicated(host: &mut Host) -> Result<()> {
    let others = ["a", "b", "c"];
    compute(host, &others, "all")?;
    compute(host, &["alone"], "2")?;
    host.sh("uvtool set alone --dedicated true && sleep 1")?;
    let samples = sample_twice(host)?;
    // All CPUs compute, so a time that is booked twice is more than the CPUs have.
    checks::cpu_times(host)?;
    // The guest always wants to run, so anything else that ran on its CPU would have made it wait.
    let (_, waited) = own_view(host, "alone")?;
    ensure!(waited < 0.002, "alone waited {waited:.4} of the time");
    let ran = used(&samples, &["alone"])?;
    let sum = used(&samples, &others)? / ran;
    println!("       alone waited {waited:.4} of the time, the others had {sum:.3} of two CPUs");
    ensure!((1.5..=2.01).contains(&sum), "the others had {sum:.3} of two CPUs");
    end(host, &[&others[..], &["alone"]].concat())
}
