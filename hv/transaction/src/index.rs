//! What is looked up often of the database: names, channels, and ranges of memory by owner.
//!
//! It is derived from the database and follows every change of it, so that planning takes time by
//! what a request changes and not by the size of the machine.
//!
//! Rule: [`Index::of`] the database is what it says at any time.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use pv_abi::uv::command::Range;
use pv_abi::uv::database::{ChannelEntry, FIRST_GUEST, TIER_FRAMES};
use resource_db::{Database, MAX_FRAMES, OwnedRange, Owner};

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

/// What an owner has of the page map.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Held {
    /// Entries of each tier.
    pub(crate) tiers: [u64; TIER_FRAMES.len()],
    /// Frames.
    pub(crate) frames: u64,
}

impl Held {
    /// What a range takes of a map of so many frames: the shape of the map follows from who owns
    /// what, with entries as large as can be, and what lies past its end is the last owner's.
    fn of(first: u64, frames: u64, all: u64) -> Self {
        let end = first.saturating_add(frames);
        let mut held = Self { frames, ..Self::default() };
        held.add(0, first, if end == all { MAX_FRAMES } else { end }, all);
        held
    }

    /// Counts the entries of a tier and of those below from a frame to another.
    fn add(&mut self, tier: usize, first: u64, end: u64, all: u64) {
        let (Some(size), true) = (TIER_FRAMES.get(tier), first < end) else {
            return;
        };
        let (from, to) = (first.next_multiple_of(*size), end / size * size);
        if from >= to {
            return self.add(tier + 1, first, end, all);
        }
        if let Some(entries) = self.tiers.get_mut(tier) {
            *entries += to.min(all).saturating_sub(from).div_ceil(*size);
        }
        self.add(tier + 1, first, from, all);
        self.add(tier + 1, to, end, all);
    }

    fn change(&mut self, by: &Self, change: impl Fn(u64, u64) -> u64) {
        for (entries, by) in self.tiers.iter_mut().zip(by.tiers) {
            *entries = change(*entries, by);
        }
        self.frames = change(self.frames, by.frames);
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Index {
    /// Partitions by number.
    pub(crate) partitions: BTreeMap<u32, Brief>,
    /// Numbers of the partitions by their names.
    names: BTreeMap<[u8; 32], BTreeSet<u32>>,
    /// Virtual CPUs of all partitions, and partitions with CPUs of their own.
    pub(crate) vcpus: u32,
    pub(crate) dedicated: u32,
    /// Channels in use.
    pub(crate) channels: BTreeMap<u32, ChannelEntry>,
    /// Entries of the channel table that are not in use.
    pub(crate) free_channels: BTreeSet<u32>,
    /// The channels in use by partition, at either end.
    ends: BTreeSet<(u32, u32)>,
    /// The page map: ranges as long as can be, by their first frame. A frame number has 30 bits, and
    /// an owner is kept as the page-map entry that names it: a host may have very many ranges.
    ranges: BTreeMap<u32, (u32, u32)>,
    /// First frames of the ranges of each owner.
    owned: BTreeMap<u32, BTreeSet<u32>>,
    /// What each owner has.
    pub(crate) held: BTreeMap<u32, Held>,
    /// Frames of the page map.
    frames: u64,
    /// Frames that nobody gets, rising: the monitor did not take them back.
    pub(crate) withheld: Vec<Range>,
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
            && self.names == other.names
            && (self.vcpus, self.dedicated) == (other.vcpus, other.dedicated)
            && self.free_channels == other.free_channels
            && self.ends == other.ends
            && channels(self) == channels(other)
            && self.ranges == other.ranges
            && self.owned == other.owned
            && self.held == other.held
    }
}

impl Index {
    /// What the database says.
    pub(crate) fn of(database: &Database) -> Self {
        let mut index = Self { frames: database.reader().frames(), ..Self::default() };
        for number in database.numbers() {
            index.read_partition(database, number);
        }
        (0..database.channel_entries()).for_each(|entry| index.read_channel(database, entry));
        for range in database.reader().ranges(0) {
            index.insert(range.first, range.frames, range.owner);
        }
        index
    }

