//! The known leaks of CPUs: for each issue, a verdict on this machine with its mitigations.
//!
//! Ring 0 turns mitigations on by simple facts and judges nothing. This crate judges, for the
//! ultravisor at its start and through it for `uvtool doctor`. Its input is the CPU's report about
//! itself, and the list of mitigations that the monitor turned on. The chapter on soundness has a
//! table with a row for each issue of [`ISSUES`]; a test compares them.
//!
//! Rule: an issue counts as mitigated if every mitigation that it needs is on. If that is unknown,
//! the issue is open. Issues of virtual machines are left out, because nothing here uses that
//! hardware: VMSCAPE, return-stack entries that survive the entry of a guest, and multiple hits of
//! instruction translations.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

mod cpu;
mod models;

use core::fmt;

pub use cpu::{Cpu, Vendor};
use cpu::{Feature, capability as cap};
use models::Zen;
use pv_abi::uv::start::mitigation as on;

/// The machine whose issues are judged.
#[derive(Clone, Copy, Debug)]
pub struct Host {
    /// Its first CPU; the others are assumed to be the same.
    pub cpu: Cpu,
    /// The mitigations that the monitor turned on, as bits of [`pv_abi::uv::start::mitigation`].
    pub mitigations: u32,
    /// Whether two threads of a core run.
    pub smt: bool,
}

/// The verdict on an issue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The CPU does not have the issue.
    NotAffected,
    /// The CPU has the issue, and this mitigation is on.
    Mitigated(&'static str),
    /// The CPU has the issue, and it is not mitigated, for this reason.
    Open(&'static str),
}
use Verdict::{Mitigated, NotAffected, Open};

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NotAffected => f.write_str("not affected"),
            Mitigated(by) => write!(f, "mitigated by {by}"),
            Open(reason) => write!(f, "open because {reason}"),
        }
    }
}

/// An issue.
#[derive(Clone, Copy, Debug)]
pub struct Issue {
    /// Its short, stable name.
    pub name: &'static str,
    /// The way to resolve an open verdict.
    pub way_out: &'static str,
    judge: fn(&Host) -> Verdict,
}

impl Issue {
    /// The verdict on a machine.
    #[must_use]
    pub fn verdict(&self, host: &Host) -> Verdict {
        if host.is(models::NO_SPECULATION) { NotAffected } else { (self.judge)(host) }
    }
}

/// Returns whether guests could read all memory of this machine.
#[must_use]
pub fn has_meltdown(host: &Host) -> bool {
    !host.is(models::NO_SPECULATION) && host.lets_faults_through()
}

const MICROCODE: &str = "a newer microcode, from the firmware or by GRUB's module \"microcode\"";
const THREADS: &str = "the monitor's option smt=off, and a newer microcode where that is too old";
const OTHER_CPU: &str = "another CPU";

/// All issues, in display order.
pub const ISSUES: &[Issue] = &[
    Issue {
        name: "meltdown",
        way_out: "another CPU; the ultravisor's option accept=meltdown lets guests start anyway",
        judge: meltdown,
    },
    Issue { name: "l1tf", way_out: "the monitor's option l1tf=on", judge: l1tf },
    Issue { name: "spectre-v1", way_out: OTHER_CPU, judge: spectre_v1 },
    Issue {
        name: "spectre-v2",
        way_out: "a CPU with enhanced or automatic IBRS and the monitor's options at their defaults",
        judge: spectre_v2,
    },
    Issue { name: "bhi", way_out: "a CPU with BHI_DIS_S", judge: bhi },
    Issue { name: "retbleed", way_out: OTHER_CPU, judge: retbleed },
    Issue { name: "srso", way_out: OTHER_CPU, judge: srso },
    Issue { name: "its", way_out: OTHER_CPU, judge: its },
    Issue { name: "ssb", way_out: "the monitor's option ssbd=on", judge: ssb },
    Issue { name: "mds", way_out: THREADS, judge: mds },
    Issue { name: "taa", way_out: THREADS, judge: taa },
    Issue { name: "mmio-stale-data", way_out: THREADS, judge: mmio },
    Issue { name: "rfds", way_out: MICROCODE, judge: rfds },
    Issue { name: "srbds", way_out: MICROCODE, judge: srbds },
    Issue { name: "gds", way_out: MICROCODE, judge: gds },
    Issue { name: "tsa", way_out: MICROCODE, judge: tsa },
    Issue { name: "zenbleed", way_out: "the monitor's option zenbleed=on", judge: zenbleed },
    Issue { name: "div0", way_out: OTHER_CPU, judge: div0 },
    Issue { name: "fxsave-leak", way_out: OTHER_CPU, judge: fxsave_leak },
];

