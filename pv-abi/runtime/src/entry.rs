//! Start-up: from the monitor's jump to the partition's own function; panics and faults.
//!
//! The monitor enters `_start` (`entry.S`) with the start block's address and a stack. What is
//! needed before any Rust code may allocate or fault is done here: check the block, give the
//! heap its memory, register the handlers of traps and of the event upcall.
#![expect(unsafe_code, reason = "start-up code, trap handlers")]

use crate::hypercall::{self, Shutdown, shutdown};
use crate::{heap, log, partition};
use pv_abi::uv::start::{START_MAGIC, StartBlock};
use pv_abi::xen::descriptors::FLAT_RING3_CS64;
use pv_abi::xen::hypercall::{CALLBACK_OP, IRET, SET_TRAP_TABLE};
use pv_abi::xen::traps::{
    CALLBACK_EVENT, CALLBACKF_MASK_EVENTS, CALLBACKOP_REGISTER, CallbackRegister, TRAP_MASK_EVENTS,
    TrapInfo,
};

core::arch::global_asm!(
    include_str!("entry.S"),
    start = sym start,
    fault = sym fault,
    iret = const IRET,
    vectors = const VECTORS,
    event_flag = const 0x200,
    options(att_syntax),
);

/// Trap vectors that are reported.
const VECTORS: usize = 20;
/// Bytes between the entry points of two vectors.
const STUB_BYTES: u64 = 16;
/// Vectors of [`VECTORS`] that push an error code (Intel SDM vol. 3, table 6-1).
const WITH_ERROR_CODE: u32 = 1 << 8 | 1 << 10 | 1 << 11 | 1 << 12 | 1 << 13 | 1 << 14 | 1 << 17;

unsafe extern "C" {
    fn __event_upcall();
    fn __fault_stubs();
}

unsafe extern "Rust" {
    /// Made by [`crate::entry!`].
    safe fn __partition_run(start: &'static StartBlock) -> !;
}

/// Called once by `_start` with the start block's address.
extern "C" fn start(block: *const StartBlock) -> ! {
    // SAFETY: the monitor passes the address of a page that stays mapped and is never written.
    let Some(block) = (unsafe { block.as_ref() }) else {
        shutdown(Shutdown::Crash);
    };
    if block.magic != START_MAGIC {
        log!("start block has magic {:#x}, not {START_MAGIC:#x}", block.magic);
        shutdown(Shutdown::Crash);
    }
    // SAFETY: it is what the monitor passed.
    unsafe { partition::set_start(block) };
    partition::shared_info().events().upcall_mask.store(1, core::sync::atomic::Ordering::Release);
    register_traps();
    register_upcall();
    // SAFETY: the heap's pages are mapped writable and nothing else uses them.
    if !unsafe { heap::claim(block.heap, block.heap_bytes) } {
        log!("heap of {} bytes is too small", block.heap_bytes);
        shutdown(Shutdown::Crash);
    }
    __partition_run(block)
}

/// Hands in a handler for each vector that can come; the last entry stays zero.
fn register_traps() {
    let mut table = [TrapInfo::default(); VECTORS + 1];
    let first = __fault_stubs as *const () as u64;
    for (vector, entry) in (0_u8..).zip(&mut table[..VECTORS]) {
        let address = first + u64::from(vector) * STUB_BYTES;
        let (flags, cs) = (TRAP_MASK_EVENTS, FLAT_RING3_CS64);
        *entry = TrapInfo { vector, flags, cs, pad: 0, address };
    }
    // SAFETY: the operation reads the table to its zero entry; the stubs are handlers.
    let done = unsafe { hypercall::call(SET_TRAP_TABLE, [table.as_ptr() as u64, 0, 0, 0, 0]) };
    if let Err(errno) = done {
        log!("warning: set_trap_table refused: {errno}; faults will not be reported");
    }
}

fn register_upcall() {
    let callback = CallbackRegister {
        kind: CALLBACK_EVENT,
        flags: CALLBACKF_MASK_EVENTS,
        pad: 0,
        address: __event_upcall as *const () as u64,
    };
    let arguments = [CALLBACKOP_REGISTER, (&raw const callback) as u64, 0, 0, 0];
    // SAFETY: the operation reads the argument; the stub is a handler.
    if let Err(errno) = unsafe { hypercall::call(CALLBACK_OP, arguments) } {
        log!("event callback refused: {errno}");
        shutdown(Shutdown::Crash);
    }
}

/// What a fault stub leaves on the stack, from its stack pointer up: the vector, then the bounce
/// frame: rcx, r11, an error code where the vector has one, rip, cs, rflags, rsp, ss.
extern "C" fn fault(frame: *const [u64; 9]) -> ! {
    // SAFETY: the stubs pass their stack pointer, with at least eight words above.
    let [vector, words @ ..] = unsafe { frame.read() };
    let with_code = vector < 32 && WITH_ERROR_CODE >> vector & 1 != 0;
    let (code, rest) = if with_code { (words[2], &words[3..]) } else { (0, &words[2..]) };
    let cr2 = if vector == 14 { partition::shared_info().cr2() } else { 0 };
    log!(
        "fault: vector {vector}, error code {code:#x}, at {:#x}, address {cr2:#x}, stack {:#x}",
        rest[0],
        rest[3],
    );
    shutdown(Shutdown::Crash)
}

/// A panic ends the partition; the message names the place.
#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    match info.location() {
        Some(place) => {
            log!("panic at {}:{}: {}", place.file(), place.line(), info.message());
        }
        None => log!("panic: {}", info.message()),
    }
    shutdown(Shutdown::Crash)
}
