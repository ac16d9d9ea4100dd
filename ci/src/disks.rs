//! Disks of guests, under the front end that trusts no answer (`ci/guest/front`).
//!
//! The guest reads everything that it wrote before it says that nothing was wrong. The image on the
//! test machine is looked at, too: a sector that the guest wrote holds its own number and the seed.
//! `SEED` in the environment chooses other requests.

use std::fs::{self, File};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use block_front::{Cookie, WINDOW};
use rig::options::{BootOptions, Chipset, DiskFunction, MachineOptions};
use rig::workspace;
use serde_json::Value;

use crate::boots::{self, Boot};
use crate::checks::{self, Check};
use crate::guests::{GUEST, minimal_guest};
use crate::host::Host;
use crate::{Results, number};

const CHECKS: &[Check] = &[
    Check { name: "one-ring", run: one_ring },
    Check { name: "several-rings", run: several_rings },
    Check { name: "deaths", run: both_died },
    Check { name: "hostile", run: hostile },
    Check { name: "resources", run: checks::resources },
    Check { name: "monitor-log", run: checks::monitor_log },
];

/// The time limit of a guest: the machine is emulated.
const LIMIT: Duration = Duration::from_secs(300);
/// Sectors of the disk.
pub const SECTORS: u64 = 64 << 11;
/// Bytes of a sector.
const SECTOR: usize = 512;
/// Lines that are kept of what a guest prints.
const LINES: usize = 400;

/// Runs the requested checks.
pub fn run_scenarios(results: &mut Results) {
    let boot = Boot { name: "disk-front", machine: machine(), boot: with_deaths, checks: CHECKS };
    boots::run_wanted(&boot, results);
}

/// The deaths of the usual run, under the first two checks: a crash late in a request, and a loop of
/// the successor. A step may publish a ring of responses, so few of them are sure to come.
const DEATHS: [&str; 2] = ["inject=die-at:4:published:40", "inject=die-at:5:completed:1000:loop"];

fn with_deaths() -> Result<BootOptions> {
    Ok(BootOptions { io_options: DEATHS.join(" "), ..options()? })
}

/// A machine with one disk.
pub fn machine() -> MachineOptions {
    let disk = disk_file().into_iter().collect();
    let (chipset, disk_function) = (Chipset::Q35, DiskFunction::Modern);
    MachineOptions { chipset, disk, disk_function, ..MachineOptions::default() }
}

/// The path of the disk's image.
///
/// # Errors
/// A directory cannot be made.
pub fn disk_file() -> Result<PathBuf> {
    let directory = workspace::directory(workspace::build_dir()?.join("disks"))?;
    Ok(directory.join("front.img"))
}

/// Makes an empty disk, and returns boot options with the minimal guest.
///
/// # Errors
/// A file cannot be written or built.
pub fn options() -> Result<BootOptions> {
    let file = disk_file()?;
    fs::write(&file, [])?;
    File::options().write(true).open(&file)?.set_len(SECTORS * SECTOR as u64)?;
    Ok(BootOptions { file: vec![minimal_guest()?], ..BootOptions::default() })
}

/// The PCI address of the disk that an I/O partition has.
///
/// # Errors
/// No I/O partition has a function.
pub fn function(host: &mut Host) -> Result<String> {
    let resources: Value = serde_json::from_str(&host.sh("uvtool resources --json")?)?;
    let rows = resources["pci"].as_array().context("no PCI functions")?;
    let is_io = |row: &&Value| row["owner"].as_str().is_some_and(|owner| owner.starts_with("io-"));
    let row = rows.iter().find(is_io).context("no I/O partition has a function")?;
    Ok(row["address"].as_str().context("a function has no address")?.to_owned())
}

