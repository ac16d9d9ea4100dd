//! Copying, comparing and filling bytes: the functions that the compiler calls for values, slices
//! and texts.
//!
//! Most of these calls concern a few dozen bytes: names, paths, rows, messages. So this module
//! handles short ranges with a few words that may overlap, without a loop, and long ranges with the
//! CPU's instructions for words. The compiler's own functions copy the ends of a range byte by byte,
//! and compare the end of a range in halves.
//!
//! On the bare target, the functions have the names that the compiler calls; everywhere else only
//! the tests call them. Rule: no function here contains a loop that the compiler could replace with
//! a call of the function itself.
#![expect(unsafe_code, reason = "the contract of these functions is raw pointers")]
#![cfg_attr(not(target_os = "none"), allow(dead_code, reason = "only the tests call it"))]

use core::arch::asm;

use channel::words::copy_words;

/// Bytes of a word.
const WORD: usize = 8;
/// Maximum number of bytes that are handled without a loop.
const SHORT: usize = 4 * WORD;

/// Reads a `T`, however it is aligned.
///
/// # Safety
/// The bytes of a `T` from byte `at` on are readable.
#[inline(always)]
const unsafe fn get<T>(from: *const u8, at: usize) -> T {
    // SAFETY: the caller's.
    unsafe { from.add(at).cast::<T>().read_unaligned() }
}

/// Writes a `T`, however it is aligned.
///
/// # Safety
/// The bytes of a `T` from byte `at` on are writable.
#[inline(always)]
const unsafe fn set<T>(to: *mut u8, at: usize, value: T) {
    // SAFETY: the caller's.
    unsafe { to.add(at).cast::<T>().write_unaligned(value) }
}

/// Copies bytes; the first and the last `T` of the range may overlap.
///
/// # Safety
/// As for [`copy`]; `count` is the size of one `T` to the size of two.
#[inline(always)]
unsafe fn copy_ends<T>(to: *mut u8, from: *const u8, count: usize) {
    let last = count - size_of::<T>();
    // SAFETY: both lie within the range, since `count` is at least the size of a `T`.
    unsafe {
        let (first, end) = (get::<T>(from, 0), get::<T>(from, last));
        set(to, 0, first);
        set(to, last, end);
    }
}

/// Copies `count` bytes.
///
/// # Safety
/// `from` is readable and `to` is writable for `count` bytes. The two ranges do not overlap.
#[inline(always)]
pub(crate) unsafe fn copy(to: *mut u8, from: *const u8, count: usize) {
    // SAFETY: each call gets a count within the limits of its type.
    unsafe {
        match count {
            0 => {}
            1 => copy_ends::<u8>(to, from, count),
            2..=3 => copy_ends::<u16>(to, from, count),
            4..=7 => copy_ends::<u32>(to, from, count),
            8..=16 => copy_ends::<u64>(to, from, count),
            17..=SHORT => copy_ends::<[u64; 2]>(to, from, count),
            _ => {
                let last = get::<u64>(from, count - WORD);
                copy_words(to, from, count / WORD);
                set(to, count - WORD, last);
            }
        }
    }
}

/// Sets `count` bytes to `value`.
///
/// # Safety
/// `to` is writable for `count` bytes.
#[inline(always)]
unsafe fn fill(to: *mut u8, value: u8, count: usize) {
    let word = u64::from(value) * 0x0101_0101_0101_0101;
    // SAFETY: every write lies within the range: the first `T` and the last `T` of at least one.
    // The direction flag is clear in compiled code (System V ABI, 3.2.1).
    unsafe {
        match count {
            0 => {}
            1..=3 => {
                set(to, 0, value);
                set(to, count / 2, value);
                set(to, count - 1, value);
            }
            4..=7 => {
                let half = u32::from(value) * 0x0101_0101;
                set(to, 0, half);
                set(to, count - 4, half);
            }
            8..=16 => {
                set(to, 0, word);
                set(to, count - WORD, word);
            }
            17..=SHORT => {
                set(to, 0, [word; 2]);
                set(to, count - 2 * WORD, [word; 2]);
            }
            _ => {
                asm!(
                    "rep stosq",
                    inout("rcx") count / WORD => _,
                    inout("rdi") to => _,
                    in("rax") word,
                    options(nostack, preserves_flags),
                );
                set(to, count - WORD, word);
            }
        }
    }
}

/// The order of two words.
const fn order(a: u64, b: u64) -> i32 {
    if a == b {
        0
    } else if a < b {
        -1
    } else {
        1
    }
}

