//! The 2-level rule, step by step.
#![cfg(not(loom))]

use events::{EventBits, Raised, UpcallWords};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};

struct Page {
    pending: [AtomicU64; 64],
    mask: [AtomicU64; 64],
    upcall: AtomicU8,
    selector: AtomicU64,
}

impl Page {
    fn new() -> Self {
        let words = || [const { AtomicU64::new(0) }; 64];
        let (upcall, selector) = (AtomicU8::new(0), AtomicU64::new(0));
        Self { pending: words(), mask: words(), upcall, selector }
    }

    fn bits(&self) -> EventBits<'_> {
        EventBits { pending: &self.pending, mask: &self.mask }
    }

    fn words(&self) -> UpcallWords<'_> {
        UpcallWords { upcall_pending: &self.upcall, selector: &self.selector }
    }
}

#[test]
fn the_first_event_kicks_and_later_ones_do_not() {
    let page = Page::new();
    let (first, other) =
        (page.bits().raise(&page.words(), 65), page.bits().raise(&page.words(), 3));
    assert_eq!(first, Raised { newly_pending: true, kick: true });
    assert_eq!(other, Raised { newly_pending: true, kick: false });
    let again = page.bits().raise(&page.words(), 65);
    assert_eq!(again, Raised { newly_pending: false, kick: false });
    assert_eq!(page.selector.load(Relaxed), 0b11);
    assert_eq!(page.upcall.load(Relaxed), 1);
    assert!(page.bits().is_pending(65) && page.bits().is_pending(3));
}

#[test]
fn a_masked_event_is_pending_but_tells_nobody_until_unmasked() {
    let page = Page::new();
    page.bits().mask[1].store(1 << 6, Relaxed);
    let raised = page.bits().raise(&page.words(), 70);
    assert_eq!(raised, Raised { newly_pending: true, kick: false });
    assert_eq!((page.selector.load(Relaxed), page.upcall.load(Relaxed)), (0, 0));
    assert!(page.bits().unmask(&page.words(), 70));
    assert_eq!((page.selector.load(Relaxed), page.upcall.load(Relaxed)), (2, 1));
    assert!(!page.bits().unmask(&page.words(), 70));
}

#[test]
fn unmasking_what_is_not_pending_tells_nobody() {
    let page = Page::new();
    page.bits().mask[1].store(1 << 6, Relaxed);
    assert!(!page.bits().unmask(&page.words(), 70));
    assert_eq!(page.bits().mask[1].load(Relaxed), 0);
    assert_eq!(page.upcall.load(Relaxed), 0);
}

#[test]
fn ports_past_the_end_are_ignored() {
    let page = Page::new();
    for port in [4096, u32::MAX] {
        assert_eq!(
            page.bits().raise(&page.words(), port),
            Raised { newly_pending: false, kick: false }
        );
        assert!(!page.bits().unmask(&page.words(), port));
        assert!(!page.bits().is_pending(port));
    }
    assert!(page.bits().raise(&page.words(), 4095).kick);
    assert_eq!(page.selector.load(Relaxed), 1 << 63);
}

#[test]
fn after_a_move_everything_is_looked_at() {
    let page = Page::new();
    page.words().mark_all();
    assert_eq!((page.selector.load(Relaxed), page.upcall.load(Relaxed)), (u64::MAX, 1));
}