impl Host {
    fn is(&self, held: u32) -> bool {
        models::holds(&self.cpu) & held != 0
    }

    fn has(&self, feature: Feature) -> bool {
        self.cpu.has(feature)
    }

    fn capable(&self, bit: u32) -> bool {
        self.cpu.capable(bit)
    }

    fn does(&self, mitigation: u32) -> bool {
        self.mitigations & mitigation != 0
    }

    fn is_intel(&self) -> bool {
        self.cpu.vendor() == Vendor::Intel
    }

    /// Returns whether ring 3 can use data speculatively that it may not read, before the fault takes
    /// effect.
    fn lets_faults_through(&self) -> bool {
        !models::is_amd(&self.cpu) && !self.capable(cap::RDCL_NO)
    }

    /// Returns whether branches of ring 3 do not influence predictions in ring 0.
    fn keeps_rings_apart(&self) -> bool {
        self.does(on::IBRS | on::AUTO_IBRS)
    }

    /// The verdict if `verw` is the mitigation and `clears` says whether it works; sibling threads
    /// see each other's buffers at any time.
    fn cleared(&self, clears: bool) -> Verdict {
        match (clears, self.does(on::VERW), self.smt) {
            (false, ..) => Open("the microcode does not clear buffers"),
            (_, false, _) => Open("the monitor does not clear buffers; verw=on"),
            (_, _, true) => Open("sibling threads share buffers"),
            _ => Mitigated("clearing buffers on every way out"),
        }
    }
}

fn meltdown(host: &Host) -> Verdict {
    if host.lets_faults_through() {
        return Open("every partition's page tables map all memory, in the monitor's part");
    }
    NotAffected
}

fn l1tf(host: &Host) -> Verdict {
    match (host.lets_faults_through() && !host.is(models::NO_L1TF), host.does(on::L1TF)) {
        (false, _) => NotAffected,
        (true, true) => Mitigated("refusing absent entries that name memory"),
        (true, false) => Open("absent entries may name any memory"),
    }
}

fn spectre_v1(_: &Host) -> Verdict {
    Mitigated("masked indices for what partitions number")
}

fn spectre_v2(host: &Host) -> Verdict {
    if host.cpu.vendor() == Vendor::Zhaoxin {
        return NotAffected;
    }
    if !host.keeps_rings_apart() {
        return Open("the monitor has plain indirect branches, and no IBRS that stays on");
    }
    if !host.does(on::IBPB) {
        return Open("partitions share branch predictors; ibpb=on");
    }
    if host.smt && !host.does(on::STIBP) {
        return Open("sibling threads share branch predictors; stibp=on or smt=off");
    }
    Mitigated("IBRS, and a barrier where the partition changes")
}

fn bhi(host: &Host) -> Verdict {
    if !host.is_intel() || !host.capable(cap::IBRS_ALL) || host.capable(cap::BHI_NO) {
        return NotAffected;
    }
    if host.does(on::BHI) {
        return Mitigated("BHI_DIS_S");
    }
    Open("branch history of ring 3 steers ring 0")
}

fn retbleed(host: &Host) -> Verdict {
    let affected = host.is(models::RETBLEED) || host.capable(cap::RSBA);
    if !affected || host.has(Feature::BtcNo) {
        return NotAffected;
    }
    if host.is_intel() && host.does(on::IBRS) {
        return Mitigated("enhanced IBRS");
    }
    Open("the monitor has plain returns")
}

fn srso(host: &Host) -> Verdict {
    let first = matches!(models::zen(&host.cpu), Some(Zen::One | Zen::Two));
    let safe = host.has(Feature::SrsoNo) || host.has(Feature::SrsoUserKernelNo);
    if models::zen(&host.cpu).is_none() || safe || first && !host.smt {
        return NotAffected;
    }
    Open("the monitor has plain returns")
}

fn its(host: &Host) -> Verdict {
    let safe = host.capable(cap::ITS_NO) || host.has(Feature::BhiCtrl);
    if !host.is_intel() || safe {
        return NotAffected;
    }
    if host.is(models::ITS) || host.has(Feature::Hypervisor) {
        return Open("the monitor has plain indirect branches and returns");
    }
    NotAffected
}

