//! PCI functions that move between running I/O partitions, under the front end that trusts no answer.
//!
//! The guest runs through all moves: it ends by itself, and the moves go on until it has ended. So it
//! had requests under way at each of them.

use std::fs::File;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use pv_abi::uv::database::{IO_A, IO_B};
use rig::options::{BootOptions, Chipset, DiskFunction, MachineOptions};
use rig::workspace;
use serde_json::Value;

use crate::boots::{self, Boot};
use crate::checks::{self, Check};
use crate::disks::{self, function, on_disk};
use crate::guests::GUEST;
use crate::host::Host;
use crate::{Results, number};

const CHECKS: &[Check] = &[
    Check { name: "refusals", run: refusals },
    Check { name: "drain-under-load", run: drain_under_load },
    Check { name: "balance", run: balance },
    Check { name: "undo", run: undo },
    Check { name: "restart-under-load", run: restart_under_load },
    Check { name: "resources", run: checks::resources },
    Check { name: "monitor-log", run: checks::monitor_log },
];

/// The time limit of a guest with moves: the machine is emulated.
const LIMIT: Duration = Duration::from_secs(400);

/// Runs the requested checks.
pub fn run_scenarios(results: &mut Results) {
    let disk = [disks::disk_file(), other_file()].into_iter().filter_map(Result::ok).collect();
    let (chipset, disk_function) = (Chipset::Q35, DiskFunction::Modern);
    let machine = MachineOptions { chipset, disk, disk_function, ..MachineOptions::default() };
    boots::run_wanted(&Boot { name: "io-moves", machine, boot: options, checks: CHECKS }, results);
}

fn other_file() -> Result<PathBuf> {
    let directory = workspace::directory(workspace::build_dir()?.join("disks"))?;
    Ok(directory.join("moves.img"))
}

/// Makes the disk of the guest, and another disk. Returns the boot options.
fn options() -> Result<BootOptions> {
    File::create(other_file()?)?.set_len(1 << 20)?;
    disks::options()
}

/// The number of functions of each I/O partition.
fn shares(host: &mut Host) -> Result<Vec<(String, usize)>> {
    let io: Value = serde_json::from_str(&host.sh("uvtool io --json")?)?;
    let partitions = io["partitions"].as_array().context("no I/O partitions")?;
    let share = |row: &Value| {
        let functions = row["functions"].as_array()?;
        Some((row["name"].as_str()?.to_owned(), functions.len()))
    };
    partitions.iter().map(|row| share(row).context("a row")).collect()
}

fn ensure_shares(host: &mut Host, wanted: &[(&str, usize)]) -> Result<()> {
    let found = shares(host)?;
    let is_wanted = |(name, share): &(&str, usize)| found.contains(&((*name).to_owned(), *share));
    ensure!(wanted.iter().all(is_wanted), "{found:?}, not {wanted:?}");
    Ok(())
}

/// Runs the checking front end on the first disk, and a command again and again until the guest has
/// ended. Returns how often the command ran, each time to its end.
fn under_load(host: &mut Host, seed: u64, requests: u32, command: &str) -> Result<u64> {
    let (name, function) = (format!("moves-{seed}"), function(host)?);
    let definition = format!(
        "name = \"{name}\"\nkernel = \"{GUEST}\"\nmemory = \"4M\"\n\
         command_line = \"disk {seed} {requests} rings=2\"\n\
         [[disk]]\ndevice = \"xvda\"\nfunction = \"{function}\"\n"
    );
    let script = format!(
        "cat > /root/{name}.toml; uvtool create /root/{name}.toml > /dev/null || exit 1; n=0; \
         until uvtool console --once {name} | grep -q '^disk: .* errors'; do {command} || exit 1; \
         n=$((n + 1)); done; uvtool console --once {name} | tr -d '\\r' | grep '^disk: '; \
         uvtool destroy --forget {name}; echo moves $n"
    );
    let output = host.run(&["sh", "-c", &script], definition.as_bytes(), LIMIT)?;
    let (all, error) = (output.stdout, output.stderr);
    let last = all.lines().rfind(|line| line.starts_with("disk: ")).unwrap_or_default();
    let moves = all.lines().find_map(|line| line.strip_prefix("moves ")?.parse().ok());
    match moves {
        Some(moves) if last.ends_with(", 0 errors") && output.status == 0 => {
            println!("       {last}, {moves} times `{command}`");
            on_disk(seed)?;
            Ok(moves)
        }
        _ => bail!("{all}{error}"),
    }
}

