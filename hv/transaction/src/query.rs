//! Queries: answers from the database, the log and the monitor's counters.
//!
//! Rule: an answer fits one frame of a channel; a longer one is given in parts.

use alloc::boxed::Box;
use alloc::vec::Vec;

use control::command::{
    Answer, BarRow, CpuRow, DeviceRow, Difference, DiskStatus, Heap, IssuesAnswer, ListRow, LogRow,
    MapRow, MemoryRow, PartitionRow, Query, Range, ResourcesAnswer, ShortName, Turns,
    VersionAnswer,
};
use pv_abi::uv::calls::{CpuUsage, PartitionUsage};
use pv_abi::uv::database::{PartitionDescriptor, UNASSIGNED};
use pv_abi::uv::devices::DeviceFunction;
use resource_db::{OwnedRange, Owner};
use zerocopy::FromZeros;

use crate::refusal::name_of;
use crate::{Engine, cpus, disks, replica};

/// Maximum number of bytes of an answer about partitions, and of one row without its name and its
/// CPUs.
const PARTITION_BYTES: usize = 21 * 1024;
const ROW_BYTES: usize = 144;
/// Maximum number of bytes of a row of a list, without its name.
const LIST_ROW_BYTES: usize = 48;
/// Maximum number of rows of an answer about PCI functions, of at most 170 bytes each.
const DEVICE_ROWS: usize = 120;
/// Maximum number of rows of an answer about the page map.
const MAP_ROWS: usize = 1000;
/// Maximum number of bytes of the texts in an answer about the log.
const LOG_TEXT: usize = 12 * 1024;

/// Maximum number of frames that one comparison covers, and of differences that it lists.
const COMPARED_FRAMES: u64 = 16 * 1024;
const DIFFERENCES: usize = 256;

/// The counters and records of the monitor.
pub trait Gauges {
    /// The usage of a partition, if the monitor knows it.
    fn partition(&self, number: u32) -> Option<PartitionUsage>;
    /// The number of virtual CPUs of a partition that are up, and the nanoseconds in which it ran;
    /// zeros if the monitor does not know the partition. A list of a thousand partitions asks for
    /// these alone.
    fn running(&self, number: u32) -> (u32, u64) {
        self.partition(number).map_or((0, 0), |usage| (usage.vcpus_up, usage.cpu_time))
    }
    /// Nanoseconds that the ultravisor spent on requests of a partition.
    fn service_time(&self, _number: u32) -> u64 {
        0
    }
    /// The usage of a physical CPU.
    fn cpu(&self, index: u32) -> Option<CpuUsage>;
    /// The owner of a frame, and whether it is I/O memory. Returns `None` if the monitor has no
    /// record.
    fn frame(&self, frame: u64) -> Option<(u32, bool)>;
    /// The status of the disk of an endpoint; `None` if it is not known.
    fn disk(&self, _endpoint: u32) -> Option<DiskStatus> {
        None
    }
    /// The statistics of the ultravisor's loop.
    fn turns(&self) -> Turns {
        Turns::default()
    }
    /// The heap of the ultravisor partition itself.
    fn heap(&self) -> Heap {
        Heap::default()
    }
}

/// Facts about the machine that are not in the database.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Versions and the command line.
    pub version: VersionAnswer,
    /// The firmware's memory map: pairs of a type and a number of frames.
    pub firmware: Vec<(u32, u64)>,
    /// CPUs: index, local APIC id, online.
    pub cpus: Vec<(u32, u32, bool)>,
    /// The known leaks of the CPU.
    pub issues: IssuesAnswer,
}

/// Answers a query.
#[must_use]
pub fn query(engine: &Engine, facts: &Facts, gauges: &dyn Gauges, query: &Query) -> Answer {
    match query {
        Query::Version => Answer::Version(facts.version.clone()),
        Query::Partitions { after } => partitions(engine, gauges, *after),
        Query::List { after } => list(engine, gauges, *after),
        Query::Devices { first } => devices(engine, *first),
        Query::Disks { first } => disks::query(engine, gauges, *first),
        Query::Partition { name } => partition(engine, gauges, name),
        Query::Resources => Answer::Resources(resources(engine, facts, gauges)),
        Query::PageMap { first, most } => page_map(engine, *first, *most),
        Query::Memory { partition, first, most } => {
            let owner = Owner::ram(*partition);
            map_rows(engine.index.of_owner_from(owner, *first), *most)
        }
        Query::Log { from, most } => log(engine, *from, *most),
        Query::Compare { first } => compare(engine, gauges, *first),
        Query::Arena { first, most } => replica::arena(engine, *first, *most),
        Query::Issues => Answer::Issues(facts.issues.clone()),
        Query::Records { from, most } => replica::records(engine, *from, *most),
    }
}

