//! Faults on order, for tests: `uvd` aborts right before a step of a job.
//!
//! The file named by [`Fault::new`] holds a number N. The file is read and removed when a job
//! begins to change something. From then on steps are counted, and the process aborts at step N
//! (from 1). The steps are: before a request to the ultravisor or to the boot partition; when a
//! request to the ultravisor has been sent; when the last request has been answered; and, if the
//! job then changes definitions, when they are changed. The file no longer exists by then, so the
//! `uvd` that init starts next does not abort.

use std::cell::Cell;
use std::path::PathBuf;

/// The next fault, if one was ordered.
pub struct Fault {
    order: PathBuf,
    left: Cell<Option<u64>>,
    /// Set while the next step comes when the request has been sent.
    waits: Cell<bool>,
}

impl Fault {
    /// Tests order faults with this file.
    pub fn new(order: PathBuf) -> Self {
        Self { order, left: Cell::new(None), waits: Cell::new(false) }
    }

    /// Notes that a job begins; its first step is 1.
    pub fn begin(&self) {
        if let Ok(text) = std::fs::read_to_string(&self.order) {
            let _ = std::fs::remove_file(&self.order);
            self.left.set(text.trim().parse().ok());
        }
    }

    /// Notes that the job is over.
    pub fn end(&self) {
        self.left.set(None);
    }

    /// Counts a step that is about to be taken, or was taken.
    pub fn step(&self) {
        if self.is_this() {
            strike();
        }
    }

    /// Counts a step when the job's next request has been sent to the ultravisor.
    pub fn step_when_sent(&self) {
        if self.is_this() {
            self.waits.set(true);
        }
    }

    /// Notes that the requests of jobs have been sent.
    pub fn sent(&self) {
        if self.waits.get() {
            strike();
        }
    }

    /// Counts a step. Returns whether it is the ordered one.
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
