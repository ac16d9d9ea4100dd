//! Waits for the bells of all consoles through one descriptor.
//!
//! Rule: the time of a turn of the event loop depends on how many guests rang, and not on how many
//! exist.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use crate::log;

/// The most bells that one turn handles; the kernel reports the others at the next turn.
const AT_A_TIME: usize = 64;

/// See the module's head.
pub struct Bells {
    epoll: Epoll,
    names: BTreeMap<u64, String>,
    numbers: BTreeMap<String, u64>,
    next: u64,
}

impl Default for Bells {
    fn default() -> Self {
        // A process that has no free descriptor at its start can serve nobody.
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC);
        let epoll = epoll.unwrap_or_else(|error| panic!("no descriptor for consoles: {error}"));
        Self { epoll, names: BTreeMap::new(), numbers: BTreeMap::new(), next: 0 }
    }
}

impl Bells {
    /// Adds a console's bell, in place of an earlier bell of that console.
    pub fn add(&mut self, name: &str, bell: BorrowedFd<'_>) {
        self.forget(name);
        let number = self.next;
        self.next += 1;
        if let Err(error) = self.epoll.add(bell, EpollEvent::new(EpollFlags::EPOLLIN, number)) {
            log(&format!("console of {name}: {error}; its output is not kept"));
            return;
        }
        self.names.insert(number, name.into());
        self.numbers.insert(name.into(), number);
    }

    /// Stops waiting for a console's bell. A bell that is closed is removed by the kernel.
    pub fn remove(&mut self, name: &str, bell: BorrowedFd<'_>) {
        let _ = self.epoll.delete(bell);
        self.forget(name);
    }

    /// Renames a console.
    pub fn rename(&mut self, from: &str, to: &str) {
        if let Some(number) = self.numbers.remove(from) {
            self.names.insert(number, to.into());
            self.numbers.insert(to.into(), number);
        }
    }

    /// The names of some consoles that rang. A bell stays reported until its console is served.
    pub fn rung(&self) -> Vec<String> {
        let mut events = [EpollEvent::empty(); AT_A_TIME];
        let count = self.epoll.wait(&mut events, EpollTimeout::ZERO).unwrap_or(0);
        let rung = events[..count].iter().filter_map(|event| self.names.get(&event.data()));
        rung.cloned().collect()
    }

    /// The descriptor, which is readable when a bell rang.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.epoll.0.as_fd()
    }

    fn forget(&mut self, name: &str) {
        if let Some(number) = self.numbers.remove(name) {
            self.names.remove(&number);
        }
    }
}