/// Compares `count` bytes: negative if `a` comes first, 0 if both are equal.
///
/// # Safety
/// `a` and `b` are readable for `count` bytes.
#[inline(always)]
unsafe fn compare(a: *const u8, b: *const u8, count: usize) -> i32 {
    // In big-endian numbers the first byte decides, as in a comparison of bytes. Where words
    // overlap, the bytes that both have are equal when the second word is compared.
    //
    // SAFETY: every read lies within the ranges.
    unsafe {
        match count {
            0 => 0,
            1..=3 => {
                let key = |text: *const u8| {
                    let [first, middle, last] =
                        [0, count / 2, count - 1].map(|at| u64::from(get::<u8>(text, at)));
                    first << 16 | middle << 8 | last
                };
                order(key(a), key(b))
            }
            4..=7 => {
                let key = |text: *const u8| {
                    let [first, last] =
                        [0, count - 4].map(|at| u64::from(get::<u32>(text, at).to_be()));
                    first << 32 | last
                };
                order(key(a), key(b))
            }
            _ => {
                let (mut at, last) = (0, count - WORD);
                while at < last {
                    let (x, y) = (get::<u64>(a, at), get::<u64>(b, at));
                    if x != y {
                        return order(x.to_be(), y.to_be());
                    }
                    at += WORD;
                }
                order(get::<u64>(a, last).to_be(), get::<u64>(b, last).to_be())
            }
        }
    }
}

/// The names that the compiler calls. They replace those of the compiler's library, which are weak.
#[cfg(target_os = "none")]
mod names {
    use core::ffi::c_int;

    /// C's `memcpy`.
    ///
    /// # Safety
    /// As for [`super::copy`].
    // SAFETY: it does what the compiler expects of this name.
    #[unsafe(no_mangle)]
    unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, count: usize) -> *mut u8 {
        // SAFETY: the caller's.
        unsafe { super::copy(to, from, count) };
        to
    }

    /// C's `memset`.
    ///
    /// # Safety
    /// As for [`super::fill`].
    // SAFETY: it does what the compiler expects of this name.
    #[unsafe(no_mangle)]
    unsafe extern "C" fn memset(to: *mut u8, value: c_int, count: usize) -> *mut u8 {
        // The value is a byte in C's `int`.
        let [value, ..] = value.to_le_bytes();
        // SAFETY: the caller's.
        unsafe { super::fill(to, value, count) };
        to
    }

    /// C's `memcmp`.
    ///
    /// # Safety
    /// As for [`super::compare`].
    // SAFETY: it does what the compiler expects of this name.
    #[unsafe(no_mangle)]
    unsafe extern "C" fn memcmp(a: *const u8, b: *const u8, count: usize) -> c_int {
        // SAFETY: the caller's.
        unsafe { super::compare(a, b, count) }
    }

    /// `memcmp` if only equality matters.
    ///
    /// # Safety
    /// As for [`super::compare`].
    // SAFETY: it does what the compiler expects of this name.
    #[unsafe(no_mangle)]
    unsafe extern "C" fn bcmp(a: *const u8, b: *const u8, count: usize) -> c_int {
        // SAFETY: the caller's.
        unsafe { super::compare(a, b, count) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    /// The bytes around a range, which stay as they are.
    const AROUND: usize = 9;

    /// Calls `act` with the part of `count` bytes from `at` on; returns all bytes.
    fn within(at: usize, count: usize, act: impl FnOnce(&mut [u8])) -> Vec<u8> {
        let mut all = std::vec![0xa5; at + count + AROUND];
        act(&mut all[at..at + count]);
        all
    }

    /// Two texts of every short length, each with one byte of its own at every place.
    #[test]
    fn the_earlier_byte_decides_at_every_length() {
        let with = |count, at: usize, value| {
            let mut text: Vec<u8> = std::vec![0; count];
            text[at] = value;
            text
        };
        for count in 1..=40_usize {
            for (i, j) in (0..count * count).map(|pair| (pair / count, pair % count)) {
                let (a, b) = (with(count, i, 1), with(count, j, 2));
                // SAFETY: both have this length.
                let found = unsafe { compare(a.as_ptr(), b.as_ptr(), count) };
                assert_eq!(found.cmp(&0), a.cmp(&b), "{count} bytes, {i} and {j}");
            }
        }
    }

    proptest! {
        #[test]
        fn a_copy_has_the_bytes_and_nothing_else_changes(
            bytes in prop::collection::vec(any::<u8>(), 0..100),
            at in 0_usize..AROUND,
        ) {
            let expected = within(at, bytes.len(), |to| to.copy_from_slice(&bytes));
            let found = within(at, bytes.len(), |to| {
                // SAFETY: both slices have this length, and they are different ones.
                unsafe { copy(to.as_mut_ptr(), bytes.as_ptr(), bytes.len()) }
            });
            prop_assert_eq!(found, expected);
        }

        #[test]
        fn a_range_is_filled_and_nothing_else_changes(
            count in 0_usize..100,
            value in any::<u8>(),
            at in 0_usize..AROUND,
        ) {
            let expected = within(at, count, |to| to.fill(value));
            let found = within(at, count, |to| {
                // SAFETY: the slice has this length.
                unsafe { fill(to.as_mut_ptr(), value, to.len()) }
            });
            prop_assert_eq!(found, expected);
        }

        #[test]
        fn the_first_byte_that_differs_decides(
            bytes in prop::collection::vec(any::<u8>(), 0..100),
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
        ) {
            let mut other = bytes.clone();
            for (at, value) in changes.iter().filter(|_| !bytes.is_empty()) {
                other[at.index(bytes.len())] = *value;
            }
            // SAFETY: both have this length.
            let found = unsafe { compare(bytes.as_ptr(), other.as_ptr(), bytes.len()) };
            prop_assert_eq!(found.cmp(&0), bytes.cmp(&other));
        }
    }
}
