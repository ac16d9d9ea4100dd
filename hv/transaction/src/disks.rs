//! Disks of partitions: the endpoint table.
//!
//! ```text
//! AttachDisk: free -> attached    DetachDisk, or its partition is given up: attached -> detaching
//! nothing serves it any more (Monitor::drained): detaching -> free, with the next incarnation
//! ```
//!
//! Rule: two disks have no sector in common, unless both are shared. A disk that is detaching keeps
//! its sectors, because requests of its client may still reach them.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use control::command::{
    Answer, Code, DiskLimits, DiskNumber, DiskRow, DiskState, DiskStatus, Extent, Medium,
    Operation, Outcome, Rate, Refusal, Target,
};
use extents::{Layout, Refused};
use pv_abi::uv::database::{IO_SERVICE, ULTRAVISOR, UNASSIGNED, kind, state};
use pv_abi::uv::endpoints::{
    Endpoint, EndpointExtent, endpoint_features, endpoint_flags, endpoint_state, medium,
};
use rules::GPT_PARTITIONS;
use zerocopy::FromZeros;

use crate::devices::{can_be_given, label_of, owner_of};
use crate::engine::{Engine, Origin};
use crate::operations::{Caller, in_state, invalid, modifiable, within};
use crate::plan::Plan;
use crate::refusal::{from_write, label, refusal};
use crate::{Gauges, Monitor, Settled};

/// The base class of storage controllers.
const STORAGE: u32 = 0x01;
/// The features that a server of endpoints may offer. Discards also need disks that have them.
const FEATURES: u32 = endpoint_features::FLUSH
    | endpoint_features::INDIRECT
    | endpoint_features::MULTI_QUEUE
    | endpoint_features::DISCARD;

/// Maximum number of rows of an answer about disks, of at most 1,900 bytes each: 64 extents of 25, and
/// a cause of [`control::command::MAX_DISK_CAUSE`].
const ROWS: usize = 12;

/// Plans [`Operation::AttachDisk`].
pub(crate) fn attach(
    plan: &mut Plan,
    caller: Caller,
    operation: &Operation,
) -> Result<Outcome, Refusal> {
    let Operation::AttachDisk { partition, device, medium, read_only, shared, limits } = operation
    else {
        return Ok(Outcome::Done);
    };
    let target = modifiable(plan, *partition)?;
    let object = format!("{} of {}", DiskNumber(*device), label(&target));
    if !matches!(target.kind, kind::GUEST | kind::COMMAND) {
        let limit = "a guest or the command partition";
        return Err(invalid(&object, "partition", "another partition", limit));
    }
    in_state(&target, &[state::BUILDING, state::RUNNING, state::PAUSED], "a disk")?;
    if DiskNumber(*device).letter().is_none() {
        let limit = "the number of xvda to xvdz, such as 51712 for xvda";
        return Err(invalid(&object, "device", device, limit));
    }
    if let Some((_, has)) = plan.disk(target.number, *device) {
        let reason = match has.state {
            endpoint_state::DETACHING => "the partition has such a disk, which is detaching",
            _ => "the partition has such a disk",
        };
        return Err(refusal(Code::NumberTaken, object, "device", reason, "use another device"));
    }
    let Some(index) = plan.free_endpoint() else {
        let reason = format!("all {} entries are in use", plan.endpoints());
        return Err(refusal(Code::NoEndpoint, object, "endpoint table", reason, "detach a disk"));
    };
    let mut entry = plan.endpoint(index).map_err(from_write)?;
    let incarnation = entry.incarnation;
    *entry = Endpoint::new_zeroed();
    (entry.state, entry.incarnation) = (endpoint_state::ATTACHED, incarnation);
    (entry.client, entry.device, entry.service) = (target.number, *device, IO_SERVICE);
    entry.flags = if *read_only { endpoint_flags::READ_ONLY } else { 0 }
        | if *shared { endpoint_flags::SHARED } else { 0 };
    entry.features = FEATURES;
    entry.bytes = [limits.bytes.per_second, limits.bytes.burst];
    entry.operations = [limits.operations.per_second, limits.operations.burst];
    set_medium(plan, caller, &object, medium, &mut entry)?;
    check_apart(plan, &object, &entry)?;
    plan.set_endpoint(index, entry);
    Ok(Outcome::Done)
}

