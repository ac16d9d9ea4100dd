//! Calls of the lead monitor, which enforces the database. No call takes a resource as an argument.
//! Each call names a place in the database to read again, and is idempotent.
#![expect(unsafe_code, reason = "scrubs frames that change their owner")]

use core::{array, ops::Range, sync::atomic::Ordering};

use database_view::{Owner, ReadError};
use frames::{Frame, HandOver, Kind, OWNER_IO, OWNER_NUMBER, OtherMemory};
use heapless::Vec;
use page_tables::Mfn;
use pv_abi::{
    uv::{
        calls::{self, CpuUsage, PartitionUsage},
        database::{ChannelEntry, MONITOR, state},
    },
    xen::{
        grants::GTF_PERMIT_ACCESS,
        time::{RUNSTATE_RUNNABLE, RUNSTATE_RUNNING},
    },
};

use super::{Call, Outcome, Refused, errno, require};
use crate::{
    context::Registers,
    cpu, create, database, failure, guest_memory, lead_events, machine,
    partition::{self, Partition},
    platform, relinquish, roots, schedule, stay, time,
    vcpu::{Vcpu, run},
    view,
};

/// The errno for a lookup in the database that failed.
pub fn refusal(error: ReadError) -> Refused {
    match error {
        ReadError::NotAnArena | ReadError::Malformed => errno::EBADMSG,
        ReadError::OutOfRange => errno::EINVAL,
        ReadError::Busy => errno::EBUSY,
        ReadError::Absent => errno::ENOENT,
    }
}

fn number_in(argument: u64) -> Result<u32, Refused> {
    u32::try_from(argument).map_err(|_| errno::EINVAL)
}

fn partition_in(argument: u64) -> Result<&'static Partition, Refused> {
    partition::find(number_in(argument)?).ok_or(errno::ESRCH)
}

/// `ACTIVATE_PARTITION(number)`.
pub fn activate_partition(call: &mut Call) -> Outcome {
    let number = number_in(call.args[1])?;
    let descriptor = database::reader().descriptor(number).map_err(refusal)?;
    match partition::find(number) {
        Some(partition) => {
            let same = partition.instance.number() == descriptor.instance_first
                && partition.vcpus == descriptor.vcpus
                && partition.grant_frames == descriptor.grant_frames;
            require(same, errno::EBUSY)?;
            create::update(partition, &descriptor)?;
        }
        None if descriptor.kind == pv_abi::uv::database::kind::PSEUDO => {}
        None => {
            create::create(&descriptor)?;
        }
    }
    Ok(0)
}

/// Frames between two checks whether to yield; they share a flush. Scrubbing costs 512 stores a
/// frame.
const STRIDE: usize = 8;

/// Maximum number of frames whose owner is looked up together.
const LOOKAHEAD: u64 = 32;

/// `ACTIVATE_PAGES(first, count)`.
pub fn activate_pages(call: &mut Call) -> Outcome {
    let [_, first, count, ..] = call.args;
    let end = first.checked_add(count).ok_or(errno::EINVAL)?;
    let reader = database::reader();
    let mut frame = first;
    while frame < end {
        let range = reader.range_at(frame, (end - frame).min(LOOKAHEAD)).map_err(refusal)?;
        let stop = range.frames.checked_add(frame).ok_or(errno::EINVAL)?.min(end);
        while frame < stop {
            let until = stop.min(frame + STRIDE as u64);
            give(frame..until, range.owner)?;
            frame = until;
            if frame < end && stay::should_yield_now() {
                return call.go_on::<u8>(1, frame - first);
            }
        }
    }
    Ok(0)
}

