//! Start-up: from the monitor's jump to the partition's own function; panics and faults.
//!
//! The monitor enters `_start` (`entry.S`) with the start block's address and a stack. This module
//! does the steps that come before Rust code may allocate or fault: it checks the block, gives the
//! heap its memory, and registers the handlers of traps and of the event upcall.
#![expect(unsafe_code, reason = "start-up code, a symbol that the trap stubs call")]

use crate::hypercall::{Shutdown, shutdown};
use crate::traps::{self, Trap};
use crate::{heap, log, partition};
use pv_abi::uv::start::{START_MAGIC, StartBlock};

core::arch::global_asm!(include_str!("entry.S"), start = sym start, options(att_syntax));

unsafe extern "Rust" {
    /// [`crate::entry!`] defines this function.
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
    // SAFETY: it is the block that the monitor passed.
    unsafe { partition::set_start(block) };
    partition::shared_info().events().upcall_mask.store(1, core::sync::atomic::Ordering::Release);
    if let Err(errno) = traps::register() {
        log!("warning: set_trap_table refused: {errno}; faults will not be reported");
    }
    if let Err(errno) = traps::register_upcall() {
        log!("event callback refused: {errno}");
        shutdown(Shutdown::Crash);
    }
    // SAFETY: the heap's pages are mapped writable and nothing else uses them.
    if !unsafe { heap::claim(block.heap, block.heap_bytes) } {
        log!("heap of {} bytes is too small", block.heap_bytes);
        shutdown(Shutdown::Crash);
    }
    __partition_run(block)
}

/// A fault ends the partition; the message gives the place.
// SAFETY: the one definition of this symbol in a partition's image.
#[unsafe(no_mangle)]
fn __partition_trap(trap: &Trap) -> ! {
    let Trap { vector, code, rip, rsp } = trap;
    let cr2 = if *vector == 14 { partition::shared_info().cr2() } else { 0 };
    log!(
        "fault: vector {vector}, error code {code:#x}, at {rip:#x}, address {cr2:#x}, \
         stack {rsp:#x}"
    );
    shutdown(Shutdown::Crash)
}

/// A panic ends the partition; the message gives the place.
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
