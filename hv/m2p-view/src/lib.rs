//! One partition's view of the machine-to-physical table: the entries of its own frames, and
//! [`INVALID`] for every other frame.
//!
//! The *master* table has the entries of all frames. No partition maps it as a whole. Each
//! partition has its own page tables below level-4 slot 256, which are a cache. The monitor fills
//! the cache at read faults, and may drop any part of it at any time.
//!
//! ```text
//! L4[256] -> L3 -> L2 -> a 2 MiB page of the master: all 2^18 frames of a region are own
//!                    \-> L1 -> a page of the master: all 512 frames of a chunk are own
//!                          |-> a copy:                some are
//!                          \-> the invalid page:      none is
//! ```
//!
//! The tables and copies are [`FRAMES`] frames of the partition's instance, so no partition takes
//! room from another. The oldest table or copy makes room for the next one.
//!
//! # Rules
//! 1. To take a frame from the partition, the caller changes the owner first, then calls
//!    [`View::lost`], then flushes the partition's CPUs, and only then gives the frame to another
//!    owner. `lost` undoes the effect of a fault that read the old owner before; a later fault sees
//!    the new owner.
//! 2. Entries of the master that belong to the partition change only by [`View::set`], which also
//!    writes the copy.
//! 3. A table or copy is reused only after a flush of the partition's CPUs. A frame that is a copy
//!    never becomes a table: the partition chooses the words in it.
//! 4. The count of own frames of a region is never too high. Frames that the partition had before
//!    its creation are not counted, which costs only a table.
//!
//! The caller serializes all operations on one view: keep it inside a lock.
#![cfg_attr(not(test), warn(clippy::cast_possible_truncation))]
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

use core::sync::atomic::{AtomicU64, Ordering};

use mfn::Mfn;

#[cfg(test)]
mod tests;

/// A page of 512 words: a page table, or a part of the machine-to-physical table.
pub type Page = [AtomicU64; 512];

/// The value that the view shows for a frame of another owner.
pub const INVALID: u64 = u64::MAX;

/// Level-1 tables of a view: the number of regions of 2^18 frames (1 GiB) that can be mapped at
/// once and are not wholly own.
pub const TABLES: usize = 8;
/// Copies of a view: the number of chunks of 512 frames (2 MiB) that can be mapped at once and are
/// partly own.
pub const COPIES: usize = 6;
/// Frames of a view: the level-3 and the level-2 table, level-1 tables, copies.
pub const FRAMES: u64 = 2 + (TABLES + COPIES) as u64;

/// How many of the frames, from the first on, must hold zeros when a view is made: the tables of
/// levels 3 and 2.
pub const ZEROED: u64 = 2;

/// Regions whose own frames are counted.
const COUNTED: usize = 512;
/// Frames in a region.
const REGION: u32 = 1 << 18;
/// Stands for no chunk or region.
const NEVER: u64 = u64::MAX;

/// Bits of page-table entries (Intel SDM vol. 3, 4.5). The entry of a table is present, readable in
/// ring 3, and accessed, so that the CPU never writes to it.
const TABLE: u64 = 0x25;
/// The entry of a page is also not executable.
const LEAF: u64 = TABLE | 1 << 63;
/// A page of 2 MiB.
const LARGE: u64 = 1 << 7;

/// The machine as the view of one partition sees it.
pub trait Machine {
    /// Number of frames for which the master table has entries.
    fn frames(&self) -> u64;
    /// First frame of the master table, a multiple of 512.
    fn master(&self) -> Mfn;
    /// Frame of a page whose words stay [`INVALID`] for ever.
    fn invalid(&self) -> Mfn;
    /// The frames of a chunk that are the partition's RAM now: bit `n` of word `m` stands for frame
    /// `64 * m + n` of the chunk.
    fn own(&self, chunk: u64) -> [u64; 8];
    /// The words of a frame of the view or of the master table.
    fn page(&self, frame: Mfn) -> &Page;
    /// Returns once no CPU holds a translation of the partition from before the call.
    fn flush(&self);
}

/// Frames that are used in turn, with the use of each: the number of a chunk or a region.
#[derive(Debug)]
struct Turns<const N: usize> {
    next: usize,
    used_for: [u64; N],
}

impl<const N: usize> Turns<N> {
    const fn new() -> Self {
        Self { next: 0, used_for: [NEVER; N] }
    }

    fn is_unused(&self) -> bool {
        self.used_for[0] == NEVER
    }

