//! Partitions as they were last seen, and the state that the policies keep about them.

use std::cell::{Cell, RefCell};

use super::signal::Signal;
use crate::rows::Rows;
use crate::service::policy::Watch;

/// See the module's head.
#[derive(Default)]
pub struct Guests {
    /// See [`Rows`].
    pub rows: RefCell<Rows>,
    /// See [`policy::seen`](crate::service::policy::seen).
    pub watch: RefCell<Watch>,
    /// Names of partitions that a policy is about to restart.
    restarting: RefCell<Vec<String>>,
    /// Whether a job starts the partitions that start with the host.
    pub autostarting: Cell<bool>,
}

impl Guests {
    /// Notes that a policy is about to restart a partition. Two restarts of a name may overlap: a
    /// partition that ended at once is handled before the start that it ended after is complete.
    pub fn begin_restart(&self, name: &str) {
        self.restarting.borrow_mut().push(name.into());
    }

    /// Notes that a policy restarted a partition, or gave up; wakes the jobs that wait for it.
    pub fn end_restart(&self, name: &str, changed: &Signal) {
        let mut restarting = self.restarting.borrow_mut();
        if let Some(at) = restarting.iter().position(|known| known == name) {
            restarting.swap_remove(at);
        }
        drop(restarting);
        changed.raise();
    }

    /// Whether a policy is about to restart a partition.
    pub fn is_restarting(&self, name: &str) -> bool {
        self.restarting.borrow().iter().any(|known| known == name)
    }
}
