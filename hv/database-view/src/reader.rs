//! Lookups in an arena that another partition writes.
//!
//! Monitors use this in ring 0: it allocates nothing, never panics, and every loop has a bound that
//! does not depend on the contents. Each descriptor and table entry is protected by a seqlock, so
//! a returned copy is consistent. The page map is not: its entries are single words, and the caller
//! of *activate* has finished writing.

use core::mem::offset_of;
use core::sync::atomic::{AtomicU32, Ordering, fence};

use pv_abi::uv::database::{
    ArenaHeader, CHANNELS_IN_PAGE, ChannelEntry, DESCRIPTOR_MAGIC, ENTRY_IO, ENTRY_NUMBER,
    ENTRY_SUBALLOCATED, INDEX_ENTRIES, MAX_PARTITION, NO_PARTITIONS, PartitionDescriptor,
    PartitionNumber, TIER_FRAMES, UNASSIGNED, channel_kind,
};
use pv_abi::uv::devices::{DEVICES_IN_PAGE, DeviceEntry};
use zerocopy::{FromZeros, IntoBytes};

use crate::words::Words;

/// Tries at a seqlock before the writer counts as stuck.
const TRIES: usize = 64;
/// Bytes of a descriptor that carry fields; the rest is zero.
pub const DESCRIPTOR_BYTES: usize = offset_of!(PartitionDescriptor, reserved);
/// Words of the header: the root's index, the frame count, and the places of the channel table and
/// of the device table.
const HEADER_ROOT: usize = offset_of!(ArenaHeader, page_map_root) / 4;
const HEADER_FRAMES: usize = offset_of!(ArenaHeader, frames) / 4;
const HEADER_CHANNELS: [usize; 2] =
    [offset_of!(ArenaHeader, channels_first) / 4, offset_of!(ArenaHeader, channels_pages) / 4];
const HEADER_DEVICES: [usize; 2] =
    [offset_of!(ArenaHeader, devices_first) / 4, offset_of!(ArenaHeader, devices) / 4];

/// Why a lookup failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadError {
    /// Page 0 is not an arena header of a version that this code knows.
    NotAnArena,
    /// The requested number, frame or index cannot exist.
    OutOfRange,
    /// A word of the arena leads outside it, or violates the layout.
    Malformed,
    /// The entry was being written during all tries.
    Busy,
    /// There is no descriptor or channel with this number.
    Absent,
}

/// The owner of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Owner {
    /// Partition number; [`UNASSIGNED`] if the frame is free.
    pub number: PartitionNumber,
    /// Whether the memory is I/O memory or a hole rather than RAM.
    pub io: bool,
}

impl Owner {
    /// RAM that nobody owns.
    pub const FREE: Self = Self { number: UNASSIGNED, io: false };

    /// RAM of a partition.
    #[must_use]
    pub const fn ram(number: PartitionNumber) -> Self {
        Self { number, io: false }
    }

    /// I/O memory of a partition.
    #[must_use]
    pub const fn io(number: PartitionNumber) -> Self {
        Self { number, io: true }
    }

    /// The page-map entry for this owner.
    #[must_use]
    pub const fn entry(self) -> u32 {
        self.number & ENTRY_NUMBER | if self.io { ENTRY_IO } else { 0 }
    }

    /// The owner in a page-map entry that is not suballocated.
    #[must_use]
    pub const fn from_entry(entry: u32) -> Self {
        Self { number: entry & ENTRY_NUMBER, io: entry & ENTRY_IO != 0 }
    }
}

/// Consecutive frames with one owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnedRange {
    /// First frame.
    pub first: u64,
    /// Number of frames.
    pub frames: u64,
    /// Their owner.
    pub owner: Owner,
}

/// Read access to an arena.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    /// The words of the arena.
    pub words: Words<'a>,
}

/// Maximum number of frames that the root of the page map can describe.
pub const MAX_FRAMES: u64 = TIER_FRAMES[0] * INDEX_ENTRIES as u64;

