//! The harness line, from the wait for its terminal until the line is lost.
//!
//! The kernel makes all the names `/dev/hvc*` at once, but finds the second console some time
//! later, when its driver has talked to the store. Until then, opening it fails with `ENODEV`. The
//! driver core announces the console with a *bind* event (kobject_uevent). Rule: opening is tried
//! on every event, and, in case an event is lost, every [`RETRY`] during the first [`PATIENCE`].

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket,
};
use nix::unistd::Pid;

use crate::harness::{Session, Turn};
use crate::{boot, notice, terminal, warning};

/// Time between tries.
const RETRY: Duration = Duration::from_millis(100);
/// Tries without an event end after this time.
const PATIENCE: Duration = Duration::from_secs(30);

/// The line's state.
pub struct Line {
    name: String,
    events: Option<OwnedFd>,
    retry: Option<Instant>,
    give_up: Instant,
    session: Option<Session>,
}

impl Line {
    /// A line on the terminal of this name below `/dev`.
    pub fn new(name: String, now: Instant) -> Self {
        let events =
            device_events().inspect_err(|error| warning!("device events: {}", error.desc())).ok();
        Self { name, events, retry: Some(now), give_up: now + PATIENCE, session: None }
    }

    /// Adds the descriptors to wait for before the next turn.
    pub fn poll_fds<'a>(&'a self, fds: &mut Vec<PollFd<'a>>) {
        match (&self.session, &self.events) {
            (Some(session), _) => session.poll_fds(fds),
            (None, Some(events)) => fds.push(PollFd::new(events.as_fd(), PollFlags::POLLIN)),
            (None, None) => {}
        }
    }

    /// The time at which a turn is due without an event.
    pub fn deadline(&self) -> Option<Instant> {
        self.retry
    }

    /// Does all that can be done now; true means power off.
    pub fn turn(&mut self, now: Instant) -> bool {
        let event = self.events.as_ref().is_some_and(take_events);
        let due = self.retry.is_some_and(|retry| retry <= now);
        if self.session.is_none() && (event || due) {
            self.open(now);
        }
        let Some(session) = &mut self.session else {
            return false;
        };
        match session.turn() {
            Turn::Idle => false,
            Turn::PowerOff => true,
            Turn::Lost(error) => {
                warning!("harness line {}: lost: {}", self.name, error.desc());
                session.hang_up();
                self.session = None;
                self.give_up = now + PATIENCE;
                self.retry = Some(now + RETRY);
                false
            }
        }
    }

    /// Notes that a process ended; false if it is not the line's command.
    pub fn child_ended(&mut self, pid: Pid, status: i32) -> bool {
        self.session.as_mut().is_some_and(|session| session.child_ended(pid, status))
    }

    fn open(&mut self, now: Instant) {
        self.retry = (now < self.give_up).then_some(now + RETRY);
        let line = match terminal::harness_line(&self.name) {
            Ok(line) => line,
            Err(error) => return self.not_there(&error),
        };
        let release = nix::sys::utsname::uname();
        let release = release.as_ref().map(|name| name.release().to_string_lossy());
        let release = release.unwrap_or_default();
        match Session::new(line, &release, PathBuf::from(boot::HOME)) {
            Ok(session) => {
                notice!("harness line {}: ready", self.name);
                self.session = Some(session);
                self.retry = None;
            }
            Err(error) => warning!("harness line {}: {}", self.name, error.desc()),
        }
    }

    /// Logs the error, unless it says that the terminal is not there yet and [`PATIENCE`] is not
    /// over.
    fn not_there(&self, error: &std::io::Error) {
        let errno = error.raw_os_error().map_or(Errno::UnknownErrno, Errno::from_raw);
        let absent = matches!(errno, Errno::ENODEV | Errno::ENOENT | Errno::ENXIO | Errno::EIO);
        if !absent || self.retry.is_none() {
            warning!("harness line {}: {error}; waiting for device events", self.name);
        }
    }
}

/// A socket that receives events of the kernel's devices.
fn device_events() -> nix::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let protocol = SockProtocol::NetlinkKObjectUEvent;
    let socket = socket(AddressFamily::Netlink, SockType::Datagram, flags, protocol)?;
    // Group 1 has the kernel's own events.
    bind(std::os::fd::AsRawFd::as_raw_fd(&socket), &NetlinkAddr::new(0, 1))?;
    Ok(socket)
}

/// Takes all waiting events; true if there was an event, or if some were lost.
fn take_events(events: &OwnedFd) -> bool {
    let mut any = false;
    let mut bytes = [0; 4096];
    loop {
        match recv(std::os::fd::AsRawFd::as_raw_fd(events), &mut bytes, MsgFlags::empty()) {
            Ok(_) | Err(Errno::ENOBUFS) => any = true,
            Err(Errno::EINTR) => {}
            Err(_) => return any,
        }
    }
}
