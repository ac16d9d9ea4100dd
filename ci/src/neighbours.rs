//! An innocent guest beside guests that ask without end, all on one CPU with equal weights.
//!
//! The machine's time is counted in instructions (`-icount`), so shares are the machine's own, whatever
//! else the test host does. A new kind of flood is a line in [`FLOODS`] and a program of the minimal guest
//! (`ci/guest/src/flood.rs`).

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use xtask::options::{BootOptions, MachineOptions};

use crate::Results;
use crate::boots::{self, Boot};
use crate::checks::{self, Check};
use crate::guests::{minimal, minimal_guest, must};
use crate::host::Host;

/// What is checked, in this order.
const CHECKS: &[Check] = &[
    Check { name: "memory", run: memory },
    Check { name: "floods", run: floods },
    Check { name: "resources", run: checks::resources },
    Check { name: "kernel-log", run: checks::kernel_log },
];

/// What guests flood the host with, each alone, then all together. The name of one of them.
const FLOODS: &[&str] = &["store", "watch", "transaction", "events"];
/// What an innocent guest keeps of the share that it is due.
const KEPT: f64 = 0.9;
/// Seconds that are measured over.
const SECONDS: u64 = 8;
/// How long that may take.
const LIMIT: Duration = Duration::from_secs(500);

/// Runs the checks that were asked for.
pub fn run(results: &mut Results) {
    let machine = MachineOptions { cpus: 1, icount: true, ..MachineOptions::default() };
    let boot = Boot { name: "neighbours", machine, boot: options, checks: CHECKS };
    boots::run_wanted(&boot, results);
}

/// A command partition that has the minimal guest.
fn options() -> Result<BootOptions> {
    Ok(BootOptions { file: vec![minimal_guest()?], ..BootOptions::default() })
}

/// Four guests write without end in transactions that stay open, as the issue that this keeps out
/// did; the host goes on, and what they had comes back.
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

/// The innocent guest keeps its share beside each flood, and beside all of them.
fn floods(host: &mut Host) -> Result<()> {
    must(host, &minimal("innocent", "spin 0"))?;
    let mut bad = Vec::new();
    for flood in FLOODS {
        let kept = beside(host, &[flood])?;
        println!("       beside {flood}: keeps {:.1} % of its share", kept * 100.0);
        if kept < KEPT {
            bad.push(format!("{flood} {kept:.3}"));
        }
    }
    let kept = beside(host, FLOODS)?;
    println!("       beside all: keeps {:.1} % of its share", kept * 100.0);
    if kept < KEPT {
        bad.push(format!("all {kept:.3}"));
    }
    must(host, "uvtool destroy --forget innocent")?;
    ensure!(bad.is_empty(), "an innocent guest keeps less than {KEPT} beside: {bad:?}");
    Ok(())
}

/// What part of its share the innocent guest has beside a guest for each of these floods.
fn beside(host: &mut Host, floods: &[&str]) -> Result<f64> {
    for flood in floods {
        must(host, &minimal(&format!("flood-{flood}"), &format!("flood {flood}")))?;
    }
    let due = 1.0 / (floods.len() as f64 + 1.0);
    let lines = SECONDS + 1;
    let script = format!(
        "sleep {lines}; uvtool console --once innocent | grep '^second' | tail -n {SECONDS}"
    );
    let output = host.run(&["sh", "-c", &script], b"", LIMIT)?;
    ensure!(output.status == 0, "{}{}", output.stdout, output.stderr);
    let (mut ran, mut waited) = (0.0, 0.0);
    for line in output.stdout.lines() {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let ["second", _, "ran", a, "waited", b, ..] = words[..] else {
            anyhow::bail!("the innocent guest prints `{line}`")
        };
        ran += a.parse::<f64>()?;
        waited += b.parse::<f64>()?;
    }
    for flood in floods {
        let served = host.sh(&format!("uvtool info flood-{flood} --json"))?;
        let served: Value = serde_json::from_str(&served)?;
        println!("       {flood}: {} ns of service", served["service_time_ns"]);
        must(host, &format!("uvtool destroy --forget flood-{flood}"))?;
    }
    ensure!(ran > 0.0, "the innocent guest printed nothing");
    Ok(ran / (ran + waited) / due)
}
