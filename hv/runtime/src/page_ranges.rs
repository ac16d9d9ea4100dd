//! First-fit allocation of page ranges, with one bit per page.
//!
//! The mapping window is a fixed number of pages, which are allocated in contiguous ranges. A range
//! is not allocated again before it is freed.

use pv_abi::uv::start::WINDOW_PAGES;

/// Maximum number of pages.
pub const MAX_PAGES: usize = WINDOW_PAGES as usize;

/// The allocation state of up to [`MAX_PAGES`] pages.
#[derive(Clone, Debug)]
pub struct PageRanges {
    taken: [u64; MAX_PAGES / 64],
    pages: usize,
}

impl PageRanges {
    /// Makes `pages` free pages, at most [`MAX_PAGES`].
    #[must_use]
    pub fn new(pages: usize) -> Self {
        Self { taken: [0; MAX_PAGES / 64], pages: pages.min(MAX_PAGES) }
    }

    /// Total number of pages.
    #[must_use]
    pub fn pages(&self) -> usize {
        self.pages
    }

    fn is_taken(&self, page: usize) -> bool {
        self.taken.get(page / 64).is_none_or(|word| word >> (page % 64) & 1 != 0)
    }

    /// Allocates `count` contiguous pages at the lowest free place. Returns the first one's index.
    pub fn take(&mut self, count: usize) -> Option<usize> {
        let mut run = 0;
        let last = (0..self.pages).find(|&page| {
            run = if self.is_taken(page) { 0 } else { run + 1 };
            run == count
        })?;
        let first = last + 1 - count;
        self.set(first, count, true);
        Some(first)
    }

    /// Frees `count` pages from `first`.
    pub fn give(&mut self, first: usize, count: usize) {
        self.set(first, count, false);
    }

    fn set(&mut self, first: usize, count: usize, taken: bool) {
        for page in first..first.saturating_add(count).min(self.pages) {
            if let Some(word) = self.taken.get_mut(page / 64) {
                let bit = 1 << (page % 64);
                *word = if taken { *word | bit } else { *word & !bit };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    proptest! {
        /// Ranges never overlap, and a request fails only if no gap is long enough.
        #[test]
        fn ranges_are_disjoint_and_first_fit(
            pages in 1_usize..200,
            steps in prop::collection::vec((any::<bool>(), 1_usize..40), 1..60),
        ) {
            let mut ranges = PageRanges::new(pages);
            let mut model = std::vec![false; pages];
            let mut held: Vec<(usize, usize)> = Vec::new();
            for (take, count) in steps {
                if take || held.is_empty() {
                    let want = (0..pages)
                        .find(|&f| f + count <= pages && model[f..f + count].iter().all(|t| !t));
                    prop_assert_eq!(ranges.take(count), want);
                    if let Some(first) = want {
                        model[first..first + count].fill(true);
                        held.push((first, count));
                    }
                } else {
                    let (first, count) = held.swap_remove(count % held.len());
                    ranges.give(first, count);
                    model[first..first + count].fill(false);
                }
            }
        }
    }
}
