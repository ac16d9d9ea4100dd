//! Memory as the loader left it: start info, the frame table, the shared page, the free pages.
//!
//! ```text
//! base  kernel | frame table | start info, rings | page tables | stack | free, mapped | free …
//!                                                                        heap
//! ```
#![expect(unsafe_code, reason = "views of memory that the loader or the monitor shares")]

use crate::calls;
use core::cell::UnsafeCell;
use core::mem::offset_of;
use core::sync::atomic::{AtomicPtr, AtomicU8, AtomicU32, AtomicU64, Ordering};
use partition_runtime::time::Clock;
use pv_abi::PAGE_SIZE;
use pv_abi::xen::mmu::{M2P_START, PTE_ACCESSED, PTE_DIRTY, PTE_PRESENT, PTE_RW, PTE_USER};
use pv_abi::xen::shared_info::{LEGACY_MAX_VCPUS, SharedInfo, VcpuInfo};
use pv_abi::xen::start_info::StartInfo;

/// Bytes of a page.
pub const PAGE: u64 = PAGE_SIZE as u64;
/// Virtual address of pseudo-physical frame 0 (`guest.ld`).
pub const BASE: u64 = 0xffff_ffff_8000_0000;
/// Bits of an entry that maps a page of the kernel for writing.
pub const WRITABLE: u64 = PTE_PRESENT | PTE_RW | PTE_USER | PTE_ACCESSED | PTE_DIRTY;

static START: AtomicPtr<StartInfo> = AtomicPtr::new(core::ptr::null_mut());

/// A page to see the shared page at.
#[repr(C, align(4096))]
pub struct Place(UnsafeCell<[u8; PAGE_SIZE]>);

// SAFETY: nobody looks at the page itself.
unsafe impl Sync for Place {}

/// The page shared with the monitor, seen from here.
pub static SHARED: Place = Place(UnsafeCell::new([0; PAGE_SIZE]));

/// Takes start info.
///
/// # Safety
/// To be called once, with the page that the loader made.
pub unsafe fn set_start(info: &'static StartInfo) {
    START.store(core::ptr::from_ref(info).cast_mut(), Ordering::Release);
}

/// Start info.
pub fn start() -> &'static StartInfo {
    // SAFETY: `set_start` was called with a reference that lives for ever.
    unsafe { START.load(Ordering::Acquire).as_ref() }.expect("start info")
}

/// Maps the shared page.
pub fn share() {
    let entry = start().shared_info | WRITABLE;
    calls::update_va_mapping(SHARED.0.get() as u64, entry).expect("mapping the shared page");
}

fn shared<T>(offset: usize) -> &'static T {
    // SAFETY: the shared page is mapped here for ever once `share` was called, and a page of zeros
    // before. All uses are atomics at aligned offsets within it.
    unsafe { &*SHARED.0.get().cast::<u8>().add(offset).cast() }
}

/// Where the shared page is seen.
pub fn shared_address() -> u64 {
    SHARED.0.get() as u64
}

/// Words of pending ports.
pub fn pending() -> &'static [AtomicU64; 64] {
    shared(offset_of!(SharedInfo, evtchn_pending))
}

/// Words of masked ports.
pub fn masked() -> &'static [AtomicU64; 64] {
    shared(offset_of!(SharedInfo, evtchn_mask))
}

/// Whether an upcall is owed to virtual CPU 0.
pub fn upcall_pending() -> &'static AtomicU8 {
    shared(offset_of!(VcpuInfo, evtchn_upcall_pending))
}

/// Whether upcalls of virtual CPU 0 are masked.
pub fn upcall_mask() -> &'static AtomicU8 {
    shared(offset_of!(VcpuInfo, evtchn_upcall_mask))
}

/// Words of [`pending`] to look at.
pub fn selector() -> &'static AtomicU64 {
    shared(offset_of!(VcpuInfo, evtchn_pending_sel))
}

/// Where what a virtual CPU shares begins.
const fn info(cpu: usize) -> usize {
    cpu % LEGACY_MAX_VCPUS * size_of::<VcpuInfo>()
}

