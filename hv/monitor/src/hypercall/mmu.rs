//! Page-table updates: `mmu_update` and `update_va_mapping`.

use core::mem::MaybeUninit;

use page_tables::{Mfn, Request, Space, update_entries, update_entry};
use pv_abi::xen::mmu::{
    MACHPHYS_UPDATE, MmuUpdate, PT_UPDATE_PRESERVE_AD, UPDATE_COMMAND_MASK, UPDATE_PREEMPTED,
    UVMF_ALL, UVMF_FLUSHTYPE_MASK, UVMF_INVLPG, UVMF_LOCAL, UVMF_TLB_FLUSH,
};

use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::{Call, Outcome, Refused, errno, is_own};
use crate::{
    cpu,
    guest_memory::{self, GuestPointer},
    machine::{self, Host},
    partition::Partition,
    platform, stay,
    vcpu::Vcpu,
    view, walk,
};

/// Updates that are read together; between two such batches the call checks whether to yield.
const CHUNK: usize = 32;

/// Refuses a call that names the tables or frames of another partition.
pub fn check_foreign(vcpu: &Vcpu, foreign: u64) -> Result<(), Refused> {
    let frames = narrow::low_16(foreign);
    let tables = narrow::low_16(foreign >> 16);
    let allowed = is_own(vcpu, frames) && (tables == 0 || is_own(vcpu, tables - 1));
    if allowed { Ok(()) } else { Err(errno::EPERM) }
}

/// `mmu_update(requests, count, done, foreign)`. Stops at the first error; `done` counts the
/// requests performed.
pub fn mmu_update(call: &mut Call) -> Outcome {
    let [list, count, done, foreign, ..] = call.args;
    if count == 1 && done == 0 {
        check_foreign(call.vcpu, foreign)?;
        return single(call, guest_memory::read(list)?);
    }
    many(call)
}

/// [`mmu_update`] in its general form.
#[inline(never)]
fn many(call: &mut Call) -> Outcome {
    let partition = call.vcpu.partition;
    batch(call, |_, requests, count| match partition.space.lock_or_again() {
        Ok(mut space) => run(partition, &mut space, requests, count),
        Err(again) => (0, Err(again)),
    })
}