fn partitions(engine: &Engine, gauges: &dyn Gauges, after: u32) -> Answer {
    let (rows, more) = page(engine, after, ROW_BYTES * 8, Part::Whole, |descriptor| {
        let number = descriptor.number;
        let mut row = row(descriptor, engine.limits.cpus, gauges.partition(number));
        row.service_time = gauges.service_time(number);
        let bytes =
            ROW_BYTES + row.name.len() + row.cpu_affinity.len() * 2 + row.refusals.len() * 12;
        (row, bytes)
    });
    Answer::Partitions { rows, more }
}

fn list(engine: &Engine, gauges: &dyn Gauges, after: u32) -> Answer {
    let (rows, more) = page(engine, after, LIST_ROW_BYTES * 2, Part::Start, |descriptor| {
        let (vcpus_up, cpu_time) = gauges.running(descriptor.number);
        let row = ListRow {
            number: descriptor.number,
            name: ShortName::padded(&descriptor.name),
            kind: descriptor.kind,
            state: descriptor.state,
            vcpus: descriptor.vcpus,
            vcpus_up,
            memory_frames: descriptor.memory_frames,
            cpu_time,
        };
        let bytes = LIST_ROW_BYTES + row.name.len();
        (row, bytes)
    });
    Answer::List { rows, more }
}

/// How much of the descriptors a page of rows needs.
#[derive(Clone, Copy)]
enum Part {
    Whole,
    /// The fields up to the memory, which cost a list less to copy.
    Start,
}

/// Collects rows of the partitions above a number, with the bytes of each, until fewer than `least`
/// bytes are left for the next row. Returns whether more rows follow.
fn page<R>(
    engine: &Engine,
    after: u32,
    least: usize,
    part: Part,
    row: impl Fn(&PartitionDescriptor) -> (R, usize),
) -> (Vec<R>, bool) {
    let reader = engine.database().reader();
    let after = after.saturating_add(1);
    let mut numbers = engine.index.partitions.range(after..).map(|(&number, _)| number);
    let most = engine.index.partitions.len().min(PARTITION_BYTES / least.max(1));
    let (mut rows, mut room) = (Vec::with_capacity(most), PARTITION_BYTES);
    // One buffer for all, since a descriptor is a page.
    let mut descriptor = Box::new(PartitionDescriptor::new_zeroed());
    for number in numbers.by_ref() {
        let read = match part {
            Part::Whole => reader.descriptor_into(number, &mut descriptor),
            Part::Start => reader.start_of_descriptor(number, &mut descriptor),
        };
        if read.is_err() {
            continue;
        }
        let (row, bytes) = row(&descriptor);
        rows.push(row);
        room = room.saturating_sub(bytes);
        if room < least {
            break;
        }
    }
    (rows, numbers.next().is_some())
}

fn partition(engine: &Engine, gauges: &dyn Gauges, name: &str) -> Answer {
    let mut padded = [0; 32];
    let fits = padded.get_mut(..name.len()).map(|start| start.copy_from_slice(name.as_bytes()));
    let named = fits.and_then(|()| engine.index.named(&padded).next());
    let number = named.or_else(|| name.parse().ok());
    let descriptor = number.and_then(|number| engine.database().reader().descriptor(number).ok());
    let rows = descriptor.map(|descriptor| {
        let usage = gauges.partition(descriptor.number);
        let service_time = gauges.service_time(descriptor.number);
        PartitionRow { service_time, ..row(&descriptor, engine.limits.cpus, usage) }
    });
    Answer::Partitions { rows: rows.into_iter().collect(), more: false }
}

fn row(descriptor: &PartitionDescriptor, cpus: u32, usage: Option<PartitionUsage>) -> PartitionRow {
    let usage = usage.unwrap_or_default();
    PartitionRow {
        number: descriptor.number,
        name: name_of(descriptor),
        kind: descriptor.kind,
        state: descriptor.state,
        rights: descriptor.rights,
        owner: descriptor.owner,
        vcpus: descriptor.vcpus,
        vcpus_up: usage.vcpus_up,
        cpu_weight: descriptor.cpu_weight,
        cpu_cap: descriptor.cpu_cap,
        cpu_affinity: cpus::list(&descriptor.cpu_affinity, cpus),
        cpu_dedicated: descriptor.cpu_dedicated != 0,
        vcpus_online: descriptor.vcpus_online,
        memory_target: descriptor.memory_target,
        asked: descriptor.asked,
        console_port: descriptor.console_port,
        wait_time: usage.wait_time,
        service_time: 0,
        memory_frames: descriptor.memory_frames,
        instance_frames: descriptor.instance_frames,
        cpu_time: usage.cpu_time,
        refusals: (0..).zip(usage.refusals).filter(|(_, count)| *count != 0).collect(),
        cause: descriptor.cause,
        cause_detail: descriptor.cause_detail,
        created_at: descriptor.created_at,
    }
}

