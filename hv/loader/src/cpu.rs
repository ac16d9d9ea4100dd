//! The loader's accesses to the CPU that it runs on.
#![expect(unsafe_code, reason = "control registers and MSRs")]

use core::arch::{
    asm,
    x86_64::{__cpuid, __cpuid_count, CpuidResult},
};

use microcode::Vendor;
use x86_64::{
    PhysAddr,
    instructions::tlb,
    registers::{
        control::{Cr3, Cr3Flags},
        model_specific::Msr,
    },
    structures::paging::PhysFrame,
};

use crate::mitigations::Seen;

const MSR_ARCH_CAPABILITIES: u32 = 0x10a;

/// The name, register value and bit of each feature that the monitor needs.
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

/// The name of a feature that the monitor needs and this CPU lacks, if any.
#[must_use]
pub fn missing_feature() -> Option<&'static str> {
    let missing = required().into_iter().find(|(_, word, bit)| word & (1 << bit) == 0);
    missing.map(|(name, _, _)| name)
}

/// A leaf of `cpuid`, or zeros if the CPU has no such leaf.
fn leaf(leaf: u32, subleaf: u32) -> CpuidResult {
    if __cpuid(leaf & 0x8000_0000).eax >= leaf {
        __cpuid_count(leaf, subleaf)
    } else {
        CpuidResult { eax: 0, ebx: 0, ecx: 0, edx: 0 }
    }
}

/// What this CPU reports about its leaks.
#[must_use]
pub fn seen() -> Seen {
    let (name, basic, structured) = (__cpuid(0).ecx, __cpuid(1), leaf(7, 0));
    let intel = name == u32::from_le_bytes(*b"ntel");
    let amd = matches!(&name.to_le_bytes(), b"cAMD" | b"uine");
    let vendor = if intel { Vendor::Intel } else { Vendor::Amd };
    let controls = if structured.eax >= 2 { leaf(7, 2).edx } else { 0 };
    let capable = intel && structured.edx & 1 << 29 != 0;
    let more = leaf(0x8000_0021, 0);
    Seen {
        amd,
        basic: [basic.eax, basic.ecx],
        structured: [structured.edx, controls],
        extended: leaf(0x8000_0008, 0).ebx,
        more: [more.eax, more.ecx],
        capabilities: if capable { read_msr(MSR_ARCH_CAPABILITIES) } else { 0 },
        microcode: if intel || amd { microcode::revision(&ThisCpu, vendor) } else { 0 },
        thread_bits: thread_bits(),
    }
}

/// Number of low bits in which the APIC ids of a core's threads differ; AMD's Zen 1 has a leaf of
/// its own for it.
fn thread_bits() -> u32 {
    let (topology, zen) = (leaf(0xb, 0), leaf(0x8000_001e, 0));
    match topology.ecx >> 8 & 0xff {
        1 => topology.eax & 31,
        _ => u32::from(zen.ebx >> 8 & 0xff != 0),
    }
}

/// The CPU that the loader runs on. It can load a microcode update.
pub struct ThisCpu;

impl microcode::Cpu for ThisCpu {
    fn cpuid(&self, leaf: u32) -> [u32; 4] {
        let CpuidResult { eax, ebx, ecx, edx } = __cpuid(leaf);
        [eax, ebx, ecx, edx]
    }

    fn read(&self, register: u32) -> u64 {
        read_msr(register)
    }

    fn write(&self, register: u32, value: u64) {
        // SAFETY: the registers of microcode change no memory: the CPU reads what `value` names.
        unsafe { Msr::new(register).write(value) };
    }
}

/// Number of bits of a physical address.
#[must_use]
pub fn address_bits() -> u32 {
    match leaf(0x8000_0008, 0).eax & 0xff {
        bits @ 32..=52 => bits,
        _ => 36,
    }
}

/// Returns whether the CPU supports pages of 1 GiB.
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

/// Loads page tables; like those in use, they must map the loader.
pub fn set_root(root: u64) {
    let frame = PhysFrame::containing_address(PhysAddr::new_truncate(root));
    // SAFETY: callers pass tables with the loader's mapping of low memory and the direct map.
    unsafe { Cr3::write(frame, Cr3Flags::empty()) };
}

/// Flushes this CPU's translations.
pub fn drop_translations() {
    tlb::flush_all();
}

/// Writes a model-specific register that exists and names no memory of the loader's.
pub fn write_msr(msr: u32, value: u64) {
    // SAFETY: callers write registers of the APIC, which is not memory of the loader's.
    unsafe { Msr::new(msr).write(value) };
}

/// Jumps to the function at `entry` with this argument, on the stack that ends at `stack`.
///
/// # Safety
/// `entry` must be an `extern "C" fn(argument) -> !`, and it and the stack must be mapped.
pub unsafe fn enter(entry: u64, stack: u64, argument: u64) -> ! {
    // SAFETY: the caller promises it.
    unsafe {
        asm!(
            "mov rsp, {stack}",
            "xor ebp, ebp",
            "call {entry}",
            "ud2",
            stack = in(reg) stack,
            entry = in(reg) entry,
            in("rdi") argument,
            options(noreturn),
        )
    }
}
