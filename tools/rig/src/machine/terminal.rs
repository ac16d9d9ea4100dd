//! `cargo xtask run`: boots a host and connects the terminal to the command partition's console.

use std::io::{IsTerminal, stdin};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};

use crate::interrupt::Terminal;
use crate::machine;
use crate::machine::qemu::{self, Console, Lines, Qemu};
use crate::options::MachineOptions;

/// Boots `image` on `options` and stays until the machine ends.
///
/// # Errors
/// QEMU cannot be started, or the machine ends in any other way than by powering off.
pub fn run_machine(options: &MachineOptions, image: &Path) -> Result<ExitCode> {
    let (log, log_path) = machine::open_log()?;
    let console = Console::Terminal(log_path.clone());
    let arguments = qemu::arguments(options, image, &console, &Lines::default())?;
    let terminal = Terminal::remember();
    if stdin().is_terminal() {
        eprintln!("xtask: booting; Ctrl-a x ends the machine, Ctrl-a c is QEMU's prompt");
    }
    let mut qemu = Qemu::start(&arguments, &console)?;
    let status = qemu.wait(None)?.context("QEMU ended without a status")?;
    drop(terminal);
    drop(log);
    match status.code() {
        Some(0 | qemu::STATUS_POWER_OFF) => Ok(ExitCode::SUCCESS),
        Some(qemu::STATUS_STOPPED) => {
            bail!("the monitor stopped the host; its console is in {}", log_path.display())
        }
        Some(code) => bail!("QEMU ended with status {code}; its messages are above"),
        None => bail!("QEMU was killed"),
    }
}
