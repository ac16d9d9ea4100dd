//! Building a partition: the boot partition writes the memory of a partition that does not run yet.

use core::sync::atomic::Ordering;

use heapless::Vec;
use page_tables::{Mfn, Release, map_foreign, release, unmap_entry_expect};
use pv_abi::{
    uv::{
        calls::{BuildMap, IDLE, UNMAP},
        database::state,
    },
    xen::mmu::{PTE_ACCESSED, PTE_ADDRESS, PTE_DIRTY, PTE_NX, PTE_PRESENT, PTE_RW, PTE_USER},
};

use super::{Call, Outcome, Refused, errno, require};
use crate::{
    cpu, database,
    guest_memory::GuestPointer,
    machine::{Host, frame},
    partition::{self, Partition},
    stay,
    vcpu::Vcpu,
    view::Viewer,
    walk,
};

/// Unmapped entries whose references are released after one flush.
const BATCH: usize = 32;

/// The target of a call: a partition that the database and the monitor both have in the state
/// *building*.
fn target(number: u64) -> Result<&'static Partition, Refused> {
    let number = u32::try_from(number).map_err(|_| errno::ESRCH)?;
    let partition = partition::find(number).ok_or(errno::ESRCH)?;
    let descriptor = database::reader().descriptor(number).map_err(|_| errno::ESRCH)?;
    let building = partition.state.load(Ordering::SeqCst) == state::BUILDING;
    let agreed = building && descriptor.state == state::BUILDING;
    agreed.then_some(partition).ok_or(errno::EPERM)
}

/// `BUILD_MAP(target, list, count)`.
pub fn map(call: &mut Call) -> Outcome {
    let [_, number, list, count, ..] = call.args;
    let target = target(number);
    let entries = GuestPointer::<BuildMap>::new(list, count)?;
    let mut done = 0;
    while done < count {
        let (next, outcome) = some(call.vcpu, target, &entries, done, count);
        done = next;
        let due = outcome.is_ok() && done < count && stay::should_yield_now();
        if due || outcome == Err(Refused::Again) {
            return call.go_on::<BuildMap>(2, done);
        }
        outcome?;
    }
    Ok(count)
}

/// Processes a batch of entries from `first` on. Returns where to continue, and the error that
/// stopped it.
fn some(
    vcpu: &Vcpu,
    target: Result<&Partition, Refused>,
    entries: &GuestPointer<BuildMap>,
    first: u64,
    count: u64,
) -> (u64, Result<(), Refused>) {
    let mut gone = Vec::<Release, BATCH>::new();
    let (mut done, mut outcome) = (first, Ok(()));
    {
        let mut space = match vcpu.partition.space.lock_or_again() {
            Ok(space) => space,
            Err(again) => return (first, Err(again)),
        };
        for index in first..count.min(first + BATCH as u64) {
            let one = entries
                .read(index)
                .map_err(Refused::from)
                .and_then(|entry| one(vcpu, &mut space, target, &entry));
            match one {
                Ok(Some(released)) => {
                    // The batch has room for all of them.
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
        gone.into_iter().for_each(give_back);
    }
    (done, outcome)
}

/// Releases the reference of an entry once no CPU caches its translation.
fn give_back(released: Release) {
    let owner = frame(released.mfn).and_then(|frame| partition::find(frame.owner()));
    release(&Host, released);
    if let Some(owner) = owner {
        owner.building.remove_frame();
    }
}

fn one(
    vcpu: &Vcpu,
    space: &mut page_tables::Space,
    target: Result<&Partition, Refused>,
    entry: &BuildMap,
) -> Result<Option<Release>, Refused> {
    let place = walk::place(space, vcpu, entry.va).ok_or(errno::EINVAL)?;
    let old = walk::entry(place).load(Ordering::Relaxed);
    if entry.frame != UNMAP {
        require(old & PTE_PRESENT == 0, errno::EBUSY)?;
        let flags = PTE_PRESENT | PTE_RW | PTE_USER | PTE_ACCESSED | PTE_DIRTY | PTE_NX;
        let new = entry.frame << 12 & PTE_ADDRESS | flags;
        let target = target?;
        require(target.building.add_frame(), errno::EPERM)?;
        let mapped = map_foreign(&Host, space, place, new, target.number);
        let mapped = mapped.inspect_err(|_| target.building.remove_frame());
        return mapped.map(|_| None).map_err(Refused::from);
    }
    if old & PTE_PRESENT == 0 {
        return Ok(None);
    }
    let mfn = Mfn::of_entry(old);
    let writable = old & PTE_RW != 0;
    unmap_entry_expect(&Host, space, place, mfn, writable).map(Some).map_err(Refused::from)
}

/// `BUILD_M2P(target, first machine frame, first pseudo-physical frame, count)`.
pub fn set_m2p(call: &mut Call) -> Outcome {
    let [_, number, first, pfn, count, _] = call.args;
    let partition = target(number)?;
    let mut view = (pfn != IDLE).then(|| partition.view.lock());
    for index in 0..count {
        if index != 0 && stay::should_yield() {
            call.args[2] = first + index;
            call.args[3] = pfn.saturating_add(index);
            call.args[4] = count - index;
            return Err(Refused::Again);
        }
        let mfn = Mfn::new(first.checked_add(index).ok_or(errno::EINVAL)?);
        partition.check_own(mfn)?;
        match &mut view {
            Some(view) => view.set(&Viewer(partition.number), mfn, pfn.wrapping_add(index)),
            None if partition.make_idle(mfn) => {}
            None => return Err(errno::EBUSY),
        }
    }
    Ok(0)
}