/// Checks a medium, and writes it into an endpoint.
fn set_medium(
    plan: &Plan,
    caller: Caller,
    object: &str,
    medium: &Medium,
    entry: &mut Endpoint,
) -> Result<(), Refusal> {
    let whole = |function| [Extent { function, start: 0, sectors: 0 }];
    let (one, list);
    let extents: &[Extent] = match medium {
        Medium::Disk { function } => {
            (entry.medium, one) = (medium::DISK, whole(*function));
            &one
        }
        Medium::Partition { function, number } => {
            let (least, most) = (*GPT_PARTITIONS.start(), *GPT_PARTITIONS.end());
            within(object, "partition of the disk", *number, least, most)?;
            if !caller.limits.gpt {
                let reason = "GPT partitions of a disk are not served yet";
                let way_out = "attach the whole disk, or the partition's sectors as `extents` of \
                               a definition";
                return Err(refusal(Code::NoDriver, object, "partition", reason, way_out));
            }
            (entry.medium, entry.partition, one) = (medium::PARTITION, *number, whole(*function));
            &one
        }
        Medium::Extents(extents) => {
            entry.medium = medium::EXTENTS;
            list = extents.iter().take(extents::EXTENTS_MAX + 1).copied().collect::<Vec<_>>();
            check_extents(object, &list)?;
            &list
        }
    };
    for extent in extents {
        check_function(plan, caller, extent.function)?;
    }
    entry.extents = u32::try_from(extents.len()).unwrap_or(0);
    for (to, from) in entry.extent.iter_mut().zip(extents) {
        let Extent { function, start, sectors } = *from;
        *to = EndpointExtent { function, reserved: 0, start, sectors };
    }
    Ok(())
}

/// Checks that extents are a list that an endpoint can have. Whether they end inside the disk, the
/// I/O partition checks, which knows its size.
fn check_extents(object: &str, list: &[Extent]) -> Result<(), Refusal> {
    let all: Vec<extents::Extent> = list.iter().map(as_extent).collect();
    let Err(refused) = Layout::new(&all, |_| Some(u64::MAX)) else {
        return Ok(());
    };
    let reason = match refused {
        Refused::Count { extents } => {
            format!("{extents} were given, 1 to {} are allowed", extents::EXTENTS_MAX)
        }
        Refused::Empty { at } => format!("extent {at} has no sector"),
        Refused::Overlap { common } => {
            format!("two extents have the sectors from {} on in common", common.start)
        }
        _ => "the extents have more sectors than any disk".into(),
    };
    let way_out = "give extents that lie side by side on the disk";
    Err(refusal(Code::InvalidValue, object, "extents", reason, way_out))
}

const fn as_extent(extent: &Extent) -> extents::Extent {
    extents::Extent { device: extent.function, start: extent.start, sectors: extent.sectors }
}

/// Checks that a function is a storage controller that an I/O partition has.
fn check_function(plan: &Plan, caller: Caller, index: u32) -> Result<(), Refusal> {
    let owner = owner_of(plan, caller, index)?;
    let object = label_of(caller.limits.functions, index);
    let function = can_be_given(caller, &object, index)?;
    if function.class >> 24 != STORAGE {
        let way_out = "use a storage controller; `uvtool resources` shows the classes";
        let reason = "it is not a storage controller";
        return Err(refusal(Code::InvalidValue, object, "class", reason, way_out));
    }
    if owner == UNASSIGNED {
        let way_out = "restart the host: functions are given when an I/O partition starts; \
                       `uvtool resources` shows who has it";
        return Err(refusal(Code::NoDriver, object, "owner", "no I/O partition has it", way_out));
    }
    Ok(())
}

