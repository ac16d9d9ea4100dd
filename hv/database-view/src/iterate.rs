//! Walking the page map in order.
//!
//! Rule: every step moves on by at least a frame, so a walk ends whatever the arena holds.

use crate::reader::{OwnedRange, Reader};

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
