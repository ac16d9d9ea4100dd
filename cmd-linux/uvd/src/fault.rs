//! An end on purpose, for tests: `uvd` aborts right before a step of a job.
//!
//! The file named by [`Fault::new`] holds a number N. It is read and removed when a job begins to
//! change something; from then on steps are counted, and the process aborts at step N (from 1).
//! Steps are: before a request to the ultravisor or to the boot partition; when one to the
//! ultravisor is on its way; when the last was answered; when definitions follow it. As the file
//! is gone then, the `uvd` that init starts next lives.

use std::cell::Cell;
use std::path::PathBuf;

/// The next fault, if one was ordered.
pub struct Fault {
    order: PathBuf,
    left: Cell<Option<u64>>,
    /// It strikes when what is about to be sent is on its way.
    waits: Cell<bool>,
}

impl Fault {
    /// Faults are ordered by this file.
    pub fn new(order: PathBuf) -> Self {
        Self { order, left: Cell::new(None), waits: Cell::new(false) }
    }

    /// A job begins: its first step is 1.
    pub fn begin(&self) {
        if let Ok(text) = std::fs::read_to_string(&self.order) {
            let _ = std::fs::remove_file(&self.order);
            self.left.set(text.trim().parse().ok());
        }
    }

    /// The job is over.
    pub fn end(&self) {
        self.left.set(None);
    }

    /// A step is about to be taken, or was.
    pub fn step(&self) {
        if self.is_this() {
            strike();
        }
    }

    /// A step is that what the job asks next is on its way to the ultravisor.
    pub fn step_when_sent(&self) {
        if self.is_this() {
            self.waits.set(true);
        }
    }

    /// What jobs asked is on its way.
    pub fn sent(&self) {
        if self.waits.get() {
            strike();
        }
    }

    /// Counts a step; whether it is the one.
    fn is_this(&self) -> bool {
        let left = self.left.get();
        self.left.set(left.map(|left| left.saturating_sub(1)));
        matches!(left, Some(0 | 1))
    }
}

fn strike() -> ! {
    crate::log("aborts, as ordered");
    std::process::abort();
}
