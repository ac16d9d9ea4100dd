//! Applies ten partitions at once, and interrupts the apply at every step: afterwards all of the
//! partitions exist, or none.
//!
//! Another guest exists all the time, so the compared accounts are those of a host at work. After
//! each interruption, the page accounts must equal those before it, and those of the monitor.

use std::fmt::Write;

use anyhow::{Context, Result, bail, ensure};
use rig::options::{BootOptions, MachineOptions};
use serde_json::Value;

use crate::Results;
use crate::boots::{self, Boot};
use crate::checks::{self, Check};
use crate::guests::{definition, minimal_guest, must, try_to};
use crate::host::Host;

/// Checks in which `uvd` is killed.
const KILLED: &[Check] = &[
    Check { name: "uvd-killed", run: uvd_killed },
    Check { name: "kernel-log", run: checks::kernel_log },
    Check { name: "monitor-log", run: checks::monitor_log },
];

/// The same check at each step, which takes longer.
const KILLED_EVERYWHERE: &[Check] =
    &[Check { name: "uvd-killed-everywhere", run: uvd_killed_everywhere }];

/// Checks in which the ultravisor refuses.
const REFUSED: &[Check] = &[Check { name: "ultravisor-refuses", run: ultravisor_refuses }];

/// Partitions of the apply.
const COUNT: usize = 10;
/// The least number of steps: each partition takes at least two messages to the boot partition, and
/// the transactions are additional.
const FEWEST_STEPS: usize = 2 * COUNT + 5;
/// The least number of actions: for each partition, the monitor enforces its creation, its memory
/// and its start.
const FEWEST_ACTIONS: usize = 3 * COUNT;
/// A number above that of all steps, so that a loop without progress ends.
const MOST: usize = 300;
/// The first steps: the first transaction, and everything for one partition.
const FIRST_STEPS: usize = 8;
/// The last steps: the last transaction.
const LAST_STEPS: usize = 4;
/// After this many interruptions the apply is allowed to succeed, and its partitions are destroyed.
const LET_THROUGH: usize = 8;
/// The command of the apply.
const APPLY: &str = "uvtool apply /root/ten.toml";

/// Runs the requested checks.
pub fn run_scenarios(results: &mut Results) {
    // The machine has little memory, because all of it is compared with the monitor's accounts.
    let machine = || MachineOptions { memory: "768M".into(), ..MachineOptions::default() };
    let boot = |boot, checks| Boot { name: "atomic", machine: machine(), boot, checks };
    boots::run_wanted(&boot(options, KILLED), results);
    boots::run_wanted(&boot(refusing, REFUSED), results);
    if results.asked_for("atomic/uvd-killed-everywhere") {
        boots::run_wanted(&boot(options, KILLED_EVERYWHERE), results);
    }
}

fn options() -> Result<BootOptions> {
    let file = vec![minimal_guest()?];
    Ok(BootOptions { file, command_memory: Some("320M".into()), ..Default::default() })
}

fn refusing() -> Result<BootOptions> {
    Ok(BootOptions { ultravisor_options: "inject=sweep".into(), ..options()? })
}

/// Kills `uvd` at the first steps of the apply, at some steps in its middle, and at the last ones.
fn uvd_killed(host: &mut Host) -> Result<()> {
    kill_at_steps(host, FIRST_STEPS)
}

/// Kills `uvd` at each step of the apply.
fn uvd_killed_everywhere(host: &mut Host) -> Result<()> {
    kill_at_steps(host, 1)
}

/// Kills `uvd` at the first steps, then at every `stride`th step until the apply has no further
/// step. A step past the last one is replaced by an earlier one, so that the last steps are
/// included.
fn kill_at_steps(host: &mut Host, stride: usize) -> Result<()> {
    let before = prepare(host)?;
    let (mut step, mut hit, mut stride, mut hits) = (1, 0, stride, 0);
    while step < MOST {
        if kill_at(host, step, &before).with_context(|| format!("uvd killed at step {step}"))? {
            (hit, hits) = (step, hits + 1);
            step += if step < FIRST_STEPS { 1 } else { stride };
        } else if step == hit + 1 {
            println!("uvd was killed {hits} times; the apply has {hit} steps");
            ensure!(hit > FEWEST_STEPS, "an apply of {COUNT} partitions has only {hit} steps");
            return Ok(());
        } else {
            (step, stride) = (hit + 1 - LAST_STEPS, 1);
        }
        if hits % LET_THROUGH == 0 {
            must(host, APPLY)?;
            read_state(host)?.ensure_all()?;
            prune(host, &before)?;
        }
    }
    bail!("the apply has {MOST} steps and more")
}

