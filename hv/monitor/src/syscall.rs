//! The `syscall` and `sysenter` instructions: from kernel mode they are hypercalls, from user mode
//! system calls for the partition's kernel.

use pv_abi::uv::calls::cause;

use crate::{
    bounce,
    context::{Registers, VECTOR_SYSCALL, VECTOR_SYSCALL32},
    failure, hypercall, leave,
    trap::{self, vector},
    vcpu::{self, callback},
};

/// Called by `entry.S`. Returns the frame to return to ring 3 by.
pub extern "C" fn syscall(registers: &mut Registers) -> *mut Registers {
    if let Some(vcpu) = vcpu::current() {
        if vcpu.in_kernel.get() {
            if registers.vector == VECTOR_SYSCALL {
                hypercall::dispatch(vcpu, registers);
            } else {
                trap::inject(vcpu, registers, vector::GENERAL_PROTECTION, Some(0));
            }
        } else {
            let kind = match registers.vector {
                VECTOR_SYSCALL => callback::SYSCALL,
                VECTOR_SYSCALL32 => callback::SYSCALL32,
                _ => callback::SYSENTER,
            };
            if vcpu.callbacks.get()[kind] == 0 && kind != callback::SYSCALL {
                trap::inject(vcpu, registers, vector::GENERAL_PROTECTION, Some(0));
            } else if bounce::system_call(vcpu, registers, kind).is_err() {
                failure::crash(vcpu, registers, cause::BAD_FRAME, narrow::low_32(kind as u64));
            }
        }
    }
    leave::leave(registers)
}
