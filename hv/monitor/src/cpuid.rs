//! The CPU features that a partition's kernel sees (through the forced-emulation prefix).
//!
//! The monitor hides a feature if the kernel would use it through an instruction that ring 3 cannot
//! execute, or through state that the monitor does not switch. Programs that run `cpuid` themselves
//! see the CPU's own answer.

use pv_abi::{uv::calls, xen::cpuid as leaf};

use crate::{hardware, vcpu::Vcpu};

/// The ABI version that the monitor reports: 4.17, as `major << 16 | minor`.
pub const XEN_VERSION: u32 = 4 << 16 | 17;

/// A word with the bits of these numbers set.
const fn bits(mut numbers: &[u32]) -> u32 {
    let mut word = 0;
    while let [first, rest @ ..] = numbers {
        word |= 1 << *first;
        numbers = rest;
    }
    word
}

/// Hidden bits of leaf 1 ecx: MONITOR, DS-CPL, VMX, SMX, EIST, TM2, SDBG, PDCM, PCID, DCA, x2APIC,
/// TSC-deadline.
const HIDDEN_1C: u32 = bits(&[3, 4, 5, 6, 7, 8, 11, 15, 17, 18, 21, 24]);
/// Hidden bits of leaf 1 edx: VME, PSE, MCE, MTRR, PGE, MCA, PSE36, DS, ACPI, TM, PBE.
const HIDDEN_1D: u32 = bits(&[1, 3, 7, 12, 13, 14, 17, 21, 22, 29, 31]);
/// Visible bits of leaf 7 ebx: BMI1, AVX2, FDP, BMI2, ERMS, RDSEED, ADX, CLFLUSHOPT, CLWB, SHA, and
/// AVX-512 parts; not HLE.
const SHOWN_7B: u32 = bits(&[3, 5, 6, 8, 9, 16, 17, 18, 19, 21, 23, 24, 28, 29, 30, 31]);
/// Visible bits of leaf 7 ecx: AVX512-VBMI, VBMI2, GFNI, VAES, VPCLMULQDQ, VNNI, BITALG, VPOPCNTDQ,
/// RDPID.
const SHOWN_7C: u32 = bits(&[1, 6, 8, 9, 10, 11, 12, 14, 22]);
/// Hidden bits of leaf 0x8000_0001 ecx: SVM, extended APIC space, OSVW, IBS, SKINIT, WDT, LWP,
/// NODEID, TOPOEXT, performance counters, MONITORX.
const HIDDEN_81C: u32 = bits(&[2, 3, 9, 10, 12, 13, 15, 19, 22, 23, 24, 26, 27, 28, 29]);
/// Hidden bits of leaf 0x8000_0001 edx: VME, PSE, MCE, MTRR, PGE, MCA, PSE36, 1 GiB pages.
const HIDDEN_81D: u32 = bits(&[1, 3, 7, 12, 13, 14, 17, 26]);
/// Bits of leaf 1 ecx that need XSAVE, hidden on a CPU without it: XSAVE, OSXSAVE, FMA, F16C, AVX.
const XSAVE_1C: u32 = bits(&[12, 26, 27, 28, 29]);

/// The four registers that `cpuid` with `eax` and `ecx` returns to the kernel.
pub fn cpuid(vcpu: &Vcpu, eax: u32, ecx: u32) -> [u32; 4] {
    match eax {
        0 => {
            let [max, b, c, d] = hardware::cpuid(0, 0);
            [max.min(0x16), b, c, d]
        }
        1 => leaf_1(vcpu),
        // Monitor/mwait, thermal, performance counters, topology, resource control, SGX, trace.
        5 | 6 | 0xa | 0xb | 0xf | 0x10 | 0x12 | 0x14 | 0x1f => [0; 4],
        7 => leaf_7(ecx),
        0xd => leaf_d(ecx),
        leaf::FIRST_LEAF..=0x4000_00ff => hypervisor(eax - leaf::FIRST_LEAF, ecx),
        0x8000_0001 => {
            let [a, b, c, d] = hardware::cpuid(eax, ecx);
            [a, b, c & !HIDDEN_81C, d & !HIDDEN_81D]
        }
        0x8000_0007 => {
            let [_, _, _, d] = hardware::cpuid(eax, ecx);
            [0, 0, 0, d & 1 << 8]
        }
        0x8000_0008 => [hardware::cpuid(eax, ecx)[0], 0, 0, 0],
        0x8000_000a | 0x8000_001b..=0x8000_00ff => [0; 4],
        _ => hardware::cpuid(eax, ecx),
    }
}

