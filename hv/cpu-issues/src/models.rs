//! The manufacturers' statements on their models, as recorded in Linux 6.12
//! (`arch/x86/kernel/cpu/common.c`, `cpu_vuln_whitelist` and `cpu_vuln_blacklist`).
//!
//! Rule: a model without a row is affected by the old issues, and not by the issues that its
//! manufacturer lists by model. The first matching row counts.

use crate::cpu::{Cpu, Vendor};

/// The CPU does not speculate.
pub(crate) const NO_SPECULATION: u32 = 1 << 0;
pub(crate) const NO_L1TF: u32 = 1 << 1;
pub(crate) const NO_MDS: u32 = 1 << 2;
pub(crate) const NO_SSB: u32 = 1 << 3;
pub(crate) const NO_MMIO: u32 = 1 << 4;
pub(crate) const SRBDS: u32 = 1 << 8;
pub(crate) const MMIO: u32 = 1 << 9;
/// The kind of MMIO stale data that RDRAND exposes, as SRBDS does.
pub(crate) const SBDS: u32 = 1 << 10;
pub(crate) const RETBLEED: u32 = 1 << 11;
pub(crate) const GDS: u32 = 1 << 12;
pub(crate) const RFDS: u32 = 1 << 13;
pub(crate) const ITS: u32 = 1 << 14;

const ATOM: u32 = NO_SSB | NO_L1TF;
const GOLDMONT: u32 = NO_MDS | NO_L1TF | NO_MMIO | RFDS;
const SKYLAKE: u32 = MMIO | RETBLEED | GDS;

/// Intel's family 6: model, last stepping, flags.
const INTEL: &[(u32, u32, u32)] = &[
    // Saltwell, Bonnell.
    (0x36, ANY, NO_SPECULATION),
    (0x35, ANY, NO_SPECULATION),
    (0x27, ANY, NO_SPECULATION),
    (0x1c, ANY, NO_SPECULATION),
    (0x26, ANY, NO_SPECULATION),
    // Silvermont, Airmont, Xeon Phi.
    (0x37, ANY, ATOM),
    (0x4d, ANY, ATOM),
    (0x4a, ANY, ATOM),
    (0x4c, ANY, ATOM),
    (0x57, ANY, ATOM),
    (0x85, ANY, ATOM),
    (0x5a, ANY, ATOM),
    (0x75, ANY, ATOM),
    (0x0e, ANY, NO_SSB),
    // Goldmont.
    (0x5c, ANY, GOLDMONT),
    (0x5f, ANY, GOLDMONT),
    (0x7a, ANY, GOLDMONT),
    // Tremont, Gracemont.
    (0x96, ANY, MMIO | SBDS | RFDS),
    (0x86, ANY, MMIO | RFDS),
    (0x9c, ANY, MMIO | SBDS | RFDS),
    (0xbe, ANY, RFDS),
    // Ivy Bridge, Haswell, Broadwell.
    (0x3a, ANY, SRBDS),
    (0x3c, ANY, SRBDS),
    (0x45, ANY, SRBDS),
    (0x46, ANY, SRBDS),
    (0x3f, ANY, MMIO),
    (0x56, ANY, MMIO),
    (0x4f, ANY, MMIO),
    (0x47, ANY, SRBDS),
    (0x3d, ANY, SRBDS),
    // Skylake, Cascade Lake, Cooper Lake.
    (0x55, 5, SKYLAKE),
    (0x55, ANY, SKYLAKE | ITS),
    (0x4e, ANY, SKYLAKE | SRBDS),
    (0x5e, ANY, SKYLAKE | SRBDS),
    // Kaby Lake, Coffee Lake, Comet Lake, Cannon Lake.
    (0x8e, 0xb, SKYLAKE | SRBDS),
    (0x8e, ANY, SKYLAKE | SRBDS | ITS),
    (0x9e, 0xc, SKYLAKE | SRBDS),
    (0x9e, ANY, SKYLAKE | SRBDS | ITS),
    (0x66, ANY, RETBLEED),
    (0xa5, ANY, SKYLAKE | SBDS | ITS),
    (0xa6, 0, MMIO | RETBLEED | ITS),
    (0xa6, ANY, SKYLAKE | SBDS | ITS),
    // Ice Lake, Rocket Lake, Tiger Lake, Lakefield.
    (0x7e, ANY, SKYLAKE | SBDS | ITS),
    (0x6c, ANY, MMIO | GDS | ITS),
    (0x6a, ANY, MMIO | GDS | ITS),
    (0xa7, ANY, SKYLAKE | ITS),
    (0x8c, ANY, NO_MMIO | GDS | ITS),
    (0x8d, ANY, NO_MMIO | GDS | ITS),
    (0x8a, ANY, MMIO | SBDS | RETBLEED),
    // Alder Lake, Raptor Lake.
    (0x97, ANY, NO_MMIO | RFDS),
    (0x9a, ANY, NO_MMIO | RFDS),
    (0xb7, ANY, RFDS),
    (0xba, ANY, RFDS),
    (0xbf, ANY, RFDS),
];
const ANY: u32 = 0xf;

