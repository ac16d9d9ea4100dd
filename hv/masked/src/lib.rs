//! Table indices that stay in bounds even while the CPU speculates.
//!
//! A bounds check is a branch. A CPU that mispredicts it reads past the table with an index that a
//! partition chose (Spectre, variant 1). So an index from a partition is also masked by data: past
//! the end it becomes 0 (Linux does the same in `array_index_nospec`).
//!
//! Rule: every lookup by a number from a partition (ports, grants, virtual CPUs, partitions) goes
//! through [`get`], [`get_mut`] or [`index`].
#![cfg_attr(not(test), warn(clippy::cast_possible_truncation))]
#![cfg_attr(not(test), no_std)]
#![expect(unsafe_code, reason = "the compiler would take the mask out: it knows the check")]

/// Returns the index if it is below `length`. A CPU that mispredicts this sees 0.
#[must_use]
#[inline(always)]
pub fn index(index: usize, length: usize) -> Option<usize> {
    if index >= length {
        return None;
    }
    let mask: usize;
    // SAFETY: two instructions on registers.
    unsafe {
        core::arch::asm!("cmp {index}, {length}", "sbb {mask}, {mask}", index = in(reg) index,
            length = in(reg) length, mask = lateout(reg) mask, options(pure, nomem, nostack));
    }
    Some(index & mask)
}

/// The element of a table at an index that a partition supplied.
#[must_use]
#[inline(always)]
pub fn get<T>(table: &[T], at: usize) -> Option<&T> {
    table.get(index(at, table.len())?)
}

/// The same as [`get`], for a mutable reference.
#[must_use]
#[inline(always)]
pub fn get_mut<T>(table: &mut [T], at: usize) -> Option<&mut T> {
    let at = index(at, table.len())?;
    table.get_mut(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_inside_is_found_and_nothing_else() {
        let mut table = [10, 11, 12];
        for at in 0..3 {
            assert_eq!(index(at, 3), Some(at));
            assert_eq!(get(&table, at), Some(&(10 + at)));
        }
        for at in [3, 4, 1 << 63, usize::MAX] {
            assert_eq!((index(at, 3), get(&table, at)), (None, None));
            assert_eq!(get_mut(&mut table, at), None);
        }
        *get_mut(&mut table, 2).unwrap() = 5;
        assert_eq!((table, index(0, 0)), ([10, 11, 5], None));
    }
}