/// Performs an array of `T` by `run`, which returns how many elements it performed, and adds that
/// to the caller's `done`.
pub fn batch<T: FromBytes + IntoBytes + Immutable>(
    call: &mut Call,
    run: impl FnOnce(&'static Vcpu, &GuestPointer<T>, u64) -> (u64, Outcome),
) -> Outcome {
    let [list, count, done, foreign, ..] = call.args;
    let count = narrow::low_32(count);
    let resumed = count & UPDATE_PREEMPTED != 0;
    let count = u64::from(count & !UPDATE_PREEMPTED);
    let before: u32 = if resumed && done != 0 { guest_memory::read(done)? } else { 0 };
    let allowed = check_foreign(call.vcpu, foreign)
        .and_then(|()| GuestPointer::<T>::new(list, count).map_err(Refused::from));
    let (performed, outcome) = match allowed {
        Ok(elements) => run(call.vcpu, &elements, count),
        Err(error) => (0, Err(error)),
    };
    // The count is written even if it is 0: kernels continue after the count that they find.
    if done != 0 {
        guest_memory::write(done, &before.wrapping_add(narrow::low_32(performed)))?;
    }
    if outcome == Err(Refused::Again) {
        call.args[0] = list + performed * size_of::<T>() as u64;
        call.args[1] = (count - performed) | u64::from(UPDATE_PREEMPTED);
    }
    outcome
}

/// Performs the request of a call that has only one, as nearly all calls on a page fault have.
#[inline]
fn single(call: &mut Call, request: MmuUpdate) -> Outcome {
    let partition = call.vcpu.partition;
    let mut space = partition.space.lock_or_again()?;
    space.finish(&Host)?;
    if is_entry(&request) {
        update_entry(&Host, &mut space, Mfn::of_address(request.ptr), entry_request(&request))?;
    } else {
        set_m2p(partition, &request)?;
    }
    if space.finish(&Host).is_err() {
        call.args[1] = UPDATE_PREEMPTED.into();
        return Err(Refused::Again);
    }
    Ok(0)
}

/// Performs requests. Returns how many were performed.
fn run(
    partition: &Partition,
    space: &mut Space,
    requests: &GuestPointer<MmuUpdate>,
    count: u64,
) -> (u64, Outcome) {
    if space.finish(&Host).is_err() {
        return (0, Err(Refused::Again));
    }
    let mut buffer = [const { MaybeUninit::uninit() }; CHUNK];
    let mut done = 0;
    while done < count {
        if done != 0 && stay::should_yield() {
            return (done, Err(Refused::Again));
        }
        let one;
        let many = if count - done > 1 { requests.read_some(done, &mut buffer).ok() } else { None };
        let chunk = match many {
            Some(chunk) => chunk,
            // Reads a single request, or the requests before the one that faults.
            None => match requests.read(done) {
                Ok(request) => {
                    one = [request];
                    &one
                }
                Err(fault) => return (done, Err(fault.into())),
            },
        };
        let (performed, outcome) = several(partition, space, chunk);
        done += performed;
        if let Err(error) = outcome {
            return (done, Err(error));
        }
    }
    (count, space.finish(&Host).map(|()| 0).map_err(Refused::from))
}

/// Performs requests, together those for one table. Returns how many were performed.
#[inline]
fn several(
    partition: &Partition,
    space: &mut Space,
    requests: &[MmuUpdate],
) -> (u64, Result<(), Refused>) {
    let mut done = 0;
    while let Some(rest) = requests.get(done..)
        && let Some(first) = rest.first()
    {
        let (performed, outcome) = if is_entry(first) {
            entries(space, Mfn::of_address(first.ptr), rest)
        } else {
            (1, set_m2p(partition, first))
        };
        if outcome.is_err() {
            let before = if is_entry(first) { performed } else { 0 };
            return (done as u64 + before, outcome);
        }
        done += narrow::size(performed);
    }
    (done as u64, Ok(()))
}

/// Returns whether the request is for a page-table entry.
#[inline]
fn is_entry(request: &MmuUpdate) -> bool {
    request.ptr & UPDATE_COMMAND_MASK != MACHPHYS_UPDATE
}

#[inline]
fn entry_request(request: &MmuUpdate) -> Request {
    Request {
        index: narrow::entry_index(request.ptr),
        new: request.val,
        preserve_ad: request.ptr & UPDATE_COMMAND_MASK == PT_UPDATE_PRESERVE_AD,
    }
}

/// Performs the leading requests that are for entries of `table`.
#[inline]
fn entries(space: &mut Space, table: Mfn, requests: &[MmuUpdate]) -> (u64, Result<(), Refused>) {
    let together =
        |request: &&MmuUpdate| is_entry(request) && Mfn::of_address(request.ptr) == table;
    let requests = requests.iter().take_while(together).map(entry_request);
    let (done, outcome) = update_entries(&Host, space, table, requests);
    (done, outcome.map_err(Refused::from))
}

/// Sets a machine-to-physical entry.
fn set_m2p(partition: &Partition, request: &MmuUpdate) -> Result<(), Refused> {
    let mfn = Mfn::of_address(request.ptr);
    let frame = machine::frame(mfn).ok_or(errno::EINVAL)?;
    // The reference keeps the frame from becoming idle or changing its owner meanwhile.
    frame.get_ref(partition.number).map_err(|_| errno::EPERM)?;
    view::set(partition, mfn, request.val);
    let _ = frame.put_ref();
    Ok(())
}

/// `update_va_mapping(va, entry, flags)`.
pub fn update_va_mapping(call: &mut Call) -> Outcome {
    let [va, value, flags, ..] = call.args;
    let vcpu = call.vcpu;
    {
        let mut space = vcpu.partition.space.lock_or_again()?;
        space.finish(&Host)?;
        let place = walk::place(&space, vcpu, va).ok_or(errno::EINVAL)?;
        let request = Request { index: place.index, new: value, preserve_ad: false };
        update_entry(&Host, &mut space, place.table, request)?;
    }
    flush_after(vcpu, va, flags)?;
    Ok(0)
}

fn flush_after(vcpu: &Vcpu, va: u64, flags: u64) -> Result<(), Refused> {
    let kind = flags & UVMF_FLUSHTYPE_MASK;
    if kind != UVMF_TLB_FLUSH && kind != UVMF_INVLPG {
        return Ok(());
    }
    match flags & !UVMF_FLUSHTYPE_MASK {
        UVMF_LOCAL if kind == UVMF_INVLPG => platform::invlpg(va),
        UVMF_LOCAL => cpu::flush_here(),
        UVMF_ALL => cpu::flush_partition(vcpu.partition.number),
        pointer => {
            let mask: u64 = guest_memory::read(pointer)?;
            cpu::flush_vcpus(vcpu.partition.number, mask);
        }
    }
    Ok(())
}
