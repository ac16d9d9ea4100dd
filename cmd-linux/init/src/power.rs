//! Ends the system: tells processes to end, then powers off or reboots the machine.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::reboot::{RebootMode, reboot};
use nix::sys::signal::{Signal, kill};
use nix::sys::signalfd::SignalFd;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

use crate::{notice, state_disk, warning};

/// How long processes have to end.
const GRACE: Duration = Duration::from_secs(1);

/// What to do at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Power off.
    PowerOff,
    /// Start again.
    Reboot,
    /// Stop, with the power on.
    Halt,
}

impl End {
    /// The end that busybox's `poweroff`, `reboot` or `halt` asks for with a signal to process 1.
    pub fn of_signal(signal: Signal) -> Option<Self> {
        match signal {
            Signal::SIGUSR2 => Some(Self::PowerOff),
            Signal::SIGTERM | Signal::SIGINT => Some(Self::Reboot),
            Signal::SIGUSR1 => Some(Self::Halt),
            _ => None,
        }
    }
}

/// Ends everything. `signals` delivers SIGCHLD.
pub fn end(how: End, signals: &SignalFd) -> Result<Infallible, Errno> {
    notice!("{how:?}");
    let everyone = Pid::from_raw(-1);
    // An interactive shell ignores SIGTERM and obeys SIGHUP.
    for signal in [Signal::SIGTERM, Signal::SIGHUP, Signal::SIGCONT] {
        let _ = kill(everyone, signal);
    }
    if !all_ended(signals, Instant::now() + GRACE) {
        let _ = kill(everyone, Signal::SIGKILL);
    }
    state_disk::leave();
    let mode = match how {
        End::PowerOff => RebootMode::RB_POWER_OFF,
        End::Reboot => RebootMode::RB_AUTOBOOT,
        End::Halt => RebootMode::RB_HALT_SYSTEM,
    };
    reboot(mode).inspect_err(|error| warning!("{how:?}: {}", error.desc()))
}

/// Waits until this is the only process.
fn all_ended(signals: &SignalFd, until: Instant) -> bool {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use std::os::fd::AsFd;
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Err(Errno::ECHILD) => return true,
            Ok(status) if status.pid().is_some() => continue,
            _ => {}
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return false;
        }
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
        let mut fds = [PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        let _ = poll(&mut fds, timeout);
        let _ = signals.read_signal();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_mean_what_busybox_means() {
        assert_eq!(End::of_signal(Signal::SIGUSR2), Some(End::PowerOff));
        assert_eq!(End::of_signal(Signal::SIGTERM), Some(End::Reboot));
        assert_eq!(End::of_signal(Signal::SIGUSR1), Some(End::Halt));
        assert_eq!(End::of_signal(Signal::SIGCHLD), None);
    }
}
