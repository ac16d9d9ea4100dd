//! Lookups, and walks through the page map in order.
//!
//! Monitors use only the lookups of [`database_view::Reader`]; they never walk, so the walks are
//! here.
//!
//! Rule: every step advances by at least a frame, so a walk ends whatever the arena contains.

use core::{mem::offset_of, ops::Deref, sync::atomic::AtomicU32};

use database_view::{OwnedRange, Owner, ReadError, Words, is_descriptor_number};
use pv_abi::uv::database::{
    ARENA_MAGIC, ARENA_VERSION, DESCRIPTOR_MAGIC, PartitionDescriptor, PartitionNumber,
};
use zerocopy::IntoBytes;

/// A reader of the database.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a>(database_view::Reader<'a>);

impl<'a> Deref for Reader<'a> {
    type Target = database_view::Reader<'a>;
    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

/// The entries of a page map, in ascending order; see [`Reader::entries`].
#[derive(Clone, Debug)]
pub struct Entries<'a> {
    reader: Reader<'a>,
    next: u64,
}

impl Iterator for Entries<'_> {
    /// The range that an entry describes, and its tier (0: 4 GiB, 1: 4 MiB, 2: 4 KiB).
    type Item = (OwnedRange, usize);

    fn next(&mut self) -> Option<Self::Item> {
        let range = self.reader.entry_at(self.next).ok()?;
        let (_, tier) = self.reader.walk(self.next).ok()?;
        self.next = range.first + range.frames;
        Some((range, tier))
    }
}

/// The ranges of a page map, in ascending order; see [`Reader::ranges`].
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
    /// A reader of the words of an arena; see [`database_view::Reader::new`].
    #[must_use]
    pub const fn new(words: &'a [AtomicU32]) -> Self {
        Self(database_view::Reader::new(words))
    }

    /// A reader of the words of a view.
    #[must_use]
    pub const fn over(words: Words<'a>) -> Self {
        Self(database_view::Reader { words })
    }

    /// Checks that page 0 is a header that this code understands.
    ///
    /// # Errors
    /// [`ReadError::NotAnArena`] if it is not.
    pub fn check(&self) -> Result<(), ReadError> {
        let mut magic = [0; 8];
        self.words.read(0, 0, &mut magic).ok_or(ReadError::NotAnArena)?;
        let version = self.words.load(0, 2).ok_or(ReadError::NotAnArena)?;
        if u64::from_le_bytes(magic) != ARENA_MAGIC || version != ARENA_VERSION {
            return Err(ReadError::NotAnArena);
        }
        Ok(())
    }

    /// Copies the fields of a descriptor up to its memory, for a list of all partitions:
    /// `magic` to `memory_frames`. The other fields of `out` stay what they are.
    ///
    /// # Errors
    /// [`ReadError::OutOfRange`], [`ReadError::Absent`], [`ReadError::Busy`],
    /// [`ReadError::Malformed`], as for a whole descriptor.
    pub fn start_of_descriptor(
        &self,
        number: PartitionNumber,
        out: &mut PartitionDescriptor,
    ) -> Result<(), ReadError> {
        const BYTES: usize = offset_of!(PartitionDescriptor, instance_first);
        if !is_descriptor_number(number) {
            return Err(ReadError::OutOfRange);
        }
        let bytes = out.as_mut_bytes().get_mut(..BYTES).ok_or(ReadError::Malformed)?;
        self.read_stable(number, 0, 1, bytes)?;
        match (out.magic, out.number == number) {
            (DESCRIPTOR_MAGIC, true) => Ok(()),
            (DESCRIPTOR_MAGIC, false) => Err(ReadError::Malformed),
            _ => Err(ReadError::Absent),
        }
    }

    /// The owner of a frame.
    ///
    /// # Errors
    /// [`ReadError::OutOfRange`] if the page map does not describe the frame,
    /// [`ReadError::Malformed`].
    pub fn owner(&self, frame: u64) -> Result<Owner, ReadError> {
        Ok(self.entry_at(frame)?.owner)
    }

    /// The entries from frame `first` on, with their tiers. The first one may begin at `first`
    /// instead of its own start.
    #[must_use]
    pub const fn entries(&self, first: u64) -> Entries<'a> {
        Entries { reader: *self, next: first }
    }

    /// The maximal ranges of one owner, from frame `first` on. The first one may begin at `first`
    /// instead of its own start.
    #[must_use]
    pub const fn ranges(&self, first: u64) -> Ranges<'a> {
        Ranges { reader: *self, next: first }
    }
}
