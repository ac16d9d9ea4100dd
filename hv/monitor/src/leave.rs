//! The last steps before ring 3: scheduling, pending events, and clearing the flags that no
//! partition may have.

use core::sync::atomic::Ordering;

use pv_abi::uv::calls::cause;

use crate::{
    bounce,
    context::{Registers, flag},
    cpu::{self, CpuLocal},
    failure, schedule,
    trap::{self, vector},
    vcpu,
};

/// Flags that the monitor controls: it sets the interrupt flag and clears these.
const FORCED_OFF: u64 = flag::IOPL | flag::NT | flag::VM | flag::VIF_VIP;

/// Does the work that is due, and returns the frame to return to ring 3 by.
#[inline]
pub fn leave(registers: &mut Registers) -> *mut Registers {
    let local = cpu::this();
    if is_something_due(local) {
        do_what_is_due(local, registers);
    }
    local.note_quiet();
    registers.cs |= 3;
    registers.ss |= 3;
    registers.rflags = registers.rflags & !FORCED_OFF | flag::IF | flag::FIXED;
    registers
}

#[inline]
fn is_something_due(local: &CpuLocal) -> bool {
    local.flush_wanted()
        || local.reschedule.load(Ordering::Acquire)
        || vcpu::current()
            .is_none_or(|vcpu| vcpu.nmi_pending.load(Ordering::Relaxed) || vcpu.event_deliverable())
}

#[cold]
#[inline(never)]
fn do_what_is_due(local: &CpuLocal, registers: &mut Registers) {
    while is_something_due(local) {
        cpu::serve_flush();
        if local.reschedule.swap(false, Ordering::AcqRel) {
            schedule::schedule(registers);
        }
        let Some(vcpu) = vcpu::current() else { continue };
        if vcpu.nmi_pending.swap(false, Ordering::AcqRel) {
            trap::inject(vcpu, registers, vector::NMI, None);
        } else if vcpu.event_deliverable() && bounce::event(vcpu, registers).is_err() {
            failure::crash(vcpu, registers, cause::BAD_FRAME, 0);
        }
    }
}
