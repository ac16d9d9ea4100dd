//! Exceptions and interrupts.
//!
//! An exception from ring 3 is emulated, or injected into the partition's kernel, or ends the
//! partition. An exception from ring 0 is recovered ([`crate::recovery`] lists where), or it is a
//! broken invariant of the monitor and stops the host. Interrupt handlers only leave a note;
//! [`crate::leave`] does the work before ring 3 continues.
use core::sync::atomic::Ordering;

use pv_abi::uv::calls::cause;

use crate::{
    bounce,
    context::{Registers, flag},
    cpu, delivery, emulate, failure, hardware, leave, page_fault, platform,
    recovery::{self, Recovery},
    schedule,
    vcpu::{self, Vcpu},
    view,
};

/// Exception vectors (Intel SDM vol. 3, table 6-1).
pub mod vector {
    /// Debug.
    pub const DEBUG: u8 = 1;
    /// Non-maskable interrupt.
    pub const NMI: u8 = 2;
    /// Invalid opcode.
    pub const INVALID_OPCODE: u8 = 6;
    /// The FPU is not available.
    pub const DEVICE_NOT_AVAILABLE: u8 = 7;
    /// Double fault.
    pub const DOUBLE_FAULT: u8 = 8;
    /// General protection.
    pub const GENERAL_PROTECTION: u8 = 13;
    /// Page fault.
    pub const PAGE_FAULT: u8 = 14;
    /// `int 0x80`, which ring 3 may use.
    pub const SYSTEM_CALL: u8 = 0x80;
    /// Machine check.
    pub const MACHINE_CHECK: u8 = 18;
}

/// Called by `entry.S` with the frame of the interrupted code. Returns the frame to leave ring 0
/// by.
pub extern "C" fn trap(registers: &mut Registers) -> *mut Registers {
    let vector = narrow::low_8(registers.vector);
    if !registers.is_from_partition() {
        return from_monitor(registers, vector);
    }
    if vector == vector::PAGE_FAULT
        && let Some(vcpu) = vcpu::current()
    {
        // CR2 is read before an access to the partition's memory can fault again.
        let address = hardware::fault_address();
        if page_fault::table_write(vcpu, registers, address) || view::read(vcpu, registers, address)
        {
            // Requests of other CPUs come by interrupt, once ring 3 continues.
            return registers;
        }
        page_fault::page_fault(vcpu, registers, address);
    } else if vector >= 32 && vector != vector::SYSTEM_CALL {
        interrupt(vector);
    } else if let Some(vcpu) = vcpu::current() {
        exception(vcpu, registers, vector);
    }
    leave::leave(registers)
}

/// The exceptions for which the CPU pushes an error code, as one bit each (Intel SDM vol. 3, table
/// 6-1; 29 and 30 are AMD's). The stubs in `entry.S` use it too.
pub const WITH_ERROR_CODE: u32 = 1 << 8 | 0b1_1111 << 10 | 1 << 17 | 1 << 21 | 1 << 29 | 1 << 30;

/// Returns whether the CPU pushes an error code for this exception.
pub fn has_error_code(vector: u8) -> bool {
    vector < 32 && WITH_ERROR_CODE >> vector & 1 != 0
}

fn exception(vcpu: &Vcpu, registers: &mut Registers, vector: u8) {
    match vector {
        vector::NMI => platform::nmi(false),
        vector::DOUBLE_FAULT | vector::MACHINE_CHECK => platform::fatal_trap(registers),
        vector::GENERAL_PROTECTION => emulate::general_protection(vcpu, registers),
        vector::INVALID_OPCODE => emulate::invalid_opcode(vcpu, registers),
        vector::DEVICE_NOT_AVAILABLE => {
            hardware::clear_task_switched();
            if vcpu.task_switched.get() {
                vcpu.task_switched.set(false);
                inject(vcpu, registers, vector, None);
            }
        }
        vector::DEBUG => {
            let mut debug = vcpu.debug.get();
            debug[6] = hardware::take_debug_status();
            vcpu.debug.set(debug);
            inject(vcpu, registers, vector, None);
        }
        vector::SYSTEM_CALL => emulate::gate_call(vcpu, registers, vector, 2),
        _ => {
            let error = has_error_code(vector).then_some(registers.error);
            inject(vcpu, registers, vector, error);
        }
    }
}

/// Injects an exception into the partition, or ends the partition if it cannot take the exception.
pub fn inject(vcpu: &Vcpu, registers: &mut Registers, vector: u8, error: Option<u64>) {
    if bounce::exception(vcpu, registers, vector, error).is_err() {
        failure::crash(vcpu, registers, cause::UNHANDLED_TRAP, vector.into());
    }
}

/// Notes an interrupt, to be handled before ring 3 continues.
fn interrupt(vector: u8) {
    platform::end_of_interrupt(vector);
    match vector {
        platform::VECTOR_TIMER => schedule::timer_interrupt(),
        platform::VECTOR_RESCHEDULE => cpu::this().reschedule.store(true, Ordering::Release),
        platform::VECTOR_FLUSH => cpu::serve_flush(),
        platform::VECTOR_COM1 => delivery::serial_interrupt(0),
        platform::VECTOR_COM2 => delivery::serial_interrupt(1),
        _ => delivery::device_interrupt(vector),
    }
}

fn from_monitor(registers: &mut Registers, vector: u8) -> *mut Registers {
    if vector >= 32 {
        interrupt(vector);
        return registers;
    }
    if vector == vector::NMI {
        platform::nmi(true);
        return registers;
    }
    if vector == vector::DEBUG {
        // The monitor's access on the partition's behalf hit the partition's data breakpoint, or
        // `sysenter` carried a single step into ring 0.
        let _ = hardware::take_debug_status();
        registers.rflags &= !flag::TF;
        return registers;
    }
    // The exceptions that a bad selector, stack, address or page causes.
    let recovery = if matches!(vector, 11..=14) { recovery::at(registers.rip) } else { None };
    match (recovery, vcpu::current()) {
        (Some(Recovery::ContinueAt(rip)), _) => {
            registers.rip = rip;
            registers
        }
        (Some(Recovery::EndPartition), Some(vcpu)) => {
            failure::crash(vcpu, registers, cause::BAD_FRAME, 0);
            leave::leave(registers)
        }
        _ => platform::fatal_trap(registers),
    }
}

/// Called by `entry.S` if the CPU refused the partition's cs, ss or flags in the last `iretq`, with
/// the frame that the monitor was returning by. The partition's kernel gets a failsafe callback.
/// Returns the frame to leave ring 0 by.
pub extern "C" fn failed_return(registers: &mut Registers) -> *mut Registers {
    if let Some(vcpu) = vcpu::current()
        && bounce::failsafe(vcpu, registers).is_err()
    {
        failure::crash(vcpu, registers, cause::BAD_FRAME, 0);
    }
    leave::leave(registers)
}
