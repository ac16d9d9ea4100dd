//! Exceptions and interrupts.
//!
//! From ring 3 an exception is emulated, or given to the partition's kernel, or ends the
//! partition. From ring 0 it is recovered (guest memory, selector loads, the final `iretq`), or
//! it is a broken invariant of the monitor and stops the host. Interrupts only leave a note: what
//! they ask for is done in [`crate::leave`], before ring 3 goes on.
#![expect(
    unsafe_code,
    reason = "looks at its own instructions and at the frame of a failed return"
)]

use core::sync::atomic::Ordering;

use pv_abi::uv::calls::cause;
use x86_64::registers::control::Cr2;

use crate::{
    bounce,
    context::{Registers, flag},
    cpu, emulate, guest_memory, hardware, leave, page_fault, partition, platform, schedule,
    vcpu::Vcpu,
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
    /// No FPU.
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

/// Called by `entry.S` with the frame of what was interrupted; returns the frame to leave by.
pub extern "C" fn trap(registers: &mut Registers) -> *mut Registers {
    let vector = narrow::low_8(registers.vector);
    if !registers.is_from_partition() {
        return from_monitor(registers, vector);
    }
    if vector == vector::PAGE_FAULT
        && let Some(vcpu) = cpu::current()
    {
        // Read before another fault can happen, on the partition's memory.
        let address = Cr2::read_raw();
        if page_fault::table_write(vcpu, registers, address) || view::read(vcpu, registers, address)
        {
            // What others ask of this CPU meanwhile comes by interrupt, once ring 3 goes on.
            return registers;
        }
        page_fault::page_fault(vcpu, registers, address);
    } else if vector >= 32 && vector != vector::SYSTEM_CALL {
        interrupt(vector);
    } else if let Some(vcpu) = cpu::current() {
        exception(vcpu, registers, vector);
    }
    leave::leave(registers)
}

/// The exceptions that the CPU pushes an error code for, a bit each (Intel SDM vol. 3, table 6-1; 29 and
/// 30 are AMD's). The stubs in `entry.S` go by it too.
pub const WITH_ERROR_CODE: u32 = 1 << 8 | 0b1_1111 << 10 | 1 << 17 | 1 << 21 | 1 << 29 | 1 << 30;

/// Whether the CPU pushes an error code for this exception.
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

/// Raises an exception in the partition, or ends the partition if it cannot take it.
pub fn inject(vcpu: &Vcpu, registers: &mut Registers, vector: u8, error: Option<u64>) {
    if bounce::exception(vcpu, registers, vector, error).is_err() {
        partition::crash(vcpu, registers, cause::UNHANDLED_TRAP, vector.into());
    }
}

/// Notes an interrupt.
fn interrupt(vector: u8) {
    platform::end_of_interrupt(vector);
    match vector {
        platform::VECTOR_TIMER => schedule::timer_interrupt(),
        platform::VECTOR_RESCHEDULE => cpu::this().reschedule.store(true, Ordering::Release),
        platform::VECTOR_FLUSH => cpu::serve_flush(),
        platform::VECTOR_COM1 => partition::serial_interrupt(0),
        platform::VECTOR_COM2 => partition::serial_interrupt(1),
        _ => {}
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
    if matches!(vector, vector::PAGE_FAULT | vector::GENERAL_PROTECTION)
        && let Some(rip) = guest_memory::fixup(registers.rip)
    {
        registers.rip = rip;
        return registers;
    }
    if vector == vector::DEBUG {
        // A data breakpoint of the partition hit by the monitor's own access on its behalf, or a
        // single step that a `sysenter` carried into ring 0.
        let _ = hardware::take_debug_status();
        registers.rflags &= !flag::TF;
        return registers;
    }
    if matches!(vector, 11..=14) && is_selector_load(registers.rip) {
        registers.rip = registers.r8;
        registers.r9 = 1;
        return registers;
    }
    if let Some(vcpu) = fault_in_entry(registers) {
        return vcpu;
    }
    let rip = registers.rip;
    if rip == &raw const leave_iret as u64
        || entry_offset(rip) == Some(offset(&raw const leave_iret_fast))
    {
        return failed_return(registers);
    }
    platform::fatal_trap(registers)
}

unsafe extern "C" {
    static leave_iret: u8;
    static entry_page: u8;
    static leave_iret_fast: u8;
    static fast_stores: u8;
    static fast_stores_end: u8;
    static fast_loads: u8;
    static fast_loads_end: u8;
    static slow_iret: u8;
}

/// Offset of a symbol in the entry page.
fn offset(symbol: *const u8) -> u64 {
    symbol as u64 - &raw const entry_page as u64
}

/// Offset of `rip` in this CPU's view of the entry page.
fn entry_offset(rip: u64) -> Option<u64> {
    let page = core::ptr::from_ref(cpu::this()) as u64 + 4096;
    rip.checked_sub(page).filter(|offset| *offset < 4096)
}

/// A fault on the partition's memory in the fast paths: the long way reads an `iret` frame again
/// and finds the fault itself; a kernel stack that cannot be written ends the partition.
fn fault_in_entry(registers: &mut Registers) -> Option<*mut Registers> {
    let at = entry_offset(registers.rip)?;
    if (offset(&raw const fast_loads)..offset(&raw const fast_loads_end)).contains(&at) {
        registers.rip += offset(&raw const slow_iret) - at;
        return Some(registers);
    }
    if (offset(&raw const fast_stores)..offset(&raw const fast_stores_end)).contains(&at) {
        let vcpu = cpu::current()?;
        partition::crash(vcpu, registers, cause::BAD_FRAME, 0);
        return Some(leave::leave(registers));
    }
    None
}

/// Whether the monitor was loading DS, ES, FS or GS at `rip` (`mov sreg, r32`: 8E, with a REX.B
/// prefix for r8 to r15).
fn is_selector_load(rip: u64) -> bool {
    // SAFETY: the monitor was executing there, so two bytes of its text can be read.
    let [first, second] = unsafe { (rip as *const [u8; 2]).read_unaligned() };
    first == 0x8e || first == 0x41 && second == 0x8e
}

/// The CPU refused the partition's cs, ss or flags in the last `iretq`: its kernel is told.
fn failed_return(registers: &Registers) -> *mut Registers {
    // SAFETY: at `leave_iret` rsp pointed at the five words of the return frame, which lie at the
    // top of this CPU's main stack.
    let frame = unsafe { &*(registers.rsp as *const [u64; 5]) };
    let [rip, cs, rflags, rsp, ss] = *frame;
    let restored = Registers { rip, cs, rflags, rsp, ss, vector: 0, error: 0, ..*registers };
    let top = (cpu::this().stack_top - size_of::<Registers>() as u64) as *mut Registers;
    // SAFETY: the guest frame at the top of the stack is dead (it was just popped), and this
    // function's own stack lies below the trap frame of the failed return. That frame begins
    // below the five words, so the copy may overlap it; it was read before.
    let registers = unsafe {
        top.write(restored);
        &mut *top
    };
    let Some(vcpu) = cpu::current() else {
        return registers;
    };
    if bounce::failsafe(vcpu, registers).is_err() {
        partition::crash(vcpu, registers, cause::BAD_FRAME, 0);
    }
    leave::leave(registers)
}
