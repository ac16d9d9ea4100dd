//! The frames that are handed out before there is a resource database, and the monitor's address
//! space, which is built from them.
//!
//! The map is in the architecture document, "Virtual address space". The loader itself runs where
//! it was loaded. The first 4 GiB are mapped at address 0: by the temporary page tables of the boot
//! code, and by entry 0 of the final ones until the monitor clears it.
#![expect(unsafe_code, reason = "the frame table and the image are found by address")]

use core::{
    ptr, slice,
    sync::atomic::{AtomicU64, Ordering},
};

use frame_record::Record;
use handover::layout::{AREAS, DEVICES, DIRECT_MAP, FIRST_SLOT, FRAME_TABLE, SLOTS};
use spin::{Mutex, Once};

use crate::{
    cpu,
    early_frames::{EarlyFrames, FrameRange},
    image::Image,
    messages::refuse,
    paging::{Largest, PageTables, Rights},
    regions::{FirmwareRegion, kind},
};

const MIB_2: u64 = 1 << 21;
const FRAME_BYTES: u64 = size_of::<Record>() as u64;

static EARLY: Mutex<EarlyFrames> = Mutex::new(EarlyFrames::new());
static SPACE: Once<Space> = Once::new();

/// The address space that [`set_up`] made.
#[derive(Debug)]
struct Space {
    tables: PageTables,
    frames: u64,
    frame_table: u64,
    m2p: u64,
}

unsafe extern "C" {
    safe static image_start: u8;
    safe static image_end: u8;
}

/// Why the machine's memory cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The memory map is too fragmented for the tables.
    Fragmented,
    /// No free range has this many bytes.
    Short(u64),
}

impl core::fmt::Display for Fault {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Fragmented => write!(f, "the firmware's memory map has too many pieces"),
            Self::Short(bytes) => {
                write!(f, "no free memory range of {} KiB for the monitor's tables", bytes / 1024)
            }
        }
    }
}

/// Address of a symbol of the image.
fn address(symbol: &u8) -> u64 {
    ptr::from_ref(symbol) as u64
}

/// The frames that the loader occupies.
#[must_use]
pub fn own_frames() -> FrameRange {
    let first = address(&image_start) / 4096;
    FrameRange { first, frames: address(&image_end) / 4096 - first }
}

/// The address of physical address `phys` in the direct map.
#[must_use]
pub fn phys_to_virt(phys: u64) -> *mut u8 {
    DIRECT_MAP.wrapping_add(phys) as *mut u8
}

/// Bytes of RAM at a physical address, which nobody writes. Returns `None` outside the RAM and ACPI
/// memory in `regions`.
pub fn ram_bytes(phys: u64, bytes: u64, regions: &[FirmwareRegion]) -> Option<&'static [u8]> {
    let end = phys.checked_add(bytes)?;
    let inside = |r: &&FirmwareRegion| r.first * 4096 <= phys && end <= r.end() * 4096;
    regions.iter().filter(|r| is_memory(r)).find(inside)?;
    // SAFETY: the range is RAM in the direct map; callers name ranges that firmware or GRUB
    // filled and that nobody writes.
    Some(unsafe { slice::from_raw_parts(phys_to_virt(phys), usize::try_from(bytes).ok()?) })
}

fn is_memory(region: &FirmwareRegion) -> bool {
    matches!(region.kind, kind::RAM | kind::ACPI | kind::NVS)
}

/// Returns whether RAM or ACPI memory lies between two physical addresses.
pub fn meets_ram(start: u64, end: u64, regions: &[FirmwareRegion]) -> bool {
    let meets = |r: &FirmwareRegion| start < r.end() * 4096 && r.first * 4096 < end;
    regions.iter().any(|r| is_memory(r) && meets(r))
}

/// One past the highest frame of RAM.
pub fn frame_count(regions: &[FirmwareRegion]) -> u64 {
    let ram = regions.iter().filter(|r| r.kind == kind::RAM);
    ram.map(FirmwareRegion::end).max().unwrap_or(0)
}

/// Takes frames for good. Returns the first, a multiple of `align` (a power of two). Only while the
/// platform starts; afterwards the database owns the rest.
pub fn take_frames(frames: u64, align: u64) -> Option<u64> {
    EARLY.lock().take_frames(frames, align)
}