/// The flags of a CPU's model.
pub(crate) fn holds(cpu: &Cpu) -> u32 {
    match (cpu.vendor(), cpu.family()) {
        (_, 4) | (Vendor::Intel, 5) => NO_SPECULATION,
        (Vendor::Intel, 6) => {
            let (model, stepping) = (cpu.model(), cpu.stepping());
            let mut rows = INTEL.iter();
            let row = rows.find(|(of, last, _)| *of == model && stepping <= *last);
            row.map_or(0, |(_, _, holds)| *holds)
        }
        (Vendor::Amd, 0xf..=0x12) => NO_SSB,
        (Vendor::Amd, 0x15..=0x17) | (Vendor::Hygon, 0x18) => RETBLEED,
        _ => 0,
    }
}

/// Returns whether it is AMD's design, which lacks most of Intel's issues.
pub(crate) fn is_amd(cpu: &Cpu) -> bool {
    matches!(cpu.vendor(), Vendor::Amd | Vendor::Hygon)
}

/// The generations of AMD's Zen that have issues of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Zen {
    One,
    Two,
    ThreeOrFour,
    Later,
}

/// Its generation (`early_init_amd` of Linux).
pub(crate) fn zen(cpu: &Cpu) -> Option<Zen> {
    match (cpu.vendor(), cpu.family(), cpu.model()) {
        (Vendor::Hygon, 0x18, _) => Some(Zen::One),
        (Vendor::Amd, 0x17, 0x00..=0x2f | 0x50..=0x5f) => Some(Zen::One),
        (Vendor::Amd, 0x17, _) => Some(Zen::Two),
        (Vendor::Amd, 0x19, _) => Some(Zen::ThreeOrFour),
        (Vendor::Amd, 0x1a.., _) => Some(Zen::Later),
        _ => None,
    }
}

/// Returns whether a Zen 2 has the microcode that fixes Zenbleed (`cpu_has_zenbleed_microcode`).
pub(crate) fn zenbleed_is_mended(cpu: &Cpu) -> bool {
    let good = match cpu.model() {
        0x30..=0x3f => 0x0830_107b,
        0x60..=0x67 => 0x0860_010c,
        0x68..=0x6f => 0x0860_8107,
        0x70..=0x7f => 0x0870_1033,
        0xa0..=0xaf => 0x08a0_0009,
        _ => return false,
    };
    cpu.microcode() >= good
}

/// Returns whether a Zen 3 or 4 has the microcode in which `verw` clears what TSA exposes
/// (`amd_check_tsa_microcode`).
pub(crate) fn tsa_is_cleared(cpu: &Cpu) -> bool {
    let good = match cpu.microcode() >> 8 {
        0xa_0011 => 0xd7,
        0xa_0012 => 0x3b,
        0xa_0082 => 0x0d,
        0xa_1011 | 0xa_1012 => 0x4c,
        0xa_1081 => 0x09,
        0xa_2010 => 0x2e,
        0xa_2012 => 0x11,
        0xa_4041 | 0xa_7041 => 0x08,
        0xa_5000 => 0x12,
        0xa_6012 => 0x0a,
        0xa_7052 | 0xa_7080 | 0xa_70c0 => 0x08,
        0xa_a002 => 0x16,
        _ => return false,
    };
    cpu.microcode() & 0xff >= good
}
