//! Page-table updates: `mmu_update` and `update_va_mapping`.

use core::sync::atomic::Ordering;

use page_tables::{Error, Space, update_entry};
use pv_abi::xen::{
    domid, errno,
    mmu::{
        MACHPHYS_UPDATE, MmuUpdate, NORMAL_PT_UPDATE, PT_UPDATE_NO_TRANSLATE,
        PT_UPDATE_PRESERVE_AD, UPDATE_COMMAND_MASK, UPDATE_PREEMPTED, UVMF_ALL,
        UVMF_FLUSHTYPE_MASK, UVMF_INVLPG, UVMF_LOCAL, UVMF_TLB_FLUSH,
    },
};

use super::{AGAIN, Call, OrFault, Outcome};
use crate::{
    cpu,
    guest_memory::{self, GuestPointer},
    machine::Host,
    partition::{self, Partition, errno_of},
    platform, schedule,
    vcpu::Vcpu,
    walk,
};

/// Updates between two looks at whether to yield.
const STRIDE: u64 = 64;

/// Refuses tables and frames of other partitions: nothing that may name them goes through here.
pub fn check_foreign(vcpu: &Vcpu, foreign: u64) -> Result<(), i64> {
    let own = |id: u16| id == domid::SELF || u32::from(id) == vcpu.partition.domid().into();
    let frames = foreign as u16;
    let tables = (foreign >> 16) as u16;
    if own(frames) && (tables == 0 || own(tables - 1)) { Ok(()) } else { Err(errno::EPERM) }
}

/// `mmu_update(requests, count, done, foreign)`. Stops at the first error; `done` counts.
pub fn mmu_update(call: &mut Call) -> Outcome {
    let [list, count, done, foreign, ..] = call.args;
    let resumed = count as u32 & UPDATE_PREEMPTED != 0;
    let count = u64::from(count as u32 & !UPDATE_PREEMPTED);
    let before: u32 = if resumed && done != 0 { guest_memory::read(done).or_fault()? } else { 0 };
    let partition = call.vcpu.partition;
    let allowed = check_foreign(call.vcpu, foreign)
        .and_then(|()| GuestPointer::<MmuUpdate>::new(list, count).or_fault());
    let (performed, outcome) = match allowed {
        Ok(requests) => run(partition, &mut partition.space.lock(), &requests, count),
        Err(error) => (0, Err(error)),
    };
    // Also where nothing was done: kernels go on after the count that they find.
    if done != 0 {
        guest_memory::write(done, &before.wrapping_add(performed as u32)).or_fault()?;
    }
    if outcome == Err(AGAIN) {
        call.args[0] = list + performed * size_of::<MmuUpdate>() as u64;
        call.args[1] = (count - performed) | u64::from(UPDATE_PREEMPTED);
    }
    outcome
}

/// Performs requests; returns how many were done.
fn run(
    partition: &Partition,
    space: &mut Space,
    requests: &GuestPointer<MmuUpdate>,
    count: u64,
) -> (u64, Outcome) {
    if finish(space).is_err() {
        return (0, Err(AGAIN));
    }
    for index in 0..count {
        if index % STRIDE == STRIDE - 1 && schedule::should_yield() {
            return (index, Err(AGAIN));
        }
        let result =
            requests.read(index).or_fault().and_then(|request| one(partition, space, &request));
        if let Err(error) = result {
            return (index, Err(error));
        }
    }
    (count, finish(space).map(|()| 0))
}

/// Carries on with what is unfinished in the partition's tables.
pub fn finish(space: &mut Space) -> Result<(), i64> {
    if !space.is_unfinished() {
        return Ok(());
    }
    space.finish(&Host).map_err(errno_of)
}

fn one(partition: &Partition, space: &mut Space, request: &MmuUpdate) -> Result<(), i64> {
    let command = request.ptr & UPDATE_COMMAND_MASK;
    let mfn = request.ptr >> 12;
    match command {
        NORMAL_PT_UPDATE | PT_UPDATE_PRESERVE_AD | PT_UPDATE_NO_TRANSLATE => {
            let index = (request.ptr as usize & 4095) / 8;
            let preserve = command == PT_UPDATE_PRESERVE_AD;
            update_entry(&Host, space, mfn, index, request.val, preserve).map_err(errno_of)?;
            Ok(())
        }
        MACHPHYS_UPDATE => {
            let frame = partition::frame(mfn).ok_or(errno::EINVAL)?;
            let entry = platform::m2p().get(mfn as usize).ok_or(errno::EINVAL)?;
            // Held, so that it neither becomes idle nor changes hands meanwhile.
            frame.get_ref(partition.number).map_err(|_| errno::EPERM)?;
            entry.store(request.val, Ordering::Relaxed);
            let _ = frame.put_ref();
            Ok(())
        }
        _ => Err(errno::ENOSYS),
    }
}

/// `update_va_mapping(va, entry, flags)`.
pub fn update_va_mapping(call: &mut Call) -> Outcome {
    let [va, value, flags, ..] = call.args;
    let vcpu = call.vcpu;
    {
        let mut space = vcpu.partition.space.lock();
        finish(&mut space)?;
        let place = walk::place(vcpu.kernel_root.get(), va).ok_or(errno::EINVAL)?;
        match update_entry(&Host, &mut space, place.table, place.index, value, false) {
            Ok(_) => {}
            Err(Error::Again) => return Err(AGAIN),
            Err(error) => return Err(errno_of(error)),
        }
    }
    flush_after(vcpu, va, flags)?;
    Ok(0)
}

fn flush_after(vcpu: &Vcpu, va: u64, flags: u64) -> Result<(), i64> {
    let kind = flags & UVMF_FLUSHTYPE_MASK;
    if kind != UVMF_TLB_FLUSH && kind != UVMF_INVLPG {
        return Ok(());
    }
    match flags & !UVMF_FLUSHTYPE_MASK {
        UVMF_LOCAL if kind == UVMF_INVLPG => cpu::flush_page_here(va),
        UVMF_LOCAL => cpu::flush_here(),
        UVMF_ALL => cpu::flush_partition(vcpu.partition.number),
        pointer => {
            let mask: u64 = guest_memory::read(pointer).or_fault()?;
            cpu::flush_vcpus(vcpu.partition.number, mask);
        }
    }
    Ok(())
}

/// The partition with this domid, for calls that name one; [`domid::SELF`] is the caller.
pub fn named(vcpu: &Vcpu, domid: u16) -> Result<&'static Partition, i64> {
    if domid == domid::SELF {
        return Ok(vcpu.partition);
    }
    partition::find(domid.into()).ok_or(errno::ESRCH)
}
