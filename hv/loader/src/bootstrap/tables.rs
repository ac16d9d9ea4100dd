//! The page tables of the first two partitions.

use core::ops::Range;
use core::sync::atomic::Ordering::Relaxed;

use pv_abi::uv::start::WINDOW_PAGES;
use pv_abi::xen::mmu::{PTE_ACCESSED, PTE_DIRTY, PTE_NX, PTE_PRESENT, PTE_RW, PTE_USER};

use super::WINDOW;
use crate::memory;
use crate::paging::bit;

pub const READ_ONLY: u64 = PTE_PRESENT | PTE_USER | PTE_ACCESSED | PTE_DIRTY | PTE_NX;
pub const READ_WRITE: u64 = READ_ONLY | PTE_RW;
pub const EXECUTE: u64 = READ_ONLY & !PTE_NX;
const TABLE: u64 = PTE_PRESENT | PTE_RW | PTE_USER | PTE_ACCESSED | PTE_DIRTY;

/// The page tables of a partition under construction.
pub struct Tables {
    next: u64,
    end: u64,
    pub root: u64,
}

impl Tables {
    /// Empty tables; `frames` holds them all.
    pub fn new(frames: Range<u64>) -> Self {
        let mut tables = Self { next: frames.start, end: frames.end, root: 0 };
        tables.root = tables.take_frame();
        tables
    }

    fn take_frame(&mut self) -> u64 {
        assert!(self.next < self.end, "page tables of a system partition were counted");
        self.next += 1;
        self.next - 1
    }

    fn below(&mut self, table: u64, index: u64) -> u64 {
        let entry = &memory::entries(table)[narrow::size(index & 511)];
        if entry.load(Relaxed) == 0 {
            entry.store(self.take_frame() << 12 | TABLE, Relaxed);
        }
        (entry.load(Relaxed) & bit::ADDRESS) >> 12
    }

    /// Makes the level-1 tables of the window, which are contiguous. Returns the first one's frame.
    pub fn window(&mut self) -> u64 {
        let level_3 = self.below(self.root, WINDOW >> 39);
        let level_2 = self.below(level_3, WINDOW >> 30);
        let first = self.next;
        for table in 0..WINDOW_PAGES / 512 {
            self.below(level_2, (WINDOW >> 21) + table);
        }
        first
    }

    pub fn map(&mut self, va: u64, mfn: u64, pages: u64, flags: u64) {
        for page in 0..pages {
            let va = va + (page << 12);
            let level_3 = self.below(self.root, va >> 39);
            let level_2 = self.below(level_3, va >> 30);
            let level_1 = self.below(level_2, va >> 21);
            let entry = &memory::entries(level_1)[(va >> 12) as usize & 511];
            entry.store((mfn + page) << 12 | flags, Relaxed);
        }
    }
}
