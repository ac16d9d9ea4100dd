//! One direction of a byte ring in memory that a guest shares.
//!
//! Each console or store ring of the Xen ABI consists of two of these. Indices run freely; an index
//! modulo the size is a position.
//!
//! Rule: indices that contradict each other are an error, never an access outside the buffer.

use core::sync::atomic::{AtomicU32, Ordering};

/// One direction of a ring.
#[derive(Clone, Copy, Debug)]
pub struct Pipe {
    /// First byte of the buffer, a multiple of 4.
    pub buffer: usize,
    /// Bytes of the buffer, a power of two.
    pub size: u32,
    /// Byte offset of the producer's index.
    pub produced: usize,
    /// Byte offset of the consumer's index.
    pub consumed: usize,
}

/// The guest wrote impossible indices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Broken;

impl Pipe {
    fn index(words: &[AtomicU32], at: usize) -> Result<u32, Broken> {
        words.get(at / 4).map(|word| word.load(Ordering::Acquire)).ok_or(Broken)
    }

    fn set_index(words: &[AtomicU32], at: usize, value: u32) {
        if let Some(word) = words.get(at / 4) {
            word.store(value, Ordering::Release);
        }
    }

    /// Number of bytes that can be read.
    ///
    /// # Errors
    /// See [`Broken`].
    pub fn used(&self, words: &[AtomicU32]) -> Result<u32, Broken> {
        let produced = Self::index(words, self.produced)?;
        let used = produced.wrapping_sub(Self::index(words, self.consumed)?);
        if used > self.size { Err(Broken) } else { Ok(used) }
    }

    /// Number of bytes that can be written.
    ///
    /// # Errors
    /// See [`Broken`].
    pub fn room(&self, words: &[AtomicU32]) -> Result<u32, Broken> {
        Ok(self.size - self.used(words)?)
    }

    fn place(&self, index: u32) -> (usize, u32) {
        let byte = self.buffer + (index & (self.size - 1)) as usize;
        (byte / 4, (byte % 4) as u32 * 8)
    }

    /// Copies the readable bytes without consuming them. Returns their number.
    ///
    /// # Errors
    /// See [`Broken`].
    pub fn peek(&self, words: &[AtomicU32], out: &mut [u8]) -> Result<usize, Broken> {
        let used = self.used(words)? as usize;
        let first = Self::index(words, self.consumed)?;
        let mut count = 0;
        for (index, byte) in (0u32..).zip(out.iter_mut().take(used)) {
            let (word, shift) = self.place(first.wrapping_add(index));
            let word = words.get(word).ok_or(Broken)?.load(Ordering::Relaxed);
            *byte = (word >> shift) as u8;
            count += 1;
        }
        Ok(count)
    }

    /// Consumes bytes that were copied by [`Self::peek`].
    pub fn consume(&self, words: &[AtomicU32], bytes: usize) {
        if let (Ok(first), Ok(bytes)) = (Self::index(words, self.consumed), u32::try_from(bytes)) {
            Self::set_index(words, self.consumed, first.wrapping_add(bytes));
        }
    }

    /// Writes as many bytes as there is room for. Returns their number.
    ///
    /// # Errors
    /// See [`Broken`].
    pub fn push(&self, words: &[AtomicU32], bytes: &[u8]) -> Result<usize, Broken> {
        let room = self.room(words)? as usize;
        let first = Self::index(words, self.produced)?;
        let mut next = first;
        for &byte in bytes.iter().take(room) {
            let (word, shift) = self.place(next);
            let word = words.get(word).ok_or(Broken)?;
            let kept = word.load(Ordering::Relaxed) & !(0xff << shift);
            word.store(kept | u32::from(byte) << shift, Ordering::Relaxed);
            next = next.wrapping_add(1);
        }
        Self::set_index(words, self.produced, next);
        Ok(next.wrapping_sub(first) as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;
    use proptest::prelude::*;

    const PIPE: Pipe = Pipe { buffer: 8, size: 16, produced: 0, consumed: 4 };

    fn words() -> Vec<AtomicU32> {
        (0..6).map(|_| AtomicU32::new(0)).collect()
    }

    proptest! {
        #[test]
        fn bytes_come_out_as_they_went_in(
            start: u32,
            steps in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..20), 0..20usize), 1..30)
        ) {
            let words = words();
            words[0].store(start, Ordering::Relaxed);
            words[1].store(start, Ordering::Relaxed);
            let mut model: Vec<u8> = Vec::new();
            for (bytes, take) in steps {
                let pushed = PIPE.push(&words, &bytes).unwrap();
                prop_assert_eq!(pushed, bytes.len().min(16 - model.len()));
                model.extend_from_slice(&bytes[..pushed]);
                let mut out = [0; 20];
                let seen = PIPE.peek(&words, &mut out[..take]).unwrap();
                prop_assert_eq!(&out[..seen], &model[..take.min(model.len())]);
                PIPE.consume(&words, seen);
                model.drain(..seen);
            }
        }

        #[test]
        fn impossible_indices_are_an_error(produced: u32, consumed: u32) {
            let words = words();
            words[0].store(produced, Ordering::Relaxed);
            words[1].store(consumed, Ordering::Relaxed);
            let sound = produced.wrapping_sub(consumed) <= 16;
            prop_assert_eq!(PIPE.push(&words, b"x").is_ok(), sound);
            prop_assert_eq!(PIPE.peek(&words, &mut [0; 4]).is_ok(), sound || words[0].load(Ordering::Relaxed) != produced);
        }
    }
}
