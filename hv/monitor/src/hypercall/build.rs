//! Building a partition: the boot partition writes the memory of one that does not run yet.

use core::sync::atomic::Ordering;

use heapless::Vec;
use page_tables::{Release, map_foreign, release, unmap_entry_expect};
use pv_abi::{
    uv::{
        calls::{BuildMap, IDLE, UNMAP},
        database::state,
    },
    xen::{
        errno,
        mmu::{PTE_ACCESSED, PTE_ADDRESS, PTE_DIRTY, PTE_NX, PTE_PRESENT, PTE_RW, PTE_USER},
    },
};

use super::{AGAIN, Call, Outcome};
use crate::{
    cpu,
    guest_memory::GuestPointer,
    machine::Host,
    partition::{self, Partition, errno_of},
    platform, schedule,
    vcpu::Vcpu,
    walk,
};

/// Unmapped entries whose references are given back after one flush.
const BATCH: usize = 64;

/// The target of a call: a partition that is being built.
fn target(number: u64) -> Result<&'static Partition, i64> {
    let number = u32::try_from(number).map_err(|_| errno::ESRCH)?;
    let partition = partition::find(number).ok_or(errno::ESRCH)?;
    if partition.state.load(Ordering::Acquire) != state::BUILDING {
        return Err(errno::EPERM);
    }
    Ok(partition)
}

/// `BUILD_MAP(target, list, count)`.
pub fn map(call: &mut Call) -> Outcome {
    let [_, number, list, count, ..] = call.args;
    let owner = target(number).map(|target| target.number);
    let entries = GuestPointer::<BuildMap>::new(list, count)?;
    let mut done = 0;
    while done < count {
        let (next, outcome) = some(call.vcpu, owner, &entries, done, count);
        done = next;
        let due = outcome.is_ok() && done < count && schedule::should_yield();
        if due || outcome == Err(AGAIN) {
            return call.go_on::<BuildMap>(2, done);
        }
        outcome?;
    }
    Ok(count)
}

/// Does entries from `first` on, up to a batch; returns where to go on, and what stopped it.
fn some(
    vcpu: &Vcpu,
    owner: Result<u32, i64>,
    entries: &GuestPointer<BuildMap>,
    first: u64,
    count: u64,
) -> (u64, Result<(), i64>) {
    let mut gone = Vec::<Release, BATCH>::new();
    let (mut done, mut outcome) = (first, Ok(()));
    {
        let mut space = vcpu.partition.space.lock();
        for index in first..count.min(first + BATCH as u64) {
            let one = entries
                .read(index)
                .map_err(i64::from)
                .and_then(|entry| one(vcpu, &mut space, owner, &entry));
            match one {
                Ok(Some(released)) => {
                    // As many as the batch has room for.
                    let _ = gone.push(released);
                }
                Ok(None) => {}
                Err(error) => {
                    outcome = Err(error);
                    break;
                }
            }
            done = index + 1;
        }
    }
    if !gone.is_empty() {
        cpu::flush_partition(vcpu.partition.number);
        gone.into_iter().for_each(|released| release(&Host, released));
    }
    (done, outcome)
}

fn one(
    vcpu: &Vcpu,
    space: &mut page_tables::Space,
    owner: Result<u32, i64>,
    entry: &BuildMap,
) -> Result<Option<Release>, i64> {
    let place = walk::place(vcpu.kernel_root.get(), entry.va).ok_or(errno::EINVAL)?;
    let old = place.entry().load(Ordering::Relaxed);
    if entry.frame != UNMAP {
        if old & PTE_PRESENT != 0 {
            return Err(errno::EBUSY);
        }
        let flags = PTE_PRESENT | PTE_RW | PTE_USER | PTE_ACCESSED | PTE_DIRTY | PTE_NX;
        let new = entry.frame << 12 & PTE_ADDRESS | flags;
        map_foreign(&Host, space, place.table, place.index, new, owner?).map_err(errno_of)?;
        return Ok(None);
    }
    if old & PTE_PRESENT == 0 {
        return Ok(None);
    }
    let mfn = (old & PTE_ADDRESS) >> 12;
    let writable = old & PTE_RW != 0;
    unmap_entry_expect(&Host, space, place.table, place.index, mfn, writable)
        .map(Some)
        .map_err(errno_of)
}

/// `BUILD_M2P(target, first machine frame, first pseudo-physical frame, count)`.
pub fn set_m2p(call: &mut Call) -> Outcome {
    let [_, number, first, pfn, count, _] = call.args;
    let partition = target(number)?;
    for index in 0..count {
        if index % 1024 == 1023 && schedule::should_yield() {
            call.args[2] = first + index;
            call.args[3] = pfn.saturating_add(index);
            call.args[4] = count - index;
            return Err(AGAIN);
        }
        let mfn = first.checked_add(index).ok_or(errno::EINVAL)?;
        partition.check_own(mfn)?;
        if pfn == IDLE {
            if !partition.make_idle(mfn) {
                return Err(errno::EBUSY);
            }
            continue;
        }
        let entry = platform::m2p().get(mfn as usize).ok_or(errno::EINVAL)?;
        entry.store(pfn.wrapping_add(index), Ordering::Relaxed);
    }
    Ok(0)
}
