//! `grant_table_op`: version-1 grants.

use core::{mem::offset_of, ops::Range};

use grants::{Access, MapRecord};
use heapless::Vec;
use page_tables::{
    Error, Mfn, Place, Release, Space, map_foreign, release, replace_entry_expect,
    unmap_entry_expect,
};
use pv_abi::xen::{
    grants as abi,
    mmu::{PTE_ACCESSED, PTE_DIRTY, PTE_PRESENT, PTE_RW, PTE_USER},
};

use super::{Call, Outcome, Refused, errno, grant_copy, is_own, named, update};
use crate::{
    cpu,
    guest_memory::{self, GuestPointer},
    machine::{self, Host},
    partition::{self, Partition},
    stay,
    vcpu::Vcpu,
    walk,
};

/// Mappings that are removed with one flush.
const BATCH: usize = 16;

/// The low bits that hold the command; the other bits are ignored.
const COMMAND: u64 = (1 << abi::COMMAND_BITS) - 1;

/// Why an operation was not performed.
pub enum Stopped {
    /// The operation gets this status.
    Status(i16),
    /// Page tables are unfinished, or another CPU holds them: the call runs again. No status can
    /// say so, since kernels take every status but 0 as final.
    Again,
}

impl From<i16> for Stopped {
    fn from(status: i16) -> Self {
        Self::Status(status)
    }
}

impl From<Error> for Stopped {
    fn from(error: Error) -> Self {
        if error == Error::Again { Self::Again } else { Self::Status(abi::GNTST_GENERAL_ERROR) }
    }
}

/// The status code for a result.
///
/// # Errors
/// [`Refused::Again`].
fn status(result: Result<(), Stopped>) -> Result<i16, Refused> {
    match result {
        Ok(()) => Ok(abi::GNTST_OKAY),
        Err(Stopped::Status(status)) => Ok(status),
        Err(Stopped::Again) => Err(Refused::Again),
    }
}

/// `grant_table_op(command, operations, count)`.
pub fn grant_table_op(call: &mut Call) -> Outcome {
    match call.args[0] & COMMAND {
        abi::MAP_GRANT_REF => each::<abi::MapGrantRef>(call, |vcpu, op| {
            op.status = status(map(vcpu, op))?;
            Ok(())
        }),
        abi::UNMAP_GRANT_REF => unmap_each(call, unmap),
        abi::UNMAP_AND_REPLACE => unmap_each(call, replace),
        abi::COPY => each::<abi::GrantCopy>(call, |vcpu, op| {
            op.status = status(grant_copy::copy(vcpu, op))?;
            Ok(())
        }),
        abi::SETUP_TABLE => setup_table(call.vcpu, call.args[1]),
        abi::QUERY_SIZE => query_size(call.vcpu, call.args[1]),
        abi::SET_VERSION => set_version(call.args[1]),
        abi::GET_VERSION => get_version(call.vcpu, call.args[1]),
        _ => Err(errno::ENOSYS),
    }
}

/// Returns whether the call has to run again before it continues after `done` operations. It also
/// has to while the caller's tables have unfinished work, which is not a reason to refuse an
/// operation.
fn is_due(vcpu: &Vcpu, done: u64) -> bool {
    let space = vcpu.partition.space.lock_or_again();
    let finished = space.is_ok_and(|mut space| space.finish(&Host).is_ok());
    !finished || done != 0 && stay::should_yield_now()
}

/// Performs an array of operations. Each gets its own status, unless the call has to run again.
fn each<T>(call: &mut Call, run: impl Fn(&Vcpu, &mut T) -> Result<(), Refused>) -> Outcome
where
    T: zerocopy::FromBytes + zerocopy::IntoBytes + zerocopy::Immutable,
{
    let [_, list, count, ..] = call.args;
    let operations = GuestPointer::<T>::new(list, count)?;
    for index in 0..count {
        if is_due(call.vcpu, index) {
            return call.go_on::<T>(1, index);
        }
        let mut operation = operations.read(index)?;
        if run(call.vcpu, &mut operation).is_err() {
            return call.go_on::<T>(1, index);
        }
        operations.write(index, &operation)?;
    }
    Ok(0)
}

/// The access that a mapping with these `GNTMAP_` flags has.
fn access(flags: u32) -> Access {
    if flags & abi::GNTMAP_READONLY != 0 { Access::Read } else { Access::Write }
}