/// Takes zeroed memory for good. Returns its physical address. Without memory for `what`, the start
/// is refused.
pub fn take_zeroed(bytes: u64, what: &str) -> u64 {
    let frames = bytes.div_ceil(4096).max(1);
    let Some(first) = take_frames(frames, 1) else {
        refuse(format_args!("no memory for {what}: give the machine more"));
    };
    (first..first + frames).for_each(scrub);
    first << 12
}

/// Frees frames that were never free, such as the loader's. No frames may be taken from then on.
/// Returns `None` if there are too many ranges.
pub fn free_also(range: FrameRange) -> Option<()> {
    EARLY.lock().free_also(range)
}

/// Calls `each` with every range of frames that [`take_frames`] gave away.
pub fn taken_regions(mut each: impl FnMut(FrameRange)) {
    let taken = EARLY.lock();
    taken.taken().iter().for_each(|&range| each(range));
}

/// Calls `each` with every range of RAM that is still free, in ascending order.
pub fn free_regions(mut each: impl FnMut(FrameRange)) {
    let early = EARLY.lock();
    early.free().iter().for_each(|&range| each(range));
}

/// Makes the RAM in `regions` available to [`take_frames`], except the loader's frames and `kept`.
///
/// # Errors
/// [`Fault::Fragmented`] if there are too many ranges.
pub fn start_frames(
    regions: &[FirmwareRegion],
    kept: impl Iterator<Item = FrameRange>,
) -> Result<(), Fault> {
    let mut early = EARLY.lock();
    early.add(regions).ok_or(Fault::Fragmented)?;
    for range in core::iter::once(own_frames()).chain(kept) {
        early.reserve(range).ok_or(Fault::Fragmented)?;
    }
    Ok(())
}

/// Builds the final page tables, except the per-CPU areas, and the two tables indexed by frame. The
/// temporary tables stay in use until [`use_tables`].
///
/// # Errors
/// [`Fault::Short`] if memory is short.
pub fn set_up(regions: &[FirmwareRegion], image: &Image) -> Result<(), Fault> {
    let tables = PageTables::new().ok_or(Fault::Short(4096))?;
    image.map(tables).ok_or(Fault::Short(4096))?;
    map_ram(tables, regions, image.frames)?;
    let frames = frame_count(regions);
    let frame_table = take_table(frames * FRAME_BYTES)?;
    let bytes = (frames * FRAME_BYTES).next_multiple_of(MIB_2);
    let mapped = tables.map(FRAME_TABLE, frame_table, bytes, Rights::DATA, Largest::TwoMib);
    mapped.ok_or(Fault::Short(4096))?;
    let m2p = take_table(m2p_bytes(frames))?;
    // From here on the level-3 tables of all used slots exist: the slots never change again.
    for va in [AREAS, DEVICES] {
        tables.entry(va, 3).ok_or(Fault::Short(4096))?;
    }
    tables.set_slot(0, PageTables::temporary().slot(0));
    SPACE.call_once(|| Space { tables, frames, frame_table, m2p });
    Ok(())
}

/// Maps RAM and ACPI memory, around the monitor's image.
fn map_ram(tables: PageTables, regions: &[FirmwareRegion], image: FrameRange) -> Result<(), Fault> {
    for region in regions.iter().filter(|r| is_memory(r)) {
        let before = (region.first, region.end().min(image.first));
        let after = (region.first.max(image.end()), region.end());
        for (first, end) in [before, after].into_iter().filter(|(first, end)| first < end) {
            let (va, bytes) = (DIRECT_MAP + first * 4096, (end - first) * 4096);
            let mapped = tables.map(va, first * 4096, bytes, Rights::DATA, Largest::OneGib);
            mapped.ok_or(Fault::Short(4096))?;
        }
    }
    Ok(())
}

/// Takes memory for a table indexed by frame. Returns its physical address.
fn take_table(bytes: u64) -> Result<u64, Fault> {
    let bytes = bytes.next_multiple_of(MIB_2);
    let first = take_frames(bytes / 4096, MIB_2 / 4096).ok_or(Fault::Short(bytes))?;
    Ok(first * 4096)
}

