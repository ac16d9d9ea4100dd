//! The words that a partition and the monitor share, and the rule that makes events pending.
//!
//! Each port has a pending bit and a mask bit. Each virtual CPU has a selector with one bit for
//! each word of pending bits, and a byte that says that an upcall is pending. The rule, in this
//! order: set the pending bit; if it was clear and the port is not masked, set the selector bit; if
//! that was clear, set the byte; if that was clear, kick the virtual CPU. A caller that unmasks a
//! port and finds it pending does the same from the selector on. Setting the pending bit before
//! reading the mask, and clearing the mask before reading the pending bit, keeps an event from
//! being lost in between.

use crate::sync::{AtomicU8, AtomicU64, Ordering, order};

/// Pending and mask bits of a partition: 64 words each of its shared info.
#[derive(Clone, Copy, Debug)]
pub struct EventBits<'a> {
    /// One bit per port: an event is pending.
    pub pending: &'a [AtomicU64],
    /// One bit per port: the port is masked.
    pub mask: &'a [AtomicU64],
}

/// The words that signal a pending upcall to a virtual CPU.
#[derive(Clone, Copy, Debug)]
pub struct UpcallWords<'a> {
    /// Not 0 if an upcall is pending.
    pub upcall_pending: &'a AtomicU8,
    /// One bit for each word of pending bits to check.
    pub selector: &'a AtomicU64,
}

/// The effect of raising an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Raised {
    /// The event was not pending before: wake the virtual CPUs that poll the port.
    pub newly_pending: bool,
    /// The virtual CPU must check its events: wake it, or interrupt the CPU that runs it.
    pub kick: bool,
}

impl Raised {
    const NOTHING: Self = Self { newly_pending: false, kick: false };
}

impl UpcallWords<'_> {
    /// Marks word `word` of the pending bits in the selector. Returns whether to kick the virtual
    /// CPU.
    fn mark(&self, word: u32) -> bool {
        let bit = 1u64 << (word % 64);
        self.selector.fetch_or(bit, Ordering::SeqCst) & bit == 0
            && self.upcall_pending.swap(1, Ordering::SeqCst) == 0
    }

    /// Marks all words, for example after the words moved to another place. The virtual CPU then
    /// checks all its ports.
    pub fn mark_all(&self) {
        self.selector.store(u64::MAX, Ordering::SeqCst);
        self.upcall_pending.store(1, Ordering::SeqCst);
    }
}

impl EventBits<'_> {
    /// Makes the event of `port` pending, for the virtual CPU of `upcall`.
    #[must_use = "the virtual CPU may have to be kicked"]
    pub fn raise(&self, upcall: &UpcallWords, port: u32) -> Raised {
        let Some((pending, mask, bit)) = self.words(port) else {
            return Raised::NOTHING;
        };
        if pending.fetch_or(bit, Ordering::SeqCst) & bit != 0 {
            return Raised::NOTHING;
        }
        order();
        let masked = mask.load(Ordering::SeqCst) & bit != 0;
        Raised { newly_pending: true, kick: !masked && upcall.mark(port / 64) }
    }

    /// Unmasks `port`, which notifies the virtual CPU of `upcall`. Returns whether to kick it.
    #[must_use = "the virtual CPU may have to be kicked"]
    pub fn unmask(&self, upcall: &UpcallWords, port: u32) -> bool {
        let Some((pending, mask, bit)) = self.words(port) else {
            return false;
        };
        if mask.fetch_and(!bit, Ordering::SeqCst) & bit == 0 {
            return false;
        }
        order();
        pending.load(Ordering::SeqCst) & bit != 0 && upcall.mark(port / 64)
    }

    /// Returns whether the event of `port` is pending, masked or not.
    #[must_use]
    pub fn is_pending(&self, port: u32) -> bool {
        self.words(port).is_some_and(|(pending, _, bit)| pending.load(Ordering::SeqCst) & bit != 0)
    }

    /// Clears the pending bit of `port`.
    pub fn clear_pending(&self, port: u32) {
        if let Some((pending, _, bit)) = self.words(port) {
            pending.fetch_and(!bit, Ordering::SeqCst);
        }
    }

    /// The words of `port` and its bit in them. Returns `None` past the end.
    fn words(&self, port: u32) -> Option<(&AtomicU64, &AtomicU64, u64)> {
        let index = usize::try_from(port / 64).ok()?;
        let words = (masked::get(self.pending, index)?, masked::get(self.mask, index)?);
        Some((words.0, words.1, 1 << (port % 64)))
    }
}
