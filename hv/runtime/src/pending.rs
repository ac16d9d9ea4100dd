//! The 2-level event bits of shared info, as the partition that owns them reads them.
//!
//! The monitor sets a port's *pending* bit and then, if the port is not masked, the bit of its word
//! in the selector and the upcall flag. The reader works in the other direction: it clears the
//! flag, takes the selector, and for each word takes the bits that are pending and not masked. A
//! bit is cleared before its port is handled, so an event that comes meanwhile is found again.

use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};

/// Number of ports of the 2-level ABI on x86-64.
pub const PORTS: u32 = 4096;

/// Views of the words for events in shared info and in virtual CPU 0's information.
#[derive(Clone, Copy, Debug)]
pub struct EventWords<'a> {
    /// `vcpu_info.evtchn_upcall_pending`.
    pub upcall_pending: &'a AtomicU8,
    /// `vcpu_info.evtchn_upcall_mask`.
    pub upcall_mask: &'a AtomicU8,
    /// `vcpu_info.evtchn_pending_sel`.
    pub selector: &'a AtomicU64,
    /// `evtchn_pending`: one bit per port.
    pub pending: &'a [AtomicU64; 64],
    /// `evtchn_mask`: one bit per port.
    pub mask: &'a [AtomicU64; 64],
}

/// Scans the ports in turn, so that a busy low port does not starve the others.
#[derive(Clone, Copy, Debug, Default)]
pub struct Scan {
    /// Selector bits that were taken, of words that are not scanned yet.
    selected: u64,
    /// The word to scan first.
    next: u32,
}

impl Scan {
    /// Makes a scan that has taken no bits yet.
    #[must_use]
    pub const fn new() -> Self {
        Self { selected: 0, next: 0 }
    }

    /// Takes one pending, unmasked port: clears its bit and returns it.
    pub fn take(&mut self, words: &EventWords<'_>) -> Option<u32> {
        if words.upcall_pending.swap(0, Ordering::AcqRel) != 0 || self.selected == 0 {
            self.selected |= words.selector.swap(0, Ordering::AcqRel);
        }
        while self.selected != 0 {
            let turned = self.selected.rotate_right(self.next);
            let word = (turned.trailing_zeros() + self.next) % 64;
            if let Some(port) = take_from(words, word) {
                self.next = (word + 1) % 64;
                return Some(port);
            }
            self.selected &= !(1 << word);
        }
        None
    }
}

/// Takes the lowest pending, unmasked port of a word. The word stays selected, since it may have
/// more.
fn take_from(words: &EventWords<'_>, word: u32) -> Option<u32> {
    let pending = words.pending.get(word as usize)?;
    let mask = words.mask.get(word as usize)?.load(Ordering::Acquire);
    let ready = pending.load(Ordering::Acquire) & !mask;
    if ready == 0 {
        return None;
    }
    let bit = ready.trailing_zeros();
    pending.fetch_and(!(1 << bit), Ordering::AcqRel);
    Some(word * 64 + bit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    /// Shared words, which the test writes like the monitor.
    struct Model {
        upcall: AtomicU8,
        upcall_mask: AtomicU8,
        selector: AtomicU64,
        pending: [AtomicU64; 64],
        mask: [AtomicU64; 64],
    }

    impl Model {
        fn new() -> Self {
            let zero = || core::array::from_fn(|_| AtomicU64::new(0));
            Self {
                upcall: AtomicU8::new(0),
                upcall_mask: AtomicU8::new(1),
                selector: AtomicU64::new(0),
                pending: zero(),
                mask: zero(),
            }
        }

        fn words(&self) -> EventWords<'_> {
            EventWords {
                upcall_pending: &self.upcall,
                upcall_mask: &self.upcall_mask,
                selector: &self.selector,
                pending: &self.pending,
                mask: &self.mask,
            }
        }

        fn raise(&self, port: u32) {
            let (word, bit) = ((port / 64) as usize, 1 << (port % 64));
            self.pending[word].fetch_or(bit, Ordering::AcqRel);
            if self.mask[word].load(Ordering::Acquire) & bit == 0 {
                self.selector.fetch_or(1 << word, Ordering::AcqRel);
                self.upcall.store(1, Ordering::Release);
            }
        }
    }

    proptest! {
        /// The reader takes every event that was raised on an unmasked port once, and takes no
        /// other event.
        #[test]
        fn no_event_is_lost(
            steps in prop::collection::vec((any::<bool>(), 0..PORTS), 1..200),
            masked in prop::collection::btree_set(0..PORTS, 0..20),
        ) {
            let model = Model::new();
            for port in &masked {
                model.mask[(port / 64) as usize].fetch_or(1 << (port % 64), Ordering::AcqRel);
            }
            let mut scan = Scan::new();
            let mut expected = BTreeSet::new();
            for (raise, port) in steps {
                if raise {
                    model.raise(port);
                    if !masked.contains(&port) {
                        expected.insert(port);
                    }
                } else if let Some(port) = scan.take(&model.words()) {
                    prop_assert!(expected.remove(&port));
                } else {
                    prop_assert!(expected.is_empty());
                }
            }
            while let Some(port) = scan.take(&model.words()) {
                prop_assert!(expected.remove(&port));
            }
            prop_assert!(expected.is_empty());
        }
    }

    #[test]
    fn a_busy_word_does_not_starve_the_others() {
        let model = Model::new();
        let mut scan = Scan::new();
        model.raise(1);
        model.raise(2);
        model.raise(200);
        assert_eq!(scan.take(&model.words()), Some(1));
        model.raise(1);
        assert_eq!(scan.take(&model.words()), Some(200));
    }
}
