//! The entry points of traps and of the event upcall, and the data for a trap's handler.
//!
//! The rule: a trap handler does not return, and an upcall does nothing. The upcall returns at once
//! with events masked again, so its only effect is to end a wait.
#![expect(unsafe_code, reason = "entry points, and calls that read them from memory")]

use crate::hypercall::{self, Errno};
use pv_abi::xen::descriptors::FLAT_RING3_CS64;
use pv_abi::xen::hypercall::{CALLBACK_OP, IRET, SET_TRAP_TABLE};
use pv_abi::xen::traps::{
    CALLBACK_EVENT, CALLBACKF_MASK_EVENTS, CALLBACKOP_REGISTER, CallbackRegister, TRAP_MASK_EVENTS,
    TrapInfo,
};

core::arch::global_asm!(
    include_str!("traps.S"),
    trap = sym trap,
    iret = const IRET,
    vectors = const VECTORS,
    stub_bytes = const STUB_BYTES,
    event_flag = const 0x200,
    options(att_syntax),
);

/// Number of vectors with an entry point: the CPU's own.
const VECTORS: usize = 32;
/// Bytes between the entry points of two vectors.
const STUB_BYTES: u64 = 16;
/// Vectors that push an error code (Intel SDM vol. 3, table 6-1).
const WITH_ERROR_CODE: u32 = 1 << 8 | 0x7c00 | 1 << 17;

/// A trap.
#[derive(Clone, Copy, Debug)]
pub struct Trap {
    /// Its vector.
    pub vector: u64,
    /// Its error code; 0 if the vector has none.
    pub code: u64,
    /// Address of the instruction that trapped.
    pub rip: u64,
    /// Stack pointer at the trap.
    pub rsp: u64,
}

unsafe extern "C" {
    fn __event_upcall();
    fn __trap_stubs();
}

unsafe extern "Rust" {
    /// The handler, defined by [`crate::entry!`] or by a kernel.
    safe fn __partition_trap(trap: &Trap) -> !;
}

/// Registers a handler for each vector of the CPU.
///
/// # Errors
/// The errno of the call.
pub fn register() -> Result<(), Errno> {
    // The last entry stays zero, which ends the table.
    let mut table = [TrapInfo::default(); VECTORS + 1];
    let first = __trap_stubs as *const () as u64;
    for (vector, entry) in (0_u8..).zip(&mut table[..VECTORS]) {
        let address = first + u64::from(vector) * STUB_BYTES;
        let (flags, cs) = (TRAP_MASK_EVENTS, FLAT_RING3_CS64);
        *entry = TrapInfo { vector, flags, cs, pad: 0, address };
    }
    // SAFETY: the operation reads the table to its zero entry; the stubs are handlers.
    unsafe { hypercall::call(SET_TRAP_TABLE, [table.as_ptr() as u64, 0, 0, 0, 0]) }.map(drop)
}

/// Registers the upcall for events.
///
/// # Errors
/// The errno of the call.
pub fn register_upcall() -> Result<(), Errno> {
    let callback = CallbackRegister {
        kind: CALLBACK_EVENT,
        flags: CALLBACKF_MASK_EVENTS,
        pad: 0,
        address: __event_upcall as *const () as u64,
    };
    let arguments = [CALLBACKOP_REGISTER, (&raw const callback) as u64, 0, 0, 0];
    // SAFETY: the operation reads the argument; the stub is a handler.
    unsafe { hypercall::call(CALLBACK_OP, arguments) }.map(drop)
}

/// Called by the stubs. A stub leaves on the stack, from its stack pointer up, the vector and then
/// the bounce frame: rcx, r11, an error code if the vector has one, rip, cs, rflags, rsp, ss.
extern "C" fn trap(frame: *const [u64; 9]) -> ! {
    // SAFETY: the stubs pass their stack pointer, with at least eight words above.
    let [vector, words @ ..] = unsafe { frame.read() };
    let with_code = vector < 32 && WITH_ERROR_CODE >> vector & 1 != 0;
    let (code, rest) = if with_code { (words[2], &words[3..]) } else { (0, &words[2..]) };
    __partition_trap(&Trap { vector, code, rip: rest[0], rsp: rest[3] })
}
