//! What is looked up often of the database: names, channels, and ranges of memory by owner.
//!
//! It is derived from the database and follows every change of it, so that planning takes time by
//! what a request changes and not by the size of the machine.
//!
//! Rule: [`Index::of`] the database is what it says at any time.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use pv_abi::uv::command::Range;
use pv_abi::uv::database::{ChannelEntry, FIRST_GUEST};
use resource_db::{Database, OwnedRange, Owner};

use crate::change::{Change, packed};

/// What is kept of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Brief {
    /// As in its descriptor.
    pub(crate) name: [u8; 32],
    /// CPUs are dedicated to it.
    pub(crate) dedicated: bool,
    /// Virtual CPUs it may bring up.
    pub(crate) vcpus: u32,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Index {
    /// Partitions by number.
    pub(crate) partitions: BTreeMap<u32, Brief>,
    /// Channels in use.
    pub(crate) channels: BTreeMap<u32, ChannelEntry>,
    /// The page map: ranges as long as can be, by their first frame. A frame number has 30 bits, and
    /// an owner is kept as the page-map entry that names it: a host may have very many ranges.
    ranges: BTreeMap<u32, (u32, u32)>,
    /// First frames of the ranges of each owner.
    owned: BTreeMap<u32, BTreeSet<u32>>,
    /// The guest number that came last; of a database just read, the highest.
    pub(crate) last_number: u32,
}

impl PartialEq for Index {
    fn eq(&self, other: &Self) -> bool {
        let channels = |index: &Self| -> Vec<(u32, Vec<u8>)> {
            let all = index.channels.iter();
            all.map(|(&index, entry)| (index, packed(Some(entry)))).collect()
        };
        self.partitions == other.partitions
            && channels(self) == channels(other)
            && self.ranges == other.ranges
            && self.owned == other.owned
    }
}

impl Index {
    /// What the database says.
    pub(crate) fn of(database: &Database) -> Self {
        let mut index = Self::default();
        for number in database.numbers() {
            index.read_partition(database, number);
        }
        index.channels = database.channels().collect();
        for range in database.reader().ranges(0) {
            index.insert(range.first, range.frames, range.owner);
        }
        index
    }

    /// Follows a change that was written.
    pub(crate) fn follow(&mut self, database: &Database, change: &Change, redo: bool) {
        match change {
            Change::Descriptor { number, .. } => self.read_partition(database, *number),
            Change::Channel { index, .. } => {
                match database.reader().channel(*index) {
                    Ok(entry) => drop(self.channels.insert(*index, entry)),
                    Err(_) => drop(self.channels.remove(index)),
                };
            }
            Change::Pages { first, frames, before, after } => {
                let entry = if redo { *after } else { *before };
                self.set_owner(*first, *frames, Owner::from_entry(entry));
            }
        }
    }

    fn read_partition(&mut self, database: &Database, number: u32) {
        match database.reader().descriptor(number) {
            Ok(descriptor) => {
                let dedicated = descriptor.cpu_dedicated != 0;
                let vcpus = descriptor.vcpus;
                let brief = Brief { name: descriptor.name, dedicated, vcpus };
                let known = self.partitions.insert(number, brief).is_some();
                if !known && number >= FIRST_GUEST {
                    self.last_number = number;
                }
            }
            Err(_) => drop(self.partitions.remove(&number)),
        }
    }

    fn insert(&mut self, first: u64, frames: u64, owner: Owner) {
        let first = narrow(first);
        self.ranges.insert(first, (narrow(frames), owner.entry()));
        self.owned.entry(owner.entry()).or_default().insert(first);
    }

    fn remove(&mut self, first: u64) {
        let first = narrow(first);
        if let Some((_, owner)) = self.ranges.remove(&first)
            && let Some(of) = self.owned.get_mut(&owner)
        {
            of.remove(&first);
            if of.is_empty() {
                self.owned.remove(&owner);
            }
        }
    }

