//! Writing the arena's words: what the reader that ring 0 links does not have.

use core::sync::atomic::Ordering;

use database_view::Words;

/// Bounds-checked writes to arena pages; `None`: outside.
pub(crate) trait WriteWords {
    /// Writes a word, releasing what was written before.
    fn store(&self, page: u32, word: usize, value: u32) -> Option<()>;

    /// Copies bytes into the words of a page, from word `first` on; a partial last word is padded
    /// with zeros.
    fn write(&self, page: u32, first: usize, bytes: &[u8]) -> Option<()>;
}

impl WriteWords for Words<'_> {
    fn store(&self, page: u32, word: usize, value: u32) -> Option<()> {
        self.span(page, word, 4)?.first()?.store(value, Ordering::Release);
        Some(())
    }

    fn write(&self, page: u32, first: usize, bytes: &[u8]) -> Option<()> {
        let words = self.span(page, first, bytes.len())?;
        let (whole, rest) = bytes.as_chunks::<4>();
        for (piece, place) in whole.iter().zip(words) {
            place.store(u32::from_le_bytes(*piece), Ordering::Release);
        }
        if !rest.is_empty() {
            let mut last = [0; 4];
            last.get_mut(..rest.len())?.copy_from_slice(rest);
            words.last()?.store(u32::from_le_bytes(last), Ordering::Release);
        }
        Some(())
    }
}