    /// Follows a change that was written.
    pub(crate) fn follow(&mut self, database: &Database, change: &Change, redo: bool) {
        match change {
            Change::Descriptor { number, .. } | Change::Fields { number, .. } => {
                self.read_partition(database, *number);
            }
            Change::Channel { index, .. } => self.read_channel(database, *index),
            Change::Pages { first, frames, before, after } => {
                let entry = if redo { *after } else { *before };
                self.set_owner(*first, *frames, Owner::from_entry(entry));
            }
        }
    }

    fn read_channel(&mut self, database: &Database, index: u32) {
        if let Some(old) = self.channels.remove(&index) {
            self.ends.remove(&(old.a, index));
            self.ends.remove(&(old.b, index));
        }
        match database.reader().channel(index) {
            Ok(entry) => {
                self.free_channels.remove(&index);
                self.ends.extend([(entry.a, index), (entry.b, index)]);
                self.channels.insert(index, entry);
            }
            Err(_) => drop(self.free_channels.insert(index)),
        }
    }

    /// The channels of a partition, at either end.
    pub(crate) fn channels_of(
        &self,
        number: u32,
    ) -> impl Iterator<Item = (u32, ChannelEntry)> + '_ {
        let of = self.ends.range((number, 0)..=(number, u32::MAX));
        of.filter_map(|(_, index)| Some((*index, *self.channels.get(index)?)))
    }

    /// Forgets a partition; whether it was known.
    fn forget_partition(&mut self, number: u32) -> bool {
        let Some(old) = self.partitions.remove(&number) else {
            return false;
        };
        self.vcpus = self.vcpus.saturating_sub(old.vcpus);
        self.dedicated = self.dedicated.saturating_sub(old.dedicated.into());
        if let Some(numbers) = self.names.get_mut(&old.name) {
            numbers.remove(&number);
            if numbers.is_empty() {
                self.names.remove(&old.name);
            }
        }
        true
    }

    fn read_partition(&mut self, database: &Database, number: u32) {
        let known = self.forget_partition(number);
        let Ok(descriptor) = database.reader().descriptor(number) else {
            return;
        };
        let dedicated = descriptor.cpu_dedicated != 0;
        let vcpus = descriptor.vcpus;
        let brief = Brief { name: descriptor.name, dedicated, vcpus };
        self.vcpus = self.vcpus.saturating_add(vcpus);
        self.dedicated = self.dedicated.saturating_add(dedicated.into());
        self.names.entry(brief.name).or_default().insert(number);
        self.partitions.insert(number, brief);
        if !known && number >= FIRST_GUEST {
            self.last_number = number;
        }
    }

    fn insert(&mut self, first: u64, frames: u64, owner: Owner) {
        let more = Held::of(first, frames, self.frames);
        self.held.entry(owner.entry()).or_default().change(&more, u64::saturating_add);
        let first = narrow(first);
        self.ranges.insert(first, (narrow(frames), owner.entry()));
        self.owned.entry(owner.entry()).or_default().insert(first);
    }

    fn remove(&mut self, first: u64) {
        let at = narrow(first);
        let Some((frames, owner)) = self.ranges.remove(&at) else {
            return;
        };
        if let Some(held) = self.held.get_mut(&owner) {
            held.change(&Held::of(first, frames.into(), self.frames), u64::saturating_sub);
        }
        if let Some(of) = self.owned.get_mut(&owner) {
            of.remove(&at);
            if of.is_empty() {
                self.owned.remove(&owner);
                self.held.remove(&owner);
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
    pub(crate) fn named(&self, name: &[u8; 32]) -> impl Iterator<Item = u32> + '_ {
        self.names.get(name).into_iter().flatten().copied()
    }
}

/// A frame or a count of frames: no machine has more than 2^30 (see [`resource_db::MAX_FRAMES`]).
fn narrow(frames: u64) -> u32 {
    u32::try_from(frames).unwrap_or(u32::MAX)
}

fn owned_range((&first, &(frames, owner)): (&u32, &(u32, u32))) -> OwnedRange {
    OwnedRange { first: first.into(), frames: frames.into(), owner: Owner::from_entry(owner) }
}
