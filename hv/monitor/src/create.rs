//! Making a partition's instance from its descriptor in the database.
#![expect(unsafe_code, reason = "lays structures over memory that the database assigned")]

use core::{ops::Range, sync::atomic::Ordering};

use frames::{Frame, Kind};
use page_tables::Mfn;
use pv_abi::{
    uv::database::{
        INSTANCE_SHARED_INFO, MAX_GRANT_FRAMES, MAX_VCPUS, PartitionDescriptor, instance_frames,
        may_run,
    },
    xen::mmu::M2P_INVALID,
};
use refusal::{Refused, errno, require};
use scheduler::{CpuMask, Limits};

use crate::{
    hardware,
    lock::SpinLock,
    machine::{self, frame},
    partition::{self, Partition, VIEW_FRAME, grant_table},
    platform, schedule, stay,
    vcpu::Vcpu,
};

/// Lays out the instance of a partition that the database describes.
///
/// # Errors
/// [`Refused::Again`] if the caller must call again, `-EINVAL` if sizes are out of range or the
/// number is no partition's, `-ENOMEM` if the instance memory is too small or the machine has no room
/// for more virtual CPUs, `-EPERM` if the memory is not the partition's, `-EBUSY` if some of it is in
/// use.
pub fn create(descriptor: &PartitionDescriptor) -> Result<&'static Partition, Refused> {
    let (vcpus, grant_frames) = (descriptor.vcpus, descriptor.grant_frames);
    let fits = |count, most| (1..=most).contains(&count);
    let sizes_fit = fits(vcpus, MAX_VCPUS) && fits(grant_frames, MAX_GRANT_FRAMES);
    require(may_run(descriptor.number) && sizes_fit, errno::EINVAL)?;
    let limits = limits(descriptor)?;
    let needed = instance_frames(vcpus, grant_frames);
    require(descriptor.instance_frames >= needed, errno::ENOMEM)?;
    let first = descriptor.instance_first;
    let instance = first..first.checked_add(needed).ok_or(errno::EINVAL)?;
    keep_frames(descriptor, instance.clone())?;
    let partition = partition::lay_out(descriptor, &limits);
    for id in 0..vcpus {
        create_vcpu(partition, id).inspect_err(|_| {
            partition.all_vcpus().take(id as usize).for_each(schedule::unregister);
            release_frames(instance.clone());
        })?;
    }
    fill_shared_info(partition);
    partition::register(partition);
    Ok(partition)
}

/// The limits of CPU time in a descriptor.
fn limits(descriptor: &PartitionDescriptor) -> Result<Limits, Refused> {
    let mut allowed = CpuMask(descriptor.cpu_allowed);
    if allowed == CpuMask([0; 4]) {
        allowed = CpuMask::ALL;
    }
    let possible = (0..platform::cpu_count()).any(|cpu| allowed.contains(cpu));
    let limits = Limits { weight: descriptor.cpu_weight, cap: descriptor.cpu_cap, allowed };
    possible.then_some(limits).ok_or(errno::EINVAL)
}

/// Takes over the changes in a descriptor that the instance of `partition` can follow.
///
/// # Errors
/// `-EINVAL` if none of the allowed CPUs exists.
pub fn update(partition: &Partition, descriptor: &PartitionDescriptor) -> Result<(), Refused> {
    if partition.update(descriptor, &limits(descriptor)?) {
        partition.all_vcpus().for_each(schedule::reconsider);
    }
    Ok(())
}

/// An instance in the making: the numbers that identify it (its first frame comes first), and the
/// next frame to keep. Between calls the monitor holds a reference on each frame before that one.
static KEEPING: SpinLock<([u64; 4], u64)> = SpinLock::new(([0; 4], 0));

/// Makes `frames` an instance, zeroed except for the tables and copies of the view, and takes a
/// reference on each. So the frames that ring 0 writes stay the partition's until
/// [`release_frames`], whatever the database says. The partition may map its shared info and grant
/// frames, and nothing else of the instance. After [`Refused::Again`], the same call continues; a
/// call for another instance releases the frames that this one took.
fn keep_frames(descriptor: &PartitionDescriptor, frames: Range<u64>) -> Result<(), Refused> {
    let owner = descriptor.number;
    let grants = grant_table(Mfn::new(frames.start), descriptor.vcpus).number();
    let grants = grants..grants + u64::from(descriptor.grant_frames);
    let view = frames.start + VIEW_FRAME;
    let unused = view + m2p_view::ZEROED..view + m2p_view::FRAMES;
    let which = [frames.start, owner.into(), grants.start, grants.end];
    let mut keeping = KEEPING.lock_or_again()?;
    let (before, next) = *keeping;
    if before != which {
        release_frames(before[0]..next);
        *keeping = (which, frames.start);
    }
    for number in keeping.1..frames.end {
        let mfn = Mfn::new(number);
        let shared = number == frames.start + INSTANCE_SHARED_INFO || grants.contains(&number);
        let kind = if shared { Kind::InstanceShared } else { Kind::Private };
        let kept = frame(mfn).ok_or(errno::EINVAL).and_then(|frame| {
            let kept = frame.set_owner(owner, owner, kind).and_then(|()| frame.keep(owner));
            kept.map_err(
                |why| if why == frames::Refused::NotOwned { errno::EPERM } else { errno::EBUSY },
            )
        });
        if let Err(error) = kept {
            release_frames(frames.start..number);
            *keeping = ([0; 4], 0);
            return Err(error);
        }
        // The view clears its own frames.
        if !unused.contains(&number) {
            // SAFETY: it is RAM of a partition that does not run, held by a reference and not mapped.
            unsafe { machine::scrub(mfn) };
        }
        if let Some(entry) = platform::m2p().get(narrow::size(number)) {
            entry.store(M2P_INVALID, Ordering::Relaxed);
        }
        keeping.1 = number + 1;
        if number + 1 < frames.end && stay::should_yield_now() {
            return Err(Refused::Again);
        }
    }
    *keeping = ([0; 4], 0);
    Ok(())
}

/// Releases the references on the frames of an instance that is no longer in use.
pub fn release_frames(frames: Range<u64>) {
    for mfn in frames {
        let released = frame(Mfn::new(mfn)).is_some_and(Frame::put_ref);
        assert!(released, "frame {mfn:#x} of an instance was not kept");
    }
}

fn create_vcpu(partition: &'static Partition, id: u32) -> Result<(), Refused> {
    let slot = schedule::take_slot().ok_or(errno::ENOMEM)?;
    let place = partition.vcpu_place(id);
    let vcpu = Vcpu::new(partition, id, slot, partition.info_in_shared(id));
    // SAFETY: instance memory of the partition, zeroed, not in use yet; the frame is large enough.
    let vcpu: &'static Vcpu = unsafe {
        place.write(vcpu);
        &*place
    };
    vcpu.info().upcall_mask.store(1, Ordering::Relaxed);
    hardware::reset_extended(vcpu);
    schedule::register(vcpu);
    Ok(())
}

/// Writes the wall clock and the time records of a new partition.
fn fill_shared_info(partition: &Partition) {
    for vcpu in partition.all_vcpus() {
        vcpu.publish_time();
    }
    // Words 384 and 385 of shared info: wc_version and wc_sec, wc_nsec and wc_sec_hi.
    let wall = platform::wall_clock();
    let words = machine::table(partition.shared_info());
    words[384].store(2 | wall << 32, Ordering::Release);
    words[385].store(wall >> 32 << 32, Ordering::Release);
}
