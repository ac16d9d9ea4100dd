//! Local APICs: interrupts between CPUs, and each CPU's timer.
//!
//! The registers lie in memory, or in MSRs if firmware left x2APIC mode on (Intel SDM vol. 3,
//! chapter 11). The rule: interrupts that the monitor does not know are masked at their source, and
//! every vector that can arrive has a name here.
#![expect(unsafe_code, reason = "APIC registers are device memory")]

use core::{
    arch::x86_64::__cpuid,
    sync::atomic::{AtomicU64, Ordering, fence},
};

use handover::Handover;
pub use handover::layout::{VECTOR_COM1, VECTOR_COM2};

use super::{
    boot,
    processor::{features, read_msr, write_msr},
};

/// First vector for interrupts of devices, and number of these vectors.
pub const DEVICE_VECTORS: (u8, usize) = (0x90, 0x50);
/// This CPU's timer.
pub const VECTOR_TIMER: u8 = 0xf0;
/// Another CPU asks for a scheduling decision.
pub const VECTOR_RESCHEDULE: u8 = 0xf1;
/// Another CPU asks this CPU to flush translations.
pub const VECTOR_FLUSH: u8 = 0xf2;
/// An interrupt that vanished before the CPU took it; it must not be acknowledged.
pub const VECTOR_SPURIOUS: u8 = 0xff;

const MSR_BASE: u32 = 0x1b;
const MSR_DEADLINE: u32 = 0x6e0;
const MSR_X2APIC: u32 = 0x800;
/// Bits of the base register: the APIC is enabled, and it is in x2APIC mode.
const BASE_ON: u64 = 1 << 11;
const BASE_X2APIC: u64 = 1 << 10;

const TASK_PRIORITY: u32 = 0x80;
const END_OF_INTERRUPT: u32 = 0xb0;
const SPURIOUS: u32 = 0xf0;
const COMMAND: u32 = 0x300;
const COMMAND_TARGET: u32 = 0x310;
const TIMER: u32 = 0x320;
const LINE_0: u32 = 0x350;
const LINE_1: u32 = 0x360;
const ERROR: u32 = 0x370;
const INITIAL_COUNT: u32 = 0x380;
const DIVIDE: u32 = 0x3e0;

const MASKED: u32 = 1 << 16;
const MODE_NMI: u32 = 4 << 8;
const ASSERT: u32 = 1 << 14;
const PENDING: u32 = 1 << 12;
const ALL_BUT_SELF: u32 = 3 << 18;
const TIMER_DEADLINE: u32 = 2 << 17;

/// Address of the registers; 0 if not set up, 1 in x2APIC mode.
static REGISTERS: AtomicU64 = AtomicU64::new(0);
const IN_MSRS: u64 = 1;

fn read(register: u32) -> u32 {
    match REGISTERS.load(Ordering::Relaxed) {
        0 => 0,
        IN_MSRS => narrow::low_32(read_msr(MSR_X2APIC + register / 16)),
        // SAFETY: the loader mapped the page of registers uncached at that address.
        base => unsafe { ((base + u64::from(register)) as *const u32).read_volatile() },
    }
}

fn write(register: u32, value: u32) {
    match REGISTERS.load(Ordering::Relaxed) {
        0 => {}
        // SAFETY: as in `read`; the monitor's own registers do not change memory.
        IN_MSRS => unsafe { write_msr(MSR_X2APIC + register / 16, value.into()) },
        // SAFETY: as above.
        base => unsafe { ((base + u64::from(register)) as *mut u32).write_volatile(value) },
    }
}

/// Takes over the mapped registers.
pub fn set_up(handover: &Handover) {
    let registers = if handover.local_apic == 0 { IN_MSRS } else { handover.local_apic };
    REGISTERS.store(registers, Ordering::Relaxed);
}

/// Enables this CPU's APIC, with everything masked except interrupts from other CPUs.
pub fn enable() {
    let mode = if REGISTERS.load(Ordering::Relaxed) == IN_MSRS { BASE_X2APIC } else { 0 };
    // SAFETY: the address stays; the mode is the one that `set_up` found.
    unsafe { write_msr(MSR_BASE, read_msr(MSR_BASE) | BASE_ON | mode) };
    write(TIMER, MASKED);
    write(LINE_0, MASKED);
    write(LINE_1, MODE_NMI);
    write(ERROR, MASKED);
    write(TASK_PRIORITY, 0);
    write(SPURIOUS, 0x100 | u32::from(VECTOR_SPURIOUS));
    write(DIVIDE, 0b1011); // by 1
}

/// The APIC id of this CPU at reset; needs no set-up.
pub fn initial_id() -> u32 {
    __cpuid(1).ebx >> 24
}

/// The APIC id of CPU `index`.
#[must_use]
pub fn apic_id(index: u32) -> u32 {
    let ids = boot::handover().map(|handover| &handover.apic_ids);
    ids.and_then(|ids| ids.get(index as usize)).copied().unwrap_or(0)
}

fn command(target: u32, command: u32) {
    if REGISTERS.load(Ordering::Relaxed) == IN_MSRS {
        // Earlier writes must be visible to the target when the interrupt arrives.
        fence(Ordering::SeqCst);
        let command = u64::from(target) << 32 | u64::from(command);
        // SAFETY: an interrupt of the monitor's own, to a CPU of the monitor.
        unsafe { write_msr(MSR_X2APIC + COMMAND / 16, command) };
        return;
    }
    let idle = || read(COMMAND) & PENDING == 0;
    let _ = (0..1_000_000).any(|_| idle());
    write(COMMAND_TARGET, target << 24);
    write(COMMAND, command);
}

/// Interrupts CPU `index` with `vector`.
pub fn send_ipi(index: u32, vector: u8) {
    command(apic_id(index), ASSERT | u32::from(vector));
}

/// The address to which a device writes in order to interrupt CPU `index` (Intel SDM vol. 3,
/// 11.11.1). Returns `None` if no message can name the CPU: id 255
/// stands for all CPUs.
pub fn message_address(index: u32) -> Option<u32> {
    let id = u8::try_from(apic_id(index)).ok().filter(|&id| id < u8::MAX)?;
    Some(0xfee0_0000 | u32::from(id) << 12)
}

/// Sends every other CPU a non-maskable interrupt.
pub fn stop_others() {
    if REGISTERS.load(Ordering::Relaxed) != 0 {
        command(0, ALL_BUT_SELF | ASSERT | MODE_NMI);
    }
}

/// Acknowledges the interrupt that is being handled.
pub fn end_of_interrupt(vector: u8) {
    if vector != VECTOR_SPURIOUS {
        write(END_OF_INTERRUPT, 0);
    }
}

/// Prepares this CPU's timer for [`set_count`] or [`set_tsc_deadline`].
pub fn enable_timer() {
    write(INITIAL_COUNT, 0);
    let mode = if features().tsc_deadline { TIMER_DEADLINE } else { 0 };
    write(TIMER, mode | u32::from(VECTOR_TIMER));
    // A deadline written before the mode is set would be lost.
    fence(Ordering::SeqCst);
}

/// Sets this CPU's timer to fire after `count` ticks; 0 disarms it.
pub fn set_count(count: u32) {
    write(INITIAL_COUNT, count);
}

/// Sets this CPU's timer to fire when the TSC reaches `tsc`; 0 disarms it.
pub fn set_tsc_deadline(tsc: u64) {
    // SAFETY: the register only starts the timer.
    unsafe { write_msr(MSR_DEADLINE, tsc) };
}
