//! Segment descriptors, task state and interrupt descriptors.
//!
//! The GDT of a CPU is the window of `cpu_area`: it holds the partition's own frames, and at 0xe000
//! the monitor's page with the flat selectors that the PV ABI promises (`arch-x86/xen-x86_64.h`).
//! All CPUs share one interrupt descriptor table. The rule: a partition's descriptors all have
//! privilege level 3, since its frames are checked before they are shown. A partition cannot write
//! memory from which the CPU takes the monitor's descriptors.
#![expect(unsafe_code, reason = "descriptor tables are loaded by address")]

use core::{arch::asm, cell::UnsafeCell};

use x86_64::{
    VirtAddr,
    instructions::{
        segmentation::{CS, DS, ES, FS, GS, SS, Segment},
        tables::{lgdt, lidt, load_tss},
    },
    registers::segmentation::SegmentSelector,
    structures::{DescriptorTablePointer, tss::TaskStateSegment},
};

use handover::layout::{OWN_DESCRIPTORS, RING0_CS, TSS};
use pv_abi::xen::descriptors::{
    FLAT_RING3_CS32 as CS32, FLAT_RING3_CS64 as CS64, FLAT_RING3_SS as DS3,
};

use super::cpu_area;

/// Ring 0, data and stack.
pub const RING0_DS: u16 = 0xe010;
const TSS_SELECTOR: u16 = 0xe040;
const LDT_SELECTOR: u16 = 0xe050;
/// Last byte of the GDT.
const GDT_LIMIT: u16 = 0xefff;

/// Pairs of selector and descriptor. The accessed bits are set, so that the CPU does not write
/// them.
const FLAT: [(u16, u64); 5] = [
    (RING0_CS, 0x00af_9b00_0000_ffff),
    (RING0_DS, 0x00cf_9300_0000_ffff),
    (CS32, 0x00cf_fb00_0000_ffff),
    (DS3, 0x00cf_f300_0000_ffff),
    (CS64, 0x00af_fb00_0000_ffff),
];

/// The interrupt descriptor table, in a read-only section.
#[repr(C, align(4096))]
pub struct Interrupts(UnsafeCell<[[u64; 2]; 256]>);

// SAFETY: the loader fills it before the image is mapped; afterwards only CPUs read it.
unsafe impl Sync for Interrupts {}

#[unsafe(link_section = ".sealed")]
pub static INTERRUPTS: Interrupts = Interrupts(UnsafeCell::new([[0; 2]; 256]));

/// The 16-byte system descriptor of a segment (type 2: LDT, 9: available TSS).
fn system_descriptor(base: u64, limit: u64, kind: u64) -> [u64; 2] {
    let low = (limit & 0xffff)
        | (base & 0xff_ffff) << 16
        | (0x80 | kind) << 40
        | (limit >> 16 & 0xf) << 48
        | (base >> 24 & 0xff) << 56;
    [low, base >> 32]
}

/// Address of the descriptor that a monitor selector of a CPU names.
fn slot(cpu: u32, selector: u16) -> *mut u64 {
    (cpu_area::gdt_window(cpu) + u64::from(selector & !7)) as *mut u64
}

fn put_system(cpu: u32, selector: u16, descriptor: [u64; 2]) {
    // SAFETY: both words lie in the CPU's own descriptor page, mapped writable by
    // the loader; only that CPU (or the one that starts it) writes them.
    unsafe { slot(cpu, selector).cast::<[u64; 2]>().write(descriptor) };
}

/// Writes the descriptors and the task state of a CPU, before it starts.
pub fn prepare(cpu: u32) {
    debug_assert!(GDT_LIMIT as u64 == OWN_DESCRIPTORS + 0xfff);
    for (selector, descriptor) in FLAT {
        // SAFETY: as in `put_system`.
        unsafe { slot(cpu, selector).write(descriptor) };
    }
    let tss = cpu_area::gdt_window(cpu) + TSS;
    put_system(
        cpu,
        TSS_SELECTOR,
        system_descriptor(tss, size_of::<TaskStateSegment>() as u64 - 1, 9),
    );
    // There is no I/O bitmap: its offset is the end of the segment.
    let mut state = TaskStateSegment::new();
    state.privilege_stack_table[0] = VirtAddr::new(cpu_area::main_stack_top(cpu));
    for (index, top) in cpu_area::IST_TOPS.into_iter().enumerate() {
        state.interrupt_stack_table[index] = VirtAddr::new(cpu_area::area(cpu) + top);
    }
    // SAFETY: the page of the task state is this CPU's own and is mapped writable.
    unsafe { (tss as *mut TaskStateSegment).write(state) };
}

/// Loads all descriptor tables on `cpu`, the CPU that runs this.
pub fn load(cpu: u32) {
    let base = VirtAddr::new(cpu_area::gdt_window(cpu));
    let gdt = DescriptorTablePointer { limit: GDT_LIMIT, base };
    let base = VirtAddr::new(INTERRUPTS.0.get() as u64);
    let idt = DescriptorTablePointer { limit: 0xfff, base };
    // SAFETY: `prepare` and the loader wrote the tables; the code and stack segments loaded
    // are flat ones like those in use.
    unsafe {
        lgdt(&gdt);
        CS::set_reg(SegmentSelector(RING0_CS));
        DS::set_reg(SegmentSelector(RING0_DS));
        ES::set_reg(SegmentSelector(RING0_DS));
        SS::set_reg(SegmentSelector(RING0_DS));
        FS::set_reg(SegmentSelector::NULL);
        GS::set_reg(SegmentSelector::NULL);
        lidt(&idt);
        load_tss(SegmentSelector(TSS_SELECTOR));
    }
    load_ldt(cpu, 0);
}

/// Loads an LDT of `entries` descriptors (0 for none) from the LDT window of `cpu`, the CPU that
/// runs this.
pub fn load_ldt(cpu: u32, entries: u32) {
    let selector = if entries == 0 {
        0
    } else {
        let limit = u64::from(entries.min(8192)) * 8 - 1;
        put_system(cpu, LDT_SELECTOR, system_descriptor(cpu_area::ldt_window(cpu), limit, 2));
        LDT_SELECTOR
    };
    // SAFETY: the descriptor is null or was just written; the window belongs to this CPU.
    unsafe { asm!("lldt {0:x}", in(reg) selector, options(nostack, preserves_flags)) };
}
