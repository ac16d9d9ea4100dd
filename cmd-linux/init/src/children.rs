//! Reaps processes that ended.

use nix::errno::Errno;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// Reaps the next process that ended, our child or an orphan, and returns its exit status. `None`
/// if no process has ended.
pub fn reap() -> Option<(Pid, i32)> {
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) => return None,
            Ok(status) => {
                if let Some(ended) = ended(status) {
                    return Some(ended);
                }
            }
            Err(Errno::EINTR) => {}
            Err(_) => return None,
        }
    }
}

/// Waits until a child ends.
#[cfg(test)]
pub fn wait_for(pid: Pid) -> i32 {
    loop {
        if let Some((_, status)) = ended(waitpid(pid, None).expect("a child")) {
            return status;
        }
    }
}

/// The process and its exit status in the shell's notation: 128 + n for signal n.
fn ended(status: WaitStatus) -> Option<(Pid, i32)> {
    match status {
        WaitStatus::Exited(pid, status) => Some((pid, status)),
        WaitStatus::Signaled(pid, signal, _) => Some((pid, 128 + signal as i32)),
        _ => None,
    }
}