    /// Uses the next frame for `what`. Returns its index, and its old use.
    fn take(&mut self, what: u64) -> (u64, u64) {
        let index = self.next;
        self.next = (index + 1) % N;
        let before =
            self.used_for.get_mut(index).map_or(NEVER, |old| core::mem::replace(old, what));
        (index as u64, before)
    }
}

/// The view of one partition.
#[derive(Debug)]
pub struct View {
    /// The first of the [`FRAMES`] frames for tables and copies.
    first: Mfn,
    /// The entry of the level-3 table that leads to the level-2 table.
    top: u64,
    tables: Turns<TABLES>,
    copies: Turns<COPIES>,
    /// Number of own frames by region; the true number may be higher.
    own: [u32; COUNTED],
}

/// The chunk of a frame.
fn chunk_of(mfn: Mfn) -> u64 {
    mfn.number() >> 9
}

/// The region of a chunk.
fn region_of(chunk: u64) -> u64 {
    chunk >> 9
}

/// Word `index`, modulo 512, of a page.
fn word(page: &Page, index: u64) -> &AtomicU64 {
    &page[narrow::size(index & 511)]
}

impl View {
    /// Makes an empty view. Its [`FRAMES`] frames begin at `first`; the first [`ZEROED`] hold
    /// zeros.
    #[must_use]
    pub const fn new(first: Mfn) -> Self {
        let (tables, copies) = (Turns::new(), Turns::new());
        Self { first, top: 0, tables, copies, own: [0; COUNTED] }
    }

    /// The level-4 entry of a view whose frames begin at `first`.
    #[must_use]
    pub const fn slot(first: Mfn) -> u64 {
        first.address() | TABLE
    }

    /// Makes the entry of frame `mfn` readable. Returns false if the table has no such entry. The
    /// work is at most a check of 512 frames, a copy and a cleared table of 512 words, and three
    /// flushes.
    pub fn fill<M: Machine>(&mut self, machine: &M, mfn: Mfn) -> bool {
        if mfn.number() >= machine.frames() {
            return false;
        }
        let chunk = chunk_of(mfn);
        self.turn_to(machine, region_of(chunk) >> 9);
        let upper = self.upper(machine, region_of(chunk));
        let found = upper.load(Ordering::Relaxed);
        if found & LARGE != 0 {
            return true;
        }
        if found == 0 && self.is_whole(region_of(chunk)) {
            let page = machine.master().plus(region_of(chunk) << 9);
            upper.store(page.address() | LEAF | LARGE, Ordering::Release);
            return true;
        }
        let table = if found == 0 { self.new_table(machine, chunk) } else { Mfn::of_entry(found) };
        let entry = word(machine.page(table), chunk);
        if entry.load(Ordering::Relaxed) == 0 {
            let page = self.page_for(machine, chunk);
            entry.store(page.address() | LEAF, Ordering::Release);
        }
        true
    }

    /// Sets the entry of frame `mfn`, which is an own one, in the master table and in the view's
    /// copy.
    pub fn set<M: Machine>(&mut self, machine: &M, mfn: Mfn, pfn: u64) {
        if mfn.number() >= machine.frames() {
            return;
        }
        let chunk = chunk_of(mfn);
        word(machine.page(machine.master().plus(chunk)), mfn.number())
            .store(pfn, Ordering::Relaxed);
        // Most entries are set before the partition reads any.
        if self.copies.is_unused() {
            return;
        }
        let shown =
            self.entry(machine, chunk).map(|entry| Mfn::of_entry(entry.load(Ordering::Relaxed)));
        if let Some(frame) = shown.filter(|frame| self.is_copy(*frame)) {
            word(machine.page(frame), mfn.number()).store(pfn, Ordering::Relaxed);
        }
    }

    /// Notes frames that have become the partition's. Returns true if the view may have shown one
    /// of them as invalid; then its CPUs must flush to see it.
    #[must_use]
    pub fn gained<M: Machine>(&mut self, machine: &M, mfns: &[Mfn]) -> bool {
        let mut stale = false;
        for together in mfns.chunk_by(|mfn, next| chunk_of(*mfn) == chunk_of(*next)) {
            let Some(mfn) = together.first() else { continue };
            if let Some(count) = self.count(*mfn) {
                let more = u32::try_from(together.len()).unwrap_or(0);
                *count = (*count + more).min(REGION);
            }
            stale |= self.forget(machine, chunk_of(*mfn));
        }
        stale
    }

    /// Notes that frame `mfn` is no longer the partition's. The partition's CPUs must flush before
    /// the frame has a new owner.
    pub fn lost<M: Machine>(&mut self, machine: &M, mfn: Mfn) {
        if let Some(count) = self.count(mfn) {
            *count = count.saturating_sub(1);
        }
        let _ = self.forget(machine, chunk_of(mfn));
    }

