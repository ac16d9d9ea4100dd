//! An index of the parts of the database that are often looked up: names, channels, and ranges of
//! memory and PCI functions by owner.
//!
//! The index is derived from the database and follows every change of it. So the time to plan
//! depends on the size of a request, not on the size of the machine.
//!
//! Rule: the index equals [`Index::of`] the database at any time.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use control::command::Range;
use pv_abi::uv::database::{ChannelEntry, FIRST_GUEST, TIER_FRAMES, UNASSIGNED};
use pv_abi::uv::endpoints::endpoint_state;
use resource_db::{Database, MAX_FRAMES, OwnedRange, Owner};

use crate::change::{Change, packed};
use crate::disks::functions_of;

/// The part of a descriptor that the index keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Brief {
    /// The name in its descriptor.
    pub(crate) name: [u8; 32],
    /// Whether CPUs are dedicated to it.
    pub(crate) dedicated: bool,
    /// Number of virtual CPUs that it may bring up.
    pub(crate) vcpus: u32,
}

/// The fields that the index keeps of each endpoint that is in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Disk {
    /// The partition that has it.
    pub(crate) client: u32,
    /// The number of the virtual device.
    pub(crate) device: u32,
    /// Whether the disk is detaching.
    pub(crate) detaching: bool,
    /// The PCI functions whose sectors the disk has.
    functions: Vec<u32>,
}

/// The ranges that an owner holds in the page map.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Held {
    /// Entries in each tier.
    pub(crate) tiers: [u64; TIER_FRAMES.len()],
    /// Number of frames.
    pub(crate) frames: u64,
}

impl Held {
    /// The entries that a range takes in a map of `all` frames. Ownership determines the shape of
    /// the map, with entries as large as possible; the part past the map's end counts for the last
    /// owner.
    fn of(first: u64, frames: u64, all: u64) -> Self {
        let end = first.saturating_add(frames);
        let mut held = Self { frames, ..Self::default() };
        held.add(0, first, if end == all { MAX_FRAMES } else { end }, all);
        held
    }

    /// Counts the entries from one frame to another, in a tier and the tiers below.
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

/// The index; see the module.
#[derive(Debug, Default)]
pub(crate) struct Index {
    /// Partitions by number.
    pub(crate) partitions: BTreeMap<u32, Brief>,
    /// Numbers of the partitions, by name.
    names: BTreeMap<[u8; 32], BTreeSet<u32>>,
    /// Virtual CPUs of all partitions, and the number of partitions with dedicated CPUs.
    pub(crate) vcpus: u32,
    pub(crate) dedicated: u32,
    /// Channels in use.
    pub(crate) channels: BTreeMap<u32, ChannelEntry>,
    /// Entries of the channel table that are not in use.
    pub(crate) free_channels: BTreeSet<u32>,
    /// The channels in use, by the partition at either end.
    ends: BTreeSet<(u32, u32)>,
    /// The endpoints in use, and those that are free.
    endpoints: BTreeMap<u32, Disk>,
    pub(crate) free_endpoints: BTreeSet<u32>,
    /// The endpoints in use, by client, and by the PCI functions whose sectors they have.
    clients: BTreeSet<(u32, u32)>,
    media: BTreeSet<(u32, u32)>,
    /// The PCI functions that partitions have, by owner.
    functions: BTreeSet<(u32, u32)>,
    /// The page map as maximal ranges, by their first frame. To save memory, since a host may have
    /// very many ranges, a frame number has 32 bits and an owner is kept as the page-map entry that
    /// names it.
    ranges: BTreeMap<u32, (u32, u32)>,
    /// First frames of the ranges of each owner.
    owned: BTreeMap<u32, BTreeSet<u32>>,
    /// The totals of each owner.
    pub(crate) held: BTreeMap<u32, Held>,
    /// Frames of the page map.
    frames: u64,
    /// Frames that are assigned to no partition, in ascending order, because the monitor has not
    /// taken them back.
    pub(crate) withheld: Vec<Range>,
    /// The guest number assigned last; after a database was read, the highest in it.
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
            && self.functions == other.functions
            && (&self.endpoints, &self.free_endpoints) == (&other.endpoints, &other.free_endpoints)
            && (&self.clients, &self.media) == (&other.clients, &other.media)
            && channels(self) == channels(other)
            && self.ranges == other.ranges
            && self.owned == other.owned
            && self.held == other.held
    }
}

impl Index {
    /// Builds the index of a database.
    pub(crate) fn of(database: &Database) -> Self {
        let mut index = Self { frames: database.reader().frames(), ..Self::default() };
        for number in database.numbers() {
            index.read_partition(database, number);
        }
        (0..database.channel_entries()).for_each(|entry| index.read_channel(database, entry));
        (0..database.endpoints()).for_each(|entry| index.read_endpoint(database, entry));
        let owner = |device: u32| Some((database.reader().device(device).ok()?.owner, device));
        let owned = (0..database.devices()).filter_map(owner);
        index.functions = owned.filter(|(owner, _)| *owner != UNASSIGNED).collect();
        for range in database.reader().ranges(0) {
            index.insert(range.first, range.frames, range.owner);
        }
        index
    }