    fn set_owner(&mut self, first: u64, frames: u64, owner: Owner) {
        let (mut start, mut end) = (first, first.saturating_add(frames));
        let mut pieces = Vec::new();
        // Those it touches go: what is left of them comes back, and those of its owner join it.
        let from = self.before(first.saturating_sub(1));
        let touched: Vec<OwnedRange> =
            self.ranges.range(narrow(from)..=narrow(end)).map(owned_range).collect();
        for OwnedRange { first: piece, frames: count, owner: of } in touched {
            let piece_end = piece.saturating_add(count);
            if piece_end < first {
                continue;
            }
            self.remove(piece);
            if of == owner {
                (start, end) = (start.min(piece), end.max(piece_end));
                continue;
            }
            if piece < first {
                pieces.push((piece, first - piece, of));
            }
            if piece_end > first.saturating_add(frames) {
                let rest = piece.max(first.saturating_add(frames));
                pieces.push((rest, piece_end - rest, of));
            }
        }
        for (piece, count, of) in pieces {
            self.insert(piece, count, of);
        }
        self.insert(start, end - start, owner);
    }

    /// The first frame of the range that a frame is in.
    fn before(&self, frame: u64) -> u64 {
        self.ranges.range(..=narrow(frame)).next_back().map_or(0, |(&first, _)| first.into())
    }

    /// Ranges of all owners.
    pub(crate) fn ranges(&self) -> usize {
        self.ranges.len()
    }

    /// Ranges of an owner.
    pub(crate) fn ranges_of(&self, owner: Owner) -> usize {
        self.owned.get(&owner.entry()).map_or(0, BTreeSet::len)
    }

    /// The range that a frame is in.
    pub(crate) fn range_at(&self, frame: u64) -> Option<OwnedRange> {
        let found = self.ranges.range(..=narrow(frame)).next_back().map(owned_range);
        found.filter(|range| frame - range.first < range.frames)
    }

    /// Who owns the frames of a range.
    pub(crate) fn pieces(&self, range: Range) -> impl Iterator<Item = OwnedRange> + '_ {
        let end = range.first.saturating_add(range.frames);
        let from = self.before(range.first);
        let all = self.ranges.range(narrow(from)..narrow(end.max(from))).map(owned_range);
        all.filter_map(move |piece| {
            let stop = piece.first.saturating_add(piece.frames).min(end);
            let first = piece.first.max(range.first);
            (first < stop).then(|| OwnedRange { first, frames: stop - first, ..piece })
        })
    }

    /// The ranges of an owner, rising.
    pub(crate) fn of_owner(&self, owner: Owner) -> impl Iterator<Item = OwnedRange> + '_ {
        self.of_owner_from(owner, 0)
    }

    /// The ranges of an owner that start at this frame or later, rising.
    pub(crate) fn of_owner_from(
        &self,
        owner: Owner,
        from: u64,
    ) -> impl Iterator<Item = OwnedRange> + '_ {
        let firsts = self.owned.get(&owner.entry()).into_iter();
        let firsts = firsts.flat_map(move |of| of.range(narrow(from)..));
        firsts.filter_map(|first| self.ranges.get(first).map(|range| owned_range((first, range))))
    }

    /// The partition of this name.
    pub(crate) fn named<'i>(&'i self, name: &'i [u8; 32]) -> impl Iterator<Item = u32> + 'i {
        let found = self.partitions.iter().filter(move |(_, brief)| brief.name == *name);
        found.map(|(&number, _)| number)
    }
}

/// A frame or a count of frames: no machine has more than 2^30 (see [`resource_db::MAX_FRAMES`]).
fn narrow(frames: u64) -> u32 {
    u32::try_from(frames).unwrap_or(u32::MAX)
}

fn owned_range((&first, &(frames, owner)): (&u32, &(u32, u32))) -> OwnedRange {
    OwnedRange { first: first.into(), frames: frames.into(), owner: Owner::from_entry(owner) }
}
