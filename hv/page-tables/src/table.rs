//! Finding the present entries of a table, empty stretches eight at a time.

use crate::entry::{ENTRIES, is_present};
use crate::machine::Table;
use core::sync::atomic::{AtomicU64, Ordering};

/// Entries looked at together: one cache line.
const STRETCH: usize = 8;

/// The first present entry at or after `from`.
pub(crate) fn first_present(table: &Table, from: usize) -> Option<(usize, u64)> {
    let mut index = from;
    while index < ENTRIES {
        if index.is_multiple_of(STRETCH) && is_empty(table, index) {
            index += STRETCH;
            continue;
        }
        let entry = table.get(index)?.load(Ordering::Relaxed);
        if is_present(entry) {
            return Some((index, entry));
        }
        index += 1;
    }
    None
}

/// The last present entry before `below`.
pub(crate) fn last_present(table: &Table, below: usize) -> Option<(usize, u64)> {
    let mut end = below;
    while end > 0 {
        if end.is_multiple_of(STRETCH) && is_empty(table, end - STRETCH) {
            end -= STRETCH;
            continue;
        }
        let entry = table.get(end - 1)?.load(Ordering::Relaxed);
        if is_present(entry) {
            return Some((end - 1, entry));
        }
        end -= 1;
    }
    None
}

fn is_empty(table: &Table, start: usize) -> bool {
    let stretch: &[AtomicU64] = table.get(start..start + STRETCH).unwrap_or_default();
    !is_present(stretch.iter().fold(0, |all, entry| all | entry.load(Ordering::Relaxed)))
}
