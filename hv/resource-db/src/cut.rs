//! For tests: ends the writer of the arena before a chosen store, as a crash would.

use std::cell::Cell;
use std::panic::resume_unwind;

/// The panic payload with which [`after`] ends the writer.
#[derive(Debug)]
pub struct Cut;

thread_local! {
    static LEFT: Cell<Option<u64>> = const { Cell::new(None) };
    static DONE: Cell<u64> = const { Cell::new(0) };
}

/// Ends this thread's writer, by unwinding with [`Cut`], after `stores` further stores and before
/// the next one. `None` disables that. Returns the number of stores since the last call.
pub fn after(stores: Option<u64>) -> u64 {
    LEFT.set(stores);
    DONE.replace(0)
}

/// Counts a store that is about to happen.
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