fn leaf_1(vcpu: &Vcpu) -> [u32; 4] {
    let [a, b, c, d] = hardware::cpuid(1, 0);
    let mut c = c & !HIDDEN_1C | 1 << 31;
    // The kernel checks OSXSAVE before it sets CR4.OSXSAVE itself.
    c = if hardware::has_xsave() { c | 1 << 27 } else { c & !XSAVE_1C };
    [a, b & 0x00ff_ffff | vcpu.id << 24, c, d & !HIDDEN_1D]
}

fn leaf_7(subleaf: u32) -> [u32; 4] {
    if subleaf != 0 {
        return [0; 4];
    }
    let [_, b, c, d] = hardware::cpuid(7, 0);
    // edx: AVX512-4VNNIW, 4FMAPS, FSRM, VP2INTERSECT, MD_CLEAR.
    let shown_d = 1 << 2 | 1 << 3 | 1 << 4 | 1 << 8 | 1 << 10;
    let (b, c) = if hardware::has_xsave() { (b, c) } else { (b & !(1 << 5), 0) };
    [0, b & SHOWN_7B, c & SHOWN_7C, d & shown_d]
}

fn leaf_d(subleaf: u32) -> [u32; 4] {
    if !hardware::has_xsave() {
        return [0; 4];
    }
    let states = hardware::xstates();
    match subleaf {
        0 => {
            let now = hardware::cpuid(0xd, 0)[1];
            [narrow::low_32(states), now, xsave_bytes(states), narrow::low_32(states >> 32)]
        }
        // XSAVEOPT, XSAVEC and XGETBV1 work in ring 3; XSAVES does not.
        1 => [hardware::cpuid(0xd, 1)[0] & 0b0111, 0, 0, 0],
        n @ 2..=62 if states & 1 << n != 0 => hardware::cpuid(0xd, n),
        _ => [0; 4],
    }
}

/// Bytes of an XSAVE area in the standard format that holds `states`.
fn xsave_bytes(states: u64) -> u32 {
    (2..62)
        .filter(|n| states & 1 << n != 0)
        .map(|n| {
            let [size, offset, _, _] = hardware::cpuid(0xd, n);
            size + offset
        })
        .fold(576, u32::max)
}

/// The leaves of the hypervisor interface, by offset.
fn hypervisor(offset: u32, subleaf: u32) -> [u32; 4] {
    let [b, c, d] = leaf::SIGNATURE;
    match offset {
        0 => [leaf::FIRST_LEAF + leaf::MAX_LEAVES, b, c, d],
        leaf::LEAF_VERSION => [XEN_VERSION, 0, 0, 0],
        // No MSR sets the hypercall page: the builder of a partition fills the page that its
        // kernel's notes name.
        leaf::LEAF_HYPERCALL_PAGE => [0, 0, leaf::FEATURE_PRESERVE_AD, 0],
        leaf::LEAF_TIME if subleaf == 0 => [1, 0, crate::time::tsc_khz(), 0],
        leaf::LEAF_PV => [0, 44, 0, 0],
        calls::FEATURE_LEAF => [calls::FEATURE_MAGIC, calls::VERSION, 0, 0],
        _ => [0; 4],
    }
}
