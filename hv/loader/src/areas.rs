//! The memory of each CPU: its area and its windows for descriptor tables, as the monitor's
//! `platform::cpu_area` describes them.
#![expect(unsafe_code, reason = "clears frames that were just taken")]

use handover::layout::{
    AREA_BYTES, AREA_DATA_PAGES, AREAS, GDT_WINDOWS, LDT_WINDOWS, OWN_DESCRIPTORS, TSS,
};

use crate::{
    memory,
    paging::{Largest, Rights},
};

/// Top of the main stack of a CPU.
#[must_use]
pub fn main_stack_top(cpu: u32) -> u64 {
    AREAS + (u64::from(cpu) + 1) * AREA_BYTES
}

/// Maps the area and windows of a CPU, and the entry page from its physical address. Returns the
/// addresses of the first level-1 entries of both windows. Returns `None` if memory is short.
pub fn map(cpu: u32, entry_page: u64) -> Option<[u64; 2]> {
    let tables = memory::tables();
    let offset = u64::from(cpu) * AREA_BYTES;
    let [area, gdt, ldt] = [AREAS, GDT_WINDOWS, LDT_WINDOWS].map(|first| first + offset);
    let page = |va: u64| {
        let phys = memory::take_frames(1, 1)? * 4096;
        tables.map(va, phys, 4096, Rights::DATA, Largest::Page)?;
        // SAFETY: the frame was just taken and is mapped writable in the direct map.
        unsafe { memory::phys_to_virt(phys).write_bytes(0, 4096) };
        Some(())
    };
    for index in AREA_DATA_PAGES {
        page(area + index * 4096)?;
    }
    tables.map(area + 4096, entry_page, 4096, Rights::CODE, Largest::Page)?;
    page(gdt + OWN_DESCRIPTORS)?;
    page(gdt + TSS)?;
    let first = |base| Some(tables.entry(base, 1)?.as_ptr() as u64);
    Some([first(gdt)?, first(ldt)?])
}
