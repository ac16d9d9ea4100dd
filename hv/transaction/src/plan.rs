//! A plan: the changes that a transaction would make to the database, worked out beside it.
//!
//! Operations are planned in order on an overlay, so that each sees the effects of those before it.
//! The plan writes nothing. The result is a list of changes for the log and the database, and a
//! list of actions for the monitor.
//!
//! Rule: the monitor acts when all of the plan is in the database, so the plan may not depend on a
//! state in between. Memory, numbers and channel entries that a transaction releases are not handed
//! out again by the same transaction.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::vec::Vec;

use control::command::{Code, Outcome, Range, Refusal, Target};
use pv_abi::uv::database::{ChannelEntry, FIRST_GUEST, PartitionDescriptor, channel_kind};
use pv_abi::uv::devices::DeviceEntry;
use pv_abi::uv::endpoints::{Endpoint, endpoint_state};
use resource_db::{Database, OwnedRange, Owner, WriteError};

use crate::change::{Change, of_descriptor, packed};
use crate::engine::Limits;
use crate::index::{Brief, Index};
use crate::refusal::{from_write, label, refusal};
use crate::{Action, space};

/// Maximum number of ranges that one transaction may change, so that its record fits the log.
pub(crate) const MAX_RANGES: usize = 1024;

/// Frames that change their owner.
#[derive(Clone, Copy, Debug)]
struct Moved {
    range: Range,
    before: Owner,
    after: Owner,
}

/// A plan; see the module.
pub(crate) struct Plan<'d, 'a> {
    database: &'d Database<'a>,
    index: &'d Index,
    descriptors: BTreeMap<u32, Option<Box<PartitionDescriptor>>>,
    channels: BTreeMap<u32, ChannelEntry>,
    /// Owners of PCI functions, by index, and who gets each next; 0 for nobody.
    devices: BTreeMap<u32, (u32, u32)>,
    endpoints: BTreeMap<u32, Box<Endpoint>>,
    moved: Vec<Moved>,
    free: Option<Vec<Range>>,
    /// The actions for the monitor, in order.
    pub(crate) actions: Vec<Action>,
    /// Partitions created, by the index of the operation.
    pub(crate) created: BTreeMap<u32, u32>,
    /// Partitions that give everything back once the transaction is committed.
    pub(crate) destroyed: Vec<u32>,
    /// Requests of the caller that this transaction completes.
    pub(crate) completed: Vec<u64>,
    /// One outcome per operation.
    pub(crate) outcomes: Vec<Outcome>,
}

impl<'d, 'a> Plan<'d, 'a> {
    /// An empty plan on a database and its index.
    pub(crate) fn new(database: &'d Database<'a>, index: &'d Index) -> Self {
        Self {
            database,
            index,
            descriptors: BTreeMap::new(),
            channels: BTreeMap::new(),
            devices: BTreeMap::new(),
            endpoints: BTreeMap::new(),
            moved: Vec::new(),
            free: None,
            actions: Vec::new(),
            created: BTreeMap::new(),
            destroyed: Vec::new(),
            completed: Vec::new(),
            outcomes: Vec::new(),
        }
    }

    pub(crate) fn number_end(&self) -> u32 {
        self.database.number_end()
    }

    pub(crate) fn next_version(&self) -> u64 {
        self.database.contents().saturating_add(1)
    }

    /// The descriptor of a partition, as the plan leaves it.
    pub(crate) fn descriptor(&self, number: u32) -> Option<Box<PartitionDescriptor>> {
        match self.descriptors.get(&number) {
            Some(planned) => planned.clone(),
            None => self.database.reader().descriptor(number).ok().map(Box::new),
        }
    }

    pub(crate) fn set_descriptor(&mut self, descriptor: Box<PartitionDescriptor>) {
        self.descriptors.insert(descriptor.number, Some(descriptor));
    }

    pub(crate) fn remove_descriptor(&mut self, number: u32) {
        self.descriptors.insert(number, None);
    }

    /// Makes the monitor read a descriptor, once, when all of the plan is in the database.
    pub(crate) fn activate(&mut self, number: u32) {
        let action = Action::Partition(number);
        if !self.actions.contains(&action) {
            self.actions.push(action);
        }
    }

