//! Giving up a partition: every reference it holds goes, step by step and repeatable, so that the
//! database can assign its memory to another.

use core::sync::atomic::Ordering;

use page_tables::{drop_range, put_base};
use pv_abi::uv::database::state;

use crate::{
    area::Area,
    cpu, database, descriptors,
    hypercall::{AGAIN, close_all, end_mapping},
    machine::{self, Host},
    partition::{self, Partition, errno_of},
    platform, schedule,
    vcpu::Vcpu,
};

/// Drops what the partition holds. [`AGAIN`]: call again.
///
/// # Errors
/// [`AGAIN`], or an errno of the page-table rules.
pub fn relinquish(partition: &'static Partition) -> Result<(), i64> {
    partition.state.store(state::DYING, Ordering::SeqCst);
    partition.all_vcpus().for_each(schedule::expel);
    for vcpu in partition.all_vcpus() {
        empty(vcpu)?;
    }
    close_all(partition)?;
    drop_tables(partition)?;
    end_grants(partition)?;
    partition.all_vcpus().for_each(schedule::unregister);
    let instance = partition.instance_frames();
    partition::unregister(partition.number);
    cpu::quiesce_others();
    partition::release_frames(instance);
    Ok(())
}

fn empty(vcpu: &Vcpu) -> Result<(), i64> {
    vcpu.runstate_area.get().release();
    vcpu.runstate_area.set(Area::NONE);
    vcpu.time_area.get().release();
    vcpu.time_area.set(Area::NONE);
    let info = vcpu.info_frame.swap(0, Ordering::AcqRel);
    if info != 0 {
        vcpu.move_info(vcpu.partition.info_in_shared(vcpu.id));
        machine::release_writable(info);
    }
    descriptors::replace_gdt(vcpu, &[0; 14])?;
    descriptors::replace_ldt(vcpu, 0, 0)?;
    let mut space = vcpu.partition.space.lock_or_again()?;
    space.finish(&Host).map_err(errno_of)?;
    for root in [&vcpu.kernel_root, &vcpu.user_root] {
        if root.get() != 0 {
            put_base(&Host, &mut space, root.get()).map_err(errno_of)?;
            root.set(0);
        }
    }
    Ok(())
}

/// Goes through the frames that the database gives to the partition, and those alone: the machine
/// may have many more.
fn drop_tables(partition: &Partition) -> Result<(), i64> {
    let mut space = partition.space.lock_or_again()?;
    let mut next = partition.relinquished.load(Ordering::Relaxed);
    let end = platform::frame_table().len() as u64;
    let mut result = space.finish(&Host).map_err(errno_of);
    while next < end && result.is_ok() {
        // Where the map says nothing, all the rest may be the partition's.
        let (owner, frames) = match database::reader().entry_at(next) {
            Ok(range) => (range.owner.number, range.frames),
            Err(_) => (partition.number, end - next),
        };
        let stop = end.min(next + frames);
        if owner == partition.number {
            result = drop_range(&Host, &mut space, &mut next, stop).map_err(errno_of);
        } else {
            next = stop;
        }
        if schedule::should_yield() {
            result = result.and(Err(AGAIN));
        }
    }
    partition.relinquished.store(next, Ordering::Relaxed);
    result
}

fn end_grants(partition: &Partition) -> Result<(), i64> {
    let mut from = 0;
    loop {
        let Some((handle, record)) = partition.maps.lock().next_used(from) else {
            return Ok(());
        };
        end_mapping(&record);
        let _ = partition.maps.lock().remove(handle);
        from = handle;
        if schedule::should_yield_now() {
            return Err(AGAIN);
        }
    }
}