/// Checks that the guest notices nothing while its disk goes to and fro.
fn drain_under_load(host: &mut Host) -> Result<()> {
    let seed = number("SEED", 1)?;
    let command = "uvtool io drain io-a > /dev/null && uvtool io drain io-b > /dev/null";
    let moves = under_load(host, seed, 6000, command)?;
    ensure!(moves >= 2, "the guest saw {moves} moves to and fro");
    ensure_shares(host, &[("io-a", 2), ("io-b", 0)])?;
    let console = host.machine.console()?;
    let is_dead = |number: u32| console.contains(&format!("partition {number} stopped: cause"));
    ensure!(![IO_A, IO_B].into_iter().any(is_dead), "an I/O partition died");
    Ok(())
}

/// Checks that functions are dealt out evenly.
fn balance(host: &mut Host) -> Result<()> {
    let moved = host.sh("uvtool io balance")?;
    ensure!(moved.contains("moved from io-a to io-b"), "{moved}");
    ensure_shares(host, &[("io-a", 1), ("io-b", 1)])?;
    let moved = host.sh("uvtool io balance")?;
    ensure!(moved == "no function had to move", "{moved}");
    let list = host.sh("uvtool io")?;
    ensure!(list.contains("io-a") && list.contains("running"), "{list}");
    Ok(())
}

/// Checks that a move is undone by another move.
fn undo(host: &mut Host) -> Result<()> {
    host.sh("uvtool io drain io-b")?;
    ensure_shares(host, &[("io-a", 2), ("io-b", 0)])?;
    let log: Value = serde_json::from_str(&host.sh("uvtool log --json -n 8")?)?;
    let asked = log.as_array().context("no log")?.iter().rfind(|row| row["reason"] == "drain io-b");
    let asked = asked.and_then(|row| row["sequence"].as_u64()).context("no record of the drain")?;
    host.sh(&format!("uvtool undo {asked}"))?;
    let moved = "until [ $(uvtool io --json | grep -c '\"moves_to\": null') = 2 ]; do :; done";
    host.sh(moved)?;
    ensure_shares(host, &[("io-a", 1), ("io-b", 1)])
}

/// Checks that the guest notices nothing while the partition that serves it is replaced by another,
/// which has its share then.
fn restart_under_load(host: &mut Host) -> Result<()> {
    let seed = number("SEED", 1)? + 1;
    // The numbers go round, without that of io-b, which has the other disk.
    let served = "uvtool io --json | grep -o '\"io-[acd]\"' | head -n 1 | tr -d '\"'";
    let restarts =
        under_load(host, seed, 3000, &format!("uvtool io restart $({served}) > /dev/null"))?;
    ensure!(restarts >= 1, "the guest saw no restart");
    let found = shares(host)?;
    let (b, others): (Vec<_>, Vec<_>) = found.iter().partition(|(name, _)| name == "io-b");
    let counts = |of: &[&(String, usize)]| of.iter().map(|(_, count)| *count).collect::<Vec<_>>();
    ensure!((counts(&b), counts(&others)) == (vec![1], vec![1]), "{found:?}");
    let log = host.sh("uvtool why io-b")?;
    ensure!(log.contains("is moved to"), "{log}");
    Ok(())
}

/// Checks that what cannot be is refused with the reason.
fn refusals(host: &mut Host) -> Result<()> {
    for (command, says) in [
        ("uvtool io drain command", "is no I/O partition"),
        ("uvtool io restart boot", "is no I/O partition"),
        ("uvtool io drain nobody", "no such partition"),
    ] {
        let refused = host.sh(&format!("{command} 2>&1; true"))?;
        ensure!(refused.contains(says), "`{command}`: {refused}");
    }
    Ok(())
}
