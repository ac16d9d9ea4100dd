//! Keeps the last bytes that a console printed.
//!
//! Rule: a position counts all bytes that were ever printed, so a reader knows how many it missed.

use std::collections::VecDeque;

/// Bytes kept for each console.
pub const KEPT: usize = 64 * 1024;

/// The last [`KEPT`] bytes.
#[derive(Debug, Default)]
pub struct History {
    bytes: VecDeque<u8>,
    end: u64,
}

impl History {
    /// Adds printed bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.end += bytes.len() as u64;
        let bytes = &bytes[bytes.len().saturating_sub(KEPT)..];
        let over = (self.bytes.len() + bytes.len()).saturating_sub(KEPT);
        self.bytes.drain(..over);
        self.bytes.extend(bytes);
    }

    /// Position of the oldest byte that is kept.
    pub fn start(&self) -> u64 {
        self.end - self.bytes.len() as u64
    }

    /// Position of the next byte.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// At most `most` bytes from a position on, or from the oldest kept byte if that is later.
    pub fn read(&self, from: u64, most: usize) -> Vec<u8> {
        let skip = from.saturating_sub(self.start()) as usize;
        self.bytes.iter().skip(skip).take(most).copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn it_is_the_end_of_all_that_was_pushed(
            pieces in proptest::collection::vec((1usize..30_000, any::<u8>()), 1..12),
            from in 0u64..200_000,
        ) {
            let (mut history, mut all) = (History::default(), Vec::new());
            for (count, byte) in pieces {
                let piece: Vec<u8> = (0..count).map(|at| byte.wrapping_add(at as u8)).collect();
                history.push(&piece);
                all.extend(piece);
            }
            prop_assert_eq!(history.end(), all.len() as u64);
            prop_assert_eq!(history.start(), all.len().saturating_sub(KEPT) as u64);
            let first = from.clamp(history.start(), history.end()) as usize;
            let expected = &all[first..all.len().min(first + 1000)];
            prop_assert_eq!(history.read(from, 1000), expected);
        }
    }
}