/// Runs a program of the minimal guest to its end, with the disk as `xvda`. Returns what it printed.
fn run(host: &mut Host, name: &str, program: &str) -> Result<String> {
    let function = function(host)?;
    let definition = format!(
        "name = \"{name}\"\nkernel = \"{GUEST}\"\ncommand_line = \"{program}\"\nmemory = \"4M\"\n\
         [[disk]]\ndevice = \"xvda\"\nfunction = \"{function}\"\n"
    );
    let command = format!(
        "cat > /root/{name}.toml && uvtool create --console /root/{name}.toml | tr -d '\\r' | \
         tail -n {LINES}; uvtool destroy --forget {name} > /dev/null 2>&1; uvtool disk list"
    );
    let output = host.run(&["sh", "-c", &command], definition.as_bytes(), LIMIT)?;
    let (all, error) = (output.stdout, output.stderr);
    let word = program.split(' ').next().unwrap_or_default();
    let mark = format!("{word}: ");
    let last = all.lines().rev().find(|line| line.starts_with(&mark));
    let last = last.with_context(|| format!("`{program}` printed nothing: {all}{error}"))?;
    if !last.ends_with(", 0 errors") {
        bail!("`{program}`: {all}{error}");
    }
    println!("       {last}");
    Ok(all)
}

/// Runs the checking front end, and checks the disk's sectors. Returns what the front end printed.
///
/// # Errors
/// The front end or the disk has an error.
pub fn check(host: &mut Host, seed: u64, program: &str) -> Result<String> {
    let name = format!("front-{seed}");
    let printed = run(host, &name, program)?;
    on_disk(seed)?;
    Ok(printed)
}

/// Checks the sectors that a guest with a seed writes: those at the begin and the end of the disk. A
/// discarded sector may hold anything but what was meant for another sector.
///
/// # Errors
/// A sector holds data of another sector, or too few sectors hold what the guest wrote.
pub fn on_disk(seed: u64) -> Result<()> {
    let image = workspace::read(&disk_file()?)?;
    let half = WINDOW as u64 / 2;
    let mut whole = 0;
    for number in (0..half).chain(SECTORS - half..SECTORS) {
        let begin = usize::try_from(number)? * SECTOR;
        let bytes = image.get(begin..begin + SECTOR).context("the image is too short")?;
        let words: Vec<u32> =
            bytes.as_chunks().0.iter().map(|word: &[u8; 4]| u32::from_le_bytes(*word)).collect();
        let Some(cookie) = Cookie::read(&words) else { continue };
        ensure!(cookie.sector == number, "sector {number} holds {cookie}");
        whole += u64::from(cookie.seed == seed);
    }
    // A discard takes a few sectors of the 8,192.
    ensure!(whole > half, "{whole} sectors hold what the guest wrote");
    Ok(())
}

fn one_ring(host: &mut Host) -> Result<()> {
    let seed = number("SEED", 1)?;
    check(host, seed, &format!("disk {seed} 3000")).map(drop)
}

fn several_rings(host: &mut Host) -> Result<()> {
    let seed = number("SEED", 1)? + 1;
    check(host, seed, &format!("disk {seed} 3000 rings=4")).map(drop)
}

/// Checks that the disk can be used after each of many attacks, and by the next guest.
fn hostile(host: &mut Host) -> Result<()> {
    let seed = number("SEED", 1)?;
    run(host, "hostile", &format!("disk-hostile {seed} 60"))?;
    let seed = seed + 2;
    check(host, seed, &format!("disk {seed} 1000")).map(drop)
}

/// Checks that both I/O partitions ended under the front end, and that the log tells how.
fn both_died(host: &mut Host) -> Result<()> {
    let console = host.machine.console()?;
    for told in ["partition 4 stopped: cause", "partition 5 hangs: silent for"] {
        ensure!(console.contains(told), "the host's log has no {told:?}");
    }
    let log = host.sh("uvtool log -n 200")?;
    ensure!(log.contains("hung: silent for"), "the audit log does not tell who hung: {log}");
    Ok(())
}
