//! The resource database as the monitor sees it: read-only, and read only when the ultravisor asks.

#![expect(unsafe_code, reason = "the arena is memory that another partition writes")]

use core::sync::atomic::AtomicU32;

use database_view::Reader;
use page_tables::Mfn;

use spin::Once;

use crate::machine;

static ARENA: Once<Reader<'static>> = Once::new();

/// Sets where the arena lies, by its first frame and its number of pages; called once.
pub fn set_arena(first: u64, pages: u64) {
    let words = machine::bytes(Mfn::new(first)).cast::<AtomicU32>();
    // SAFETY: the arena is contiguous RAM in the direct map, set aside for ever; the ultravisor
    // writes it with atomic stores of words, and the reader only loads.
    let words = unsafe { core::slice::from_raw_parts(words, narrow::size(pages) * 1024) };
    ARENA.call_once(|| Reader::new(words));
}

/// A reader of the database.
pub fn reader() -> Reader<'static> {
    *ARENA.get().expect("the arena is set aside first")
}