/// Makes `owner` the owner of up to [`STRIDE`] frames. Stops at the first frame that is refused.
fn give(frames: Range<u64>, owner: Owner) -> Result<(), Refused> {
    let (mut taken, mut given) = (Vec::<_, STRIDE>::new(), Vec::<_, STRIDE>::new());
    let mut outcome = Ok(());
    for mfn in frames.map(Mfn::new) {
        match take(mfn, owner) {
            // `taken` has room for all of them.
            Ok(Change::Begun(one)) => drop(taken.push(one)),
            Ok(Change::Made) => {
                let _ = given.push(mfn);
            }
            Ok(Change::None) => {}
            Err(error) => {
                outcome = Err(error);
                break;
            }
        }
    }
    // The old owners' CPUs drop their translations before a frame holds another partition's data.
    let mut flushed = 0;
    for one in taken.iter().filter(|one| one.change.flush) {
        let before = one.before & OWNER_NUMBER;
        if before != flushed {
            cpu::flush_since(before, cpu::flush_stamp());
            flushed = before;
        }
    }
    for one in taken {
        one.hand_over(owner);
        let _ = given.push(one.mfn);
    }
    if !owner.io {
        view::gained(owner.number, &given);
    }
    outcome
}

/// How far the change of a frame's owner by [`take`] came.
enum Change {
    /// There is nothing to do.
    None,
    /// The frame belongs to the new owner.
    Made,
    /// The frame has left its old owner.
    Begun(Taken),
}

/// A frame between two owners; no partition can reach it.
#[must_use]
struct Taken {
    frame: &'static Frame,
    mfn: Mfn,
    /// The frame's owner word before.
    before: u32,
    change: HandOver,
}

impl Taken {
    /// Gives the frame to its new owner. Nobody can take a reference to it meanwhile, and one CPU
    /// at a time changes owners, so this does not fail.
    fn hand_over(&self, owner: Owner) {
        if self.change.scrub {
            // SAFETY: only RAM is scrubbed, and no partition can reach a frame between two owners.
            unsafe { machine::scrub_used(self.mfn) };
        }
        if self.before & OWNER_IO == 0
            && let Some(entry) = platform::m2p().get(narrow::size(self.mfn.number()))
        {
            entry.store(u64::MAX, Ordering::Relaxed);
        }
        let given = self.frame.set_owner(OWNER_IO | MONITOR, owner.entry(), self.change.kind);
        assert!(given.is_ok(), "{:?} changed between two owners: {given:?}", self.mfn);
    }
}

/// Takes a frame from its owner, if no reference to it is left. A frame that needs neither flush
/// nor scrubbing changes its owner at once.
fn take(mfn: Mfn, owner: Owner) -> Result<Change, Refused> {
    let wanted = owner.entry();
    let Some(frame) = machine::frame(mfn) else {
        // The monitor keeps no record of frames above RAM.
        return if owner.io { Ok(Change::None) } else { Err(errno::EINVAL) };
    };
    let (before, kind) = (frame.owner_word(), frame.word().kind());
    let change = HandOver::of(before, kind, wanted).map_err(|OtherMemory| errno::EPERM)?;
    let Some(change) = change else {
        return Ok(Change::None);
    };
    // The monitor's own frames stay the monitor's, whatever the database says.
    require(before != MONITOR, errno::EPERM)?;
    // A partition's idle frames stay on its list as long as it exists. The frames it uses, its
    // instance among them, have references.
    if kind == Kind::Private && partition::find(before).is_some() {
        return Err(errno::EBUSY);
    }
    let at_once = !change.scrub && !change.flush;
    let (next, kind) =
        if at_once { (wanted, change.kind) } else { (OWNER_IO | MONITOR, Kind::Private) };
    frame.set_owner(before, next, kind).map_err(|_| errno::EBUSY)?;
    if before != 0 {
        // This comes before the flush, which the old owner's CPUs need for the view too.
        view::lost(before, mfn);
    }
    Ok(if at_once { Change::Made } else { Change::Begun(Taken { frame, mfn, before, change }) })
}