    fn count(&mut self, mfn: Mfn) -> Option<&mut u32> {
        self.own.get_mut(narrow::size(region_of(chunk_of(mfn))))
    }

    fn is_whole(&self, region: u64) -> bool {
        self.own.get(narrow::size(region)) == Some(&REGION)
    }

    fn is_copy(&self, frame: Mfn) -> bool {
        (self.first.plus(2 + TABLES as u64)..self.first.plus(FRAMES)).contains(&frame)
    }

    /// Makes entry `top` of the level-3 table lead to the level-2 table, instead of the present
    /// one.
    fn turn_to<M: Machine>(&mut self, machine: &M, top: u64) {
        let (upmost, below) = (machine.page(self.first), self.first.plus(1));
        if top != self.top {
            word(upmost, self.top).store(0, Ordering::Relaxed);
            clear(machine.page(below));
            machine.flush();
            self.top = top;
        }
        word(upmost, top).store(below.address() | TABLE, Ordering::Release);
    }

    /// The level-2 entry of a region below the present [`View::top`].
    fn upper<'m, M: Machine>(&self, machine: &'m M, region: u64) -> &'m AtomicU64 {
        word(machine.page(self.first.plus(1)), region)
    }

    /// The level-1 entry of a chunk, if its region has a level-1 table.
    fn entry<'m, M: Machine>(&self, machine: &'m M, chunk: u64) -> Option<&'m AtomicU64> {
        let region = region_of(chunk);
        let upper = self.upper(machine, region).load(Ordering::Relaxed);
        let there = region >> 9 == self.top && upper != 0 && upper & LARGE == 0;
        there.then(|| word(machine.page(Mfn::of_entry(upper)), chunk))
    }

    /// Removes the entry that leads to a chunk's words. Returns whether there was one.
    fn forget<M: Machine>(&self, machine: &M, chunk: u64) -> bool {
        if let Some(entry) = self.entry(machine, chunk) {
            return entry.swap(0, Ordering::AcqRel) != 0;
        }
        if region_of(chunk) >> 9 != self.top {
            return false;
        }
        // The level-2 entry maps a large page, or nothing.
        self.upper(machine, region_of(chunk)).swap(0, Ordering::AcqRel) != 0
    }

    /// Makes an empty level-1 table for a chunk's region.
    fn new_table<M: Machine>(&mut self, machine: &M, chunk: u64) -> Mfn {
        let region = region_of(chunk);
        let (index, before) = self.tables.take(region);
        let table = self.first.plus(2 + index);
        if before != NEVER {
            let upper = self.upper(machine, before);
            if Mfn::of_entry(upper.load(Ordering::Relaxed)) == table {
                upper.store(0, Ordering::Relaxed);
            }
            machine.flush();
        }
        clear(machine.page(table));
        self.upper(machine, region).store(table.address() | TABLE, Ordering::Release);
        table
    }

    /// The frame of the page that shows a chunk.
    fn page_for<M: Machine>(&mut self, machine: &M, chunk: u64) -> Mfn {
        let own = machine.own(chunk);
        match own.iter().map(|word| word.count_ones()).sum() {
            0 => machine.invalid(),
            512 => machine.master().plus(chunk),
            _ => self.new_copy(machine, chunk, own),
        }
    }

    /// Makes a copy of the `own` entries of a chunk.
    fn new_copy<M: Machine>(&mut self, machine: &M, chunk: u64, own: [u64; 8]) -> Mfn {
        let (index, before) = self.copies.take(chunk);
        let copy = self.first.plus(2 + TABLES as u64 + index);
        if before != NEVER {
            if let Some(entry) = self.entry(machine, before)
                && Mfn::of_entry(entry.load(Ordering::Relaxed)) == copy
            {
                entry.store(0, Ordering::Relaxed);
            }
            machine.flush();
        }
        let words = machine.page(machine.master().plus(chunk)).iter().zip(machine.page(copy));
        for (index, (from, to)) in (0_u64..).zip(words) {
            let bits = own[narrow::size(index >> 6 & 7)];
            let shown =
                if bits >> (index & 63) & 1 != 0 { from.load(Ordering::Relaxed) } else { INVALID };
            to.store(shown, Ordering::Relaxed);
        }
        copy
    }
}

fn clear(page: &Page) {
    page.iter().for_each(|word| word.store(0, Ordering::Relaxed));
}
