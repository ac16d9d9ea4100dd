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
    /// The page map: ranges as long as can be, by their first frame.
    ranges: BTreeMap<u64, (u64, Owner)>,
    /// First frames of the ranges of each owner.
    owned: BTreeMap<Owner, BTreeSet<u64>>,
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
        self.ranges.insert(first, (frames, owner));
        self.owned.entry(owner).or_default().insert(first);
    }

    fn remove(&mut self, first: u64) {
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
        let touched: Vec<_> = self.ranges.range(from..=end).map(|(&f, &r)| (f, r)).collect();
        for (piece, (count, of)) in touched {
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
        self.ranges.range(..=frame).next_back().map_or(0, |(&first, _)| first)
    }

    /// Who owns the frames of a range.
    pub(crate) fn pieces(&self, range: Range) -> impl Iterator<Item = OwnedRange> + '_ {
        let end = range.first.saturating_add(range.frames);
        let all = self.ranges.range(self.before(range.first)..end);
        all.filter_map(move |(&first, &(frames, owner))| {
            let stop = first.saturating_add(frames).min(end);
            let first = first.max(range.first);
            (first < stop).then(|| OwnedRange { first, frames: stop - first, owner })
        })
    }

    /// The ranges of an owner, rising.
    pub(crate) fn of_owner(&self, owner: Owner) -> impl Iterator<Item = OwnedRange> + '_ {
        self.owned.get(&owner).into_iter().flatten().filter_map(move |&first| {
            let (frames, owner) = *self.ranges.get(&first)?;
            Some(OwnedRange { first, frames, owner })
        })
    }

    /// The partition of this name.
    pub(crate) fn named<'i>(&'i self, name: &'i [u8; 32]) -> impl Iterator<Item = u32> + 'i {
        let found = self.partitions.iter().filter(move |(_, brief)| brief.name == *name);
        found.map(|(&number, _)| number)
    }
}