impl<'a> Reader<'a> {
    /// A reader of the words of an arena. The caller keeps them mapped; another partition may be
    /// writing them at any time.
    #[must_use]
    pub const fn new(words: &'a [AtomicU32]) -> Self {
        Self { words: Words::new(words) }
    }

    /// One past the last frame that the page map describes, at most 2^30.
    #[must_use]
    pub fn frames(&self) -> u64 {
        let mut frames = [0; 8];
        match self.words.read(0, HEADER_FRAMES, &mut frames) {
            Some(()) => u64::from_le_bytes(frames).min(MAX_FRAMES),
            None => 0,
        }
    }

    /// The descriptor of a partition. The result is a whole page: prefer [`Self::descriptor_into`]
    /// if the stack is short.
    ///
    /// # Errors
    /// The same as [`Self::descriptor_into`].
    pub fn descriptor(&self, number: PartitionNumber) -> Result<PartitionDescriptor, ReadError> {
        let mut descriptor = PartitionDescriptor::new_zeroed();
        self.descriptor_into(number, &mut descriptor)?;
        Ok(descriptor)
    }

    /// Copies the descriptor of a partition. `out.number` is checked to be `number`; every other
    /// field is as the ultravisor wrote it, unchecked.
    ///
    /// # Errors
    /// [`ReadError::OutOfRange`] if no partition can have this number, [`ReadError::Absent`] if
    /// none has it, [`ReadError::Busy`], [`ReadError::Malformed`].
    pub fn descriptor_into(
        &self,
        number: PartitionNumber,
        out: &mut PartitionDescriptor,
    ) -> Result<(), ReadError> {
        if !is_descriptor_number(number) {
            return Err(ReadError::OutOfRange);
        }
        let bytes = out.as_mut_bytes().get_mut(..DESCRIPTOR_BYTES).ok_or(ReadError::Malformed)?;
        self.read_stable(number, 0, 1, bytes)?;
        if out.magic != DESCRIPTOR_MAGIC {
            return Err(ReadError::Absent);
        }
        if out.number != number {
            return Err(ReadError::Malformed);
        }
        Ok(())
    }

    /// Entry `index` of the channel table.
    ///
    /// # Errors
    /// [`ReadError::OutOfRange`] past the end of the table, [`ReadError::Absent`] if the entry is
    /// unused, [`ReadError::Busy`].
    pub fn channel(&self, index: u32) -> Result<ChannelEntry, ReadError> {
        let (page, word) = self.channel_place(index).ok_or(ReadError::OutOfRange)?;
        let mut entry = ChannelEntry::new_zeroed();
        self.read_stable(page, word, word, entry.as_mut_bytes())?;
        if entry.kind == channel_kind::FREE {
            return Err(ReadError::Absent);
        }
        Ok(entry)
    }

    /// The page and the first word of a channel entry.
    #[must_use]
    pub fn channel_place(&self, index: u32) -> Option<(u32, usize)> {
        let [first, pages] = HEADER_CHANNELS.map(|word| self.words.load(0, word));
        let page = index / CHANNELS_IN_PAGE;
        let word = (index % CHANNELS_IN_PAGE) as usize * (size_of::<ChannelEntry>() / 4);
        (page < pages?).then_some((first?.checked_add(page)?, word))
    }

    /// Entry `index` of the device table.
    ///
    /// # Errors
    /// [`ReadError::OutOfRange`] past the last function, [`ReadError::Busy`].
    pub fn device(&self, index: u32) -> Result<DeviceEntry, ReadError> {
        let (page, word) = self.device_place(index).ok_or(ReadError::OutOfRange)?;
        let mut entry = DeviceEntry::new_zeroed();
        self.read_stable(page, word, word, entry.as_mut_bytes())?;
        Ok(entry)
    }

