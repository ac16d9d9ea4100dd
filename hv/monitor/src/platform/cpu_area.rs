//! Each CPU's own memory: its local data, its stacks, its windows for descriptor tables.
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
//! Pages 3, 5 and 7 are absent; page 1 is not writable. The rule: a stack that overflows
//! faults; and `rsp & !0xFFFF` finds the local data from any stack.
//!
//! The GDT window is 64 KiB too: pages 0 to 13 show the partition's descriptor frames, page 14 the
//! monitor's descriptors, page 15 (beyond the table's limit) the TSS. The LDT window shows up to
//! 16 frames of the partition.
#![expect(unsafe_code, reason = "areas are found by address")]

use core::sync::atomic::{AtomicU64, Ordering};

use super::{
    memory,
    paging::{Largest, Rights},
    processor,
};

/// First area.
pub const AREAS: u64 = 0xffff_8080_0000_0000;
/// First GDT window.
const GDT_WINDOWS: u64 = 0xffff_8081_0000_0000;
/// First LDT window.
const LDT_WINDOWS: u64 = 0xffff_8082_0000_0000;
/// Bytes of an area, and of a window.
pub const AREA_BYTES: u64 = 0x1_0000;
/// CPUs the monitor can use.
pub const MAX_CPUS: usize = 64;
/// Frames of a partition's GDT.
pub const GDT_FRAMES: usize = 14;
/// Frames of a partition's LDT.
pub const LDT_FRAMES: usize = 16;
/// Offset of the monitor's descriptors in the GDT window.
pub const OWN_DESCRIPTORS: u64 = 0xe000;
/// Offset of the TSS in the GDT window; beyond the table's limit, so no selector reaches it.
pub const TSS: u64 = 0xf000;
/// Tops of the stacks for double fault, NMI, machine check, as offsets in the area.
pub const IST_TOPS: [u64; 3] = [0x3000, 0x5000, 0x7000];
/// Stands for "no frame" in [`set_gdt_frames`] and [`set_ldt_frames`].
pub const NO_FRAME: u64 = 0;

/// Writable pages of an area.
const DATA_PAGES: [u64; 12] = [0, 2, 4, 6, 8, 9, 10, 11, 12, 13, 14, 15];

unsafe extern "C" {
    safe static entry_page: u8;
}

/// Address of a CPU's area.
#[must_use]
pub fn area(cpu: u32) -> u64 {
    AREAS + u64::from(cpu) * AREA_BYTES
}

/// First page of a CPU's area, which holds its local data.
#[must_use]
pub fn cpu_local_page(cpu: u32) -> *mut u8 {
    area(cpu) as *mut u8
}

/// Top of a CPU's main stack.
#[must_use]
pub fn main_stack_top(cpu: u32) -> u64 {
    area(cpu) + AREA_BYTES
}

/// Address of a CPU's GDT window.
#[must_use]
pub fn gdt_window(cpu: u32) -> u64 {
    GDT_WINDOWS + u64::from(cpu) * AREA_BYTES
}

/// Address of a CPU's LDT window.
#[must_use]
pub fn ldt_window(cpu: u32) -> u64 {
    LDT_WINDOWS + u64::from(cpu) * AREA_BYTES
}

/// Maps the area and the windows of a CPU; `None` when memory is short.
pub fn map(cpu: u32) -> Option<()> {
    let tables = memory::tables();
    let page = |va: u64| {
        let phys = memory::take_frames(1, 1)? * 4096;
        tables.map(va, phys, 4096, Rights::DATA, Largest::Page)?;
        // SAFETY: the frame was just taken and is mapped writable in the direct map.
        unsafe { memory::phys_to_virt(phys).write_bytes(0, 4096) };
        Some(())
    };
    for index in DATA_PAGES {
        page(area(cpu) + index * 4096)?;
    }
    let code = memory::image_to_phys(&raw const entry_page as u64);
    tables.map(area(cpu) + 4096, code, 4096, Rights::CODE, Largest::Page)?;
    page(gdt_window(cpu) + OWN_DESCRIPTORS)?;
    page(gdt_window(cpu) + TSS)?;
    for (window, base) in WINDOWS.iter().zip([gdt_window(cpu), ldt_window(cpu)]) {
        let first = tables.entry(base, 1, Rights::DATA)?;
        window.first_entries.get(cpu as usize)?.store(first.as_ptr() as u64, Ordering::Release);
    }
    Some(())
}

/// Where the level-1 entries of the windows are, by CPU.
struct Window {
    first_entries: [AtomicU64; MAX_CPUS],
}

static WINDOWS: [Window; 2] =
    [const { Window { first_entries: [const { AtomicU64::new(0) }; MAX_CPUS] } }; 2];

/// Shows `count` frames in a window; what changes is flushed on this CPU.
fn show(window: &Window, cpu: u32, base: u64, count: usize, frames: &[u64]) {
    let Some(first) = window.first_entries.get(cpu as usize) else {
        return;
    };
    let first = first.load(Ordering::Acquire) as *const AtomicU64;
    if first.is_null() {
        return;
    }
    // SAFETY: `map` stored the address of this CPU's first entry; the 16 entries of a 64 KiB
    // window lie in one table, which is never freed.
    let entries = unsafe { core::slice::from_raw_parts(first, count) };
    for (index, entry) in entries.iter().enumerate() {
        let frame = frames.get(index).copied().unwrap_or(NO_FRAME);
        let value = if frame == NO_FRAME { 0 } else { Rights::DATA.entry(frame) };
        if entry.load(Ordering::Relaxed) != value {
            entry.store(value, Ordering::Relaxed);
            processor::invlpg(base + index as u64 * 4096);
        }
    }
}

/// Shows the frames of a partition's GDT, at most [`GDT_FRAMES`], in the window of the CPU this
/// runs on; windows keep nothing else.
pub fn set_gdt_frames(cpu: u32, frames: &[u64]) {
    show(&WINDOWS[0], cpu, gdt_window(cpu), GDT_FRAMES, frames);
}

/// Shows the frames of a partition's LDT, at most [`LDT_FRAMES`], in the window of the CPU this
/// runs on, and loads an LDT of `entries` descriptors (0: none).
pub fn set_ldt_frames(cpu: u32, frames: &[u64], entries: u32) {
    show(&WINDOWS[1], cpu, ldt_window(cpu), LDT_FRAMES, frames);
    super::descriptors::load_ldt(cpu, entries);
}
