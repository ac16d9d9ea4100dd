//! One step, done so that the guest goes on whatever comes of it.
//!
//! While a step is *within*, a trap or an event is the step's end: its handler does not return but
//! takes the stack that was there before. Outside of a step a trap is the guest's own fault.
#![expect(unsafe_code, reason = "instructions and calls that may do anything")]

use crate::memory;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use pv_abi::xen::hypercall::IRET;

/// What came of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It returned with this in rax.
    Returned(u64),
    /// A trap with this vector ended it; numbers past 255 are [`EVENT`] and those after it.
    Trapped(u64),
}

/// Ended by an event.
pub const EVENT: u64 = 0x100;
/// Ended by a system call of user mode.
pub const SYSTEM_CALL: u64 = 0x101;
/// Ended by the failsafe callback.
pub const FAILSAFE: u64 = 0x102;

/// Registers that a step starts with, and one that is for the way in.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Registers {
    /// rax, rcx, rdx, rbx, rsi, rdi, r8, r10.
    pub words: [u64; 8],
    /// Address of the code, or of the frame for `iret`.
    pub place: u64,
}

/// Numbers of [`Registers::words`] that arguments of calls go to, in order.
pub const ARGUMENTS: [usize; 5] = [5, 4, 2, 7, 6];

static STACK: AtomicU64 = AtomicU64::new(0);
static RESULT: AtomicU64 = AtomicU64::new(0);
static TRAP: AtomicU64 = AtomicU64::new(0);
static WITHIN: AtomicBool = AtomicBool::new(false);

core::arch::global_asm!(
    include_str!("attempt.S"),
    stack = sym STACK,
    result = sym RESULT,
    within = sym WITHIN,
    shared = sym memory::SHARED,
    iret = const IRET,
    event = const EVENT,
    system_call = const SYSTEM_CALL,
    failsafe = const FAILSAFE,
    entered = sym entered,
    options(att_syntax),
);

unsafe extern "C" {
    fn __attempt_call(registers: *const Registers);
    fn __attempt_code(registers: *const Registers);
    fn __attempt_iret(registers: *const Registers);
    fn __recovered() -> !;
    fn __fuzz_upcall();
    fn __fuzz_syscall();
    fn __fuzz_failsafe();
}

/// Addresses of the entries for events, system calls and failed returns.
pub fn entries() -> [u64; 3] {
    [__fuzz_upcall, __fuzz_syscall, __fuzz_failsafe].map(|entry| entry as *const () as u64)
}

/// How a step is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// A hypercall.
    Call,
    /// Code that is called.
    Code,
    /// The `iret` call with a frame.
    Iret,
}

/// Does a step.
pub fn attempt(way: Way, registers: &Registers) -> Outcome {
    const NONE: u64 = u64::MAX;
    TRAP.store(NONE, Ordering::Relaxed);
    RESULT.store(0, Ordering::Relaxed);
    // SAFETY: none can be had. What a step may break is kept away from what the guest needs: pages
    // and frames that programs name are the program's own. Whatever else breaks ends the guest,
    // which is a test's.
    unsafe {
        match way {
            Way::Call => __attempt_call(registers),
            Way::Code => __attempt_code(registers),
            Way::Iret => __attempt_iret(registers),
        }
    }
    match TRAP.load(Ordering::Relaxed) {
        NONE => Outcome::Returned(RESULT.load(Ordering::Relaxed)),
        vector => Outcome::Trapped(vector),
    }
}

/// Ends the step with a trap; returns where there is none.
pub fn trapped(vector: u64) {
    if WITHIN.load(Ordering::Relaxed) {
        TRAP.store(vector, Ordering::Relaxed);
        // SAFETY: within a step, `STACK` is that of the attempt.
        unsafe { __recovered() }
    }
}

extern "C" fn entered(frame: *const u64) -> ! {
    // SAFETY: the entries pass their stack pointer.
    let vector = unsafe { frame.read() };
    trapped(vector);
    panic!("entry {vector:#x} outside of a step");
}
