//! Finds the present entries of a table, and skips empty stretches 32 entries at a time.

use crate::entry::{ENTRIES, is_present};
use crate::machine::Table;
use core::sync::atomic::{AtomicU64, Ordering};

/// Entries examined together: four cache lines, and one bit of [`frames::Frame::noted`].
const STRETCH: usize = 32;
const STRETCHES: usize = ENTRIES / STRETCH;

/// Iterates over the present entries of a table, in either direction. No entry may change between
/// present and not present while this is used.
pub(crate) struct Present<'a> {
    table: &'a Table,
    /// The number of the present stretch.
    number: usize,
    /// Its present entries that have not been returned yet, by bit.
    bits: u32,
    /// The stretches still to examine, by bit.
    noted: u16,
}

impl<'a> Present<'a> {
    /// The entries from `from` on, for [`Present::next`].
    #[inline]
    pub(crate) fn from(table: &'a Table, from: usize) -> Self {
        let number = from / STRETCH;
        let wanted = u32::MAX << (from % STRETCH);
        Self { table, number, bits: present(table, number) & wanted, noted: u16::MAX }
    }

    /// The entries before `below` in the stretches `noted`, for [`Present::previous`].
    #[inline]
    pub(crate) fn below(table: &'a Table, below: usize, noted: u16) -> Self {
        let below = below.min(ENTRIES);
        let number = below / STRETCH;
        let wanted = (1 << (below % STRETCH)) - 1;
        Self { table, number, bits: present(table, number) & wanted, noted }
    }

    /// The next present entry upwards.
    #[inline]
    pub(crate) fn next(&mut self) -> Option<(usize, u64)> {
        while self.bits == 0 {
            self.number += 1;
            if self.number >= STRETCHES {
                return None;
            }
            self.bits = present(self.table, self.number);
        }
        let offset = self.bits.trailing_zeros();
        self.bits &= self.bits - 1;
        self.entry(offset)
    }

    /// The next present entry downwards.
    #[inline]
    pub(crate) fn previous(&mut self) -> Option<(usize, u64)> {
        while self.bits == 0 {
            self.number = self.number.checked_sub(1)?;
            if self.noted >> self.number & 1 != 0 {
                self.bits = present(self.table, self.number);
            }
        }
        let offset = self.bits.ilog2();
        self.bits ^= 1 << offset;
        self.entry(offset)
    }

    #[inline]
    fn entry(&self, offset: u32) -> Option<(usize, u64)> {
        let index = self.number * STRETCH + offset as usize;
        Some((index, self.table.get(index)?.load(Ordering::Relaxed)))
    }
}

/// The present entries of a stretch, by bit; 0 if there is no such stretch.
#[inline(always)]
fn present(table: &Table, number: usize) -> u32 {
    let Some(stretch) = table.as_chunks::<STRETCH>().0.get(number) else {
        return 0;
    };
    if is_present(stretch.iter().fold(0, |all, entry| all | entry.load(Ordering::Relaxed))) {
        each_present(stretch)
    } else {
        0
    }
}

#[inline(never)]
fn each_present(stretch: &[AtomicU64; STRETCH]) -> u32 {
    let bit = |entry: &AtomicU64| u32::from(is_present(entry.load(Ordering::Relaxed)));
    stretch.iter().rev().fold(0, |bits, entry| bits << 1 | bit(entry))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn finds_what_a_plain_search_finds(
            present in proptest::collection::btree_set(0..ENTRIES, 0..40),
            bound in 0..=ENTRIES,
        ) {
            let value = |index| if present.contains(&index) { 1 } else { 2 };
            let table: Table = core::array::from_fn(|index| AtomicU64::new(value(index)));
            let mut upwards = Present::from(&table, bound);
            for &index in present.range(bound..) {
                prop_assert_eq!(upwards.next(), Some((index, 1)));
            }
            prop_assert_eq!(upwards.next(), None);
            let noted = present.iter().fold(0, |noted, index| noted | 1 << (index / 32));
            let mut downwards = Present::below(&table, bound, noted);
            for &index in present.range(..bound).rev() {
                prop_assert_eq!(downwards.previous(), Some((index, 1)));
            }
            prop_assert_eq!(downwards.previous(), None);
        }
    }
}
