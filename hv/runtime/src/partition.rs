//! Safe views of the memory and the records that the monitor gave this partition in its start
//! block.
//!
//! The entry code checks the block and stores its address once; everything here is derived from
//! that. Memory that others also write (shared info, grant table, channel pages) is accessed only
//! through atomics.
#![expect(unsafe_code, reason = "the start block names this partition's memory by address")]

use crate::pending::EventWords;
use core::mem::offset_of;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU8, AtomicU32, AtomicU64, Ordering};
use pv_abi::PAGE_SIZE;
use pv_abi::uv::start::{ModuleRecord, StartBlock};
use pv_abi::xen::shared_info::{SharedInfo as SharedLayout, VcpuInfo};

static START: AtomicPtr<StartBlock> = AtomicPtr::new(core::ptr::null_mut());

/// Stores the address of the start block.
///
/// # Safety
/// `block` must be the start block that the monitor passed to the entry point.
#[cfg(target_os = "none")]
#[cfg_attr(not(feature = "start"), allow(dead_code))]
pub(crate) unsafe fn set_start(block: &'static StartBlock) {
    START.store(core::ptr::from_ref(block).cast_mut(), Ordering::Release);
}

/// The start block.
///
/// # Panics
/// Panics on a host target, where there is no start block.
#[must_use]
pub fn start() -> &'static StartBlock {
    try_start().expect("no start block: this is not a partition")
}

/// The start block, if this is a partition.
#[must_use]
pub fn try_start() -> Option<&'static StartBlock> {
    let block = START.load(Ordering::Acquire);
    // SAFETY: null, or the argument of `set_start`: a page that is never written nor unmapped.
    unsafe { block.as_ref() }
}

/// The machine frame behind a virtual address of image, stack, heap or command pages, by
/// [`StartBlock::base`]. Returns `None` outside this partition's memory.
#[must_use]
pub fn frame_of(va: u64) -> Option<u64> {
    let start = start();
    let page = va.checked_sub(start.base)? / PAGE_SIZE as u64;
    (page < start.frames).then(|| start.first_frame + page)
}

/// An image that GRUB loaded for this partition.
#[derive(Clone, Copy, Debug)]
pub struct Module {
    /// The first word of its command line.
    pub name: &'static str,
    /// The rest of its command line.
    pub options: &'static str,
    /// Its contents.
    pub bytes: &'static [u8],
    /// Its first machine frame.
    pub frame: u64,
    /// Its record in the start block.
    record: &'static ModuleRecord,
}

impl Module {
    /// The record of the module for another partition, which gets the options but not the contents.
    #[must_use]
    pub fn without_contents(&self) -> ModuleRecord {
        ModuleRecord { address: 0, bytes: 0, frame: 0, ..*self.record }
    }
}

/// The modules of the start block. A module whose command line is not UTF-8 has an empty name.
pub fn modules() -> impl Iterator<Item = Module> {
    let start = start();
    let count = usize::try_from(start.module_count).unwrap_or(0);
    start.modules.iter().take(count).map(module)
}

/// The module with this name.
#[must_use]
pub fn module_named(name: &str) -> Option<Module> {
    modules().find(|module| module.name == name)
}

fn module(record: &'static ModuleRecord) -> Module {
    let length = usize::try_from(record.command_line_bytes).unwrap_or(0);
    let line = record.command_line.get(..length).unwrap_or(&record.command_line);
    let line = core::str::from_utf8(line).unwrap_or("").trim_matches(['\0', ' ']);
    let (name, options) = line.split_once(' ').unwrap_or((line, ""));
    // SAFETY: the monitor maps the module read-only at that address for the partition's life.
    let bytes = unsafe { slice(record.address, record.bytes) };
    Module { name, options: options.trim(), bytes, frame: record.frame, record }
}

/// The machine description. Only the ultravisor has it; for other partitions the slice is empty.
#[must_use]
pub fn machine_bytes() -> &'static [u8] {
    let start = start();
    // SAFETY: as the start block says; mapped for the partition's life and not written.
    unsafe { slice(start.machine, start.machine_bytes) }
}

/// The database arena, which only the ultravisor has. Returns it once, and `None` afterwards and
/// elsewhere.
///
/// Monitors read the same memory: a change that they may read must be guarded by the generation of
/// the entry that it changes.
#[must_use]
pub fn take_arena() -> Option<&'static mut [u8]> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    let start = start();
    if start.arena == 0 || TAKEN.swap(true, Ordering::AcqRel) {
        return None;
    }
    let bytes = usize::try_from(start.arena_pages).ok()? * PAGE_SIZE;
    let pointer = core::ptr::with_exposed_provenance_mut(usize::try_from(start.arena).ok()?);
    // SAFETY: mapped writable for the partition's life, and this is its only view.
    Some(unsafe { core::slice::from_raw_parts_mut(pointer, bytes) })
}

/// The pages kept for this partition's command channel, or an empty slice.
#[must_use]
pub fn command_pages() -> &'static [AtomicU32] {
    let start = start();
    // SAFETY: as the start block says; only ever accessed through atomics.
    unsafe { words(start.command_pages, start.command_page_count * PAGE_SIZE as u64 / 4) }
}

