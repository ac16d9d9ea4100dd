//! `cargo xtask run`: a host with the terminal on the command partition's console.

use std::io::{IsTerminal, stdin};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::thread;

use anyhow::{Context, Result, bail};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::options::MachineOptions;
use crate::qemu::{self, Console, Lines, Qemu};
use crate::{machine, workspace};

/// Boots `image` on `options` and stays until the machine ends.
///
/// # Errors
/// QEMU cannot be started, or the machine ends in any other way than by powering off.
pub fn run(options: &MachineOptions, image: &Path) -> Result<ExitCode> {
    let (log, log_path) = machine::open_log()?;
    let console = Console::Terminal(log_path.clone());
    let arguments = qemu::arguments(options, image, &console, &Lines::default())?;
    let terminal = Terminal::remember();
    if stdin().is_terminal() {
        eprintln!("xtask: booting; Ctrl-a x ends the machine, Ctrl-a c is QEMU's prompt");
    }
    restore_on_signal(terminal.clone())?;
    let mut qemu = Qemu::start(&arguments, &console)?;
    let status = qemu.wait(None)?.context("QEMU ended without a status")?;
    terminal.restore();
    drop(log);
    match status.code() {
        Some(0 | qemu::STATUS_POWER_OFF) => Ok(ExitCode::SUCCESS),
        Some(qemu::STATUS_STOPPED) => {
            bail!("the monitor stopped the host; its console is in {}", log_path.display())
        }
        Some(code) => bail!("QEMU ended with status {code}; what it says is above"),
        None => bail!("QEMU was killed"),
    }
}

/// Ends the process on a signal with the terminal as it was. QEMU is killed as our main thread
/// ends.
fn restore_on_signal(terminal: Terminal) -> Result<()> {
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGTERM])?;
    thread::spawn(move || {
        if let Some(signal) = signals.forever().next() {
            terminal.restore();
            std::process::exit(128 + signal);
        }
    });
    Ok(())
}

/// The modes that the terminal had before QEMU changed them.
#[derive(Clone)]
struct Terminal {
    modes: Option<String>,
}

impl Terminal {
    fn remember() -> Self {
        let modes = || {
            let mut stty = Command::new("stty");
            let modes = workspace::output(stty.arg("-g").stdin(Stdio::inherit()), "asking stty");
            Some(modes.ok()?.trim().to_owned())
        };
        Self { modes: if stdin().is_terminal() { modes() } else { None } }
    }

    fn restore(&self) {
        if let Some(modes) = &self.modes {
            // There is nothing to be done about a terminal that is gone.
            let _ = Command::new("stty").arg(modes).stderr(Stdio::null()).status();
        }
    }
}
