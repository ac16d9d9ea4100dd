//! `grant_table_op`: version-1 grants.

use core::ops::Range;

use grants::{Access, MapRecord};
use heapless::Vec;
use page_tables::{Error, Release, Space, map_foreign, release, unmap_entry_expect};
use pv_abi::xen::{
    errno, grants as abi,
    mmu::{PTE_ACCESSED, PTE_DIRTY, PTE_PRESENT, PTE_RW, PTE_USER},
};

use super::{Call, Outcome, grant_copy, is_own, mmu::finish, named, update};
use crate::{
    cpu,
    guest_memory::{self, GuestPointer},
    machine::Host,
    partition::{self, Partition},
    schedule,
    vcpu::Vcpu,
    walk::{self, Place},
};

/// Mappings that are taken away with one flush.
const BATCH: usize = 16;

/// The low bits of the command; the rest is not used.
const COMMAND: u64 = (1 << abi::COMMAND_BITS) - 1;

/// `grant_table_op(command, operations, count)`.
pub fn grant_table_op(call: &mut Call) -> Outcome {
    match call.args[0] & COMMAND {
        abi::MAP_GRANT_REF => each::<abi::MapGrantRef>(call, |vcpu, op| {
            op.status = status(map(vcpu, op));
        }),
        abi::UNMAP_GRANT_REF => unmap_each(call),
        abi::COPY => each::<abi::GrantCopy>(call, |vcpu, op| {
            op.status = status(grant_copy::copy(vcpu, op));
        }),
        abi::SETUP_TABLE => setup_table(call.vcpu, call.args[1]),
        abi::QUERY_SIZE => query_size(call.vcpu, call.args[1]),
        abi::SET_VERSION => set_version(call.args[1]),
        abi::GET_VERSION => get_version(call.vcpu, call.args[1]),
        _ => Err(errno::ENOSYS),
    }
}

/// The status code that tells a page-table error.
fn status_of(error: Error) -> i16 {
    if error == Error::Again { abi::GNTST_EAGAIN } else { abi::GNTST_GENERAL_ERROR }
}

/// The status code of a result.
fn status(result: Result<(), i16>) -> i16 {
    result.err().unwrap_or(abi::GNTST_OKAY)
}

/// Performs an array of operations; each gets its own status.
fn each<T>(call: &mut Call, run: impl Fn(&Vcpu, &mut T)) -> Outcome
where
    T: zerocopy::FromBytes + zerocopy::IntoBytes + zerocopy::Immutable,
{
    let [_, list, count, ..] = call.args;
    let operations = GuestPointer::<T>::new(list, count)?;
    for index in 0..count {
        // What is unfinished in the caller's tables is no reason to refuse an operation.
        let finished =
            call.vcpu.partition.space.lock_or_again().and_then(|mut space| finish(&mut space));
        if finished.is_err() || index != 0 && schedule::should_yield_now() {
            return call.go_on::<T>(1, index);
        }
        let mut operation = operations.read(index)?;
        run(call.vcpu, &mut operation);
        operations.write(index, &operation)?;
    }
    Ok(0)
}

/// Whether a mapping with these `GNTMAP_` flags may write.
fn access(flags: u32) -> Access {
    if flags & abi::GNTMAP_READONLY != 0 { Access::Read } else { Access::Write }
}

/// Where a mapping goes: by the address of the entry, or by the virtual address.
fn place(space: &Space, vcpu: &Vcpu, host_addr: u64, flags: u32) -> Result<Place, i16> {
    if flags & abi::GNTMAP_CONTAINS_PTE != 0 {
        // XSA-227: an entry is eight aligned bytes.
        if host_addr & 7 != 0 {
            return Err(abi::GNTST_GENERAL_ERROR);
        }
        return Ok(Place { table: host_addr >> 12, index: (host_addr as usize & 4095) / 8 });
    }
    walk::place(space, vcpu, host_addr).ok_or(abi::GNTST_BAD_VIRT_ADDR)
}

