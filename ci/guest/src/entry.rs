//! Start-up: from the loader's jump to the program that the command line names; panics and faults.
//!
//! The loader enters `_start` (`entry.S`) in kernel mode, with events masked and everything mapped
//! that the image, start info, rings and page tables are in. Whatever goes wrong ends the guest as
//! *crashed*, with a line on its console.
#![expect(unsafe_code, reason = "start-up code, the global allocator, trap handlers")]

use crate::{calls, command, console, memory, println, programs};
use core::cell::UnsafeCell;
use partition_runtime::hypercall::{Shutdown, shutdown};
use pv_abi::xen::descriptors::FLAT_RING3_CS64;
use pv_abi::xen::elfnote;
use pv_abi::xen::hypercall::IRET;
use pv_abi::xen::start_info::StartInfo;
use pv_abi::xen::traps::{TRAP_MASK_EVENTS, TrapInfo};
use talc::TalcLock;
use talc::source::Manual;

/// The heap: what is mapped and free after the loader's stack. One virtual CPU and no upcalls, so
/// the lock is never contended.
#[global_allocator]
static HEAP: TalcLock<spinning_top::RawSpinlock, Manual> = TalcLock::new(Manual);

/// Bytes of the stack.
const STACK_BYTES: usize = 32 * 1024;
/// Trap vectors with a handler.
const VECTORS: usize = 32;
/// Bytes between the entry points of two vectors.
const STUB_BYTES: u64 = 16;
/// Vectors that push an error code (Intel SDM vol. 3, table 6-1).
const WITH_ERROR_CODE: u32 = 1 << 8 | 0x7c00 | 1 << 17;

#[repr(C, align(16))]
struct Stack(UnsafeCell<[u8; STACK_BYTES]>);

// SAFETY: only the CPU's stack pointer leads to it.
unsafe impl Sync for Stack {}

static STACK: Stack = Stack(UnsafeCell::new([0; STACK_BYTES]));

core::arch::global_asm!(
    include_str!("entry.S"),
    start = sym start,
    started = const marks::BASE + marks::GUEST_STARTED as u32,
    trap = sym trap,
    stack = sym STACK,
    stack_bytes = const STACK_BYTES,
    iret = const IRET,
    vectors = const VECTORS,
    event_flag = const 0x200,
    guest_os = const elfnote::GUEST_OS,
    version = const elfnote::XEN_VERSION,
    loader = const elfnote::LOADER,
    features = const elfnote::FEATURES,
    virt_base = const elfnote::VIRT_BASE,
    paddr_offset = const elfnote::PADDR_OFFSET,
    entry = const elfnote::ENTRY,
    options(att_syntax),
);

unsafe extern "C" {
    fn __event_upcall();
    fn __trap_stubs();
}

/// Called once by `_start` with the address of start info.
extern "C" fn start(info: *const StartInfo) -> ! {
    // SAFETY: the loader passes the address of a page that stays mapped and that nobody writes.
    let Some(info) = (unsafe { info.as_ref() }) else {
        shutdown(Shutdown::Crash);
    };
    // SAFETY: called once, with what the loader passed.
    unsafe { memory::set_start(info) };
    register_traps();
    calls::register_upcall(__event_upcall as *const () as u64);
    let (heap, bytes) = memory::heap();
    let heap = core::ptr::with_exposed_provenance_mut(heap as usize);
    // SAFETY: these pages are mapped writable and nothing else uses them.
    if unsafe { HEAP.lock().claim(heap, bytes as usize) }.is_none() {
        console::emergency("no memory for a heap\n");
        shutdown(Shutdown::Crash);
    }
    memory::share();
    console::open(info);
    programs::run(command::Program::parse(command::line(info)))
}

/// Hands in a handler for each vector of the CPU; the last entry stays zero.
pub fn register_traps() {
    let mut table = [TrapInfo::default(); VECTORS + 1];
    let first = __trap_stubs as *const () as u64;
    for (vector, entry) in (0_u8..).zip(&mut table[..VECTORS]) {
        let address = first + u64::from(vector) * STUB_BYTES;
        let (flags, cs) = (TRAP_MASK_EVENTS, FLAT_RING3_CS64);
        *entry = TrapInfo { vector, flags, cs, pad: 0, address };
    }
    calls::set_trap_table(&table);
}

/// What a stub leaves on the stack, from its stack pointer up: the vector, then the bounce frame:
/// rcx, r11, an error code where the vector has one, rip, cs, rflags, rsp, ss.
extern "C" fn trap(frame: *const [u64; 9]) -> ! {
    // SAFETY: the stubs pass their stack pointer, with at least eight words above.
    let [vector, words @ ..] = unsafe { frame.read() };
    crate::fuzz::attempt::trapped(vector);
    let with_code = vector < 32 && WITH_ERROR_CODE >> vector & 1 != 0;
    let (code, rest) = if with_code { (words[2], &words[3..]) } else { (0, &words[2..]) };
    println!(
        "fault: vector {vector}, error code {code:#x}, at {:#x}, address {:#x}, stack {:#x}",
        rest[0],
        memory::fault_address(),
        rest[3],
    );
    console::flush();
    shutdown(Shutdown::Crash)
}

/// A panic ends the guest; the message names the place.
#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    match info.location() {
        Some(place) => println!("panic at {}:{}: {}", place.file(), place.line(), info.message()),
        None => println!("panic: {}", info.message()),
    }
    console::flush();
    shutdown(Shutdown::Crash)
}
