//! Start-up, from the loader's jump to the program that the command line names; also panics and
//! faults.
//!
//! The loader enters `_start` (`entry.S`) in kernel mode, with events masked and the image, start
//! info, rings and page tables mapped. Every failure ends the guest as *crashed*, with a line on
//! its console.
#![expect(unsafe_code, reason = "start-up code, the global allocator, trap handlers")]

use crate::{command, console, instructions, memory, println, programs};
use core::cell::UnsafeCell;
use partition_runtime::hypercall::{Shutdown, shutdown};
use partition_runtime::traps::{self, Trap};
use pv_abi::xen::elfnote;
use pv_abi::xen::start_info::StartInfo;
use talc::TalcLock;
use talc::source::Manual;

/// The heap, which lies in the mapped, free memory after the loader's stack. Only a virtual CPU
/// that random programs stop can be interrupted while it holds the lock, and the programs start it
/// again.
#[global_allocator]
static HEAP: TalcLock<spinning_top::RawSpinlock, Manual> = TalcLock::new(Manual);

/// Bytes of the stack.
const STACK_BYTES: usize = 32 * 1024;

#[repr(C, align(16))]
struct Stack(UnsafeCell<[u8; STACK_BYTES]>);

// SAFETY: only the CPU's stack pointer refers to it.
unsafe impl Sync for Stack {}

static STACK: Stack = Stack(UnsafeCell::new([0; STACK_BYTES]));

core::arch::global_asm!(
    include_str!("entry.S"),
    start = sym start,
    started = const marks::BASE + marks::GUEST_STARTED as u32,
    stack = sym STACK,
    stack_bytes = const STACK_BYTES,
    guest_os = const elfnote::GUEST_OS,
    version = const elfnote::XEN_VERSION,
    loader = const elfnote::LOADER,
    features = const elfnote::FEATURES,
    virt_base = const elfnote::VIRT_BASE,
    paddr_offset = const elfnote::PADDR_OFFSET,
    entry = const elfnote::ENTRY,
    options(att_syntax),
);

/// `_start` calls this once, with the address of start info.
extern "C" fn start(info: *const StartInfo) -> ! {
    // SAFETY: the loader passes the address of a page that stays mapped and that nobody writes.
    let Some(info) = (unsafe { info.as_ref() }) else {
        shutdown(Shutdown::Crash);
    };
    // SAFETY: called once, with the loader's page.
    unsafe { memory::set_start(info) };
    traps::register().expect("set_trap_table");
    traps::register_upcall().expect("the event callback");
    let (heap, bytes) = memory::heap();
    let heap = core::ptr::with_exposed_provenance_mut(heap as usize);
    // SAFETY: these pages are mapped writable and nothing else uses them.
    if unsafe { HEAP.lock().claim(heap, bytes as usize) }.is_none() {
        console::emergency("no memory for a heap\n");
        shutdown(Shutdown::Crash);
    }
    memory::share();
    console::open(info);
    programs::run_program(command::Program::parse(command::line(info)))
}

/// Handles a trap: it ends the guest, or the attempt in which it came. Random programs have
/// handlers of their own.
// SAFETY: the one definition of this symbol in the guest's image.
#[unsafe(no_mangle)]
fn __partition_trap(trap: &Trap) -> ! {
    instructions::resume(trap);
    let Trap { vector, code, rip, rsp } = *trap;
    fault(0, vector, code, rip, rsp)
}

/// Ends the guest after a trap on a virtual CPU.
pub fn fault(cpu: usize, vector: u64, code: u64, rip: u64, rsp: u64) -> ! {
    let address = memory::fault_address(cpu);
    println!(
        "fault: vector {vector}, error code {code:#x}, at {rip:#x}, address {address:#x}, \
         stack {rsp:#x}, virtual CPU {cpu}"
    );
    console::flush();
    shutdown(Shutdown::Crash)
}

/// Ends the guest after a panic; the message names the place.
#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    match info.location() {
        Some(place) => println!("panic at {}:{}: {}", place.file(), place.line(), info.message()),
        None => println!("panic: {}", info.message()),
    }
    console::flush();
    shutdown(Shutdown::Crash)
}
