//! A program that is kept running.
//!
//! Rule: time is a parameter; the event loop asks for the next deadline and comes back then.

use std::io;
use std::process::Child;
use std::time::Instant;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::backoff::Backoff;
use crate::{notice, warning};

/// A program and how to start it.
pub struct Service {
    name: &'static str,
    start: Box<dyn Fn() -> io::Result<Child>>,
    backoff: Backoff,
    state: State,
}

enum State {
    Running {
        pid: Pid,
        since: Instant,
    },
    Waiting {
        until: Instant,
    },
    /// The program is not installed.
    Missing,
}

impl Service {
    /// A service that is due now.
    pub fn new(
        name: &'static str,
        now: Instant,
        start: impl Fn() -> io::Result<Child> + 'static,
    ) -> Self {
        let state = State::Waiting { until: now };
        Self { name, start: Box::new(start), backoff: Backoff::default(), state }
    }

    /// Starts the program when it is due.
    pub fn tick(&mut self, now: Instant) {
        if self.deadline().is_none_or(|until| until > now) {
            return;
        }
        self.state = match (self.start)() {
            Ok(child) => State::Running { pid: Pid::from_raw(child.id() as i32), since: now },
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                warning!("{}: not in this image; it is not started", self.name);
                State::Missing
            }
            Err(error) => {
                let until = now + self.backoff.ended(std::time::Duration::ZERO);
                warning!("{}: cannot be started: {error}", self.name);
                State::Waiting { until }
            }
        };
    }

    /// The time at which [`Service::tick`] has something to do.
    pub fn deadline(&self) -> Option<Instant> {
        match self.state {
            State::Waiting { until } => Some(until),
            State::Running { .. } | State::Missing => None,
        }
    }

    /// Notes that a process ended; false if it is not this service's.
    pub fn child_ended(&mut self, pid: Pid, status: i32, now: Instant) -> bool {
        let State::Running { pid: own, since } = self.state else {
            return false;
        };
        if own != pid {
            return false;
        }
        let wait = self.backoff.ended(now.saturating_duration_since(since));
        self.state = State::Waiting { until: now + wait };
        let name = self.name;
        notice!("{name}: ended with status {status}; starting it again in {wait:?}");
        true
    }

    /// Asks the program to end.
    pub fn terminate(&self) {
        if let State::Running { pid, .. } = self.state {
            let _ = kill(pid, Signal::SIGTERM);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{backoff, children};
    use std::process::Command;
    use std::time::Duration;

    fn pid(service: &Service) -> Pid {
        match service.state {
            State::Running { pid, .. } => pid,
            _ => panic!("not running"),
        }
    }

    #[test]
    fn what_ends_is_started_again_after_a_wait() {
        let start = Instant::now();
        let mut service = Service::new("test", start, || Command::new("false").spawn());
        service.tick(start);
        assert_eq!(service.deadline(), None);
        let first = pid(&service);
        assert!(!service.child_ended(Pid::from_raw(1), 0, start));
        assert!(service.child_ended(first, children::wait_for(first), start));
        let due = start + backoff::FIRST;
        assert_eq!(service.deadline(), Some(due));
        service.tick(due - Duration::from_nanos(1));
        assert_eq!(service.deadline(), Some(due), "not before it is due");
        service.tick(due);
        let second = pid(&service);
        assert_ne!(first, second);
        assert!(service.child_ended(second, children::wait_for(second), due));
        assert_eq!(service.deadline(), Some(due + backoff::FIRST * 2));
    }

    #[test]
    fn what_is_not_installed_is_tried_once() {
        let start = Instant::now();
        let mut service = Service::new("test", start, || Command::new("no-such-program").spawn());
        service.tick(start);
        assert_eq!(service.deadline(), None);
        assert!(!service.child_ended(Pid::from_raw(1), 0, start));
    }

    #[test]
    fn what_cannot_be_started_is_tried_again() {
        let start = Instant::now();
        let mut service = Service::new("test", start, || Err(io::Error::other("no memory")));
        service.tick(start);
        assert_eq!(service.deadline(), Some(start + backoff::FIRST));
    }

    #[test]
    fn termination_reaches_it() {
        let start = Instant::now();
        let mut service = Service::new("test", start, || Command::new("sleep").arg("1000").spawn());
        service.tick(start);
        service.terminate();
        assert_eq!(children::wait_for(pid(&service)), 128 + 15);
    }
}
