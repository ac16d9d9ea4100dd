//! The pages for data, poisoned while no request uses them.

use crate::{Fault, Machine, PAGE_WORDS};
use alloc::collections::VecDeque;
use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;
use core::sync::atomic::Ordering;

/// The pages that requests take and return. The page that was returned first is taken first, so that
/// a late transfer has the longest time to show.
#[derive(Debug)]
pub struct Pool {
    free: VecDeque<usize>,
    first: usize,
    /// The key of each page's poison.
    keys: Vec<u32>,
    last_key: u32,
}

/// One in this many pages rests.
const RESTING: usize = 4;

/// A word of poison.
const fn poison(key: u32, word: usize) -> u32 {
    (key ^ word as u32).wrapping_mul(0x85eb_ca6b) | 1
}

impl Pool {
    /// Poisons pages.
    pub fn new(machine: &impl Machine, pages: Range<usize>) -> Self {
        let mut pool = Self {
            free: VecDeque::with_capacity(pages.len()),
            first: pages.start,
            keys: vec![0; pages.len()],
            last_key: 0,
        };
        pages.for_each(|page| pool.put(machine, page));
        pool
    }

    /// Number of pages that the next request may take. A part of all pages always rests, so that each
    /// page has poison for some time.
    pub fn spare(&self) -> usize {
        self.free.len().saturating_sub(self.keys.len() / RESTING)
    }

    /// Takes a page, which holds poison.
    pub fn take(&mut self, machine: &impl Machine) -> Result<Option<usize>, Fault> {
        let Some(page) = self.free.pop_front() else {
            return Ok(None);
        };
        self.check(machine, page)?;
        Ok(Some(page))
    }

    /// Returns a page, which is poisoned anew.
    pub fn put(&mut self, machine: &impl Machine, page: usize) {
        self.last_key = self.last_key.wrapping_add(0x9e37_79b9);
        let key = self.last_key;
        self.keys[page - self.first] = key;
        for (word, place) in machine.page(page).iter().enumerate() {
            place.store(poison(key, word), Ordering::Relaxed);
        }
        self.free.push_back(page);
    }

    /// Checks that all pages that no request uses hold their poison.
    pub fn check_all(&self, machine: &impl Machine) -> Result<(), Fault> {
        self.free.iter().try_for_each(|page| self.check(machine, *page))
    }

    fn check(&self, machine: &impl Machine, page: usize) -> Result<(), Fault> {
        match self.changed(machine, page, 0..PAGE_WORDS) {
            None => Ok(()),
            Some((word, found)) => Err(Fault::Late { page, word, found }),
        }
    }

    /// The first of these words of a page that no longer holds poison, with its value.
    pub fn changed(
        &self,
        machine: &impl Machine,
        page: usize,
        words: Range<usize>,
    ) -> Option<(usize, u32)> {
        let key = self.keys[page - self.first];
        let all = machine.page(page);
        let found = words.map(|word| (word, all[word].load(Ordering::Relaxed)));
        found.into_iter().find(|(word, found)| *found != poison(key, *word))
    }
}
