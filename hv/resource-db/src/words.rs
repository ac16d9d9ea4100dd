//! Writes to the arena's words, which the reader that ring 0 links does not have.

use core::sync::atomic::{AtomicU32, Ordering};

use database_view::Words;

/// Bounds-checked writes to arena pages. They return `None` outside the arena.
pub(crate) trait WriteWords {
    /// Stores a word with release ordering.
    fn store(&self, page: u32, word: usize, value: u32) -> Option<()>;

    /// Copies bytes into the words of a page, from word `first` on; a partial last word is padded
    /// with zeros.
    fn write(&self, page: u32, first: usize, bytes: &[u8]) -> Option<()>;
}

impl WriteWords for Words<'_> {
    fn store(&self, page: u32, word: usize, value: u32) -> Option<()> {
        store(self.span(page, word, 4)?.first()?, value);
        Some(())
    }

    fn write(&self, page: u32, first: usize, bytes: &[u8]) -> Option<()> {
        let words = self.span(page, first, bytes.len())?;
        let (whole, rest) = bytes.as_chunks::<4>();
        for (piece, place) in whole.iter().zip(words) {
            store(place, u32::from_le_bytes(*piece));
        }
        if !rest.is_empty() {
            let mut last = [0; 4];
            last.get_mut(..rest.len())?.copy_from_slice(rest);
            store(words.last()?, u32::from_le_bytes(last));
        }
        Some(())
    }
}

/// The only place where a word of the arena changes.
fn store(word: &AtomicU32, value: u32) {
    #[cfg(feature = "cut")]
    crate::cut::count();
    word.store(value, Ordering::Release);
}