fn ssb(host: &Host) -> Verdict {
    let safe = host.is(models::NO_SSB) || host.capable(cap::SSB_NO) || host.has(Feature::AmdSsbNo);
    match (safe, host.does(on::SSBD)) {
        (true, _) => NotAffected,
        (false, true) => Mitigated("SSBD"),
        (false, false) => Open("loads may pass stores; SSBD is off by default, as elsewhere"),
    }
}

fn mds(host: &Host) -> Verdict {
    let safe = models::is_amd(&host.cpu) || host.is(models::NO_MDS) || host.capable(cap::MDS_NO);
    if safe { NotAffected } else { host.cleared(host.has(Feature::MdClear)) }
}

fn taa(host: &Host) -> Verdict {
    let transactions = host.has(Feature::Rtm) || host.capable(cap::TSX_CTRL);
    if models::is_amd(&host.cpu) || !transactions || host.capable(cap::TAA_NO) {
        return NotAffected;
    }
    if host.does(on::NO_TSX) {
        return Mitigated("transactional memory off");
    }
    host.cleared(host.has(Feature::MdClear))
}

fn mmio(host: &Host) -> Verdict {
    let all = [cap::SBDR_SSDP_NO, cap::FBSDP_NO, cap::PSDP_NO];
    let safe = models::is_amd(&host.cpu) || host.is(models::NO_MMIO);
    if safe || all.into_iter().all(|bit| host.capable(bit)) {
        return NotAffected;
    }
    if !host.is(models::MMIO) {
        return Open("its manufacturer does not say whether the CPU has it");
    }
    let by_mds = host.has(Feature::MdClear) && host.has(Feature::FlushL1d);
    let by_mds = by_mds && !host.capable(cap::MDS_NO);
    host.cleared(host.capable(cap::FB_CLEAR) || by_mds)
}

fn rfds(host: &Host) -> Verdict {
    let affected = host.is(models::RFDS) || host.capable(cap::RFDS_CLEAR);
    if !affected || host.capable(cap::RFDS_NO) {
        return NotAffected;
    }
    // These cores have no sibling threads, so data left in registers cannot leak to one.
    Host { smt: false, ..*host }.cleared(host.capable(cap::RFDS_CLEAR))
}

fn srbds(host: &Host) -> Verdict {
    let random = host.has(Feature::Rdrand) || host.has(Feature::Rdseed);
    let no_tsx = !host.has(Feature::Rtm) || host.does(on::NO_TSX);
    let safe = host.capable(cap::MDS_NO) && no_tsx && !host.is(models::SBDS);
    if !random || !host.is(models::SRBDS | models::SBDS) || safe {
        return NotAffected;
    }
    if host.has(Feature::SrbdsCtrl) {
        return Mitigated("the microcode");
    }
    Open("the microcode does not clear what RDRAND leaves")
}

fn gds(host: &Host) -> Verdict {
    if !host.is(models::GDS) || host.capable(cap::GDS_NO) || !host.has(Feature::Avx) {
        return NotAffected;
    }
    if host.capable(cap::GDS_CTRL) {
        return Mitigated("the microcode");
    }
    Open("the microcode lets gathers see stale data")
}

fn tsa(host: &Host) -> Verdict {
    let safe = host.has(Feature::TsaSqNo) && host.has(Feature::TsaL1No);
    if models::zen(&host.cpu) != Some(Zen::ThreeOrFour) || safe {
        return NotAffected;
    }
    // Siblings do not see each other's queues.
    Host { smt: false, ..*host }.cleared(models::tsa_is_cleared(&host.cpu))
}

fn zenbleed(host: &Host) -> Verdict {
    if models::zen(&host.cpu) != Some(Zen::Two) || !host.has(Feature::Avx) {
        return NotAffected;
    }
    if models::zenbleed_is_mended(&host.cpu) {
        return Mitigated("the microcode");
    }
    if host.does(on::ZENBLEED) {
        return Mitigated("a chicken bit");
    }
    Open("registers of others show through `vzeroupper`")
}

fn div0(host: &Host) -> Verdict {
    if models::zen(&host.cpu) != Some(Zen::One) {
        return NotAffected;
    }
    Open("a division by zero shows the quotient of an earlier division")
}

fn fxsave_leak(host: &Host) -> Verdict {
    if !models::is_amd(&host.cpu) || host.has(Feature::XsaveErrorPointers) {
        return NotAffected;
    }
    Mitigated("overwriting the pointers of the last FPU instruction")
}

#[cfg(test)]
mod tests;
