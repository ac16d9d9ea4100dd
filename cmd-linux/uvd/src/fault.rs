//! An end on purpose, for tests: `uvd` aborts right before a step of a job.
//!
//! The file named by [`Fault::new`] holds a number N. It is read and removed when a job begins to
//! change something; from then on steps are counted, and the process aborts before step N (from
//! 1): a request to the ultravisor, or a request to the boot partition. As the file is gone then,
//! the `uvd` that init starts next lives.

use std::cell::Cell;
use std::path::PathBuf;

/// The next fault, if one was ordered.
pub struct Fault {
    order: PathBuf,
    left: Cell<Option<u64>>,
}

impl Fault {
    /// Faults are ordered by this file.
    pub fn new(order: PathBuf) -> Self {
        Self { order, left: Cell::new(None) }
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

    /// A step is about to be taken.
    pub fn step(&self) {
        match self.left.get() {
            Some(0 | 1) => {
                crate::log("aborts, as ordered");
                std::process::abort();
            }
            Some(left) => self.left.set(Some(left - 1)),
            None => {}
        }
    }
}
