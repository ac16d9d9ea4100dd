//! What the loader asks of the CPU it runs on.
#![expect(unsafe_code, reason = "control registers and MSRs")]

use core::arch::x86_64::__cpuid;

use x86_64::{
    PhysAddr,
    instructions::tlb,
    registers::{
        control::{Cr3, Cr3Flags},
        model_specific::Msr,
    },
    structures::paging::PhysFrame,
};

/// (name, register value, bit) of each feature that the monitor needs.
fn required() -> [(&'static str, u32, u32); 9] {
    let basic = __cpuid(1).edx;
    let basic_c = __cpuid(1).ecx;
    let extended = __cpuid(0x8000_0001).edx;
    [
        ("TSC", basic, 4),
        ("MSR", basic, 5),
        ("APIC", basic, 9),
        ("PAT", basic, 16),
        ("FXSR", basic, 24),
        ("SSE2", basic, 26),
        ("CMPXCHG16B", basic_c, 13),
        ("SYSCALL", extended, 11),
        ("NX", extended, 20),
    ]
}

/// The name of a feature that the monitor needs and this CPU lacks.
#[must_use]
pub fn missing_feature() -> Option<&'static str> {
    let missing = required().into_iter().find(|(_, word, bit)| word & (1 << bit) == 0);
    missing.map(|(name, _, _)| name)
}

/// Whether pages may have 1 GiB.
#[must_use]
pub fn has_gib_pages() -> bool {
    __cpuid(0x8000_0001).edx & (1 << 26) != 0
}

/// Reads a model-specific register that exists.
#[must_use]
pub fn read_msr(msr: u32) -> u64 {
    // SAFETY: reading has no effect on memory.
    unsafe { Msr::new(msr).read() }
}

/// Physical address of the level-4 table in use.
#[must_use]
pub fn root() -> u64 {
    Cr3::read().0.start_address().as_u64()
}

/// Loads page tables that map the loader, like the ones in use.
pub fn set_root(root: u64) {
    let frame = PhysFrame::containing_address(PhysAddr::new_truncate(root));
    // SAFETY: callers pass tables with the loader's mapping of low memory and the direct map.
    unsafe { Cr3::write(frame, Cr3Flags::empty()) };
}

/// Drops this CPU's translations.
pub fn drop_translations() {
    tlb::flush_all();
}

/// Turns this CPU's APIC on by its base register; what that says.
#[must_use]
pub fn enable_apic(register: u32) -> u64 {
    const ON: u64 = 1 << 11;
    let base = read_msr(register);
    // SAFETY: the APIC's registers are not memory of the loader's.
    unsafe { Msr::new(register).write(base | ON) };
    base
}
