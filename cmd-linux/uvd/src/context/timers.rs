//! The timers of jobs. The event loop fires those that are due.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::time::Instant;

use futures_channel::oneshot;

/// See the module's head.
#[derive(Default)]
pub struct Timers {
    /// By time, and by a number that tells timers of the same time apart.
    timers: RefCell<BTreeMap<(Instant, u64), oneshot::Sender<()>>>,
    count: Cell<u64>,
}

impl Timers {
    /// Waits until `when`.
    pub async fn sleep_until(&self, when: Instant) {
        let (timer, fired) = oneshot::channel();
        let count = self.count.get();
        self.count.set(count + 1);
        self.timers.borrow_mut().insert((when, count), timer);
        let _ = fired.await;
    }

    /// Wakes the jobs whose timers are due.
    pub fn fire_due(&self, now: Instant) {
        let mut timers = self.timers.borrow_mut();
        while let Some(first) = timers.first_entry()
            && first.key().0 <= now
        {
            let _ = first.remove().send(());
        }
    }

    /// The time at which the next timer is due.
    pub fn deadline(&self) -> Option<Instant> {
        let mut timers = self.timers.borrow_mut();
        timers.retain(|_, timer| !timer.is_canceled());
        timers.first_key_value().map(|((when, _), _)| *when)
    }
}
