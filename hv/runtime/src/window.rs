//! The window: virtual pages without memory, at which other partitions' memory is mapped.
//!
//! Only the holder of [`Pages`] decides what is mapped there.

use crate::page_ranges::PageRanges;
use crate::partition;
use core::sync::atomic::{AtomicBool, Ordering};
use pv_abi::PAGE_SIZE;

/// The window's free pages.
#[derive(Debug)]
pub struct Window {
    ranges: PageRanges,
    base: u64,
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
            .then(|| Self { ranges: PageRanges::new(pages), base: start.window })
    }

    /// Allocates `count` contiguous pages. Returns `None` if no gap is long enough.
    pub fn alloc(&mut self, count: usize) -> Option<Pages> {
        let first = self.ranges.take(count)?;
        Some(Pages { first, count, va: self.base + (first * PAGE_SIZE) as u64 })
    }

    /// Frees pages; nothing may be mapped there any more.
    pub fn free(&mut self, pages: Pages) {
        self.ranges.give(pages.first, pages.count);
    }
}