/// `ACTIVATE_CHANNEL(index)`.
pub fn activate_channel(call: &mut Call) -> Outcome {
    let index = number_in(call.args[1])?;
    let channel = match database::reader().channel(index) {
        Ok(channel) => channel,
        // The channel is gone: the partitions close its ports, or the ports go with them.
        Err(ReadError::Absent) => return Ok(0),
        Err(error) => return Err(refusal(error)),
    };
    let a = partition::find(channel.a).ok_or(errno::ESRCH)?;
    let b = partition::find(channel.b).ok_or(errno::ESRCH)?;
    permit(a, &channel)?;
    if channel.port_b == 0 {
        return a.ports().set_unbound(channel.port_a, b.number).map(|()| 0);
    }
    ::events::bind_pair(
        (&a.ports(), a.number, channel.port_a),
        (&b.ports(), b.number, channel.port_b),
    )?;
    Ok(0)
}

/// Writes the grant entries for a channel's frames.
fn permit(a: &Partition, channel: &ChannelEntry) -> Result<(), Refused> {
    for n in 0..channel.frames {
        let mfn = Mfn::new(channel.frame + u64::from(n));
        a.check_own(mfn)?;
        let reference = channel.grant_a.checked_add(n).ok_or(errno::EINVAL)?;
        let page = reference / 512;
        if page >= a.grant_frames || mfn.number() >> 32 != 0 {
            return Err(errno::EINVAL);
        }
        let entry =
            u64::from(GTF_PERMIT_ACCESS) | u64::from(channel.b & 0x7fff) << 16 | mfn.number() << 32;
        let table = machine::table(a.grant_table().plus(page.into()));
        let place = &table[reference as usize % 512];
        // An entry that is in use holds the same values already.
        let in_use = 3 << 3;
        if place.load(Ordering::Acquire) & !in_use != entry {
            place.store(entry, Ordering::Release);
        }
    }
    Ok(())
}

/// `START(number)`. The caller decides whether to continue unfinished work at once, as with
/// [`destroy`].
pub fn start(call: &mut Call) -> Outcome {
    let partition = partition_in(call.args[1])?;
    let startable = |now| matches!(now, state::BUILDING | state::PAUSED | state::RUNNING);
    require(startable(partition.state.load(Ordering::Acquire)), errno::EPERM)?;
    if !partition.started.load(Ordering::Acquire) {
        match first_start(partition) {
            Err(Refused::Again) => return Ok(1),
            done => done?,
        }
    }
    // A partition that is dying, or has crashed meanwhile, keeps its state.
    require(change_state(partition, startable, state::RUNNING)?, errno::EPERM)?;
    let runnable = |vcpu: &&Vcpu| vcpu.state.load(Ordering::Acquire) == run::RUNNABLE;
    partition.all_vcpus().filter(runnable).for_each(schedule::make_runnable);
    partition.vcpu(0).into_iter().for_each(schedule::bring_up);
    Ok(0)
}

/// Changes the state to `to` if `from` accepts the present state. Returns whether it did. From then
/// on the memory is the partition's own, so this fails while a builder has any of it mapped.
fn change_state(partition: &Partition, from: fn(u32) -> bool, to: u32) -> Result<bool, Refused> {
    if from(partition.state.load(Ordering::SeqCst)) && !partition.building.complete() {
        return Err(errno::EBUSY);
    }
    let next = |now| from(now).then_some(to);
    Ok(partition.state.fetch_update(Ordering::SeqCst, Ordering::SeqCst, next).is_ok())
}

/// Validates the page tables and gives virtual CPU 0 its start state.
fn first_start(partition: &Partition) -> Result<(), Refused> {
    let descriptor = database::reader().descriptor(partition.number).map_err(refusal)?;
    let vcpu = partition.vcpu(0).ok_or(errno::EINVAL)?;
    let addresses = [descriptor.entry, descriptor.stack, descriptor.start_info];
    require(addresses.into_iter().all(guest_memory::is_canonical), errno::EINVAL)?;
    let registers = Registers::at_start(descriptor.entry, descriptor.stack, descriptor.start_info);
    roots::first_state(vcpu, Mfn::new(descriptor.page_table), registers)
}