/// Checks that no other disk has any of an endpoint's sectors.
fn check_apart(plan: &Plan, object: &str, entry: &Endpoint) -> Result<(), Refusal> {
    let functions = functions_of(entry);
    let shared = |other: &Endpoint| entry.flags & other.flags & endpoint_flags::SHARED != 0;
    let all = plan.endpoints_on(&functions).into_iter();
    let others = all.map(|(_, other)| other).filter(|o| !shared(o) && overlap(entry, o));
    // One that stays is named before one that is detaching: to ask again does not help then.
    let Some(other) = others.min_by_key(|other| other.state == endpoint_state::DETACHING) else {
        return Ok(());
    };
    let of = plan.descriptor(other.client).map(|client| label(&client)).unwrap_or_default();
    let how = match (entry.medium, other.medium) {
        (medium::EXTENTS, medium::PARTITION) | (medium::PARTITION, medium::EXTENTS) => "may have",
        _ => "has",
    };
    let disk = DiskNumber(other.device);
    if other.state == endpoint_state::DETACHING {
        let reason = format!("{disk} of {of}, which is detaching, {how} some of its sectors");
        let way_out = "ask again; `uvtool disk list` shows when it is gone";
        return Err(refusal(Code::Busy, object, "medium", reason, way_out));
    }
    let reason = format!("{disk} of {of} {how} some of its sectors");
    let way_out = "detach that disk first, or make both shared";
    Err(refusal(Code::DiskOverlaps, object, "medium", reason, way_out))
}

/// Returns whether two endpoints may have a sector in common. Where the partitions of a disk lie,
/// the database does not know.
fn overlap(one: &Endpoint, other: &Endpoint) -> bool {
    let pairs = || one.used().iter().flat_map(|a| other.used().iter().map(move |b| (a, b)));
    match (one.medium, other.medium) {
        (medium::PARTITION, medium::PARTITION) => {
            one.partition == other.partition && pairs().any(|(a, b)| a.function == b.function)
        }
        (medium::EXTENTS, medium::EXTENTS) => pairs().any(|(a, b)| {
            let [a, b] = [a, b].map(|extent| extents::Extent {
                device: extent.function,
                start: extent.start,
                sectors: extent.sectors,
            });
            a.overlap(&b).is_some()
        }),
        _ => pairs().any(|(a, b)| a.function == b.function),
    }
}

/// The functions that an endpoint has sectors of, each once.
#[must_use]
pub fn functions_of(entry: &Endpoint) -> Vec<u32> {
    let mut functions: Vec<u32> = entry.used().iter().map(|extent| extent.function).collect();
    functions.sort_unstable();
    functions.dedup();
    functions
}

/// Plans [`Operation::DetachDisk`].
pub(crate) fn detach(plan: &mut Plan, partition: Target, device: u32) -> Result<Outcome, Refusal> {
    let target = modifiable(plan, partition)?;
    let Some((index, entry)) = plan.disk(target.number, device) else {
        let object = format!("{} of {}", DiskNumber(device), label(&target));
        let reason = "the partition has no such disk";
        return Err(refusal(Code::NoSuchDisk, object, "device", reason, "name a disk that it has"));
    };
    set_detaching(plan, index, entry);
    Ok(Outcome::Done)
}

fn set_detaching(plan: &mut Plan, index: u32, mut entry: Box<Endpoint>) {
    if entry.state == endpoint_state::ATTACHED {
        entry.state = endpoint_state::DETACHING;
        plan.set_endpoint(index, entry);
    }
}

/// Answers [`control::command::Query::Disks`].
pub(crate) fn query(engine: &Engine, gauges: &dyn Gauges, first: u32) -> Answer {
    let mut indices = engine.index.disks_from(first);
    let entries = indices.by_ref().take(ROWS);
    let entries = entries.filter_map(|index| Some((index, engine.database.endpoint(index).ok()?)));
    let rows = entries.map(|(index, entry)| row(index, &entry, gauges)).collect();
    Answer::Disks { rows, more: indices.next().is_some() }
}

