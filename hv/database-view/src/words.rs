//! The arena as words: bounds-checked access to memory that another partition may access at the
//! same time.
//!
//! Rule: every access names an arena page and a word in it, and returns `None` outside the arena.

use core::sync::atomic::{AtomicU32, Ordering};

/// Words of 4 bytes in an arena page.
pub const PAGE_WORDS: usize = pv_abi::PAGE_SIZE / 4;

/// The arena's pages, as a view of their words.
#[derive(Clone, Copy, Debug)]
pub struct Words<'a>(&'a [AtomicU32]);

impl<'a> Words<'a> {
    /// A view of the whole pages in `words`; words past the last whole page are left out.
    #[must_use]
    pub const fn new(words: &'a [AtomicU32]) -> Self {
        Self(words)
    }

    /// Number of whole pages in the view, at most 2^30.
    #[must_use]
    pub fn pages(&self) -> u32 {
        u32::try_from(self.0.len() / PAGE_WORDS).unwrap_or(u32::MAX).min(1 << 30)
    }

    /// The words of a page that hold `bytes` bytes from word `first` on.
    #[must_use]
    pub fn span(&self, page: u32, first: usize, bytes: usize) -> Option<&'a [AtomicU32]> {
        let end = first.checked_add(bytes.div_ceil(4))?;
        if page >= self.pages() || end > PAGE_WORDS {
            return None;
        }
        let start = (page as usize).checked_mul(PAGE_WORDS)?;
        self.0.get(start.checked_add(first)?..start.checked_add(end)?)
    }

    /// Loads a word with acquire ordering.
    #[must_use]
    pub fn load(&self, page: u32, word: usize) -> Option<u32> {
        Some(self.span(page, word, 4)?.first()?.load(Ordering::Acquire))
    }

    /// Copies words out of a page into bytes, from word `first` on; a partial last word is cut.
    pub fn read(&self, page: u32, first: usize, out: &mut [u8]) -> Option<()> {
        let words = self.span(page, first, out.len())?;
        let (whole, rest) = out.as_chunks_mut::<4>();
        for (piece, word) in whole.iter_mut().zip(words) {
            *piece = word.load(Ordering::Acquire).to_le_bytes();
        }
        if !rest.is_empty() {
            let last = words.last()?.load(Ordering::Acquire).to_le_bytes();
            rest.copy_from_slice(last.get(..rest.len())?);
        }
        Some(())
    }
}
