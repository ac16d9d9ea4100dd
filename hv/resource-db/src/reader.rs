//! Looking things up, and walking the page map in order.
//!
//! What monitors look up is [`database_view::Reader`]; they never walk, so that is here.
//!
//! Rule: every step moves on by at least a frame, so a walk ends whatever the arena holds.

use core::{ops::Deref, sync::atomic::AtomicU32};

use database_view::{OwnedRange, Words};

/// A reader of the database.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a>(database_view::Reader<'a>);

impl<'a> Deref for Reader<'a> {
    type Target = database_view::Reader<'a>;
    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

/// The entries of a page map, rising; see [`Reader::entries`].
#[derive(Clone, Debug)]
pub struct Entries<'a> {
    reader: Reader<'a>,
    next: u64,
}

impl Iterator for Entries<'_> {
    /// What an entry describes, and its tier (0: 4 GiB, 1: 4 MiB, 2: 4 KiB).
    type Item = (OwnedRange, usize);

    fn next(&mut self) -> Option<Self::Item> {
        let range = self.reader.entry_at(self.next).ok()?;
        let (_, tier) = self.reader.walk(self.next).ok()?;
        self.next = range.first + range.frames;
        Some((range, tier))
    }
}

/// The ranges of a page map, rising; see [`Reader::ranges`].
#[derive(Clone, Debug)]
pub struct Ranges<'a> {
    reader: Reader<'a>,
    next: u64,
}

impl Iterator for Ranges<'_> {
    type Item = OwnedRange;

    fn next(&mut self) -> Option<Self::Item> {
        let range = self.reader.range_at(self.next, u64::MAX).ok()?;
        self.next = range.first + range.frames;
        Some(range)
    }
}

impl<'a> Reader<'a> {
    /// Reads from the words of an arena, as [`database_view::Reader::new`].
    #[must_use]
    pub const fn new(words: &'a [AtomicU32]) -> Self {
        Self(database_view::Reader::new(words))
    }

    /// A reader of the same words as a view of them.
    #[must_use]
    pub const fn over(words: Words<'a>) -> Self {
        Self(database_view::Reader::over(words))
    }

    /// The entries from frame `first` on, with their tiers. The first may be cut.
    #[must_use]
    pub const fn entries(&self, first: u64) -> Entries<'a> {
        Entries { reader: *self, next: first }
    }

    /// The largest ranges of one owner, from frame `first` on. The first may be cut.
    #[must_use]
    pub const fn ranges(&self, first: u64) -> Ranges<'a> {
        Ranges { reader: *self, next: first }
    }
}