fn row(index: u32, entry: &Endpoint, gauges: &dyn Gauges) -> DiskRow {
    let rate = |[per_second, burst]: [u64; 2]| Rate { per_second, burst };
    let state = match entry.state {
        endpoint_state::DETACHING => DiskState::Detaching,
        _ => DiskState::Unserved,
    };
    let unknown = DiskStatus { state, server: None, sectors: None, cause: None };
    DiskRow {
        index,
        partition: entry.client,
        device: entry.device,
        medium: medium_of(entry),
        read_only: entry.flags & endpoint_flags::READ_ONLY != 0,
        shared: entry.flags & endpoint_flags::SHARED != 0,
        limits: DiskLimits { bytes: rate(entry.bytes), operations: rate(entry.operations) },
        status: gauges.disk(index).unwrap_or(unknown),
    }
}

/// The medium of an endpoint, in the form that operations use.
fn medium_of(entry: &Endpoint) -> Medium {
    let extent = |extent: &EndpointExtent| {
        let EndpointExtent { function, start, sectors, .. } = *extent;
        Extent { function, start, sectors }
    };
    let function = entry.used().first().map_or(0, |extent| extent.function);
    match entry.medium {
        medium::DISK => Medium::Disk { function },
        medium::PARTITION => Medium::Partition { function, number: entry.partition },
        _ => Medium::Extents(entry.used().iter().map(extent).collect()),
    }
}

impl Engine<'_> {
    /// Frees the endpoints that are detaching and that no partition serves any more. Returns
    /// whether there was one.
    pub(crate) fn free_detached_on(&mut self, monitor: &mut dyn Monitor, time: u64) -> bool {
        let before = self.index.detaching().count();
        self.free_detached(monitor, time);
        self.index.detaching().count() < before
    }

    /// Frees the endpoints that are detaching and that no partition serves any more.
    pub(crate) fn free_detached(&mut self, monitor: &mut dyn Monitor, time: u64) {
        let detaching: Vec<u32> = self.index.detaching().collect();
        for index in detaching {
            if self.is_busy() || !monitor.drained(index) {
                continue;
            }
            self.change_endpoint(index, time, "is detached", |entry| {
                let incarnation = entry.incarnation.saturating_add(1);
                *entry = Endpoint::new_zeroed();
                entry.incarnation = incarnation;
            });
            if monitor.turn_over() {
                return;
            }
        }
    }

    /// Detaches the disks of a partition that is being given up. Returns whether the partition has
    /// no disk left.
    pub(crate) fn give_up_disks(
        &mut self,
        monitor: &mut dyn Monitor,
        number: u32,
        time: u64,
    ) -> bool {
        let disks: Vec<u32> = self.index.disks_of(number).map(|(index, _)| index).collect();
        for index in disks {
            self.change_endpoint(index, time, "is detaching", |entry| {
                entry.state = endpoint_state::DETACHING;
            });
        }
        self.free_detached(monitor, time);
        self.index.disks_of(number).next().is_none()
    }

    /// Changes an endpoint by a record of the ultravisor's own. A change that the log has no room
    /// for is tried again with the next attempt.
    fn change_endpoint(
        &mut self,
        index: u32,
        time: u64,
        what: &str,
        change: impl FnOnce(&mut Endpoint),
    ) {
        let Ok(mut entry) = self.database.endpoint(index) else {
            return;
        };
        let (client, device, before) = (entry.client, entry.device, entry.state);
        change(&mut entry);
        if entry.state == before {
            return;
        }
        let of = self.database.reader().descriptor(client);
        let of = of.map_or_else(|_| String::new(), |of| format!(" of {}", label(&of)));
        let what = format!("{}{of} {what}", DiskNumber(device));
        let mut plan = Plan::new(&self.database, &self.index);
        plan.set_endpoint(index, entry);
        let changes = plan.changes();
        let origin = Origin::new(ULTRAVISOR, time, 0);
        let mut record = self.new_record(origin, Settled::Begun, &what, "");
        (record.partitions, record.changes) = ([client].into(), changes.clone());
        let Ok(sequence) = self.log.record(&mut self.database, record, false) else {
            return;
        };
        match self.write_all(&changes, ULTRAVISOR) {
            // Recovery settles the record if the log does not.
            Ok(()) => drop(self.settle(&[sequence], Settled::Committed)),
            Err(stopped) => self.settle_refused(sequence, &stopped.refusal),
        }
    }
}
