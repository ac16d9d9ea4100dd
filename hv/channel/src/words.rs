//! Copies bytes to and from words that another side may read and write at the same time.
//!
//! Words are little-endian and accessed without any order among them; a caller that needs an order
//! uses an index or an event. If there are many words, the CPU's instruction for copies moves them,
//! since the bytes of kernels and of all messages are copied here.
#![expect(unsafe_code, reason = "the CPU's instruction for copies")]

#[cfg(target_arch = "x86_64")]
use core::arch::asm;
use core::sync::atomic::{AtomicU32, Ordering};

/// Bytes in a word.
pub const WORD: usize = 4;
/// Number of words from which on the CPU's instruction copies them.
const MANY: usize = 8;

/// Copies words to bytes, as many as both slices have.
pub fn load(words: &[AtomicU32], out: &mut [[u8; WORD]]) {
    let count = words.len().min(out.len());
    let (words, out) = (&words[..count], &mut out[..count]);
    let done = match count {
        // SAFETY: both have `count` words. `out` is borrowed for writing, so they do not overlap.
        MANY.. => unsafe { copy_pairs(out.as_mut_ptr().cast(), words.as_ptr().cast(), count) },
        _ => 0,
    };
    for (word, out) in words[done..].iter().zip(&mut out[done..]) {
        *out = word.load(Ordering::Relaxed).to_le_bytes();
    }
}

/// Copies bytes to words, as many as both slices have.
pub fn store(words: &[AtomicU32], bytes: &[[u8; WORD]]) {
    let count = words.len().min(bytes.len());
    let (words, bytes) = (&words[..count], &bytes[..count]);
    let done = match count {
        MANY.. => {
            // An atomic word may be written through a shared reference.
            let to = words.as_ptr().cast_mut().cast();
            // SAFETY: both have `count` words. They do not overlap, since nobody may write bytes
            // that are borrowed.
            unsafe { copy_pairs(to, bytes.as_ptr().cast(), count) }
        }
        _ => 0,
    };
    for (word, bytes) in words[done..].iter().zip(&bytes[done..]) {
        word.store(u32::from_le_bytes(*bytes), Ordering::Relaxed);
    }
}

/// Copies `count` words of 8 bytes, from the first on.
///
/// # Safety
/// `from` is readable and `to` is writable for `count` words. The two ranges do not overlap. The
/// ranges may be shared with another side that accesses them at the same time.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub unsafe fn copy_words(to: *mut u8, from: *const u8, count: usize) {
    // SAFETY: the caller's. The direction flag is clear in compiled code (System V ABI, 3.2.1).
    unsafe {
        asm!(
            "rep movsq",
            inout("rcx") count => _,
            inout("rdi") to => _,
            inout("rsi") from => _,
            options(nostack, preserves_flags),
        );
    }
}

/// Copies the pairs among `count` words with one instruction; returns the number of words copied.
///
/// # Safety
/// `from` is readable and `to` is writable for `count` words. The two do not overlap. Another side
/// may access them at the same time: the compiler knows nothing of the accesses, and the CPU allows
/// them.
#[cfg(target_arch = "x86_64")]
unsafe fn copy_pairs(to: *mut u8, from: *const u8, count: usize) -> usize {
    // SAFETY: the caller's.
    unsafe { copy_words(to, from, count / 2) };
    count / 2 * 2
}

/// Copies nothing: this CPU has no such instruction.
///
/// # Safety
/// None; the contract is that of the other architecture.
#[cfg(not(target_arch = "x86_64"))]
unsafe fn copy_pairs(_: *mut u8, _: *const u8, _: usize) -> usize {
    0
}

/// Copies bytes out, from byte `at`. The part of `out` beyond the words is left unchanged.
pub fn load_bytes(words: &[AtomicU32], at: usize, out: &mut [u8]) {
    let word = |index: usize| words.get(index).map(|word| word.load(Ordering::Relaxed));
    let (head, rest) = out.split_at_mut(out.len().min(at.wrapping_neg() % WORD));
    for (to, index) in head.iter_mut().zip(at..) {
        if let Some(word) = word(index / WORD) {
            *to = word.to_le_bytes()[index % WORD];
        }
    }
    let first = (at + head.len()) / WORD;
    let (whole, tail) = rest.as_chunks_mut::<WORD>();
    load(words.get(first..).unwrap_or_default(), whole);
    if let Some(word) = word(first + whole.len()) {
        for (to, byte) in tail.iter_mut().zip(word.to_le_bytes()) {
            *to = byte;
        }
    }
}

/// Copies bytes in from the first word on, as far as there are words; the rest of the last word
/// becomes zero.
pub fn store_bytes(words: &[AtomicU32], bytes: &[u8]) {
    let (whole, rest) = bytes.as_chunks::<WORD>();
    store(words, whole);
    if let Some(word) = words.get(whole.len()).filter(|_| !rest.is_empty()) {
        let mut last = [0; WORD];
        last[..rest.len()].copy_from_slice(rest);
        word.store(u32::from_le_bytes(last), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    fn words_of(bytes: &[u8]) -> Vec<AtomicU32> {
        let (chunks, _) = bytes.as_chunks::<4>();
        chunks.iter().map(|chunk| AtomicU32::new(u32::from_le_bytes(*chunk))).collect()
    }

    proptest! {
        #[test]
        fn bytes_are_copied_out_from_anywhere(
            bytes in prop::collection::vec(any::<u8>(), 128),
            at in 0_usize..140,
            length in 0_usize..140,
        ) {
            let mut out = std::vec![0xa5; length];
            load_bytes(&words_of(&bytes), at, &mut out);
            let expected: Vec<u8> =
                (at..at + length).map(|i| bytes.get(i).copied().unwrap_or(0xa5)).collect();
            prop_assert_eq!(out, expected);
        }

        #[test]
        fn bytes_are_copied_in_as_far_as_there_is_room(
            bytes in prop::collection::vec(any::<u8>(), 0..140),
            room in 0_usize..40,
        ) {
            let words = words_of(&std::vec![0xa5; room * 4]);
            store_bytes(&words, &bytes);
            let mut out = std::vec![0; room * 4];
            load_bytes(&words, 0, &mut out);
            let written = bytes.len().next_multiple_of(4);
            let expected: Vec<u8> = (0..room * 4)
                .map(|i| if i < written { bytes.get(i).copied().unwrap_or(0) } else { 0xa5 })
                .collect();
            prop_assert_eq!(out, expected);
        }
    }
}
