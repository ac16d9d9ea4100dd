//! Copies bytes to and from words that another side may read and write at the same time.
//!
//! Words are little-endian and accessed one by one, without any order among them; a caller that
//! needs an order uses an index or an event. Several words at a time go through a loop of fixed
//! length, since the bytes of kernels and of all messages are copied here.

use core::sync::atomic::{AtomicU32, Ordering};

/// Bytes in a word.
pub const WORD: usize = 4;
/// Words that are copied without checking how many are left.
const RUN: usize = 8;

/// Copies words to bytes, as many as both slices have.
pub fn load(words: &[AtomicU32], out: &mut [[u8; WORD]]) {
    let count = words.len().min(out.len());
    let (runs, rest) = words[..count].as_chunks::<RUN>();
    let (out_runs, out_rest) = out[..count].as_chunks_mut::<RUN>();
    for (words, out) in runs.iter().zip(out_runs) {
        for at in 0..RUN {
            out[at] = words[at].load(Ordering::Relaxed).to_le_bytes();
        }
    }
    for (word, out) in rest.iter().zip(out_rest) {
        *out = word.load(Ordering::Relaxed).to_le_bytes();
    }
}

/// Copies bytes to words, as many as both slices have.
pub fn store(words: &[AtomicU32], bytes: &[[u8; WORD]]) {
    let count = words.len().min(bytes.len());
    let (runs, rest) = words[..count].as_chunks::<RUN>();
    let (from_runs, from_rest) = bytes[..count].as_chunks::<RUN>();
    for (words, from) in runs.iter().zip(from_runs) {
        for at in 0..RUN {
            words[at].store(u32::from_le_bytes(from[at]), Ordering::Relaxed);
        }
    }
    for (word, from) in rest.iter().zip(from_rest) {
        word.store(u32::from_le_bytes(*from), Ordering::Relaxed);
    }
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