    /// The page and the first word of a device entry.
    #[must_use]
    pub fn device_place(&self, index: u32) -> Option<(u32, usize)> {
        let [first, devices] = HEADER_DEVICES.map(|word| self.words.load(0, word));
        let page = index / DEVICES_IN_PAGE;
        let word = (index % DEVICES_IN_PAGE) as usize * (size_of::<DeviceEntry>() / 4);
        (index < devices?).then_some((first?.checked_add(page)?, word))
    }

    /// Copies words until the generation was even and equal before and after the copy.
    ///
    /// # Errors
    /// [`ReadError::OutOfRange`] outside the arena, [`ReadError::Busy`].
    pub fn read_stable(
        &self,
        page: u32,
        first: usize,
        generation: usize,
        out: &mut [u8],
    ) -> Result<(), ReadError> {
        for _ in 0..TRIES {
            let before = self.words.load(page, generation).ok_or(ReadError::OutOfRange)?;
            if before & 1 != 0 {
                core::hint::spin_loop();
                continue;
            }
            self.words.read(page, first, out).ok_or(ReadError::OutOfRange)?;
            fence(Ordering::Acquire);
            if self.words.load(page, generation) == Some(before) {
                return Ok(());
            }
        }
        Err(ReadError::Busy)
    }

    /// The part of a page-map entry from `frame` on: the owner, and the frames up to the end of the
    /// entry. Takes constant time.
    ///
    /// # Errors
    /// [`ReadError::OutOfRange`] if the page map does not describe the frame,
    /// [`ReadError::Malformed`].
    pub fn entry_at(&self, frame: u64) -> Result<OwnedRange, ReadError> {
        let limit = self.frames();
        if frame >= limit {
            return Err(ReadError::OutOfRange);
        }
        let (entry, tier) = self.walk(frame)?;
        let size = TIER_FRAMES.get(tier).copied().unwrap_or(1);
        let left = (size - frame % size).min(limit - frame);
        Ok(OwnedRange { first: frame, frames: left, owner: Owner::from_entry(entry) })
    }

    /// Frames from `frame` on that have one owner: at least one, and at most `most`. The time
    /// depends on the number of entries, which `most` bounds.
    ///
    /// # Errors
    /// The same as [`Self::entry_at`]; [`ReadError::OutOfRange`] if `most` is 0.
    pub fn range_at(&self, frame: u64, most: u64) -> Result<OwnedRange, ReadError> {
        if most == 0 {
            return Err(ReadError::OutOfRange);
        }
        let mut range = self.entry_at(frame)?;
        while range.frames < most {
            let Some(next) = frame.checked_add(range.frames) else {
                break;
            };
            match self.entry_at(next) {
                Ok(more) if more.owner == range.owner => range.frames += more.frames,
                Ok(_) | Err(ReadError::OutOfRange) => break,
                Err(error) => return Err(error),
            }
        }
        range.frames = range.frames.min(most);
        Ok(range)
    }

    /// The entry that describes a frame, which is not suballocated, and its tier (0: 4 GiB, 1: 4
    /// MiB, 2: 4 KiB).
    pub fn walk(&self, frame: u64) -> Result<(u32, usize), ReadError> {
        let mut table = self.words.load(0, HEADER_ROOT).ok_or(ReadError::NotAnArena)?;
        for (tier, size) in TIER_FRAMES.iter().enumerate() {
            let slot = usize::try_from(frame / size).map_err(|_| ReadError::OutOfRange)?;
            if tier == 0 && slot >= INDEX_ENTRIES {
                return Err(ReadError::OutOfRange);
            }
            let entry = self.words.load(table, slot % INDEX_ENTRIES).ok_or(ReadError::Malformed)?;
            if entry & ENTRY_SUBALLOCATED == 0 {
                return Ok((entry, tier));
            }
            table = entry & ENTRY_NUMBER;
        }
        Err(ReadError::Malformed)
    }
}

/// Returns whether a partition can have this number at all.
pub fn is_descriptor_number(number: PartitionNumber) -> bool {
    number != UNASSIGNED && number < MAX_PARTITION && !NO_PARTITIONS.contains(&number)
}