/// Runs the apply, with `uvd` killed at this step; returns whether the step exists. In both cases,
/// nothing of the apply is left.
fn kill_at(host: &mut Host, step: usize, before: &Value) -> Result<bool> {
    let (status, text) = try_to(host, &format!("echo {step} > /run/uvd/abort-at && {APPLY}"))?;
    let hit = status != 0;
    ensure!(!hit || text.contains("closed the connection"), "{text}");
    let found = read_state(host)?;
    if found.defined != 0 || !hit {
        found.ensure_all()?;
        prune(host, before)?;
    } else {
        found.ensure_none(before)?;
    }
    Ok(hit)
}

/// Makes the ultravisor refuse each action of the apply in turn, until every action was refused
/// once.
fn ultravisor_refuses(host: &mut Host) -> Result<()> {
    let before = prepare(host)?;
    for action in 1..MOST {
        let (status, text) = try_to(host, APPLY)?;
        if status == 0 {
            read_state(host)?.ensure_all()?;
            println!("the ultravisor refused at {} actions", action - 1);
            ensure!(action > FEWEST_ACTIONS, "only {} actions: {text}", action - 1);
            return Ok(());
        }
        ensure!(text.contains("the monitor refused"), "action {action}: {text}");
        let found = read_state(host)?.ensure_none(&before);
        found.with_context(|| format!("refused at action {action}"))?;
    }
    bail!("the apply has {MOST} actions and more")
}

/// Writes the definitions and starts the neighbour; returns the accounts afterwards.
fn prepare(host: &mut Host) -> Result<Value> {
    let definition = |name: &str| definition(name, "idle");
    let mut ten = String::new();
    for number in 1..=COUNT {
        let _ = writeln!(ten, "{}", definition(&format!("ten-{number}")));
    }
    let one = definition("neighbour");
    must(
        host,
        &format!("cat > /root/ten.toml <<'END'\n{ten}END\ncat > /root/one.toml <<'END'\n{one}END"),
    )?;
    // While the ultravisor refuses, this apply, too, takes several tries.
    must(host, "for i in $(seq 20); do uvtool apply /root/one.toml && exit 0; done; exit 1")?;
    Ok(read_state(host)?.accounts)
}

/// The state of the host.
struct HostState {
    /// Partitions of the apply, with their states.
    there: Vec<(String, String)>,
    /// How many of them have a definition.
    defined: usize,
    /// The memory of each owner.
    accounts: Value,
}

impl HostState {
    fn ensure_all(&self) -> Result<()> {
        let Self { there, defined, .. } = self;
        let running = there.iter().filter(|(_, state)| state == "running").count();
        ensure!(
            (running, *defined) == (COUNT, COUNT),
            "{defined} are defined, there are {there:?}"
        );
        Ok(())
    }

    fn ensure_none(&self, before: &Value) -> Result<()> {
        let Self { there, defined, accounts } = self;
        ensure!(there.is_empty() && *defined == 0, "{defined} are defined, there are {there:?}");
        ensure!(before == accounts, "before: {before}\nafter: {accounts}");
        Ok(())
    }
}

/// Reads the state once the ultravisor has released all memory, turn by turn; also checks that the
/// sums agree, and that the monitor agrees.
fn read_state(host: &mut Host) -> Result<HostState> {
    must(host, "while uvtool list --all --json | grep -q '\"dying\"'; do sleep 0.1; done")?;
    let command = "uvtool list --json && uvtool definitions --json && uvtool resources --json && \
                   uvtool resources --verify >/dev/null";
    let text = must(host, command)?;
    let mut all = serde_json::Deserializer::from_str(&text).into_iter::<Value>();
    let mut next = || {
        all.next()
            .context("the three commands printed fewer than three JSON documents")?
            .context("uvtool --json")
    };
    let (list, definitions, mut accounts) = (next()?, next()?, next()?);
    checks::keep_accounts(&mut accounts)?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let rows = list.as_array().context("no rows")?.iter();
    let rows = rows.map(|row| (text(&row["name"]), text(&row["state"])));
    let there = rows.filter(|(name, _)| name.starts_with("ten-")).collect();
    let defined = definitions.as_array().context("no definitions")?.iter();
    let defined = defined.map(|one| text(&one["definition"]["name"]));
    let defined = defined.filter(|name| name.starts_with("ten-")).count();
    Ok(HostState { there, defined, accounts })
}

/// Destroys the partitions that the apply made.
fn prune(host: &mut Host, before: &Value) -> Result<()> {
    must(host, "uvtool apply --yes --prune /root/one.toml")?;
    read_state(host)?.ensure_none(before)
}