/// The DMA region, or an empty slice. Devices may write it at any time.
#[must_use]
pub fn dma_region() -> &'static [AtomicU32] {
    let start = start();
    // SAFETY: as the start block says; only ever accessed through atomics.
    unsafe { words(start.dma, start.dma_pages * PAGE_SIZE as u64 / 4) }
}

/// This partition's version-1 grant table, with two words for each entry: flags and domid, frame.
#[must_use]
pub fn grant_table() -> &'static [AtomicU32] {
    let start = start();
    // SAFETY: as the start block says; only ever accessed through atomics.
    unsafe { words(start.grant_table, start.grant_frames * PAGE_SIZE as u64 / 4) }
}

/// Allocates page-aligned zeroed memory from the heap, to share with others. Returns its address
/// and its words. It is never freed.
#[must_use]
pub fn shared_pages(pages: usize) -> Option<(u64, &'static [AtomicU32])> {
    let layout = core::alloc::Layout::from_size_align(pages * PAGE_SIZE, PAGE_SIZE).ok()?;
    if pages == 0 {
        return None;
    }
    // SAFETY: the layout is not empty.
    let pointer = unsafe { alloc::alloc::alloc_zeroed(layout) };
    if pointer.is_null() {
        return None;
    }
    let address = pointer.expose_provenance() as u64;
    // SAFETY: just allocated with this length, zeroed, leaked.
    Some((address, unsafe { words(address, (pages * PAGE_SIZE / 4) as u64) }))
}

/// Shared info, with the layout of `pv_abi::xen`; virtual CPU 0 is its first entry.
#[derive(Clone, Copy, Debug)]
pub struct SharedInfo {
    address: usize,
}

/// This partition's shared info.
#[must_use]
pub fn shared_info() -> SharedInfo {
    SharedInfo { address: usize::try_from(start().shared_info).expect("64-bit") }
}

impl SharedInfo {
    /// A reference to a field.
    ///
    /// # Safety
    /// `offset` must be that of a field that is an atomic integer of type T, or an array of them.
    unsafe fn at<T>(self, offset: usize) -> &'static T {
        let pointer = core::ptr::with_exposed_provenance::<T>(self.address + offset);
        // SAFETY: shared info is mapped writable for the partition's life, page-aligned, and only
        // ever accessed through atomics.
        unsafe { &*pointer }
    }

    /// The words through which events are signalled.
    #[must_use]
    pub fn events(self) -> EventWords<'static> {
        // SAFETY: offsets of vcpu_info[0], evtchn_pending and evtchn_mask.
        unsafe {
            EventWords {
                upcall_pending: self.at::<AtomicU8>(offset_of!(VcpuInfo, evtchn_upcall_pending)),
                upcall_mask: self.at::<AtomicU8>(offset_of!(VcpuInfo, evtchn_upcall_mask)),
                selector: self.at::<AtomicU64>(offset_of!(VcpuInfo, evtchn_pending_sel)),
                pending: self.at::<[AtomicU64; 64]>(offset_of!(SharedLayout, evtchn_pending)),
                mask: self.at::<[AtomicU64; 64]>(offset_of!(SharedLayout, evtchn_mask)),
            }
        }
    }

    /// The faulting address of the last page fault: `vcpu_info[0].arch.cr2`.
    #[must_use]
    pub fn cr2(self) -> u64 {
        // SAFETY: the field's offset.
        unsafe { self.at::<AtomicU64>(offset_of!(VcpuInfo, cr2)) }.load(Ordering::Relaxed)
    }

    /// `vcpu_info[0].time`, 32 bytes as words.
    #[must_use]
    pub fn time(self) -> &'static [AtomicU32; 8] {
        // SAFETY: the field's offset.
        unsafe { self.at::<[AtomicU32; 8]>(offset_of!(VcpuInfo, time)) }
    }

    /// Seconds since 1970 at system time 0 (`wc_sec`, low half).
    #[must_use]
    pub fn wall_clock(self) -> u32 {
        // SAFETY: the field's offset.
        unsafe { self.at::<AtomicU32>(offset_of!(SharedLayout, wc_sec)) }.load(Ordering::Relaxed)
    }
}

/// A slice at an address; empty if the address or the length is 0.
///
/// # Safety
/// The bytes must be mapped, and unchanged, for the partition's life.
unsafe fn slice(address: u64, bytes: u64) -> &'static [u8] {
    let (Ok(address), Ok(bytes)) = (usize::try_from(address), usize::try_from(bytes)) else {
        return &[];
    };
    if address == 0 {
        return &[];
    }
    // SAFETY: the caller's promise.
    unsafe { core::slice::from_raw_parts(core::ptr::with_exposed_provenance(address), bytes) }
}

/// Words at a 4-byte aligned address; empty if the address is 0.
///
/// # Safety
/// The words must be mapped writable for as long as `'a`, and be accessed only through atomics.
pub(crate) unsafe fn words<'a>(address: u64, count: u64) -> &'a [AtomicU32] {
    let (Ok(address), Ok(count)) = (usize::try_from(address), usize::try_from(count)) else {
        return &[];
    };
    if address == 0 {
        return &[];
    }
    // SAFETY: the caller's promise; atomics have no invalid bit patterns.
    unsafe { core::slice::from_raw_parts(core::ptr::with_exposed_provenance(address), count) }
}