/// Where a mapping's entry lies: at a given machine address, or where a virtual address leads.
fn place(space: &Space, vcpu: &Vcpu, host_addr: u64, flags: u32) -> Result<Place, i16> {
    if flags & abi::GNTMAP_CONTAINS_PTE != 0 {
        // XSA-227: an entry is eight aligned bytes.
        if host_addr & 7 != 0 {
            return Err(abi::GNTST_GENERAL_ERROR);
        }
        return Ok(Place {
            table: Mfn::of_address(host_addr),
            index: narrow::entry_index(host_addr),
        });
    }
    walk::place(space, vcpu, host_addr).ok_or(abi::GNTST_BAD_VIRT_ADDR)
}

fn map(vcpu: &Vcpu, op: &mut abi::MapGrantRef) -> Result<(), Stopped> {
    if op.flags & (abi::GNTMAP_HOST_MAP | abi::GNTMAP_DEVICE_MAP) == 0 {
        return Err(abi::GNTST_GENERAL_ERROR.into());
    }
    let granter = named(vcpu, op.dom).map_err(|_| abi::GNTST_BAD_DOMAIN)?;
    let mapper = vcpu.partition;
    let frame = granter
        .with_grants(|table| table.acquire(op.grant_ref, mapper.domids(), access(op.flags)))?;
    let record = MapRecord {
        partition: granter.number,
        reference: op.grant_ref,
        frame,
        flags: op.flags,
        host_addr: op.host_addr,
    };
    let inserted = mapper.maps.lock().insert(record).map_err(Stopped::from);
    let mapped = inserted.and_then(|handle| match hold_and_enter(vcpu, granter, &record) {
        Ok(()) => Ok(handle),
        Err(error) => {
            let _ = mapper.maps.lock().remove(handle);
            Err(error)
        }
    });
    match mapped {
        Ok(handle) => {
            op.handle = handle;
            op.dev_bus_addr = u64::from(frame) << 12;
            Ok(())
        }
        Err(error) => {
            let _ = granter.with_grants(|t| t.release(op.grant_ref, access(op.flags)));
            Err(error)
        }
    }
}

/// The reference that a mapping holds on the frame for device access, if any.
fn device_hold(record: &MapRecord) -> Option<Release> {
    (record.flags & abi::GNTMAP_DEVICE_MAP != 0).then(|| Release {
        mfn: Mfn::new(record.frame.into()),
        writable: access(record.flags) == Access::Write,
    })
}

/// Takes the reference for device access and writes the mapper's page-table entry. If one fails,
/// does neither.
fn hold_and_enter(vcpu: &Vcpu, granter: &Partition, record: &MapRecord) -> Result<(), Stopped> {
    let held = device_hold(record)
        .map(|wanted| machine::hold(granter.number, wanted.mfn, wanted.writable))
        .transpose()?;
    if record.flags & abi::GNTMAP_HOST_MAP == 0 {
        return Ok(());
    }
    let entered = enter(vcpu, granter, record);
    if entered.is_err()
        && let Some(held) = held
    {
        release(&Host, held);
    }
    entered
}

/// Writes the mapper's page-table entry.
fn enter(vcpu: &Vcpu, granter: &Partition, record: &MapRecord) -> Result<(), Stopped> {
    let mut flags = PTE_PRESENT | PTE_USER | PTE_ACCESSED | PTE_DIRTY;
    if access(record.flags) == Access::Write {
        flags |= PTE_RW;
    }
    flags |= u64::from(record.flags >> abi::GNTMAP_GUEST_AVAIL_SHIFT & 7) << 9;
    let mut space = vcpu.partition.space.lock_or_again().map_err(|_| Stopped::Again)?;
    let place = place(&space, vcpu, record.host_addr, record.flags)?;
    let new = Mfn::new(record.frame.into()).address() | flags;
    map_foreign(&Host, &mut space, place, new, granter.number)?;
    Ok(())
}

/// A mapping of which a part was removed. It holds references until [`Unmapped::finish`].
#[must_use]
struct Unmapped {
    /// The reference that its entry held, to be released once the mapper's CPUs are flushed.
    entry: Option<Release>,
    /// The reference that it held for device access.
    device: Option<Release>,
    /// The mapping's record, if its use of the grant ends too.
    ended: Option<MapRecord>,
}

