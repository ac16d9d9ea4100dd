//! The resource database as the monitor sees it: read-only, and only when told to look.

#![expect(unsafe_code, reason = "the arena is memory that another partition writes")]

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use database_view::Reader;

use crate::machine;

static ARENA_FIRST: AtomicU64 = AtomicU64::new(0);
static ARENA_PAGES: AtomicU64 = AtomicU64::new(0);

/// Says where the arena lies; once.
pub fn set_arena(first: u64, pages: u64) {
    ARENA_FIRST.store(first, Ordering::Relaxed);
    ARENA_PAGES.store(pages, Ordering::Release);
}

/// First frame and number of pages of the arena.
#[must_use]
pub fn arena() -> (u64, u64) {
    let pages = ARENA_PAGES.load(Ordering::Acquire);
    (ARENA_FIRST.load(Ordering::Relaxed), pages)
}

/// A reader of the database.
#[must_use]
pub fn reader() -> Reader<'static> {
    let (first, pages) = arena();
    let words = machine::bytes(first).cast::<AtomicU32>();
    // SAFETY: the arena is contiguous RAM in the direct map, set aside for ever; the ultravisor
    // writes it with atomic stores of words, and the reader only loads.
    let words = unsafe { core::slice::from_raw_parts(words, pages as usize * 1024) };
    Reader::new(words)
}
