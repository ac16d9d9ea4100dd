//! `mmuext_op`: pins, base pointers, flushes, and local descriptor tables.

use page_tables::{Mfn, Space, pin, unpin};
use pv_abi::xen::mmu::*;

use super::{Call, Outcome, Refused, errno, mmu::batch};
use crate::{
    cpu, descriptors,
    guest_memory::{self, GuestPointer, is_canonical},
    machine::Host,
    platform, roots, stay,
    vcpu::Vcpu,
};

/// `mmuext_op(operations, count, done, foreign)`.
pub fn mmuext_op(call: &mut Call) -> Outcome {
    batch(call, run)
}

fn run(vcpu: &'static Vcpu, operations: &GuestPointer<MmuextOp>, count: u64) -> (u64, Outcome) {
    let mut space = match vcpu.partition.space.lock_or_again() {
        Ok(space) => space,
        Err(again) => return (0, Err(again)),
    };
    if space.finish(&Host).is_err() {
        return (0, Err(Refused::Again));
    }
    for index in 0..count {
        if index != 0 && stay::should_yield() {
            return (index, Err(Refused::Again));
        }
        let result = match operations.read(index) {
            Ok(operation) if operation.cmd == EXT_SET_LDT => {
                drop(space);
                let replaced =
                    descriptors::replace_ldt(vcpu, operation.arg1, narrow::low_32(operation.arg2));
                space = match vcpu.partition.space.lock_or_again() {
                    Ok(space) => space,
                    Err(again) => {
                        return (index + u64::from(replaced.is_ok()), replaced.and(Err(again)));
                    }
                };
                replaced
            }
            Ok(operation) => one(vcpu, &mut space, &operation),
            Err(fault) => Err(fault.into()),
        };
        if let Err(error) = result {
            return (index, Err(error));
        }
    }
    (count, space.finish(&Host).map(|()| 0).map_err(Refused::from))
}

fn one(vcpu: &Vcpu, space: &mut Space, operation: &MmuextOp) -> Result<(), Refused> {
    let (arg1, arg2) = (operation.arg1, operation.arg2);
    let mfn = Mfn::new(arg1);
    let number = vcpu.partition.number;
    match operation.cmd {
        level @ EXT_PIN_L1_TABLE..=EXT_PIN_L4_TABLE => {
            pin(&Host, space, narrow::low_8(level.into()) + 1, mfn)?;
        }
        EXT_UNPIN_TABLE => unpin(&Host, space, mfn)?,
        EXT_NEW_BASEPTR => roots::load_kernel(vcpu, space, mfn)?,
        EXT_NEW_USER_BASEPTR => roots::set_user(vcpu, space, mfn)?,
        EXT_TLB_FLUSH_LOCAL => cpu::flush_here(),
        EXT_INVLPG_LOCAL if is_canonical(arg1) => platform::invlpg(arg1),
        EXT_INVLPG_LOCAL => {}
        EXT_TLB_FLUSH_MULTI | EXT_INVLPG_MULTI => {
            cpu::flush_vcpus(number, guest_memory::read(arg2)?);
        }
        EXT_TLB_FLUSH_ALL | EXT_INVLPG_ALL => cpu::flush_partition(number),
        // Only a partition with device memory needs to flush the caches.
        EXT_FLUSH_CACHE | EXT_FLUSH_CACHE_GLOBAL => return Err(errno::EPERM),
        _ => return Err(errno::ENOSYS),
    }
    Ok(())
}
