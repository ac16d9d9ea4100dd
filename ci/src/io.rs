//! The I/O partitions: that they run, and that the host outlives them.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rig::options::{BootOptions, MachineOptions};
use serde_json::Value;

use crate::Results;
use crate::boots::{self, Boot};
use crate::checks::{self, Check};
use crate::host::Host;

/// The time limit of what happens while the host starts.
const LIMIT: Duration = Duration::from_secs(120);

/// Runs the requested checks.
pub fn run_scenarios(results: &mut Results) {
    let machine = MachineOptions::default;
    let both = Boot {
        name: "io",
        machine: machine(),
        boot: || Ok(always("")),
        checks: &[
            Check { name: "partitions", run: both_run },
            Check { name: "resources", run: checks::resources },
            Check { name: "monitor-log", run: checks::monitor_log },
        ],
    };
    boots::run_wanted(&both, results);
    let dead = Boot {
        name: "io-dead",
        machine: machine(),
        boot: || Ok(always("inject=die:5")),
        checks: &[
            Check { name: "goes-on", run: goes_on },
            Check { name: "resources", run: checks::resources },
        ],
    };
    boots::run_wanted(&dead, results);
}

/// A host with I/O partitions, though the machine has nothing for them.
fn always(more: &str) -> BootOptions {
    BootOptions { io_options: format!("always {more}"), ..BootOptions::default() }
}

/// The state of a partition, from `uvtool list`.
fn state(host: &mut Host, name: &str) -> Result<String> {
    let list: Value = serde_json::from_str(&host.sh("uvtool list --json")?)?;
    let rows = list.as_array().context("uvtool list --json is no list")?;
    let row = rows.iter().find(|row| row["name"] == name).context("it is not there")?;
    ensure!(row["kind"] == "io", "{name} is {row}");
    Ok(row["state"].as_str().context("it has no state")?.into())
}

fn both_run(host: &mut Host) -> Result<()> {
    for (number, name) in [(4, "io-a"), (5, "io-b")] {
        let ready = format!("I/O partition {number} runs, restart 0");
        host.machine.wait_for(LIMIT, |console| console.contains(&ready))?;
        let state = state(host, name)?;
        ensure!(state == "running", "{name} is {state}");
    }
    Ok(())
}

/// Checks that a death of an I/O partition is told, and that the rest goes on.
fn goes_on(host: &mut Host) -> Result<()> {
    host.machine.wait_for(LIMIT, |console| console.contains("partition 5 stopped: cause"))?;
    let states = [state(host, "io-a")?, state(host, "io-b")?];
    ensure!(states == ["running", "crashed"], "{states:?}");
    host.sh("uvtool why io-b && uvtool info io-b").map(drop)
}
