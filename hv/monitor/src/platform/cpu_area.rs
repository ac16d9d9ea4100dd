//! The memory of each CPU: its local data, its stacks, its windows for descriptor tables.
//!
//! | page of the area | holds |
//! |---|---|
//! | 0 | `CpuLocal`, the kernel's own structure |
//! | 1 | the entry page: one physical page of code, in every CPU's area |
//! | 2 | stack for double faults |
//! | 4 | stack for non-maskable interrupts |
//! | 6 | stack for machine checks |
//! | 8 to 15 | main stack |
//!
//! Pages 3, 5 and 7 are absent; page 1 is not writable. The rules: a stack that overflows faults,
//! and `rsp & !0xFFFF` finds the local data from any stack.
//!
//! The GDT window is 64 KiB too: pages 0 to 13 show the partition's descriptor frames, page 14 the
//! monitor's descriptors, page 15 (beyond the table's limit) the TSS. The LDT window shows up to
//! 16 frames of the partition.
#![expect(unsafe_code, reason = "areas are found by address")]

use core::sync::atomic::{AtomicU64, Ordering};

use page_tables::Mfn;

use handover::{
    Handover,
    layout::{AREA_BYTES, AREAS, DATA_ENTRY, GDT_WINDOWS, LDT_WINDOWS, MAX_CPUS},
};

use super::processor;

/// Maximum number of frames of a partition's GDT.
pub const GDT_FRAMES: usize = 14;
/// Maximum number of frames of a partition's LDT.
pub const LDT_FRAMES: usize = 16;
/// Tops of the stacks for double fault, NMI, machine check, as offsets in the area.
pub const IST_TOPS: [u64; 3] = [0x3000, 0x5000, 0x7000];

/// Address of a CPU's area.
pub fn area(cpu: u32) -> u64 {
    AREAS + u64::from(cpu) * AREA_BYTES
}

/// First page of a CPU's area, which holds its local data.
pub fn cpu_local_page(cpu: u32) -> *mut u8 {
    area(cpu) as *mut u8
}

/// Top of a CPU's main stack.
pub fn main_stack_top(cpu: u32) -> u64 {
    area(cpu) + AREA_BYTES
}

/// Address of a CPU's GDT window.
pub fn gdt_window(cpu: u32) -> u64 {
    GDT_WINDOWS + u64::from(cpu) * AREA_BYTES
}

/// Address of a CPU's LDT window.
pub fn ldt_window(cpu: u32) -> u64 {
    LDT_WINDOWS + u64::from(cpu) * AREA_BYTES
}

/// Takes over the areas and windows that the loader mapped.
pub fn set_up(handover: &Handover) {
    for (window, entries) in WINDOWS.iter().zip(&handover.windows) {
        for (place, entry) in window.first_entries.iter().zip(entries) {
            place.store(*entry, Ordering::Release);
        }
    }
}

/// The place of the level-1 entries of the windows, by CPU.
struct Window {
    first_entries: [AtomicU64; MAX_CPUS],
}

static WINDOWS: [Window; 2] =
    [const { Window { first_entries: [const { AtomicU64::new(0) }; MAX_CPUS] } }; 2];

/// Shows frames in a window, and flushes the changed translations on this CPU.
fn show<const N: usize>(window: &Window, cpu: u32, base: u64, frames: &[Mfn; N]) {
    let first = window.first_entries.get(cpu as usize).map(|entry| entry.load(Ordering::Acquire));
    let Some(first) = first.filter(|first| *first != 0) else {
        return;
    };
    // SAFETY: the loader made the tables and gave the address of this CPU's first entry; the 16
    // entries of a 64 KiB window lie in one table, which is never freed. `N` is 14 or 16.
    let entries = unsafe { &*(first as *const [AtomicU64; N]) };
    for (index, (entry, frame)) in entries.iter().zip(frames).enumerate() {
        let value = if frame.is_none() { 0 } else { frame.address() | DATA_ENTRY };
        if entry.load(Ordering::Relaxed) != value {
            entry.store(value, Ordering::Relaxed);
            processor::invlpg(base + index as u64 * 4096);
        }
    }
}

/// Shows the frames of a partition's GDT in the window of `cpu`, the CPU that runs
/// this. Frames shown before go.
pub fn set_gdt_frames(cpu: u32, frames: &[Mfn; GDT_FRAMES]) {
    show(&WINDOWS[0], cpu, gdt_window(cpu), frames);
}

/// Shows the frames of a partition's LDT in the window of `cpu`, the CPU that runs
/// this, and loads an LDT of `entries` descriptors (0 for none).
pub fn set_ldt_frames(cpu: u32, frames: &[Mfn; LDT_FRAMES], entries: u32) {
    show(&WINDOWS[1], cpu, ldt_window(cpu), frames);
    super::descriptors::load_ldt(cpu, entries);
}
