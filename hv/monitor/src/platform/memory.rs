//! The monitor's address space, as the loader built it.
//!
//! The map is in the architecture document, "Virtual address space". The rule: a mapping stays for
//! ever, so addresses from here may be kept; only the per-CPU windows for descriptor tables change.
#![expect(unsafe_code, reason = "the frame table and the image are found by address")]

use core::{
    ptr, slice,
    sync::atomic::{AtomicU64, Ordering},
};

use frames::Frame;
use handover::{
    Handover,
    layout::{DIRECT_MAP, FRAME_TABLE, SLOTS},
};
use page_tables::Mfn;
use spin::Once;

static SPACE: Once<Space> = Once::new();

/// The address space that the loader made.
#[derive(Debug)]
struct Space {
    root: u64,
    slots: [u64; SLOTS],
    frames: u64,
    m2p: u64,
}

unsafe extern "C" {
    safe static image_text_start: u8;
    safe static image_text_end: u8;
    safe static image_sealed_end: u8;
    safe static image_end: u8;
}

/// Takes over the address space.
pub fn set_up(handover: &Handover) {
    let Handover { root, slots, frames, m2p, .. } = *handover;
    SPACE.call_once(|| Space { root, slots, frames, m2p });
}

/// Address of a symbol of the image.
fn address(symbol: &u8) -> u64 {
    ptr::from_ref(symbol) as u64
}

/// Bounds of the image's code.
pub fn image_text() -> core::ops::Range<u64> {
    address(&image_text_start)..address(&image_text_end)
}

/// The address of physical address `phys` in the direct map.
pub fn phys_to_virt(phys: u64) -> *mut u8 {
    DIRECT_MAP.wrapping_add(phys) as *mut u8
}

fn space() -> &'static Space {
    SPACE.get().expect("memory is set up first")
}

/// The level-4 table of a CPU that runs no partition: the monitor's own.
pub fn idle_root() -> Mfn {
    Mfn::of_address(space().root)
}

/// Removes the identity mapping of low memory, and flushes it on this CPU.
pub fn clear_low() {
    let entry = phys_to_virt(idle_root().address()).cast::<AtomicU64>();
    // SAFETY: the first entry of the monitor's level-4 table; it maps nothing that the monitor
    // uses any more.
    unsafe { &*entry }.store(0, Ordering::Relaxed);
    super::processor::reload_cr3();
}

/// Entries 256 to 271 of the monitor's level-4 table; entry 256 is empty.
pub fn monitor_l4_slots() -> &'static [u64; SLOTS] {
    &space().slots
}

/// The record of every frame of RAM, by frame number.
pub fn frame_table() -> &'static [Frame] {
    // SAFETY: the loader mapped and zeroed that many records; all zeros is a valid `Frame`, and it
    // changes through atomics only.
    unsafe { slice::from_raw_parts(FRAME_TABLE as *const Frame, narrow::size(space().frames)) }
}

/// First frame of the machine-to-physical table, which is mapped only in the direct map and, in
/// parts, in the partitions' views. A page of ones follows its last page.
pub fn m2p_frame() -> Mfn {
    Mfn::of_address(space().m2p)
}

/// The machine-to-physical table, by frame number, writable for the monitor.
pub fn m2p() -> &'static [AtomicU64] {
    let base = phys_to_virt(space().m2p).cast::<AtomicU64>();
    // SAFETY: the loader took and filled that many words; they are accessed as atomics only.
    unsafe { slice::from_raw_parts(base, narrow::size(space().frames)) }
}

/// Returns whether a word at `va` lies in stack memory; for backtraces.
pub(super) fn is_stack(va: u64) -> bool {
    let data = address(&image_sealed_end)..address(&image_end) - 7;
    data.contains(&va) || super::panic::in_cpu_stack(va)
}