    /// Returns whether CPUs are dedicated to any partition.
    pub(crate) fn any_dedicated(&self) -> bool {
        let touched = self.touched().filter(|brief| brief.dedicated).count();
        self.index.dedicated as usize > touched
            || self.descriptors.values().flatten().any(|planned| planned.cpu_dedicated != 0)
    }

    /// Number of virtual CPUs of all partitions.
    pub(crate) fn vcpus(&self) -> u32 {
        let touched = self.touched().fold(0, |sum: u32, brief| sum.saturating_add(brief.vcpus));
        let planned = self.descriptors.values().flatten().map(|planned| planned.vcpus);
        planned.fold(self.index.vcpus.saturating_sub(touched), u32::saturating_add)
    }

    /// The partitions that the plan changes or removes, as they are in the database.
    fn touched(&self) -> impl Iterator<Item = &Brief> {
        self.descriptors.keys().filter_map(|number| self.index.partitions.get(number))
    }

    /// The partition with this name, as the plan leaves it.
    pub(crate) fn named(&self, name: &[u8; 32]) -> Option<u32> {
        let old = self.index.named(name).find(|number| !self.descriptors.contains_key(number));
        old.or_else(|| {
            let mut planned = self.descriptors.values().flatten();
            planned.find(|planned| planned.name == *name).map(|planned| planned.number)
        })
    }