/// Size in bytes of the machine-to-physical table, including the page of ones after it.
fn m2p_bytes(frames: u64) -> u64 {
    frames * 8 + 4096
}

/// Fills a table indexed by frame with one word.
fn fill_table(phys: u64, bytes: u64, word: u64) {
    let count = narrow::size(bytes.next_multiple_of(MIB_2) / 8);
    // SAFETY: the range was taken for this table and lies in the direct map; nobody else uses it
    // yet.
    unsafe { slice::from_raw_parts_mut(phys_to_virt(phys).cast::<u64>(), count) }.fill(word);
}

fn space() -> &'static Space {
    SPACE.get().expect("memory is set up first")
}

/// The monitor's page tables.
pub fn tables() -> PageTables {
    space().tables
}

/// Switches the first CPU to the final page tables, and fills the tables indexed by frame.
pub fn use_tables() {
    cpu::set_root(root());
    let space = space();
    fill_table(space.frame_table, space.frames * FRAME_BYTES, 0);
    fill_table(space.m2p, m2p_bytes(space.frames), !0);
}

/// Physical address of the monitor's level-4 table.
#[must_use]
pub fn root() -> u64 {
    space().tables.root()
}

/// Entries 256 to 271 of the monitor's level-4 table; entry 256 is empty.
#[must_use]
pub fn monitor_slots() -> [u64; SLOTS] {
    core::array::from_fn(|index| space().tables.slot(FIRST_SLOT + index))
}

/// Physical address of the machine-to-physical table.
#[must_use]
pub fn m2p() -> u64 {
    space().m2p
}

/// One past the highest frame of RAM.
#[must_use]
pub fn frames() -> u64 {
    space().frames
}

/// The record of frame `mfn`. Returns `None` if no RAM is there.
#[must_use]
pub fn frame(mfn: u64) -> Option<&'static Record> {
    // SAFETY: `set_up` mapped and `use_tables` zeroed that many records; all zeros is a valid
    // `Record`, and it changes through atomics only.
    let all =
        unsafe { slice::from_raw_parts(FRAME_TABLE as *const Record, narrow::size(frames())) };
    all.get(usize::try_from(mfn).ok()?)
}

/// The address of a frame's bytes in the direct map.
#[must_use]
pub fn bytes(mfn: u64) -> *mut u8 {
    phys_to_virt(mfn << 12)
}

/// The entries of a page table in a frame that was taken.
#[must_use]
pub fn entries(mfn: u64) -> &'static [AtomicU64; 512] {
    // SAFETY: the frame is RAM in the direct map; contents are only accessed atomically.
    unsafe { &*bytes(mfn).cast() }
}

/// Fills a frame that was taken with zeros.
pub fn scrub(mfn: u64) {
    // SAFETY: the frame is RAM in the direct map that nobody uses yet.
    unsafe { bytes(mfn).write_bytes(0, 4096) };
}

/// Copies bytes to RAM at a physical address.
pub fn copy_to(phys: u64, bytes: &[u8]) {
    let to = phys_to_virt(phys);
    // SAFETY: callers took frames for so many bytes, which the direct map has; nobody else uses
    // them yet.
    unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
}

/// Makes frames read-only in the direct map, for all CPUs, before partitions run. Returns `None` if
/// memory for split tables is short.
pub fn make_read_only(first: u64, frames: u64) -> Option<()> {
    tables().protect(DIRECT_MAP + first * 4096, frames, Rights::READ)?;
    cpu::drop_translations();
    Some(())
}

/// Maps device memory uncached. Returns the virtual address of `phys`.
pub fn map_device(phys: u64, bytes: u64) -> *mut u8 {
    static NEXT: AtomicU64 = AtomicU64::new(DEVICES);
    let first = phys & !4095;
    let size = (phys + bytes).next_multiple_of(4096) - first;
    let va = NEXT.fetch_add(size, Ordering::Relaxed);
    // Device memory is the monitor's like its RAM, also in the frame table.
    let recorded = EARLY.lock().record(FrameRange { first: first / 4096, frames: size / 4096 });
    let map = |()| tables().map(va, first, size, Rights::DEVICE, Largest::Page);
    if recorded.and_then(map).is_none() {
        refuse(format_args!("no memory for page tables"));
    }
    (va + (phys - first)) as *mut u8
}
