//! The window: virtual pages without memory, at which other partitions' memory is mapped.
//!
//! Only the holder of [`Pages`] decides what is mapped there.

use crate::page_ranges::PageRanges;
use crate::partition;
use alloc::rc::Rc;
use core::cell::RefCell;
use core::sync::atomic::{AtomicBool, Ordering};
use pv_abi::PAGE_SIZE;

/// The window's free pages.
#[derive(Debug)]
pub struct Window {
    free: FreePages,
    base: u64,
}

/// The window's free pages, for holders that return theirs without the window at hand.
#[derive(Clone, Debug)]
pub(crate) struct FreePages(Rc<RefCell<PageRanges>>);

impl FreePages {
    fn new(pages: usize) -> Self {
        Self(Rc::new(RefCell::new(PageRanges::new(pages))))
    }

    /// Frees pages; nothing may be mapped there any more, and the holder must not use them again.
    pub(crate) fn give(&self, pages: &Pages) {
        self.0.borrow_mut().give(pages.first, pages.count);
    }
}

/// A range of window pages with one holder.
#[derive(Debug, PartialEq, Eq)]
pub struct Pages {
    first: usize,
    count: usize,
    va: u64,
}

impl Pages {
    /// Virtual address of the first page.
    #[must_use]
    pub fn va(&self) -> u64 {
        self.va
    }

    /// Number of pages.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }

    /// Virtual address of page `index`, if the range has that page.
    #[must_use]
    pub fn page_va(&self, index: usize) -> Option<u64> {
        (index < self.count).then(|| self.va + (index * PAGE_SIZE) as u64)
    }
}

impl Window {
    /// Takes the partition's window, once.
    #[must_use]
    pub fn take() -> Option<Self> {
        static TAKEN: AtomicBool = AtomicBool::new(false);
        let start = partition::try_start()?;
        let pages = usize::try_from(start.window_pages).ok()?;
        (!TAKEN.swap(true, Ordering::AcqRel))
            .then(|| Self { free: FreePages::new(pages), base: start.window })
    }

    /// Allocates `count` contiguous pages. Returns `None` if no gap is long enough.
    pub fn alloc(&mut self, count: usize) -> Option<Pages> {
        let first = self.free.0.borrow_mut().take(count)?;
        Some(Pages { first, count, va: self.base + (first * PAGE_SIZE) as u64 })
    }

    /// Frees pages; nothing may be mapped there any more.
    pub fn free(&mut self, pages: Pages) {
        self.free.give(&pages);
    }

    /// Lets a holder return pages later.
    pub(crate) fn free_pages(&self) -> FreePages {
        self.free.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_returned_without_the_window_at_hand() {
        let mut window = Window { free: FreePages::new(8), base: 0x10_0000 };
        let free = window.free_pages();
        for _ in 0..100 {
            let (one, other) = (window.alloc(3).unwrap(), window.alloc(5).unwrap());
            assert_eq!((one.va(), other.va()), (0x10_0000, 0x10_3000));
            assert_eq!(window.alloc(1), None);
            free.give(&one);
            window.free(other);
        }
    }
}
