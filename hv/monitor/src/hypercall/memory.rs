//! `memory_op`: the memory map for a kernel, the machine-to-physical table, and ballooning within
//! the memory that the database assigned.

use core::sync::atomic::Ordering;

use page_tables::Mfn;

use pv_abi::xen::{memory as abi, mmu};

use super::{Call, Outcome, Refused, errno, require, update};
use crate::{
    guest_memory::{self, GuestPointer},
    partition::Partition,
    platform, stay,
    vcpu::Vcpu,
    view,
};

/// The low bits that hold the command; the other bits say where a continued call resumes.
const COMMAND: u64 = (1 << abi::COMMAND_BITS) - 1;

/// `memory_op(command, argument)`.
pub fn memory_op(call: &mut Call) -> Outcome {
    let [command, argument, ..] = call.args;
    match command & COMMAND {
        abi::MEMORY_MAP => memory_map(call.vcpu, argument),
        abi::MACHPHYS_MAPPING => machphys_mapping(argument),
        abi::CURRENT_RESERVATION | abi::MAXIMUM_RESERVATION => {
            Ok(call.vcpu.partition.memory_frames.load(Ordering::Relaxed))
        }
        abi::MAXIMUM_RAM_PAGE => Ok(platform::frame_table().len() as u64 - 1),
        command @ abi::DECREASE_RESERVATION => each(call, command, decrease),
        command @ abi::POPULATE_PHYSMAP => each(call, command, populate),
        abi::MACHINE_MEMORY_MAP | abi::CLAIM_PAGES => Err(errno::EPERM),
        _ => Err(errno::ENOSYS),
    }
}

/// Reports one range of RAM from address 0, without holes.
fn memory_map(vcpu: &Vcpu, argument: u64) -> Outcome {
    update(argument, |map: &mut abi::MemoryMap| {
        require(map.nr_entries != 0, errno::EINVAL)?;
        let frames = vcpu.partition.memory_frames.load(Ordering::Relaxed);
        let entry = abi::E820Entry { addr: 0, size: frames << 12, kind: abi::E820_RAM };
        map.nr_entries = 1;
        Ok(guest_memory::write(map.buffer, &entry)?)
    })
}

fn machphys_mapping(argument: u64) -> Outcome {
    let mapping = abi::MachphysMapping {
        v_start: mmu::M2P_START,
        v_end: mmu::M2P_END,
        max_mfn: platform::m2p().len() as u64 - 1,
    };
    guest_memory::write(argument, &mapping)?;
    Ok(0)
}

/// Reads the reservation of a balloon call. Accepts only single frames of the caller.
fn reservation(call: &Call) -> Result<abi::MemoryReservation, Refused> {
    let reservation: abi::MemoryReservation = guest_memory::read(call.args[1])?;
    require(reservation.extent_order == 0, errno::EPERM)?;
    super::mmu::check_foreign(call.vcpu, reservation.domid.into())?;
    Ok(reservation)
}

/// Calls `one` for each extent of a balloon call. Returns how many were done before the first
/// failure.
fn each(call: &mut Call, command: u64, one: fn(&Partition, u64) -> Option<Mfn>) -> Outcome {
    let reservation = reservation(call)?;
    let list = GuestPointer::<u64>::new(reservation.extent_start, reservation.nr_extents)?;
    let first = call.args[0] >> abi::COMMAND_BITS;
    let partition = call.vcpu.partition;
    for index in first..reservation.nr_extents {
        if index != first && stay::should_yield() {
            call.args[0] = command | index << abi::COMMAND_BITS;
            return Err(Refused::Again);
        }
        let Some(mfn) = list.read(index).ok().and_then(|extent| one(partition, extent)) else {
            return Ok(index);
        };
        if command == abi::POPULATE_PHYSMAP && list.write(index, &mfn.number()).is_err() {
            let _ = partition.make_idle(mfn);
            return Ok(index);
        }
    }
    Ok(reservation.nr_extents)
}

/// Removes a frame from the populated set, if no reference to it is left.
fn decrease(partition: &Partition, mfn: u64) -> Option<Mfn> {
    let mfn = Mfn::new(mfn);
    (partition.check_own(mfn).is_ok() && partition.make_idle(mfn)).then_some(mfn)
}

/// Returns an idle frame to the populated set, as pseudo-physical frame `pfn`.
fn populate(partition: &Partition, pfn: u64) -> Option<Mfn> {
    let mfn = partition.take_idle()?;
    view::set(partition, mfn, pfn);
    Some(mfn)
}
