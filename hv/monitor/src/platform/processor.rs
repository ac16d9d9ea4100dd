//! CPU features, and the control registers that the monitor runs with.
//!
//! The rule: every CPU gets the same settings, made from the features of the first CPU. A CPU that
//! lacks a feature the monitor needs never gets past the loader.
#![expect(unsafe_code, reason = "control registers and MSRs")]

use core::arch::x86_64::{__cpuid, __cpuid_count};

use pv_abi::{uv::start::mitigation as on, xen::mmu::PAGE_ATTRIBUTES};
use spin::Once;
use x86_64::{
    VirtAddr,
    instructions::tlb,
    registers::{
        control::{Cr0, Cr0Flags, Cr4, Cr4Flags, Efer, EferFlags},
        model_specific::Msr,
    },
};

use super::boot;

const MSR_PAT: u32 = 0x277;
const MSR_SPECULATION_CONTROL: u32 = 0x48;
const MSR_TSX_CONTROL: u32 = 0x122;
const MSR_DECODE_CONFIGURATION: u32 = 0xc001_1029;

/// Optional features that were found.
#[derive(Clone, Copy, Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "one per feature")]
pub struct Features {
    /// Supervisor-mode execution prevention.
    pub smep: bool,
    /// Supervisor-mode access prevention.
    pub smap: bool,
    /// User-mode instruction prevention.
    pub umip: bool,
    /// Instructions that read and write the bases of FS and GS.
    pub fsgsbase: bool,
    /// XSAVE.
    pub xsave: bool,
    /// The local APIC's timer has TSC-deadline mode.
    pub tsc_deadline: bool,
}

static FEATURES: Once<Features> = Once::new();

/// The features of this machine.
pub fn features() -> Features {
    FEATURES.get().copied().unwrap_or_default()
}

/// Detects the features of this CPU. The loader has checked the required ones.
pub fn detect() {
    let basic = __cpuid(1).ecx;
    let structured = if __cpuid(0).eax >= 7 { Some(__cpuid_count(7, 0)) } else { None };
    let structured = |select: fn(core::arch::x86_64::CpuidResult) -> u32, bit: u32| {
        structured.is_some_and(|leaf| select(leaf) & (1 << bit) != 0)
    };
    FEATURES.call_once(|| Features {
        smep: structured(|leaf| leaf.ebx, 7),
        smap: structured(|leaf| leaf.ebx, 20),
        umip: structured(|leaf| leaf.ecx, 2),
        fsgsbase: structured(|leaf| leaf.ebx, 0),
        xsave: basic & (1 << 26) != 0,
        tsc_deadline: basic & (1 << 24) != 0,
    });
}

/// Returns whether a mitigation is on. The loader chose by the first CPU's features and the command
/// line.
pub fn mitigated(what: u32) -> bool {
    boot::handover().is_some_and(|handover| handover.options.mitigations & what != 0)
}

/// Turns on this CPU's permanent mitigations.
fn mitigate() {
    let control = boot::handover().map_or(0, |handover| handover.options.speculation_control());
    let decode = || read_msr(MSR_DECODE_CONFIGURATION) | 1 << 9;
    // SAFETY: the loader chose mitigations whose registers the CPU has. They change how it
    // speculates, and turn off an extension that the monitor does not use.
    unsafe {
        if control != 0 {
            write_msr(MSR_SPECULATION_CONTROL, control);
        }
        if mitigated(on::NO_TSX) {
            write_msr(MSR_TSX_CONTROL, 0b11);
        }
        if mitigated(on::ZENBLEED) {
            write_msr(MSR_DECODE_CONFIGURATION, decode());
        }
    }
}

/// Sets the control registers of this CPU, once its final page tables are loaded.
pub fn set_control_registers() {
    let features = features();
    let mut cr4 = Cr4Flags::PHYSICAL_ADDRESS_EXTENSION
        | Cr4Flags::MACHINE_CHECK_EXCEPTION
        | Cr4Flags::DEBUGGING_EXTENSIONS
        | Cr4Flags::OSFXSR
        | Cr4Flags::OSXMMEXCPT_ENABLE;
    cr4.set(Cr4Flags::SUPERVISOR_MODE_EXECUTION_PROTECTION, features.smep);
    cr4.set(Cr4Flags::SUPERVISOR_MODE_ACCESS_PREVENTION, features.smap);
    cr4.set(Cr4Flags::USER_MODE_INSTRUCTION_PREVENTION, features.umip);
    // FSGSBASE is off until the kernel of a partition that runs here turns it on.
    cr4.set(Cr4Flags::OSXSAVE, features.xsave);
    let cr0 = Cr0Flags::PROTECTED_MODE_ENABLE
        | Cr0Flags::MONITOR_COPROCESSOR
        | Cr0Flags::EXTENSION_TYPE
        | Cr0Flags::NUMERIC_ERROR
        | Cr0Flags::WRITE_PROTECT
        | Cr0Flags::ALIGNMENT_MASK
        | Cr0Flags::PAGING;
    let efer = EferFlags::SYSTEM_CALL_EXTENSIONS
        | EferFlags::LONG_MODE_ENABLE
        | EferFlags::LONG_MODE_ACTIVE
        | EferFlags::NO_EXECUTE_ENABLE;
    let auto_ibrs = u64::from(mitigated(on::AUTO_IBRS)) << 21;
    // SAFETY: the bits of long mode stay as they are; the others only add protection that the
    // final page tables are made for, or instructions the CPU has. The page attributes keep the
    // type of memory that the monitor maps.
    unsafe {
        Cr4::write_raw(cr4.bits());
        Cr0::write_raw(cr0.bits());
        Efer::write_raw(efer.bits() | auto_ibrs);
        write_msr(MSR_PAT, PAGE_ATTRIBUTES);
    }
    mitigate();
}

/// Turns CR4.FSGSBASE of this CPU, which has it, on or off.
pub fn set_fsgsbase(on: bool) {
    // SAFETY: the bit gives ring 3 the bases of FS and GS, which are the partition's at all times.
    unsafe { Cr4::update(|cr4| cr4.set(Cr4Flags::FSGSBASE, on)) };
}

/// Writes a model-specific register.
///
/// # Safety
/// The register exists and takes the value, and code of the monitor stays valid: the register does
/// not change where memory is or how it is protected, or the monitor is made for the change.
pub unsafe fn write_msr(msr: u32, value: u64) {
    // SAFETY: the caller vouches for the register and the value.
    unsafe { Msr::new(msr).write(value) };
}

/// Reads a model-specific register that exists.
pub fn read_msr(msr: u32) -> u64 {
    // SAFETY: reading has no effect on memory.
    unsafe { Msr::new(msr).read() }
}

/// Flushes this CPU's translations.
pub fn reload_cr3() {
    tlb::flush_all();
}

/// Flushes this CPU's translation of one page.
pub fn invlpg(va: u64) {
    tlb::flush(VirtAddr::new_truncate(va));
}
