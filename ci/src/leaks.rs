//! Mitigations against leaks of the CPU: all forced on, and a CPU on which guests do not start.
//!
//! An emulated CPU leaks nothing. The checks show that a host works with all mitigations on, that
//! the additional rules hold, and which messages users get.

use anyhow::{Context, Result, ensure};
use rig::options::{BootOptions, MachineOptions};
use serde_json::Value;

use crate::boots::{self, Boot};
use crate::checks::{self, Check};
use crate::host::Host;
use crate::{Results, containment, guests};

/// Runs the requested checks.
pub fn run_scenarios(results: &mut Results) {
    let machine = MachineOptions::default;
    let forced = Boot {
        name: "leaks-forced",
        machine: MachineOptions { cpus: 4, threads: 2, ..machine() },
        boot: || {
            let monitor_options = "mitigations=off verw=on l1tf=on smt=off".into();
            Ok(BootOptions { monitor_options, ..containment::options()? })
        },
        checks: &[
            Check { name: "doctor", run: doctor },
            Check { name: "siblings", run: siblings },
            Check { name: "absent-entries", run: absent_entries },
            Check { name: "guest", run: guest },
            Check { name: "kernel-log", run: checks::kernel_log },
        ],
    };
    boots::run_wanted(&forced, results);
    let meltdown = |name, options: fn() -> Result<BootOptions>, checks| Boot {
        name,
        machine: MachineOptions { cpu_model: "SandyBridge,-smap".into(), ..machine() },
        boot: options,
        checks,
    };
    let refused: &[Check] = &[Check { name: "refused", run: refused }];
    boots::run_wanted(&meltdown("leaks-meltdown", guests::minimal_options, refused), results);
    let accept = || {
        let ultravisor_options = "accept=meltdown".into();
        Ok(BootOptions { ultravisor_options, ..guests::minimal_options()? })
    };
    let accepted: &[Check] = &[Check { name: "guest", run: guest }];
    boots::run_wanted(&meltdown("leaks-accepted", accept, accepted), results);
}

/// Runs `uvtool doctor`. Returns its exit status, and its answer.
pub fn ask_doctor(host: &mut Host) -> Result<(i32, Value)> {
    let (status, text) = guests::try_to(host, "uvtool doctor --all --json 2>/dev/null")?;
    Ok((status, serde_json::from_str(&text).context("uvtool doctor --json")?))
}

/// The state of an issue.
fn state(doctor: &Value, issue: &str) -> Option<String> {
    let rows = doctor["issues"].as_array()?;
    let row = rows.iter().find(|row| row["issue"] == issue)?;
    Some(row["state"].as_str()?.into())
}

/// Checks that the table agrees with the messages at the start.
fn doctor(host: &mut Host) -> Result<()> {
    let (status, doctor) = ask_doctor(host)?;
    ensure!(status == 0 && doctor["guests_start"] == true, "{doctor}");
    ensure!(doctor["smt"] == false && doctor["iommu"] == false, "{doctor}");
    ensure!(state(&doctor, "meltdown").as_deref() == Some("not-affected"), "{doctor}");
    let console = host.machine.console()?;
    let open = doctor["issues"].as_array().context("no issues")?.iter();
    for row in open.filter(|row| row["state"] == "open") {
        let (issue, verdict) = (row["issue"].as_str(), row["verdict"].as_str());
        let line = format!("CPU issue {}: {}", issue.unwrap_or(""), verdict.unwrap_or(""));
        ensure!(console.contains(&line), "the console lacks {line:?}");
    }
    Ok(())
}

/// Checks that only one thread of each core runs.
fn siblings(host: &mut Host) -> Result<()> {
    let text = host.sh("uvtool resources --json")?;
    let resources: Value = serde_json::from_str(&text)?;
    let cpus = resources["cpus"].as_array().context("no CPUs")?;
    let ids: Vec<_> = cpus.iter().filter_map(|cpu| cpu["apic_id"].as_u64()).collect();
    ensure!(ids == [0, 2], "CPUs with APIC ids {ids:?} run");
    Ok(())
}

/// Checks that the rule for entries that are not present holds, and that Linux works with it.
fn absent_entries(host: &mut Host) -> Result<()> {
    host.sh("mv /usr/bin/hostile /usr/bin/tries && printf '#!/bin/sh\nABSENT_REFUSED=1 exec \
             /usr/bin/tries \"$@\"\n' > /usr/bin/hostile && chmod +x /usr/bin/hostile")?;
    containment::attempts(host, "absent control", 10)
}

/// Checks that a guest runs.
fn guest(host: &mut Host) -> Result<()> {
    let command = format!("{} --console", guests::minimal("one", "hello"));
    let output = guests::must(host, &command)?;
    ensure!(output.contains("hello from a minimal guest"), "{output}");
    host.sh("uvtool destroy --forget one").map(drop)
}

/// Checks that guests do not start, and that every message says why.
fn refused(host: &mut Host) -> Result<()> {
    let (status, output) = guests::try_to(host, &guests::minimal("one", "hello"))?;
    for word in ["Meltdown", "accept=meltdown"] {
        ensure!(status == 1 && output.contains(word), "ended with status {status}: {output}");
    }
    let (status, doctor) = ask_doctor(host)?;
    ensure!(status == 1 && doctor["guests_start"] == false, "{doctor}");
    ensure!(state(&doctor, "meltdown").as_deref() == Some("open"), "{doctor}");
    // The monitor itself does what such a CPU needs.
    ensure!(state(&doctor, "l1tf").as_deref() == Some("mitigated"), "{doctor}");
    let console = host.machine.console()?;
    ensure!(
        console.contains("CPU issue meltdown: open because"),
        "the console has no line about \
        the issue"
    );
    Ok(())
}
