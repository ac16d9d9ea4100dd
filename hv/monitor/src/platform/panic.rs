//! The end of the monitor: a broken invariant, or an exception in the monitor itself.
//!
//! The first CPU that fails stops the others by a non-maskable interrupt, logs the reason, prints
//! registers and a backtrace with names, and halts or resets the machine. The rule: code here waits
//! only with a bound, assumes no lock to be free, and does not trust the stack it was called on; it
//! reports from a stack of its own.
#![expect(unsafe_code, reason = "walks stack frames")]

use core::{
    arch::asm,
    fmt,
    panic::PanicInfo,
    sync::atomic::{AtomicU64, Ordering},
};

use handover::layout::{AREA_BYTES, AREAS};
use rustc_demangle::demangle;
use spin::Once;

use super::{
    apic, boot,
    log::{self, error},
    memory, power, serial,
    symbols::Symbols,
};
use crate::context::Registers;

/// Maximum number of frames in a backtrace.
const DEPTH: usize = 32;
const STACK_BYTES: usize = 16384;
/// Stands for "no CPU has failed".
const NOBODY: u64 = u64::MAX;

/// The CPU that failed first, by APIC id.
static FAILED: AtomicU64 = AtomicU64::new(NOBODY);
static SYMBOLS: Once<Symbols> = Once::new();

/// The stack that the report runs on.
#[repr(C, align(4096))]
struct Stack([u8; STACK_BYTES]);
static mut STACK: Stack = Stack([0; STACK_BYTES]);

unsafe extern "C" {
    /// Calls `function(argument)` on another stack.
    fn on_stack(stack: u64, function: extern "C" fn(u64) -> !, argument: u64) -> !;
}

/// The data of a report.
struct Failure<'a> {
    reason: fmt::Arguments<'a>,
    registers: Option<&'a Registers>,
    frame: u64,
}

/// Gives backtraces the names of functions.
pub fn set_symbols(symbols: Option<Symbols>) {
    if let Some(symbols) = symbols {
        SYMBOLS.call_once(|| symbols);
    }
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    let frame: u64;
    // SAFETY: reads rbp.
    unsafe { asm!("mov {}, rbp", out(reg) frame, options(nomem, nostack, preserves_flags)) };
    fail(&Failure { reason: format_args!("{info}"), registers: None, frame })
}

/// Reports an exception that the monitor itself caused, and ends.
pub fn fatal_trap(registers: &Registers) -> ! {
    let address = x86_64::registers::control::Cr2::read_raw();
    let Registers { vector, error, .. } = registers;
    let reason =
        format_args!("exception {vector} in the monitor, error {error:#x}, cr2 {address:#x}");
    fail(&Failure { reason, registers: Some(registers), frame: registers.rbp })
}

/// Stops the host although the monitor has not failed: a part that the host needs is gone.
pub fn stop_host(reason: fmt::Arguments<'_>) -> ! {
    FAILED.store(u64::from(apic::initial_id()), Ordering::Release);
    // If this CPU is stopped while it sends, the text behind it in the ring stays there. So that
    // text is sent first: it may say why a partition stopped.
    serial::write_anyway(serial::CONSOLE, &[]);
    log::set_failing();
    apic::stop_others();
    error!("{reason}");
    finish()
}

/// Handles a non-maskable interrupt. `in_monitor` says that it came in ring 0, where the CPU may
/// hold any lock.
pub fn nmi(in_monitor: bool) {
    // Another CPU failed, and stops this one.
    if FAILED.load(Ordering::Acquire) != NOBODY {
        halt();
    }
    if in_monitor {
        log::note_interrupted();
    } else {
        log::warn!("non-maskable interrupt of unknown cause");
    }
}

/// Stops this CPU for good.
pub fn halt() -> ! {
    loop {
        // SAFETY: with interrupts off, only a non-maskable interrupt or a reset ends the halt.
        unsafe { asm!("cli", "hlt", options(nomem, nostack)) };
    }
}

fn fail(failure: &Failure<'_>) -> ! {
    let me = u64::from(apic::initial_id());
    match FAILED.compare_exchange(NOBODY, me, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => {}
        // This CPU failed while it reported a failure: what it has printed must do.
        Err(first) if first == me => finish(),
        Err(_) => halt(),
    }
    log::set_failing();
    apic::stop_others();
    let top = (&raw const STACK) as u64 + STACK_BYTES as u64;
    // SAFETY: only the first CPU that fails gets here, once, so the stack is free; the old stack,
    // with `failure` on it, stays as it is since no code returns to it.
    unsafe { on_stack(top, report, core::ptr::from_ref(failure) as u64) }
}

extern "C" fn report(failure: u64) -> ! {
    // SAFETY: `fail` passes a reference that outlives this function, which never returns.
    let failure = unsafe { &*(failure as *const Failure<'_>) };
    error!("the monitor failed: {}", failure.reason);
    if let Some(registers) = failure.registers {
        show_registers(registers);
        show_frame(registers.rip);
    }
    show_backtrace(failure.frame);
    finish()
}

fn show_registers(r: &Registers) {
    error!(
        "rip {:04x}:{:016x} rflags {:08x} rsp {:04x}:{:016x}",
        r.cs, r.rip, r.rflags, r.ss, r.rsp
    );
    error!("rax {:016x} rbx {:016x} rcx {:016x} rdx {:016x}", r.rax, r.rbx, r.rcx, r.rdx);
    error!("rsi {:016x} rdi {:016x} rbp {:016x} r8  {:016x}", r.rsi, r.rdi, r.rbp, r.r8);
    error!("r9  {:016x} r10 {:016x} r11 {:016x} r12 {:016x}", r.r9, r.r10, r.r11, r.r12);
    error!("r13 {:016x} r14 {:016x} r15 {:016x}", r.r13, r.r14, r.r15);
}

fn show_backtrace(mut frame: u64) {
    for _ in 0..DEPTH {
        if !memory::is_stack(frame) || !memory::is_stack(frame + 8) || !frame.is_multiple_of(8) {
            return;
        }
        // SAFETY: both words lie in stack memory that stays mapped.
        let [caller, address] = unsafe { (frame as *const [u64; 2]).read() };
        if !memory::image_text().contains(&address) {
            return;
        }
        show_frame(address);
        if caller <= frame {
            return;
        }
        frame = caller;
    }
}

fn show_frame(address: u64) {
    // A return address may lie past the end of the function that makes the call.
    match SYMBOLS.get().and_then(|s| s.find(address.wrapping_sub(1))) {
        Some((name, offset)) => error!("  {address:016x} {:#}+{:#x}", demangle(name), offset + 1),
        None => error!("  {address:016x}"),
    }
}

fn finish() -> ! {
    power::exit_emulator(false);
    if boot::handover().is_some_and(|h| h.options.reset_after_panic != 0) {
        power::reset();
    }
    halt()
}

/// Returns whether `va` lies in one of the pages of a CPU's stacks.
pub(super) fn in_cpu_stack(va: u64) -> bool {
    let Some(offset) = va.checked_sub(AREAS) else {
        return false;
    };
    let page = offset % AREA_BYTES / 4096;
    let cpu = (offset / AREA_BYTES) as usize;
    cpu < super::cpu_count() as usize && (page >= 8 || matches!(page, 2 | 4 | 6))
}
