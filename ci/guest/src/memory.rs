//! Memory as the loader left it: start info, the frame table, the shared page, and the free pages.
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

/// A page whose address is used to map the shared page.
#[repr(C, align(4096))]
pub struct Place(UnsafeCell<[u8; PAGE_SIZE]>);

// SAFETY: nobody accesses the page itself.
unsafe impl Sync for Place {}

/// The address at which the page shared with the monitor is mapped.
pub static SHARED: Place = Place(UnsafeCell::new([0; PAGE_SIZE]));

/// Stores the address of start info.
///
/// # Safety
/// Call this once, with the page that the loader made.
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

/// The address of the mapped shared page.
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

/// Whether an upcall to virtual CPU 0 is pending.
pub fn upcall_pending() -> &'static AtomicU8 {
    shared(offset_of!(VcpuInfo, evtchn_upcall_pending))
}

/// Whether upcalls of virtual CPU 0 are masked.
pub fn upcall_mask() -> &'static AtomicU8 {
    shared(offset_of!(VcpuInfo, evtchn_upcall_mask))
}

/// The bits that select words of [`pending`].
pub fn selector() -> &'static AtomicU64 {
    shared(offset_of!(VcpuInfo, evtchn_pending_sel))
}

/// Offset of a virtual CPU's part of the shared page.
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

/// The clock of virtual CPU 0.
pub fn clock() -> &'static [AtomicU32; 8] {
    shared(offset_of!(VcpuInfo, time))
}

/// System time in nanoseconds.
pub fn now() -> u64 {
    now_by(clock())
}

/// System time in nanoseconds by a clock that may be a copy.
pub fn now_by(clock: &[AtomicU32; 8]) -> u64 {
    // SAFETY: reads the time-stamp counter, which the ABI makes readable in every ring.
    let tsc = unsafe { core::arch::x86_64::_rdtsc() };
    Clock::read(clock).map_or(0, |clock| clock.at(tsc))
}

/// Unmasks the events of a port.
pub fn unmask(port: u32) {
    if let Some(word) = masked().get(port as usize / 64) {
        word.fetch_and(!(1 << (port % 64)), Ordering::AcqRel);
    }
}

/// Lets the event of a port arrive and end a wait. An upcall follows only if the pending and
/// selector bits were clear before. Programs write to these words, so they are cleared here, unless
/// an event is pending anyway.
pub fn expect(port: u32) {
    if upcall_pending().load(Ordering::Acquire) == 0 {
        selector().store(0, Ordering::Release);
        if let Some(word) = pending().get(port as usize / 64) {
            word.fetch_and(!(1 << (port % 64)), Ordering::AcqRel);
        }
    }
    unmask(port);
}

/// Takes all pending events; returns whether there were any.
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

/// The table of machine frames, with an entry for each pseudo-physical frame.
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

/// The address of a machine frame in the kernel's mapping.
pub fn address_of_machine_frame(frame: u64) -> u64 {
    let place = M2P_START + frame * 8;
    // SAFETY: the monitor's table, readable, has an entry for every frame of ours.
    let pfn = unsafe { core::ptr::with_exposed_provenance::<u64>(place as usize).read_volatile() };
    BASE + pfn * PAGE
}

/// The first pseudo-physical frame after the loader's stack, where free memory begins. The stack
/// comes right after the page tables.
fn first_free() -> u64 {
    (start().pt_base - BASE) / PAGE + start().nr_pt_frames + 1
}

/// The end of the loader's mapping: at least 512 KiB after the stack, rounded up to a multiple of 4
/// MiB.
fn end_of_mapping() -> u64 {
    (first_free() + 128).next_multiple_of(1024).min(start().nr_pages)
}

/// Bytes of the heap.
const HEAP_BYTES: u64 = 256 * 1024;

/// Address and size in bytes of the heap.
pub fn heap() -> (u64, u64) {
    (BASE + first_free() * PAGE, HEAP_BYTES)
}

/// The mapped free frames: the first, and their number.
pub fn free_pages() -> (u64, u64) {
    let first = first_free() + HEAP_BYTES / PAGE;
    (first, end_of_mapping().saturating_sub(first))
}