/// `STOP(number)`.
pub fn stop(call: &mut Call) -> Outcome {
    let partition = partition_in(call.args[1])?;
    require(!core::ptr::eq(partition, call.vcpu.partition), errno::EINVAL)?;
    let stoppable = |now| matches!(now, state::BUILDING | state::RUNNING);
    if change_state(partition, stoppable, state::PAUSED)? {
        partition.all_vcpus().for_each(schedule::expel);
    }
    Ok(0)
}

/// `DESTROY(number, first, count)`. If the work is not finished, the caller decides whether to
/// continue at once, since it may have other requests to serve.
pub fn destroy(call: &mut Call) -> Outcome {
    let [_, number, first, count, ..] = call.args;
    let partition = partition_in(number)?;
    require(!core::ptr::eq(partition, call.vcpu.partition), errno::EINVAL)?;
    let end = first.checked_add(count).ok_or(errno::EINVAL)?;
    match relinquish::relinquish(partition, first..end) {
        Err(Refused::Again) => Ok(1),
        done => done.map(|()| 0),
    }
}

/// `NEXT_EVENT(address, written)`.
pub fn next_event(call: &mut Call) -> Outcome {
    match lead_events::next_after(call.args[2]) {
        Some((number, event)) => {
            guest_memory::write(call.args[1], &event)?;
            Ok(number)
        }
        None => Ok(0),
    }
}

/// `END_HOST(how, partition, cause, detail)`.
pub fn end_host(call: &mut Call) -> Outcome {
    let [_, how, partition, cause, detail, _] = call.args;
    match how {
        calls::END_POWER_OFF => platform::power_off(),
        calls::END_RESTART => platform::restart(),
        calls::END_FAILED => {
            let [partition, cause, detail] = [partition, cause, detail].map(narrow::low_32);
            failure::host_failed(partition, cause, detail)
        }
        _ => Err(errno::EINVAL),
    }
}

/// `FRAME_OWNER(frame)`.
pub fn frame_owner(call: &mut Call) -> Outcome {
    let frame = machine::frame(Mfn::new(call.args[1])).ok_or(errno::ENOENT)?;
    let in_use = frame.word().references() != 0;
    Ok(u64::from(frame.owner_word()) | if in_use { calls::FRAME_IN_USE } else { 0 })
}

/// `USAGE(number, address)`.
pub fn usage(call: &mut Call) -> Outcome {
    let partition = partition_in(call.args[1])?;
    let mut usage = PartitionUsage {
        state: partition.state.load(Ordering::Acquire),
        refusals: array::from_fn(|cause| partition.refusals[cause].load(Ordering::Relaxed)),
        ..PartitionUsage::default()
    };
    for vcpu in partition.all_vcpus() {
        let spent = vcpu.runstate_now().time;
        usage.cpu_time += spent[RUNSTATE_RUNNING as usize];
        usage.wait_time += spent[RUNSTATE_RUNNABLE as usize];
        usage.hypercalls += vcpu.hypercalls.load(Ordering::Relaxed);
        usage.vcpus_up += u32::from(vcpu.state.load(Ordering::Relaxed) != run::DOWN);
    }
    guest_memory::write(call.args[2], &usage)?;
    Ok(0)
}

/// `CPU_USAGE(index, address)`.
pub fn cpu_usage(call: &mut Call) -> Outcome {
    let index = number_in(call.args[1])?;
    require(index < platform::cpu_count(), errno::ENOENT)?;
    let local = cpu::cpu(index);
    let now = time::now();
    let present = now.saturating_sub(local.since.get());
    let idle_now = local.is_idle();
    let usage = CpuUsage {
        apic_id: platform::apic_id(index),
        reserved: 0,
        busy: local.busy.load(Ordering::Relaxed) + if idle_now { 0 } else { present },
        idle: local.idle.load(Ordering::Relaxed) + if idle_now { present } else { 0 },
        switches: local.switches.load(Ordering::Relaxed),
    };
    guest_memory::write(call.args[2], &usage)?;
    Ok(0)
}
