//! Takes a partition apart: releases every reference it holds, in repeatable steps, so that the
//! database can assign its memory to another.

use core::{ops::Range, sync::atomic::Ordering};

use page_tables::{Mfn, drop_range, put_base};
use pv_abi::uv::database::state;
use refusal::{Refused, errno, require};

use crate::{
    area::Area,
    cpu, create, descriptors, device,
    hypercall::{close_all, end_mapping},
    machine::{self, Host},
    partition::{self, Partition},
    platform, schedule, stay,
    vcpu::Vcpu,
};

/// Drops the references that the partition's page tables in a range of frames hold. If the range is
/// empty, releases everything else that the partition holds, and unregisters the partition. The
/// caller repeats the call while it returns [`Refused::Again`].
///
/// # Errors
/// [`Refused::Again`]; `-EBUSY` if page tables are left that no range named: the partition no longer
/// runs, and the caller names the rest; `-ENODEV` while a function owes the partition a reset; or an
/// errno of the page-table rules.
pub fn relinquish(partition: &'static Partition, tables: Range<u64>) -> Result<(), Refused> {
    partition.state.store(state::DYING, Ordering::SeqCst);
    partition.all_vcpus().for_each(schedule::expel);
    for vcpu in partition.all_vcpus() {
        empty(vcpu)?;
    }
    if !tables.is_empty() {
        return drop_tables(partition, &tables);
    }
    require(partition.space.lock_or_again()?.tables() == 0, errno::EBUSY)?;
    close_all(partition)?;
    // Until then a function may still reach memory of the partition, and what it has mapped.
    require(!device::take_from(partition.number), errno::ENODEV)?;
    end_grants(partition)?;
    partition.all_vcpus().for_each(schedule::unregister);
    let instance = partition.instance_frames();
    partition::unregister(partition.number);
    cpu::quiesce_others();
    create::release_frames(instance);
    Ok(())
}

fn empty(vcpu: &Vcpu) -> Result<(), Refused> {
    vcpu.runstate_area.replace(Area::NONE).release();
    vcpu.time_area.replace(Area::NONE).release();
    let info = Mfn::new(vcpu.info_frame.swap(0, Ordering::AcqRel));
    if !info.is_none() {
        vcpu.move_info(vcpu.partition.info_in_shared(vcpu.id));
        machine::release_writable(info);
    }
    descriptors::replace_gdt(vcpu, &[Mfn::NONE; 14])?;
    descriptors::replace_ldt(vcpu, 0, 0)?;
    let mut space = vcpu.partition.space.lock_or_again()?;
    space.finish(&Host)?;
    for root in [&vcpu.kernel_root, &vcpu.user_root] {
        if let Some(base) = root.get() {
            put_base(&Host, &mut space, base)?;
            root.set(None);
        }
    }
    Ok(())
}

/// Continues with a range of frames, and skips those of other owners. If the last call stopped in
/// this range, continues from there.
fn drop_tables(partition: &Partition, range: &Range<u64>) -> Result<(), Refused> {
    let mut space = partition.space.lock_or_again()?;
    let end = range.end.min(platform::frame_table().len() as u64);
    let reached = partition.relinquished.load(Ordering::Relaxed);
    let mut next = Mfn::new(if range.contains(&reached) { reached } else { range.start });
    let result = drop_range(&Host, &mut space, &mut next, Mfn::new(end)).map_err(Refused::from);
    // A range that is done does not shorten another that contains its end.
    let reached = if result.is_ok() { u64::MAX } else { next.number() };
    partition.relinquished.store(reached, Ordering::Relaxed);
    result
}

fn end_grants(partition: &Partition) -> Result<(), Refused> {
    let mut from = 0;
    let next = |from| partition.maps.lock().next_used(from);
    while let Some((handle, record)) = next(from) {
        end_mapping(&record);
        let _ = partition.maps.lock().remove(handle);
        from = handle;
        if stay::should_yield_now() {
            return Err(Refused::Again);
        }
    }
    Ok(())
}