/// Masks the upcalls of a virtual CPU.
pub fn mask_upcalls(cpu: usize) {
    let mask: &AtomicU8 = shared(info(cpu) + offset_of!(VcpuInfo, evtchn_upcall_mask));
    mask.store(1, Ordering::Release);
}

/// Address of the last page fault of a virtual CPU.
pub fn fault_address(cpu: usize) -> u64 {
    shared::<AtomicU64>(info(cpu) + offset_of!(VcpuInfo, cr2)).load(Ordering::Relaxed)
}

/// System time in nanoseconds.
pub fn now() -> u64 {
    let words: &[AtomicU32; 8] = shared(offset_of!(VcpuInfo, time));
    // SAFETY: reads the time-stamp counter; the ABI has it readable in every ring.
    let tsc = unsafe { core::arch::x86_64::_rdtsc() };
    Clock::read(words).map_or(0, |clock| clock.at(tsc))
}

/// Lets the events of a port come.
pub fn unmask(port: u32) {
    if let Some(word) = masked().get(port as usize / 64) {
        word.fetch_and(!(1 << (port % 64)), Ordering::AcqRel);
    }
}

/// Lets the event of a port come and end a wait. An upcall follows only where pending and selector
/// bits were clear before, and programs write over these words: they are cleared, unless an event
/// is pending anyway.
pub fn expect(port: u32) {
    if upcall_pending().load(Ordering::Acquire) == 0 {
        selector().store(0, Ordering::Release);
        if let Some(word) = pending().get(port as usize / 64) {
            word.fetch_and(!(1 << (port % 64)), Ordering::AcqRel);
        }
    }
    unmask(port);
}

/// Takes all pending events; whether there were some.
pub fn take_events() -> bool {
    let some = upcall_pending().swap(0, Ordering::AcqRel) != 0;
    selector().swap(0, Ordering::AcqRel);
    for (word, mask) in pending().iter().zip(masked()) {
        word.fetch_and(mask.load(Ordering::Relaxed), Ordering::AcqRel);
    }
    some
}

/// Waits for an event.
pub fn wait() {
    upcall_mask().store(1, Ordering::Release);
    while !take_events() {
        calls::block();
    }
}

/// The table of machine frames: an entry per pseudo-physical frame.
pub fn machine_frames() -> &'static [AtomicU64] {
    let (address, count) = (start().mfn_list as usize, start().nr_pages as usize);
    // SAFETY: the loader's table, mapped for ever, with an entry per page.
    unsafe { core::slice::from_raw_parts(core::ptr::with_exposed_provenance(address), count) }
}

/// The machine frame behind a pseudo-physical one.
pub fn machine_frame(frame: u64) -> Option<u64> {
    let entry = machine_frames().get(usize::try_from(frame).ok()?)?;
    Some(entry.load(Ordering::Relaxed))
}

/// Address that a machine frame of the kernel's mapping has.
pub fn address_of_machine_frame(frame: u64) -> u64 {
    let place = M2P_START + frame * 8;
    // SAFETY: the monitor's table, readable, has an entry for every frame of ours.
    let pfn = unsafe { core::ptr::with_exposed_provenance::<u64>(place as usize).read_volatile() };
    BASE + pfn * PAGE
}

/// First pseudo-physical frame after the loader's stack: what is free begins here. The stack comes
/// right after the page tables.
fn first_free() -> u64 {
    (start().pt_base - BASE) / PAGE + start().nr_pt_frames + 1
}

/// The end of what the loader mapped: 512 KiB or more after the stack, up to a multiple of 4 MiB.
fn end_of_mapping() -> u64 {
    (first_free() + 128).next_multiple_of(1024).min(start().nr_pages)
}

/// Bytes of the heap.
const HEAP_BYTES: u64 = 256 * 1024;

/// Address and bytes of the heap.
pub fn heap() -> (u64, u64) {
    (BASE + first_free() * PAGE, HEAP_BYTES)
}

/// Free frames that are mapped: the first, and how many.
pub fn free_pages() -> (u64, u64) {
    let first = first_free() + HEAP_BYTES / PAGE;
    (first, end_of_mapping().saturating_sub(first))
}