impl Unmapped {
    /// Releases what the mapping held.
    fn finish(self) -> Result<(), Stopped> {
        for held in [self.entry, self.device].into_iter().flatten() {
            release(&Host, held);
        }
        self.ended.map_or(Ok(()), |record| Ok(end_use(&record)?))
    }
}

/// Removes a mapping as one of the operations asks.
type Unmap = fn(&Vcpu, &abi::UnmapGrantRef) -> Result<Unmapped, Stopped>;

/// Unmaps an array of mappings. Each gets its own status.
fn unmap_each(call: &mut Call, unmap: Unmap) -> Outcome {
    let [_, list, count, ..] = call.args;
    let operations = GuestPointer::<abi::UnmapGrantRef>::new(list, count)?;
    let mut done = 0;
    while done < count {
        if is_due(call.vcpu, done) {
            return call.go_on::<abi::UnmapGrantRef>(1, done);
        }
        let end = count.min(done + BATCH as u64);
        done += unmap_some(call.vcpu, unmap, &operations, done..end)?;
        if done < end {
            return call.go_on::<abi::UnmapGrantRef>(1, done);
        }
    }
    Ok(0)
}

/// Unmaps a batch: clears the entries, flushes the translations, then releases the references.
/// Returns how many operations have a status now: all of them, or those before the first that has
/// to run again.
fn unmap_some(
    vcpu: &Vcpu,
    unmap: Unmap,
    operations: &GuestPointer<abi::UnmapGrantRef>,
    which: Range<u64>,
) -> Result<u64, Refused> {
    let mut begun = Vec::<_, BATCH>::new();
    let mut outcome = Ok(());
    for index in which {
        match operations.read(index) {
            Ok(operation) => match unmap(vcpu, &operation) {
                // Another virtual CPU has left unfinished work in the tables, which must be
                // finished first.
                Err(Stopped::Again) => break,
                // The batch has room for all of them.
                unmapped => drop(begun.push((index, operation, unmapped))),
            },
            Err(fault) => {
                outcome = Err(fault.into());
                break;
            }
        }
    }
    if begun.iter().any(|(_, _, unmapped)| matches!(unmapped, Ok(Unmapped { entry: Some(_), .. })))
    {
        cpu::flush_partition(vcpu.partition.number);
    }
    let count = begun.len() as u64;
    for (index, mut operation, unmapped) in begun {
        operation.status = status(unmapped.and_then(Unmapped::finish))?;
        outcome = outcome.and(operations.write(index, &operation).map_err(Refused::from));
    }
    outcome.map(|()| count)
}

/// `unmap_grant_ref`: an address of 0 keeps that part of the mapping.
fn unmap(vcpu: &Vcpu, op: &abi::UnmapGrantRef) -> Result<Unmapped, Stopped> {
    take_away(vcpu, op.handle, op.dev_bus_addr, op.host_addr, 0)
}

/// `unmap_and_replace`: the new address lies in the field where `unmap_grant_ref` has the device
/// address.
fn replace(vcpu: &Vcpu, op: &abi::UnmapGrantRef) -> Result<Unmapped, Stopped> {
    take_away(vcpu, op.handle, 0, op.host_addr, op.dev_bus_addr)
}
const _: () = assert!(
    offset_of!(abi::UnmapAndReplace, new_addr) == offset_of!(abi::UnmapGrantRef, dev_bus_addr)
        && offset_of!(abi::UnmapAndReplace, handle) == offset_of!(abi::UnmapGrantRef, handle)
        && offset_of!(abi::UnmapAndReplace, status) == offset_of!(abi::UnmapGrantRef, status)
);

