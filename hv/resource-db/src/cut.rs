//! For tests: ends the writer of the arena before a store of the test's choice, as a crash would.

use std::cell::Cell;
use std::panic::resume_unwind;

/// The writer was ended by [`after`].
#[derive(Debug)]
pub struct Cut;

thread_local! {
    static LEFT: Cell<Option<u64>> = const { Cell::new(None) };
    static DONE: Cell<u64> = const { Cell::new(0) };
}

/// Ends this thread's writer, by unwinding with [`Cut`], before the store that follows `stores`
/// others; `None` lets it go on. Returns how many stores were made since the last call.
pub fn after(stores: Option<u64>) -> u64 {
    LEFT.set(stores);
    DONE.replace(0)
}

/// Counts a store that is about to be made.
pub(crate) fn count() {
    match LEFT.get() {
        Some(0) => {
            LEFT.set(None);
            resume_unwind(Box::new(Cut));
        }
        left => LEFT.set(left.map(|left| left - 1)),
    }
    DONE.set(DONE.get() + 1);
}