fn map(vcpu: &Vcpu, op: &mut abi::MapGrantRef) -> Result<(), i16> {
    if op.flags & abi::GNTMAP_HOST_MAP == 0 || op.flags & abi::GNTMAP_DEVICE_MAP != 0 {
        return Err(abi::GNTST_GENERAL_ERROR);
    }
    let granter = named(vcpu, op.dom).map_err(|_| abi::GNTST_BAD_DOMAIN)?;
    let mapper = vcpu.partition;
    let frame = granter
        .with_grants(|table| table.acquire(op.grant_ref, mapper.domid(), access(op.flags)))?;
    let record = MapRecord {
        partition: granter.number,
        reference: op.grant_ref,
        frame,
        flags: op.flags,
        host_addr: op.host_addr,
        tag: 0,
    };
    let inserted = mapper.maps.lock().insert(record);
    let mapped = inserted.and_then(|handle| match enter(vcpu, granter, &record) {
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

/// Writes the mapper's page-table entry.
fn enter(vcpu: &Vcpu, granter: &Partition, record: &MapRecord) -> Result<(), i16> {
    let mut flags = PTE_PRESENT | PTE_USER | PTE_ACCESSED | PTE_DIRTY;
    if access(record.flags) == Access::Write {
        flags |= PTE_RW;
    }
    flags |= u64::from(record.flags >> abi::GNTMAP_GUEST_AVAIL_SHIFT & 7) << 9;
    let mut space = vcpu.partition.space.lock_or_again().map_err(|_| abi::GNTST_EAGAIN)?;
    let place = place(&space, vcpu, record.host_addr, record.flags)?;
    let new = u64::from(record.frame) << 12 | flags;
    map_foreign(&Host, &mut space, place.table, place.index, new, granter.number)
        .map(|_| ())
        .map_err(status_of)
}

/// Unmaps an array of mappings; each gets its own status.
fn unmap_each(call: &mut Call) -> Outcome {
    let [_, list, count, ..] = call.args;
    let operations = GuestPointer::<abi::UnmapGrantRef>::new(list, count)?;
    let mut done = 0;
    while done < count {
        let finished =
            call.vcpu.partition.space.lock_or_again().and_then(|mut space| finish(&mut space));
        if finished.is_err() || done != 0 && schedule::should_yield_now() {
            return call.go_on::<abi::UnmapGrantRef>(1, done);
        }
        let end = count.min(done + BATCH as u64);
        done += unmap_some(call.vcpu, &operations, done..end)?;
        if done < end {
            return call.go_on::<abi::UnmapGrantRef>(1, done);
        }
    }
    Ok(0)
}

/// Unmaps a batch: its entries go, then the translations, then what the entries held. Returns how
/// many operations have a status now: all, or those before the one that has to come again.
fn unmap_some(
    vcpu: &Vcpu,
    operations: &GuestPointer<abi::UnmapGrantRef>,
    which: Range<u64>,
) -> Result<u64, i64> {
    let mut begun = Vec::<_, BATCH>::new();
    let mut outcome = Ok(());
    for index in which {
        match operations.read(index) {
            Ok(operation) => match unmap(vcpu, &operation) {
                // Another virtual CPU has left work in the tables, which is finished first. Kernels
                // take any status but 0 for a mapping that stays for good.
                Err(abi::GNTST_EAGAIN) => break,
                // As many as the batch has room for.
                left => drop(begun.push((index, operation, left))),
            },
            Err(fault) => {
                outcome = Err(fault.into());
                break;
            }
        }
    }
    if begun.iter().any(|(_, _, left)| left.is_ok()) {
        cpu::flush_partition(vcpu.partition.number);
    }
    let count = begun.len() as u64;
    for (index, mut operation, left) in begun {
        operation.status = status(left.and_then(|(released, record)| {
            release(&Host, released);
            end_use(&record?)
        }));
        outcome = outcome.and(operations.write(index, &operation).map_err(i64::from));
    }
    outcome.map(|()| count)
}

/// Takes a mapping away; what it held is to be released once the mapper's CPUs are flushed.
fn unmap(vcpu: &Vcpu, op: &abi::UnmapGrantRef) -> Result<(Release, Result<MapRecord, i16>), i16> {
    // Held, so that a handle is given back once.
    let mut maps = vcpu.partition.maps.lock();
    let record = maps.get(op.handle)?;
    if op.host_addr != record.host_addr {
        return Err(abi::GNTST_BAD_VIRT_ADDR);
    }
    let released = leave(vcpu, &record)?;
    Ok((released, maps.remove(op.handle)))
}

/// The granter's entry is no longer in use by this mapping.
pub fn end_use(record: &MapRecord) -> Result<(), i16> {
    // One that is gone has nothing in use; its number is nobody's while its frames are mapped.
    let Some(granter) = partition::find(record.partition) else { return Ok(()) };
    granter.with_grants(|table| table.release(record.reference, access(record.flags)))
}

/// Clears the mapper's page-table entry, which must still be that mapping (XSA-234).
fn leave(vcpu: &Vcpu, record: &MapRecord) -> Result<Release, i16> {
    let mut space = vcpu.partition.space.lock();
    let place = place(&space, vcpu, record.host_addr, record.flags)?;
    let writable = access(record.flags) == Access::Write;
    let mfn = record.frame.into();
    unmap_entry_expect(&Host, &mut space, place.table, place.index, mfn, writable)
        .map_err(status_of)
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
                list.write(index, &(vcpu.partition.grant_table() + index))?;
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

/// Version 2 does not exist here (its status frames were the source of several advisories).
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