    /// Updates the index after a change was written.
    pub(crate) fn follow(&mut self, database: &Database, change: &Change, redo: bool) {
        match change {
            Change::Descriptor { number, .. } | Change::Fields { number, .. } => {
                self.read_partition(database, *number);
            }
            Change::Channel { index, .. } => self.read_channel(database, *index),
            Change::Endpoint { index, .. } => self.read_endpoint(database, *index),
            Change::Pages { first, frames, before, after } => {
                let entry = if redo { *after } else { *before };
                self.set_owner(*first, *frames, Owner::from_entry(entry));
            }
            Change::Next { .. } => {}
            Change::Device { index, before, after, .. } => {
                let (from, to) = if redo { (before, after) } else { (after, before) };
                self.functions.remove(&(*from, *index));
                if *to != UNASSIGNED {
                    self.functions.insert((*to, *index));
                }
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

    fn read_endpoint(&mut self, database: &Database, index: u32) {
        if let Some(old) = self.endpoints.remove(&index) {
            self.clients.remove(&(old.client, index));
            for function in old.functions {
                self.media.remove(&(function, index));
            }
        }
        // An entry that was being written is read again when the change is taken back.
        let entry = database.endpoint(index).ok();
        let Some(entry) = entry.filter(|entry| entry.state != endpoint_state::FREE) else {
            self.free_endpoints.insert(index);
            return;
        };
        let (client, device) = (entry.client, entry.device);
        let detaching = entry.state == endpoint_state::DETACHING;
        let functions = functions_of(&entry);
        self.free_endpoints.remove(&index);
        self.clients.insert((client, index));
        self.media.extend(functions.iter().map(|function| (*function, index)));
        self.endpoints.insert(index, Disk { client, device, detaching, functions });
    }

    /// The disks of a partition, with the indices of their endpoints.
    pub(crate) fn disks_of(&self, number: u32) -> impl Iterator<Item = (u32, &Disk)> + '_ {
        let of = self.clients.range((number, 0)..=(number, u32::MAX));
        of.filter_map(|(_, index)| Some((*index, self.endpoints.get(index)?)))
    }

    /// The endpoints in use, from an index on.
    pub(crate) fn disks_from(&self, first: u32) -> impl Iterator<Item = u32> + '_ {
        self.endpoints.range(first..).map(|(&index, _)| index)
    }

    /// The endpoints that have sectors of a PCI function.
    pub(crate) fn endpoints_on(&self, function: u32) -> impl Iterator<Item = u32> + '_ {
        self.media.range((function, 0)..=(function, u32::MAX)).map(|(_, index)| *index)
    }

    /// The endpoints that are detaching.
    pub(crate) fn detaching(&self) -> impl Iterator<Item = u32> + '_ {
        let detaching = self.endpoints.iter().filter(|(_, disk)| disk.detaching);
        detaching.map(|(index, _)| *index)
    }

    /// The PCI functions of a partition, by index.
    pub(crate) fn functions_of(&self, number: u32) -> impl Iterator<Item = u32> + '_ {
        self.functions.range((number, 0)..=(number, u32::MAX)).map(|(_, index)| *index)
    }

    /// Removes a partition. Returns whether the index had it.
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
        // Removes the ranges that it touches, then adds their remains again, joined with neighbours
        // of the same owner.
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

    /// The first frame of the range that contains a frame.
    fn before(&self, frame: u64) -> u64 {
        self.ranges.range(..=narrow(frame)).next_back().map_or(0, |(&first, _)| first.into())
    }

    /// Number of ranges of all owners.
    pub(crate) fn ranges(&self) -> usize {
        self.ranges.len()
    }

    /// Number of ranges of an owner.
    pub(crate) fn ranges_of(&self, owner: Owner) -> usize {
        self.owned.get(&owner.entry()).map_or(0, BTreeSet::len)
    }

    /// The range that contains a frame.
    pub(crate) fn range_at(&self, frame: u64) -> Option<OwnedRange> {
        let found = self.ranges.range(..=narrow(frame)).next_back().map(owned_range);
        found.filter(|range| frame - range.first < range.frames)
    }

    /// The pieces of a range, with their owners.
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

    /// The ranges of an owner, in ascending order.
    pub(crate) fn of_owner(&self, owner: Owner) -> impl Iterator<Item = OwnedRange> + '_ {
        self.of_owner_from(owner, 0)
    }

    /// The ranges of an owner that start at `first` or later, in ascending order.
    pub(crate) fn of_owner_from(
        &self,
        owner: Owner,
        from: u64,
    ) -> impl Iterator<Item = OwnedRange> + '_ {
        let firsts = self.owned.get(&owner.entry()).into_iter();
        let firsts = firsts.flat_map(move |of| of.range(narrow(from)..));
        firsts.filter_map(|first| self.ranges.get(first).map(|range| owned_range((first, range))))
    }

    /// The partitions with this name.
    pub(crate) fn named(&self, name: &[u8; 32]) -> impl Iterator<Item = u32> + '_ {
        self.names.get(name).into_iter().flatten().copied()
    }
}

/// Narrows a frame or a count of frames: no machine has more than 2^30 (see
/// [`resource_db::MAX_FRAMES`]).
fn narrow(frames: u64) -> u32 {
    u32::try_from(frames).unwrap_or(u32::MAX)
}

fn owned_range((&first, &(frames, owner)): (&u32, &(u32, u32))) -> OwnedRange {
    OwnedRange { first: first.into(), frames: frames.into(), owner: Owner::from_entry(owner) }
}
