//! Debian's PV GRUB as a guest: a kernel that is not Linux, and that reads typed input.

use std::time::Duration;

use anyhow::{Result, ensure};
use rig::build::kernel;
use rig::image::command_image::FileToSend;
use rig::options::{BootOptions, MachineOptions};

use crate::Results;
use crate::boots::{self, Boot};
use crate::checks::{self, Check};
use crate::host::{DETACH, Host};

/// The checks, in this order.
const CHECKS: &[Check] = &[
    Check { name: "prompt", run: prompt },
    Check { name: "resources", run: checks::resources },
    Check { name: "monitor-log", run: checks::monitor_log },
];

/// The path of PV GRUB in the command partition.
const GRUB: &str = "/root/grub";
/// The longest time until PV GRUB has answered. It draws its console one character at a time.
const LIMIT: Duration = Duration::from_secs(120);

/// Runs the requested checks.
pub fn run_scenarios(results: &mut Results) {
    let machine = MachineOptions { memory: "1G".into(), ..MachineOptions::default() };
    boots::run_wanted(&Boot { name: "grub", machine, boot: options, checks: CHECKS }, results);
}

fn options() -> Result<BootOptions> {
    let file = FileToSend { host: kernel::pv_grub()?, guest: GRUB.into() };
    Ok(BootOptions { file: vec![file], ..BootOptions::default() })
}

/// Checks that it shows its prompt, and answers typed input.
fn prompt(host: &mut Host) -> Result<()> {
    host.sh(&format!("uvtool create --name grub --kernel {GRUB} --memory 64M"))?;
    // GRUB echoes typed input in pieces, each with its place on the screen, so a word in one piece
    // is the command's output.
    let turns = [("grub> ", "echo hello\r"), ("hello", ""), ("grub> ", DETACH)];
    host.converse(&["uvtool", "console", "grub"], &turns, LIMIT)?;
    host.sh("uvtool destroy --forget grub")?;
    let list = host.sh("uvtool list")?;
    ensure!(!list.contains("grub"), "the partition still exists: {list}");
    Ok(())
}