    /// All partitions, as the plan leaves them.
    pub(crate) fn partitions(&self) -> impl Iterator<Item = Box<PartitionDescriptor>> + '_ {
        let old = self.index.partitions.keys().filter(|n| !self.descriptors.contains_key(n));
        let old = old.filter_map(|&n| self.descriptor(n));
        old.chain(self.descriptors.values().flatten().cloned())
    }

    /// Returns whether a number is free now, and was not freed by this transaction.
    pub(crate) fn is_free(&self, number: u32) -> bool {
        !self.descriptors.contains_key(&number) && !self.index.partitions.contains_key(&number)
    }

    /// A free number for a guest: the next after the last assigned one, so that a number is reused
    /// as late as possible. Grants and ports of other partitions may still name its earlier owner.
    pub(crate) fn free_number(&self) -> Option<u32> {
        let after = self.index.last_number.saturating_add(1).max(FIRST_GUEST);
        let later = after..self.number_end();
        later.chain(FIRST_GUEST..after).find(|&number| self.is_free(number))
    }

    /// The partition number that an operation names. Refuses an operation that creates no
    /// partition.
    pub(crate) fn number(&self, target: Target) -> Result<u32, Refusal> {
        match target {
            Target::Number(number) => Ok(number),
            Target::CreatedBy(operation) => {
                self.created.get(&operation).copied().ok_or_else(|| {
                    refusal(
                        Code::NoSuchPartition,
                        format!("operation {operation}"),
                        "partition",
                        "it is not an earlier operation that creates a partition",
                        "name an earlier operation that creates a partition",
                    )
                })
            }
        }
    }

    /// The partition that an operation names. Refuses a number that no partition has.
    pub(crate) fn target(&self, target: Target) -> Result<Box<PartitionDescriptor>, Refusal> {
        let number = self.number(target)?;
        self.descriptor(number).ok_or_else(|| {
            refusal(
                Code::NoSuchPartition,
                format!("partition {number}"),
                "number",
                "there is no partition of this number",
                "use a number that `uvtool list --all` shows",
            )
        })
    }

    /// The channels of a partition, at either end, as the plan leaves them.
    pub(crate) fn channels_of(&self, number: u32) -> Vec<(u32, ChannelEntry)> {
        let untouched = |index: &u32| !self.channels.contains_key(index);
        let old = self.index.channels_of(number).filter(|(index, _)| untouched(index));
        let planned = self.channels.iter().map(|(index, entry)| (*index, *entry));
        let of = |entry: &ChannelEntry| entry.a == number || entry.b == number;
        let planned = planned.filter(|(_, c)| c.kind != channel_kind::FREE && of(c));
        old.chain(planned).collect()
    }

    /// Number of entries of the channel table.
    pub(crate) fn channel_entries(&self) -> u32 {
        self.database.channel_entries()
    }

    /// The lowest channel index that is free and that this transaction did not free.
    pub(crate) fn free_channel(&self) -> Option<u32> {
        let mut free = self.index.free_channels.iter().copied();
        free.find(|index| !self.channels.contains_key(index))
    }

    pub(crate) fn set_channel(&mut self, index: u32, entry: ChannelEntry) {
        self.channels.insert(index, entry);
    }

    /// Number of PCI functions of the machine.
    pub(crate) fn devices(&self) -> u32 {
        self.database.devices()
    }

    /// The owner of a PCI function, as the plan leaves it. Returns `None` if there is no such
    /// function.
    pub(crate) fn device(&self, index: u32) -> Option<u32> {
        self.device_places(index).map(|(owner, _)| owner)
    }

    /// The partition that gets a PCI function after its owner, as the plan leaves it; 0 for none.
    pub(crate) fn next_owner(&self, index: u32) -> u32 {
        self.device_places(index).map_or(0, |(_, next)| next)
    }

    fn device_places(&self, index: u32) -> Option<(u32, u32)> {
        let planned = self.devices.get(&index).copied();
        planned.or_else(|| Some(places(&self.database.reader().device(index).ok()?)))
    }

    /// Sets the partition that gets a PCI function once its owner has let go of it; 0 for none.
    pub(crate) fn set_next_owner(&mut self, index: u32, next: u32) {
        if let Some((owner, _)) = self.device_places(index) {
            self.devices.insert(index, (owner, next));
        }
    }

    /// Changes the owner of a PCI function. The monitor follows after all that was planned before:
    /// an owner that gives it up has stopped then, and a new owner is there.
    pub(crate) fn set_device(&mut self, index: u32, owner: u32) {
        self.devices.insert(index, (owner, 0));
        let action = Action::Device(index);
        self.actions.retain(|planned| *planned != action);
        self.actions.push(action);
    }

    /// Number of entries of the endpoint table.
    pub(crate) fn endpoints(&self) -> u32 {
        self.database.endpoints()
    }

    /// The lowest endpoint that is free and that this transaction did not free.
    pub(crate) fn free_endpoint(&self) -> Option<u32> {
        let mut free = self.index.free_endpoints.iter().copied();
        free.find(|index| !self.endpoints.contains_key(index))
    }

    /// An endpoint, as the plan leaves it.
    pub(crate) fn endpoint(&self, index: u32) -> Result<Box<Endpoint>, WriteError> {
        match self.endpoints.get(&index) {
            Some(planned) => Ok(planned.clone()),
            None => self.database.endpoint(index).map_err(WriteError::Read),
        }
    }

    pub(crate) fn set_endpoint(&mut self, index: u32, entry: Box<Endpoint>) {
        self.endpoints.insert(index, entry);
    }

    /// The endpoint of a partition's disk, as the plan leaves it.
    pub(crate) fn disk(&self, number: u32, device: u32) -> Option<(u32, Box<Endpoint>)> {
        let old = self.index.disks_of(number).filter(|(_, disk)| disk.device == device);
        let planned = self.endpoints.iter().filter(|(_, entry)| {
            (entry.client, entry.device) == (number, device) && entry.state != endpoint_state::FREE
        });
        let index = planned.map(|(index, _)| *index).chain(old.map(|(index, _)| index)).next()?;
        Some((index, self.endpoint(index).ok()?))
    }

    /// The endpoints that have sectors of any of these PCI functions, as the plan leaves them.
    pub(crate) fn endpoints_on(&self, functions: &[u32]) -> Vec<(u32, Box<Endpoint>)> {
        let mut on: Vec<u32> =
            functions.iter().flat_map(|function| self.index.endpoints_on(*function)).collect();
        on.extend(self.endpoints.keys());
        on.sort_unstable();
        on.dedup();
        let entries = on.into_iter().filter_map(|index| Some((index, self.endpoint(index).ok()?)));
        entries.filter(|(_, entry)| entry.state != endpoint_state::FREE).collect()
    }

    /// The owners of the frames of a range, as the plan leaves them. Returns `None` if the map ends
    /// within the range.
    pub(crate) fn owners(&self, range: Range) -> Option<Vec<OwnedRange>> {
        let end = range.first.checked_add(range.frames)?;
        if range.frames == 0 || end > self.database.reader().frames() {
            return None;
        }
        let mut pieces: Vec<OwnedRange> = self.index.pieces(range).collect();
        for moved in &self.moved {
            pieces = pieces.into_iter().flat_map(|piece| overlay(piece, moved)).collect();
        }
        Some(pieces)
    }

    fn free(&mut self) -> &mut Vec<Range> {
        let index = self.index;
        self.free.get_or_insert_with(|| free_ranges(index))
    }

    /// The number of free frames, as the plan leaves them, and the longest run of them.
    pub(crate) fn free_frames(&mut self) -> (u64, u64) {
        let free = self.free();
        let longest = free.iter().map(|range| range.frames).max();
        (free.iter().map(|range| range.frames).sum(), longest.unwrap_or(0))
    }

    /// Takes one run of free frames for `owner`.
    pub(crate) fn take_run(&mut self, frames: u64, owner: u32) -> Option<Range> {
        let range = space::contiguous(self.free(), frames)?;
        space::take(self.free(), &[range]);
        self.move_pages(range, Owner::FREE, Owner::ram(owner));
        Some(range)
    }

    /// Takes free frames for `owner` in as few extents as possible. They may bring the ranges that
    /// the transaction changes up to [`MAX_RANGES`]; if more are needed, returns one extent too
    /// many.
    pub(crate) fn take_frames(&mut self, frames: u64, owner: u32) -> Option<Vec<Range>> {
        let most = MAX_RANGES.saturating_sub(self.moved.len());
        let ranges = space::choose(self.free(), frames, most)?;
        space::take(self.free(), &ranges);
        for range in &ranges {
            self.move_pages(*range, Owner::FREE, Owner::ram(owner));
        }
        Some(ranges)
    }

    /// Checks that the page map has room for the plan: ranges of each partition, ranges of all, and
    /// index pages. A plan that reduces them is never refused.
    pub(crate) fn check_room(&self, limits: &Limits) -> Result<(), Refusal> {
        if self.moved.is_empty() {
            return Ok(());
        }
        let mut more: BTreeMap<u32, i64> = BTreeMap::new();
        let mut all = 0i64;
        for moved in &self.moved {
            let (before, after) = self.more_ranges(moved);
            *more.entry(moved.before.number).or_default() += before;
            *more.entry(moved.after.number).or_default() += after;
            all = all.saturating_add(before).saturating_add(after);
        }
        let grown = |has: usize, more: i64| has.saturating_add(usize::try_from(more).unwrap_or(0));
        let most = limits.ranges_of_partition();
        for (&number, &more) in more.iter().filter(|(number, more)| **number != 0 && **more > 0) {
            let ranges = grown(self.index.ranges_of(Owner::ram(number)), more);
            if ranges > most {
                let object = self.descriptor(number).map(|partition| label(&partition));
                return Err(too_many_ranges(&object.unwrap_or_default(), ranges, most));
            }
        }
        let (ranges, most) = (grown(self.index.ranges(), all), limits.ranges as usize);
        if all > 0 && ranges > most {
            return Err(too_many_ranges("page map", ranges, most));
        }
        let changes =
            self.moved.iter().map(|moved| (moved.range.first, moved.range.frames, moved.after));
        let needed = self.database.pages_for(changes).map_err(from_write)?;
        let free = self.database.free_pages();
        if needed > free {
            return Err(from_write(WriteError::Full(needed - free)));
        }
        Ok(())
    }

    /// Returns how many ranges a change adds to the owner before it, and to the owner after it.
    /// Both counts may be slightly too high if a transaction changes adjacent ranges.
    fn more_ranges(&self, moved: &Moved) -> (i64, i64) {
        let end = moved.range.first.saturating_add(moved.range.frames);
        let at = self.index.range_at(moved.range.first);
        let before = at.map_or(1, |range| {
            let front = i64::from(range.first < moved.range.first);
            front + i64::from(end < range.first.saturating_add(range.frames)) - 1
        });
        let joins = |frame: Option<u64>| {
            let beside = frame.and_then(|frame| self.index.range_at(frame));
            i64::from(beside.is_some_and(|range| range.owner == moved.after))
        };
        (before, 1 - joins(moved.range.first.checked_sub(1)) - joins(Some(end)))
    }

    /// Changes the owner of a range that has one owner.
    pub(crate) fn move_pages(&mut self, range: Range, before: Owner, after: Owner) {
        self.moved.push(Moved { range, before, after });
        self.actions.push(Action::Pages { first: range.first, frames: range.frames });
    }

    /// Number of ranges that change owner so far.
    pub(crate) fn ranges(&self) -> usize {
        self.moved.len()
    }

    /// The changes to log and apply, in order.
    pub(crate) fn changes(&self) -> Vec<Change> {
        let reader = self.database.reader();
        let mut changes = Vec::new();
        for (&number, after) in &self.descriptors {
            let mut before = reader.descriptor(number).ok().map(Box::new);
            let mut after = after.clone();
            for descriptor in [&mut before, &mut after].into_iter().flatten() {
                descriptor.generation = 0;
            }
            changes.push(of_descriptor(number, before.as_deref(), after.as_deref()));
        }
        changes.extend(self.moved.iter().map(|moved| Change::Pages {
            first: moved.range.first,
            frames: moved.range.frames,
            before: moved.before.entry(),
            after: moved.after.entry(),
        }));
        for (&index, after) in &self.channels {
            let mut before = reader.channel(index).ok();
            let mut after = (after.kind != channel_kind::FREE).then_some(*after);
            for entry in [&mut before, &mut after].into_iter().flatten() {
                entry.generation = 0;
            }
            changes.push(Change::Channel {
                index,
                before: packed(before.as_ref()),
                after: packed(after.as_ref()),
            });
        }
        for (&index, &(after, next)) in &self.devices {
            let Ok(now) = reader.device(index) else { continue };
            let (before, epoch) = (now.owner, now.epoch);
            let (_, was) = places(&now);
            if was != next {
                let (owner, before, after) = (before, was, next);
                changes.push(Change::Next { index, owner, epoch, before, after });
            }
            if before != after {
                changes.push(Change::Device { index, before, after, epoch });
            }
        }
        for (&index, after) in &self.endpoints {
            let Ok(mut before) = self.database.endpoint(index) else { continue };
            let mut after = after.clone();
            (before.generation, after.generation) = (0, 0);
            changes.push(Change::Endpoint {
                index,
                before: packed(Some(before.as_ref())),
                after: packed(Some(after.as_ref())),
            });
        }
        changes
    }
}

