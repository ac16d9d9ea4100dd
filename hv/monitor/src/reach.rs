//! Records whose memory a PCI function may reach, no matter which partition owns it.
//!
//! A function reaches a partition's memory from the time when the partition lets it master the bus
//! until the function's next reset, because transfers that it had begun may still be written after
//! it no longer masters the bus. Rule: a function reaches one partition at most. If the function
//! has another owner by then, it *owes* that partition a reset. The new owner cannot let the
//! function master the bus before it has confirmed a reset.
#![cfg_attr(not(target_os = "none"), allow(dead_code, reason = "only tested on the host"))]

use core::sync::atomic::{AtomicU32, Ordering};

/// The partition whose memory a function may reach; 0 for none.
#[derive(Debug)]
pub struct Reach(AtomicU32);

impl Reach {
    /// The record of a function that reaches no partition's memory.
    pub const fn of_nobody() -> Self {
        Self(AtomicU32::new(0))
    }

    /// Returns whether the function may reach memory of this partition.
    pub fn is(&self, partition: u32) -> bool {
        self.0.load(Ordering::Relaxed) == partition
    }

    /// Notes that `owner` lets the function master the bus. Returns `false`, and changes nothing, if
    /// the function owes another partition a reset.
    #[must_use]
    pub fn begin(&self, owner: u32) -> bool {
        let next = |now| (now == 0 || now == owner).then_some(owner);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).is_ok()
    }

    /// Notes that `owner` has reset the function, if it owed another partition a reset.
    pub fn confirm(&self, owner: u32) {
        if !self.is(owner) {
            self.end();
        }
    }

    /// Notes that the function is reset, and does not master the bus.
    pub fn end(&self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: u32 = 4;
    const B: u32 = 5;

    #[test]
    fn a_function_owes_its_last_master_a_reset() {
        let reach = Reach::of_nobody();
        assert!(reach.begin(A) && reach.begin(A));
        assert!(reach.is(A) && !reach.is(B));
        // It goes to B, which cannot use it before it has reset it.
        assert!(!reach.begin(B) && reach.is(A));
        reach.confirm(B);
        assert!(reach.is(0) && reach.begin(B) && reach.is(B));
    }

    #[test]
    fn an_owner_cannot_confirm_away_its_own_reach() {
        let reach = Reach::of_nobody();
        assert!(reach.begin(A));
        reach.confirm(A);
        assert!(reach.is(A) && !reach.begin(B));
        reach.end();
        assert!(reach.is(0));
    }

    #[test]
    fn a_next_owner_that_confirms_nothing_adds_no_debt() {
        let reach = Reach::of_nobody();
        assert!(reach.begin(A) && !reach.begin(B));
        // B goes, and A gets the function back: what it may still write is A's.
        assert!(reach.is(A) && !reach.is(B) && reach.begin(A));
    }
}
