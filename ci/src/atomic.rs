//! Ten partitions in one apply, cut short everywhere: all of them are there, or none.
//!
//! A neighbour is there all the time, so that what is compared are the accounts of a host at work.
//! After each cut the page accounts must be those of before, and the monitor's own.

use std::fmt::Write;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use xtask::command_image::FileToSend;
use xtask::hv_build;
use xtask::options::{BootOptions, MachineOptions};

use crate::Results;
use crate::boots::{self, Boot};
use crate::checks::{self, Check};
use crate::guests::{GUEST, accounts, must, try_to};
use crate::host::Host;

/// What is checked while `uvd` is killed.
const KILLED: &[Check] = &[
    Check { name: "uvd-killed", run: uvd_killed },
    Check { name: "kernel-log", run: checks::kernel_log },
    Check { name: "monitor-log", run: checks::monitor_log },
];

/// What is checked while the ultravisor refuses.
const REFUSED: &[Check] = &[Check { name: "ultravisor-refuses", run: ultravisor_refuses }];

/// Partitions of the apply.
const COUNT: usize = 10;
/// Each of them is a message or more to the boot partition, and the transactions come on top.
const FEWEST_STEPS: usize = 2 * COUNT + 5;
/// For each of them the monitor enforces a partition, its memory and its start.
const FEWEST_ACTIONS: usize = 3 * COUNT;
/// More than there are, so that a loop that does not get on ends.
const MOST: usize = 300;
/// After so many steps the apply is let through, and its partitions go again.
const LET_THROUGH: usize = 8;

/// Runs what was asked for.
pub fn run(results: &mut Results) {
    // Little memory: all of it is compared with the monitor's accounts after each cut.
    let machine = || MachineOptions { memory: "768M".into(), ..MachineOptions::default() };
    let boot = |boot, checks| Boot { name: "atomic", machine: machine(), boot, checks };
    boots::run_wanted(&boot(options, KILLED), results);
    boots::run_wanted(&boot(refusing, REFUSED), results);
}

fn options() -> Result<BootOptions> {
    let file = FileToSend { host: hv_build::guest()?, guest: GUEST.into() };
    Ok(BootOptions { file: vec![file], command_memory: Some("320M".into()), ..Default::default() })
}

fn refusing() -> Result<BootOptions> {
    Ok(BootOptions { ultravisor_options: "inject=sweep".into(), ..options()? })
}

/// Kills `uvd` at each step of the apply, until the apply has no further step.
fn uvd_killed(host: &mut Host) -> Result<()> {
    let before = prepare(host)?;
    for step in 1..MOST {
        let apply = format!("echo {step} > /run/uvd/abort-at && {APPLY}");
        let (status, text) = try_to(host, &apply)?;
        if status == 0 {
            all_are_there(host)?;
            println!("uvd was killed at {} steps", step - 1);
            ensure!(step > FEWEST_STEPS, "only {} steps: {text}", step - 1);
            return Ok(());
        }
        ensure!(text.contains("closed the connection"), "step {step}: {text}");
        all_or_none(host, &before).with_context(|| format!("uvd was killed at step {step}"))?;
        if step % LET_THROUGH == 0 {
            must(host, APPLY)?;
            all_are_there(host)?;
            prune(host, &before)?;
        }
    }
    bail!("the apply has {MOST} steps and more")
}

/// The ultravisor refuses at each action of the apply, until none is left that it did not refuse.
fn ultravisor_refuses(host: &mut Host) -> Result<()> {
    let before = prepare(host)?;
    for action in 1..MOST {
        let (status, text) = try_to(host, APPLY)?;
        if status == 0 {
            all_are_there(host)?;
            println!("the ultravisor refused at {} actions", action - 1);
            ensure!(action > FEWEST_ACTIONS, "only {} actions: {text}", action - 1);
            return Ok(());
        }
        ensure!(text.contains("the monitor refused"), "action {action}: {text}");
        none_is_there(host, &before).with_context(|| format!("refused at action {action}"))?;
    }
    bail!("the apply has {MOST} actions and more")
}

const APPLY: &str = "uvtool apply /root/ten.toml";

/// Writes the definitions and starts the neighbour; the accounts then.
fn prepare(host: &mut Host) -> Result<Value> {
    let definition = |name: &str| {
        format!(
            "[[partition]]\nname = \"{name}\"\nkernel = \"{GUEST}\"\ncommand_line = \"idle\"\n\
             memory = \"4M\"\n"
        )
    };
    let mut ten = String::new();
    for number in 1..=COUNT {
        let _ = writeln!(ten, "{}", definition(&format!("ten-{number}")));
    }
    let one = definition("neighbour");
    must(
        host,
        &format!("cat > /root/ten.toml <<'END'\n{ten}END\ncat > /root/one.toml <<'END'\n{one}END"),
    )?;
    // With the ultravisor refusing, this one, too, takes several tries.
    must(host, "for i in $(seq 20); do uvtool apply /root/one.toml && exit 0; done; exit 1")?;
    accounts(host)
}

/// Names of the partitions of the apply with their states, and how many of them are defined.
fn ten(host: &mut Host) -> Result<(Vec<(String, String)>, usize)> {
    let text = must(host, "uvtool list --json && echo && uvtool definitions --json")?;
    let mut both = serde_json::Deserializer::from_str(&text).into_iter::<Value>();
    let mut next = || both.next().context("no more rows")?.context("uvtool --json");
    let (list, definitions) = (next()?, next()?);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let rows = list.as_array().context("no rows")?.iter();
    let rows = rows.map(|row| (text(&row["name"]), text(&row["state"])));
    let there = rows.filter(|(name, _)| name.starts_with("ten-")).collect();
    let defined = definitions.as_array().context("no definitions")?.iter();
    let defined = defined.map(|one| text(&one["definition"]["name"]));
    Ok((there, defined.filter(|name| name.starts_with("ten-")).count()))
}

fn all_are_there(host: &mut Host) -> Result<()> {
    let (there, defined) = ten(host)?;
    let running = there.iter().filter(|(_, state)| state == "running").count();
    ensure!((running, defined) == (COUNT, COUNT), "{defined} are defined, there are {there:?}");
    checks::resources(host)
}

fn none_is_there(host: &mut Host, before: &Value) -> Result<()> {
    let (there, defined) = ten(host)?;
    ensure!(there.is_empty() && defined == 0, "{defined} are defined, there are {there:?}");
    checks::resources(host)?;
    let after = accounts(host)?;
    ensure!(*before == after, "before: {before}\nafter: {after}");
    Ok(())
}

/// Whatever became of the apply, nothing is half there.
fn all_or_none(host: &mut Host, before: &Value) -> Result<()> {
    if ten(host)?.1 == 0 {
        return none_is_there(host, before);
    }
    all_are_there(host)?;
    prune(host, before)
}

/// Gives back what the apply made.
fn prune(host: &mut Host, before: &Value) -> Result<()> {
    must(host, "uvtool apply --yes --prune /root/one.toml")?;
    none_is_there(host, before)
}