/// The owner of a PCI function, and the partition that gets it next; 0 for none.
fn places(entry: &DeviceEntry) -> (u32, u32) {
    (entry.owner, u32::try_from(entry.next[0]).unwrap_or(0))
}

/// A piece, split by the part whose owner `moved` changes.
fn overlay(piece: OwnedRange, moved: &Moved) -> impl Iterator<Item = OwnedRange> + use<> {
    let end = piece.first + piece.frames;
    let a = moved.range.first.clamp(piece.first, end);
    let b = (moved.range.first + moved.range.frames).clamp(a, end);
    let parts = [(piece.first, a, piece.owner), (a, b, moved.after), (b, end, piece.owner)];
    parts.into_iter().filter(|(from, to, _)| from < to).map(|(from, to, owner)| OwnedRange {
        first: from,
        frames: to - from,
        owner,
    })
}

/// The ranges of free RAM. Frame 0 is never handed out: 0 stands for "none" in a descriptor.
fn free_ranges(index: &Index) -> Vec<Range> {
    let mut free: Vec<Range> = index
        .of_owner(Owner::FREE)
        .map(|range| Range { first: range.first, frames: range.frames })
        .collect();
    if let Some(first) = free.first_mut().filter(|range| range.first == 0) {
        (first.first, first.frames) = (1, first.frames - 1);
    }
    free.retain(|range| range.frames > 0);
    if !index.withheld.is_empty() {
        space::take(&mut free, &index.withheld);
    }
    free
}

/// The refusal of a change that would leave memory in too many ranges.
fn too_many_ranges(object: &str, ranges: usize, most: usize) -> Refusal {
    refusal(
        Code::TooManyRanges,
        object,
        "ranges",
        format!("its memory would lie in {ranges} ranges, and at most {most} can be kept"),
        "release whole ranges, or destroy a partition; `uvtool resources --map` shows them",
    )
}

#[cfg(test)]
mod tests;
