//! Performs one step in such a way that the guest goes on whatever happens.
//!
//! While a step is *within*, a trap or an event ends the step: its handler does not return, but
//! restores the earlier stack. Outside of a step a trap is the guest's own fault, except for an
//! NMI: one virtual CPU sends it to end a step of the other that takes too long.
#![expect(unsafe_code, reason = "instructions and calls that may do anything")]

use crate::memory;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use partition_runtime::hypercall::{Errno, call};
use pv_abi::xen::descriptors::FLAT_RING3_CS64;
use pv_abi::xen::hypercall::{IRET, SET_TRAP_TABLE};
use pv_abi::xen::shared_info::VcpuInfo;
use pv_abi::xen::traps::{TRAP_MASK_EVENTS, TrapInfo};

/// The outcome of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The step returned with this value in rax.
    Returned(u64),
    /// A trap with this vector ended the step; numbers from [`EVENT`] on stand for other ends.
    Trapped(u64),
}

/// An event ended the step.
pub const EVENT: u64 = 0x100;
/// A system call of user mode ended the step.
pub const SYSTEM_CALL: u64 = 0x101;
/// The failsafe callback ended the step.
pub const FAILSAFE: u64 = 0x102;

/// Virtual CPUs that run programs.
pub const CPUS: usize = 2;

/// The registers that a step starts with, and its address.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Registers {
    /// rax, rcx, rdx, rbx, rsi, rdi, r8, r10.
    pub words: [u64; 8],
    /// Address of the code, or of the frame for `iret`.
    pub place: u64,
}

/// Indices in [`Registers::words`] of the arguments of calls, in order.
pub const ARGUMENTS: [usize; 5] = [5, 4, 2, 7, 6];

static STACK: [AtomicU64; CPUS] = [const { AtomicU64::new(0) }; CPUS];
static RESULT: [AtomicU64; CPUS] = [const { AtomicU64::new(0) }; CPUS];
static TRAP: [AtomicU64; CPUS] = [const { AtomicU64::new(0) }; CPUS];
static WITHIN: [AtomicBool; CPUS] = [const { AtomicBool::new(false) }; CPUS];

/// Vectors with an entry point, which are the CPU's own.
const VECTORS: usize = 32;
/// Bytes between the entry points of two vectors.
const STUB_BYTES: u64 = 16;
/// Vectors that push an error code (Intel SDM vol. 3, table 6-1).
const WITH_ERROR_CODE: u32 = 1 << 8 | 0x7c00 | 1 << 17;

core::arch::global_asm!(
    include_str!("attempt.S"),
    stack = sym STACK,
    result = sym RESULT,
    within = sym WITHIN,
    shared = sym memory::SHARED,
    info = const size_of::<VcpuInfo>(),
    iret = const IRET,
    event = const EVENT,
    system_call = const SYSTEM_CALL,
    failsafe = const FAILSAFE,
    vectors = const VECTORS,
    stub_bytes = const STUB_BYTES,
    entered = sym entered,
    other = sym super::other::main,
    options(att_syntax),
);

unsafe extern "C" {
    fn __attempt_call_0(registers: *const Registers);
    fn __attempt_code_0(registers: *const Registers);
    fn __attempt_iret_0(registers: *const Registers);
    fn __recovered_0() -> !;
    fn __fuzz_upcall_0();
    fn __fuzz_syscall_0();
    fn __fuzz_failsafe_0();
    fn __fuzz_traps_0();
    fn __attempt_call_1(registers: *const Registers);
    fn __attempt_code_1(registers: *const Registers);
    fn __attempt_iret_1(registers: *const Registers);
    fn __recovered_1() -> !;
    fn __fuzz_upcall_1();
    fn __fuzz_syscall_1();
    fn __fuzz_failsafe_1();
    fn __fuzz_traps_1();
    fn __other_start();
}

/// Addresses of a virtual CPU's entry points for events, system calls and failed returns.
pub fn entries(cpu: usize) -> [u64; 3] {
    let entries = match cpu {
        0 => [__fuzz_upcall_0, __fuzz_syscall_0, __fuzz_failsafe_0],
        _ => [__fuzz_upcall_1, __fuzz_syscall_1, __fuzz_failsafe_1],
    };
    entries.map(|entry| entry as *const () as u64)
}

/// The address at which the second virtual CPU starts.
pub fn other_start() -> u64 {
    __other_start as *const () as u64
}

/// Registers the trap handlers of the current virtual CPU.
pub fn register_traps(cpu: usize) -> Result<(), Errno> {
    // The last entry stays zero and ends the table.
    let mut table = [TrapInfo::default(); VECTORS + 1];
    let first = if cpu == 0 { __fuzz_traps_0 } else { __fuzz_traps_1 } as *const () as u64;
    for (vector, entry) in (0_u8..).zip(&mut table[..VECTORS]) {
        let address = first + u64::from(vector) * STUB_BYTES;
        let (flags, cs) = (TRAP_MASK_EVENTS, FLAT_RING3_CS64);
        *entry = TrapInfo { vector, flags, cs, pad: 0, address };
    }
    // SAFETY: the operation reads the table to its zero entry; the stubs are handlers.
    unsafe { call(SET_TRAP_TABLE, [table.as_ptr() as u64, 0, 0, 0, 0]) }.map(drop)
}

/// How a step is executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// A hypercall.
    Call,
    /// Code that is called.
    Code,
    /// The `iret` call with a frame.
    Iret,
}

/// Executes a step on the current virtual CPU.
pub fn attempt(cpu: usize, way: Way, registers: &Registers) -> Outcome {
    const NONE: u64 = u64::MAX;
    TRAP[cpu].store(NONE, Ordering::Relaxed);
    RESULT[cpu].store(0, Ordering::Relaxed);
    let step = match (way, cpu) {
        (Way::Call, 0) => __attempt_call_0,
        (Way::Code, 0) => __attempt_code_0,
        (Way::Iret, 0) => __attempt_iret_0,
        (Way::Call, _) => __attempt_call_1,
        (Way::Code, _) => __attempt_code_1,
        (Way::Iret, _) => __attempt_iret_1,
    };
    // SAFETY: this cannot be guaranteed. What a step may break is kept away from what the guest
    // needs: programs name only their own pages and frames. Any other damage ends the guest, which
    // only serves tests.
    unsafe { step(registers) }
    match TRAP[cpu].load(Ordering::Relaxed) {
        NONE => Outcome::Returned(RESULT[cpu].load(Ordering::Relaxed)),
        vector => Outcome::Trapped(vector),
    }
}

/// Ends the current step of a virtual CPU after a trap; returns if there is none.
fn trapped(cpu: usize, vector: u64) {
    if WITHIN[cpu].load(Ordering::Relaxed) {
        TRAP[cpu].store(vector, Ordering::Relaxed);
        // SAFETY: within a step, `STACK` holds the stack of the attempt.
        unsafe { if cpu == 0 { __recovered_0() } else { __recovered_1() } }
    }
}

/// Handles an entry. Its stack has the entry's number, then rcx, r11, an error code if the vector
/// has one, rip, cs, rflags, rsp, ss.
extern "C" fn entered(frame: *const [u64; 9], cpu: usize) -> ! {
    // SAFETY: the entries pass their stack pointer, with at least eight words above.
    let [vector, words @ ..] = unsafe { frame.read() };
    trapped(cpu % CPUS, vector);
    let with_code = vector < 32 && WITH_ERROR_CODE >> vector & 1 != 0;
    let (code, rest) = if with_code { (words[2], &words[3..]) } else { (0, &words[2..]) };
    crate::entry::fault(cpu, vector, code, rest[0], rest[3])
}
