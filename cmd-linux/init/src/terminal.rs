//! The two terminals: the harness line, made raw, and the console with its shell.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::termios::{SetArg, cfmakeraw, tcgetattr, tcsetattr};

use crate::{harness, system};

/// Opens a terminal below `/dev` without waiting and without making it a controlling terminal.
/// Opening a console that the kernel has not found yet fails with `ENODEV`, though its name exists.
fn open(name: &str) -> io::Result<File> {
    let flags = OFlag::O_NOCTTY | OFlag::O_NONBLOCK;
    File::options().read(true).write(true).custom_flags(flags.bits()).open(format!("/dev/{name}"))
}

/// Makes a terminal raw: no byte has a special meaning.
pub fn make_raw(terminal: &impl AsFd) -> nix::Result<()> {
    let mut settings = tcgetattr(terminal)?;
    cfmakeraw(&mut settings);
    tcsetattr(terminal, SetArg::TCSANOW, &settings)
}

/// Opens the harness line, raw.
pub fn harness_line(name: &str) -> io::Result<OwnedFd> {
    let line = open(name)?;
    make_raw(&line)?;
    Ok(line.into())
}

/// Starts a login shell on a terminal, which becomes its controlling terminal.
pub fn start_shell(name: &str) -> io::Result<Child> {
    let terminal = open(name)?;
    // The terminal was opened without waiting, but the shell must wait for its input.
    fcntl(&terminal, FcntlArg::F_SETFL(OFlag::empty()))?;
    let mut shell = Command::new("/bin/sh");
    shell.arg0("-sh").current_dir("/root").env_clear();
    shell.env("PATH", harness::PATH).env("HOME", "/root").env("USER", "root");
    shell.env("TERM", std::env::var_os("TERM").unwrap_or_else(|| "linux".into()));
    shell.env("PS1", "\\h:\\w\\$ ");
    shell.stdout(Stdio::from(terminal.try_clone()?));
    shell.stderr(Stdio::from(terminal.try_clone()?)).stdin(Stdio::from(terminal));
    system::with_terminal(&mut shell);
    // A measurement of the boot time reads this stamp.
    let _ = std::fs::write(SHELL_STAMP, format!("{}\n", system::time_stamp()));
    shell.spawn()
}

/// Holds the time-stamp counter of the last start of the shell.
const SHELL_STAMP: &str = "/run/uv-shell-tsc";