fn resources(engine: &Engine, facts: &Facts, gauges: &dyn Gauges) -> ResourcesAnswer {
    let database = engine.database();
    let memory = engine.index.held.iter().map(|(&entry, held)| {
        let Owner { number: owner, io } = Owner::from_entry(entry);
        MemoryRow { owner, io, tiers: held.tiers, frames: held.frames }
    });
    // The rows are sorted by owner, each with its RAM first.
    let mut memory: Vec<MemoryRow> = memory.collect();
    memory.sort_unstable_by_key(|row| (row.owner, row.io));
    let cpu = |&(index, apic_id, online): &(u32, u32, bool)| {
        let usage = gauges.cpu(index).unwrap_or_default();
        CpuRow { index, apic_id, online, busy: usage.busy, idle: usage.idle }
    };
    ResourcesAnswer {
        frames: database.reader().frames(),
        memory,
        firmware: facts.firmware.clone(),
        cpus: facts.cpus.iter().map(cpu).collect(),
        arena: database.arena_pages(),
        channels: u32::try_from(engine.index.channels.len()).unwrap_or(u32::MAX),
        heap: gauges.heap(),
        unscrubbed: engine.unscrubbed(),
        turns: gauges.turns(),
    }
}

fn devices(engine: &Engine, first: u32) -> Answer {
    let known = (0..).zip(engine.limits.functions).skip(first as usize);
    let mut known = known.map(|(index, function)| device_row(engine, index, function));
    let rows = known.by_ref().take(DEVICE_ROWS).collect();
    Answer::Devices { rows, more: known.next().is_some() }
}

fn device_row(engine: &Engine, index: u32, function: &DeviceFunction) -> DeviceRow {
    let entry = engine.database().reader().device(index);
    let bars = (0..).zip(&function.bars).filter(|(_, bar)| bar.bytes != 0);
    DeviceRow {
        index,
        address: function.address,
        id: function.id,
        class: function.class,
        subsystem: function.subsystem,
        vectors: function.msix_vectors,
        bars: bars
            .map(|(register, bar)| BarRow { register, address: bar.address, bytes: bar.bytes })
            .collect(),
        refused: function.refused,
        owner: entry.as_ref().map_or(UNASSIGNED, |entry| entry.owner),
        next: entry.map_or(0, |entry| u32::try_from(entry.next[0]).unwrap_or(0)),
    }
}

fn page_map(engine: &Engine, first: u64, most: u32) -> Answer {
    map_rows(engine.index.pieces(Range { first, frames: u64::MAX }), most)
}

fn map_rows(ranges: impl Iterator<Item = OwnedRange>, most: u32) -> Answer {
    let rows = ranges.take((most as usize).min(MAP_ROWS)).map(|range| MapRow {
        first: range.first,
        frames: range.frames,
        owner: range.owner.number,
        io: range.owner.io,
    });
    Answer::PageMap(rows.collect())
}

fn log(engine: &Engine, from: u64, most: u32) -> Answer {
    let (oldest, next) = engine.log_bounds();
    let mut rows: Vec<LogRow> = Vec::new();
    let mut text = 0;
    for record in engine.records_from(from) {
        let row = record.row();
        text += row.what.len() + row.reason.len() + 4 * row.partitions.len() + 64;
        if rows.len() >= most as usize || (text > LOG_TEXT && !rows.is_empty()) {
            break;
        }
        rows.push(row);
    }
    Answer::Log { rows, oldest, next }
}

/// Compares a part of the page map, from a frame on, with the monitor's records. The monitor has
/// none of frames beyond RAM, so these do not differ if the database calls them I/O memory.
fn compare(engine: &Engine, gauges: &dyn Gauges, first: u64) -> Answer {
    let reader = engine.database().reader();
    let end = first.saturating_add(COMPARED_FRAMES).min(reader.frames());
    let mut differences = Vec::new();
    let mut next = first;
    while next < end && differences.len() < DIFFERENCES {
        let Ok(owner) = reader.owner(next) else { break };
        let (database, monitor) = ((owner.number, owner.io), gauges.frame(next));
        if monitor.map_or(!owner.io, |held| held != database) {
            differences.push(Difference { frame: next, database, monitor });
        }
        next += 1;
    }
    Answer::Compared { next, differences }
}