/// Removes the device part of a mapping if `device_addr` is its address, and the host part at
/// `host_addr`. An address of 0 keeps that part. If `new_addr` is not 0, what it maps moves to
/// `host_addr`.
fn take_away(
    vcpu: &Vcpu,
    handle: u32,
    device_addr: u64,
    host_addr: u64,
    new_addr: u64,
) -> Result<Unmapped, Stopped> {
    // The lock is held to the end, so that no handle is released twice.
    let mut maps = vcpu.partition.maps.lock();
    let record = maps.get(handle)?;
    let device = if device_addr == 0 { None } else { device_hold(&record) };
    if device.is_some_and(|held| held.mfn.address() != device_addr) {
        return Err(abi::GNTST_BAD_DEV_ADDR.into());
    }
    let mapped = host_addr != 0 && record.flags & abi::GNTMAP_HOST_MAP != 0;
    if mapped && host_addr != record.host_addr {
        return Err(abi::GNTST_BAD_VIRT_ADDR.into());
    }
    let entry = if mapped { Some(leave(vcpu, &record, new_addr)?) } else { None };
    let mut left = record.flags;
    if mapped {
        left &= !abi::GNTMAP_HOST_MAP;
    }
    if device.is_some() {
        left &= !abi::GNTMAP_DEVICE_MAP;
    }
    let ended = if left & (abi::GNTMAP_HOST_MAP | abi::GNTMAP_DEVICE_MAP) == 0 {
        maps.remove(handle).ok()
    } else {
        maps.set_flags(handle, left)?;
        None
    };
    Ok(Unmapped { entry, device, ended })
}

/// Ends a mapping of a partition that no longer has page tables.
pub fn end_mapping(record: &MapRecord) {
    if let Some(held) = device_hold(record) {
        release(&Host, held);
    }
    let _ = end_use(record);
}

/// Ends this mapping's use of the granter's entry.
fn end_use(record: &MapRecord) -> Result<(), i16> {
    // A granter that is gone has no entry in use. Its number is not reassigned while its frames are
    // mapped.
    let Some(granter) = partition::find(record.partition) else { return Ok(()) };
    granter.with_grants(|table| table.release(record.reference, access(record.flags)))
}

/// Clears the mapper's page-table entry, which must still be that mapping (XSA-234). If `new_addr`
/// is not 0, moves what it maps there.
fn leave(vcpu: &Vcpu, record: &MapRecord, new_addr: u64) -> Result<Release, Stopped> {
    let mut space = vcpu.partition.space.lock_or_again().map_err(|_| Stopped::Again)?;
    let to = place(&space, vcpu, record.host_addr, record.flags)?;
    let writable = access(record.flags) == Access::Write;
    let mfn = Mfn::new(record.frame.into());
    if new_addr == 0 {
        return Ok(unmap_entry_expect(&Host, &mut space, to, mfn, writable)?);
    }
    if record.flags & abi::GNTMAP_CONTAINS_PTE != 0 {
        return Err(abi::GNTST_GENERAL_ERROR.into());
    }
    let from = walk::place(&space, vcpu, new_addr).ok_or(abi::GNTST_BAD_VIRT_ADDR)?;
    Ok(replace_entry_expect(&Host, &mut space, to, from, mfn, writable)?)
}

fn setup_table(vcpu: &Vcpu, argument: u64) -> Outcome {
    update(argument, |setup: &mut abi::SetupTable| {
        setup.status = abi::GNTST_OKAY;
        if !is_own(vcpu, setup.dom) {
            setup.status = abi::GNTST_PERMISSION_DENIED;
        } else if setup.nr_frames > vcpu.partition.grant_frames {
            setup.status = abi::GNTST_GENERAL_ERROR;
        } else {
            let list = GuestPointer::<u64>::new(setup.frame_list, setup.nr_frames.into())?;
            for index in 0..setup.nr_frames.into() {
                list.write(index, &(vcpu.partition.grant_table().plus(index).number()))?;
            }
        }
        Ok(())
    })
}

fn query_size(vcpu: &Vcpu, argument: u64) -> Outcome {
    update(argument, |query: &mut abi::QuerySize| {
        query.status = abi::GNTST_PERMISSION_DENIED;
        if is_own(vcpu, query.dom) {
            query.nr_frames = vcpu.partition.grant_frames;
            query.max_nr_frames = vcpu.partition.grant_frames;
            query.status = abi::GNTST_OKAY;
        }
        Ok(())
    })
}

/// Refuses version 2, which does not exist here (its status frames caused several advisories).
fn set_version(argument: u64) -> Outcome {
    let wanted: abi::SetVersion = guest_memory::read(argument)?;
    guest_memory::write(argument, &abi::SetVersion { version: 1 })?;
    if wanted.version == 1 { Ok(0) } else { Err(errno::ENOSYS) }
}

fn get_version(vcpu: &Vcpu, argument: u64) -> Outcome {
    update(argument, |version: &mut abi::GetVersion| {
        version.version = 1;
        if is_own(vcpu, version.dom) { Ok(()) } else { Err(errno::EPERM) }
    })
}
