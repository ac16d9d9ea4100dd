//! The disk on which `uvd` keeps its state: waits for it and mounts it, before `uvd` is started.
//!
//! The disk is served by an I/O partition, which the host builds after this partition, so it comes
//! some time after the start. Rule: a disk that does not come, or that cannot be mounted, costs a
//! wait of [`PATIENCE`] at most. `uvd` runs without it then, and the log says that the state of the
//! host ends with it.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, umount2};
use nix::unistd::Pid;

use crate::{harness, message, system};

/// Where the disk is mounted, which `uvd` knows.
pub const PLACE: &str = "/var/lib/uvd";
/// The time that the disk has to come.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// Time between two looks for the disk.
const RETRY: Duration = Duration::from_millis(100);
/// The time that the file system has to be written at the end.
const GRACE: Duration = Duration::from_secs(10);

/// Starts a process that mounts a device.
type Mount = dyn Fn(&Path) -> io::Result<Child>;

/// The disk, until it is mounted or given up.
pub struct StateDisk {
    device: PathBuf,
    mount: Box<Mount>,
    phase: Phase,
}

enum Phase {
    /// The device is not there.
    Awaited { look: Instant, give_up: Instant },
    /// A child mounts the device.
    Mounting(Pid),
    /// The device is mounted, or cannot be.
    Settled(Result<(), String>),
}

impl StateDisk {
    /// The disk of this name below `/dev`, which `mount` mounts.
    pub fn new(
        device: PathBuf,
        now: Instant,
        mount: impl Fn(&Path) -> io::Result<Child> + 'static,
    ) -> Self {
        let phase = Phase::Awaited { look: now, give_up: now + PATIENCE };
        Self { device, mount: Box::new(mount), phase }
    }

    /// Does all that can be done now. Returns the outcome once there is one.
    pub fn turn(&mut self, now: Instant) -> Option<Result<(), String>> {
        let device = self.device.display();
        if let Phase::Awaited { look, give_up } = self.phase
            && look <= now
        {
            self.phase = if self.device.exists() {
                match (self.mount)(&self.device) {
                    Ok(child) => Phase::Mounting(Pid::from_raw(child.id() as i32)),
                    Err(error) => Phase::Settled(Err(format!("{device}: mount: {error}"))),
                }
            } else if give_up <= now {
                let why = format!("{device}: not there after {} s", PATIENCE.as_secs());
                Phase::Settled(Err(why))
            } else {
                Phase::Awaited { look: now + RETRY, give_up }
            };
        }
        match &self.phase {
            Phase::Settled(outcome) => Some(outcome.clone()),
            Phase::Awaited { .. } | Phase::Mounting(_) => None,
        }
    }

    /// The time at which [`Self::turn`] has something to do.
    pub fn deadline(&self) -> Option<Instant> {
        match self.phase {
            Phase::Awaited { look, .. } => Some(look),
            Phase::Mounting(_) | Phase::Settled(_) => None,
        }
    }

    /// Notes that a process ended; false if it is not the one that mounts.
    pub fn child_ended(&mut self, pid: Pid, status: i32) -> bool {
        let is_own = matches!(self.phase, Phase::Mounting(own) if own == pid);
        if is_own {
            self.phase = Phase::Settled(match status {
                0 => Ok(()),
                _ => Err(format!(
                    "{}: mount ended with status {status}: it has no ext4 file system, or a damaged \
                     one; make one with mkfs.ext4, or mend it with e2fsck",
                    self.device.display()
                )),
            });
        }
        is_own
    }
}

/// Starts a child that mounts the device.
pub fn mount(device: &Path) -> io::Result<Child> {
    let mut mount = Command::new("mount");
    mount.env_clear().env("PATH", harness::PATH);
    mount.args(["-t", "ext4", "-o", "noatime,nosuid,nodev"]).arg(device).arg(PLACE);
    mount.stdin(std::process::Stdio::null());
    mount.stdout(message::stdio()).stderr(message::stdio());
    system::in_own_session(&mut mount);
    mount.spawn()
}

/// Writes everything to the disks and unmounts this one, if it is mounted. Gives up after [`GRACE`]:
/// a disk that nobody serves must not keep the host from ending.
pub fn leave() {
    let (sender, done) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        nix::unistd::sync();
        let _ = umount2(PLACE, MntFlags::empty());
        let _ = sender.send(());
    });
    if done.recv_timeout(GRACE).is_err() {
        crate::warning!("{PLACE}: not written within {} s", GRACE.as_secs());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::children;

    fn disk(device: &str, program: &'static str, start: Instant) -> StateDisk {
        StateDisk::new(device.into(), start, move |_| Command::new(program).spawn())
    }

    fn pid(disk: &StateDisk) -> Pid {
        match disk.phase {
            Phase::Mounting(pid) => pid,
            _ => panic!("nothing is mounted"),
        }
    }

    #[test]
    fn a_disk_that_does_not_come_is_given_up() {
        let start = Instant::now();
        let mut disk = disk("/no/such/disk", "true", start);
        let mut now = start;
        while disk.turn(now).is_none() {
            now = disk.deadline().unwrap();
        }
        assert_eq!(now, start + PATIENCE);
        let why = disk.turn(now).unwrap().unwrap_err();
        assert_eq!(why, "/no/such/disk: not there after 60 s");
    }

    #[test]
    fn a_disk_that_comes_is_mounted_once() {
        let start = Instant::now();
        let mut disk = disk("/dev/null", "true", start);
        assert_eq!((disk.turn(start), disk.deadline()), (None, None));
        let mounting = pid(&disk);
        assert!(!disk.child_ended(Pid::from_raw(1), 1));
        assert_eq!(disk.turn(start + PATIENCE), None, "mount is still at it");
        assert!(disk.child_ended(mounting, children::wait_for(mounting)));
        assert_eq!(disk.turn(start), Some(Ok(())));
    }

    #[test]
    fn a_disk_that_cannot_be_mounted_is_named() {
        let start = Instant::now();
        let mut failing = disk("/dev/null", "false", start);
        assert_eq!(failing.turn(start), None);
        let mounting = pid(&failing);
        assert!(failing.child_ended(mounting, children::wait_for(mounting)));
        let why = failing.turn(start).unwrap().unwrap_err();
        assert!(why.starts_with("/dev/null: mount ended with status 1:"), "{why}");
        let missing = disk("/dev/null", "no-such-program", start).turn(start);
        assert!(missing.unwrap().unwrap_err().starts_with("/dev/null: mount: "));
    }
}
