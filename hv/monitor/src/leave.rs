//! The last thing before ring 3: scheduling, pending events, and flags no partition may have.

use core::sync::atomic::Ordering;

use pv_abi::uv::calls::cause;

use crate::{
    bounce,
    context::{Registers, flag},
    cpu, partition, schedule,
    trap::{self, vector},
};

/// Flags that are the monitor's: interrupts on, the rest off.
const FORCED_OFF: u64 = flag::IOPL | flag::NT | flag::VM | flag::VIF_VIP;

/// Does what is due and returns the frame to leave by.
pub fn leave(registers: &mut Registers) -> *mut Registers {
    loop {
        cpu::serve_flush();
        if cpu::this().reschedule.swap(false, Ordering::AcqRel) {
            schedule::schedule(registers);
        }
        let Some(vcpu) = cpu::current() else { continue };
        if vcpu.nmi_pending.load(Ordering::Relaxed)
            && vcpu.nmi_pending.swap(false, Ordering::AcqRel)
        {
            trap::inject(vcpu, registers, vector::NMI, None);
        } else if vcpu.event_deliverable() {
            if bounce::event(vcpu, registers).is_err() {
                partition::crash(vcpu, registers, cause::BAD_FRAME, 0);
            }
        } else if !cpu::this().reschedule.load(Ordering::Acquire) {
            break;
        }
    }
    cpu::this().quiet.fetch_add(1, Ordering::Release);
    registers.cs |= 3;
    registers.ss |= 3;
    registers.rflags = registers.rflags & !FORCED_OFF | flag::IF | flag::FIXED;
    registers
}
