use super::*;
use std::collections::{BTreeMap, BTreeSet};
use std::string::{String, ToString};
use std::vec::Vec;

/// A CPU by its `cpuid` values: vendor, leaf 1 `eax` and `ecx`, leaf 7 `ebx` and `edx`, its second
/// subleaf's `edx`, leaf 80000008h `ebx`, leaf 80000021h `eax` and `ecx`; then the two registers.
#[derive(Clone, Copy, Default)]
struct Sample {
    vendor: &'static str,
    leaf_1: [u32; 2],
    leaf_7: [u32; 2],
    leaf_7_2: u32,
    leaf_8: u32,
    leaf_21: [u32; 2],
    capabilities: u64,
    microcode: u32,
}

impl Sample {
    fn cpu(&self) -> Cpu {
        let word =
            |at: usize| u32::from_le_bytes(self.vendor.as_bytes()[at..at + 4].try_into().unwrap());
        let cpuid = |leaf: u32, subleaf: u32| match (leaf, subleaf) {
            (0, _) => [0x20, word(0), word(8), word(4)],
            (0x8000_0000, _) => [0x8000_0021, 0, 0, 0],
            (1, _) => [self.leaf_1[0], 0, self.leaf_1[1], 0],
            (7, 0) => [2, self.leaf_7[0], 0, self.leaf_7[1]],
            (7, 2) => [0, 0, 0, self.leaf_7_2],
            (0x8000_0008, _) => [0, self.leaf_8, 0, 0],
            (0x8000_0021, _) => [self.leaf_21[0], 0, self.leaf_21[1], 0],
            _ => [0; 4],
        };
        Cpu::read(cpuid, self.capabilities, self.microcode)
    }

    fn host(&self, mitigations: u32, smt: bool) -> Host {
        Host { cpu: self.cpu(), mitigations, smt }
    }
}

const INTEL: &str = "GenuineIntel";
const AMD: &str = "AuthenticAMD";
const AVX_RDRAND: u32 = 1 << 28 | 1 << 30;
const RTM_RDSEED: u32 = 1 << 11 | 1 << 18;
const SPEC: u32 = 1 << 26 | 1 << 27 | 1 << 28 | 1 << 29 | 1 << 31;

/// Core i7-2600 with the last microcode (0x2f): no IA32_ARCH_CAPABILITIES.
const SANDY_BRIDGE: Sample = Sample {
    vendor: INTEL,
    leaf_1: [0x0002_06a7, 1 << 28],
    leaf_7: [0, 1 << 10 | 1 << 26 | 1 << 27 | 1 << 28 | 1 << 31],
    ..EMPTY
};
/// Xeon Gold 6248 (Cascade Lake): RDCL_NO, IBRS_ALL, MDS_NO, TSX_CTRL.
const CASCADE_LAKE: Sample = Sample {
    vendor: INTEL,
    leaf_1: [0x0005_0657, AVX_RDRAND],
    leaf_7: [RTM_RDSEED, 1 << 10 | SPEC],
    capabilities: 0xab,
    ..EMPTY
};
/// Xeon Platinum 8480 (Sapphire Rapids): all the old issues are gone.
const SAPPHIRE_RAPIDS: Sample = Sample {
    vendor: INTEL,
    leaf_1: [0x0008_06f8, AVX_RDRAND],
    leaf_7: [RTM_RDSEED, 1 << 10 | SPEC],
    leaf_7_2: 1 << 4,
    capabilities: 0x0400_0000_0c00_e1eb | 1 << 62,
    ..EMPTY
};
/// EPYC 7742 (Zen 2) with the microcode of 2020.
const ROME: Sample = Sample {
    vendor: AMD,
    leaf_1: [0x0083_0f10, AVX_RDRAND],
    leaf_8: 1 << 2 | 1 << 12 | 1 << 14 | 1 << 15 | 1 << 24,
    microcode: 0x0830_1034,
    ..EMPTY
};
/// EPYC 9654 (Zen 4): automatic IBRS.
const GENOA: Sample = Sample {
    vendor: AMD,
    leaf_1: [0x00a1_0f11, AVX_RDRAND],
    leaf_8: 1 << 2 | 1 << 12 | 1 << 14 | 1 << 15 | 1 << 24 | 1 << 29,
    leaf_21: [1 << 8 | 1 << 28, 0],
    microcode: 0x0a10_1154,
    ..EMPTY
};
/// QEMU's `max` without a CPU below it.
const EMULATED: Sample =
    Sample { vendor: AMD, leaf_1: [0x0006_0fb1, 1 << 31], leaf_8: 1 << 2, ..EMPTY };
const EMPTY: Sample = Sample {
    vendor: "",
    leaf_1: [0; 2],
    leaf_7: [0; 2],
    leaf_7_2: 0,
    leaf_8: 0,
    leaf_21: [0; 2],
    capabilities: 0,
    microcode: 0,
};

/// All issues that are not "not affected", as `name: verdict`.
fn judged(host: &Host) -> Vec<String> {
    let verdicts = ISSUES.iter().map(|issue| (issue.name, issue.verdict(host)));
    let affected = verdicts.filter(|(_, verdict)| *verdict != NotAffected);
    affected.map(|(name, verdict)| std::format!("{name}: {verdict}")).collect()
}

fn names(host: &Host, which: fn(&Verdict) -> bool) -> Vec<&'static str> {
    let chosen = ISSUES.iter().filter(|issue| which(&issue.verdict(host)));
    chosen.map(|issue| issue.name).collect()
}

fn open(host: &Host) -> Vec<&'static str> {
    names(host, |verdict| matches!(verdict, Open(_)))
}

#[test]
fn a_cpu_is_read_as_its_manual_says() {
    let cpu = CASCADE_LAKE.cpu();
    assert_eq!((cpu.vendor(), cpu.vendor_name()), (Vendor::Intel, INTEL));
    assert_eq!((cpu.family(), cpu.model(), cpu.stepping()), (6, 0x55, 7));
    let cpu = GENOA.cpu();
    assert_eq!((cpu.vendor(), cpu.family(), cpu.model()), (Vendor::Amd, 0x19, 0x11));
    assert_eq!((EMULATED.cpu().family(), EMULATED.cpu().model()), (0xf, 0x6b));
    assert_eq!(Sample { vendor: "\u{0}\u{0}\u{0}\u{0}yyyyzzzz", ..EMPTY }.cpu().family(), 0);
    // If a leaf does not exist, `cpuid` returns the contents of another one.
    let old = Cpu::read(|leaf, _| if leaf == 0 { [1, 0, 0, 0] } else { [1, !0, !0, !0] }, 0, 0);
    assert!(!old.has(Feature::MdClear) && !old.has(Feature::SrsoNo));
}

#[test]
fn meltdown_is_for_cpus_of_intel_that_do_not_say_otherwise() {
    assert!(has_meltdown(&SANDY_BRIDGE.host(u32::MAX, false)));
    assert!(has_meltdown(&Sample { leaf_1: [0x0001_06a3, 0], ..SANDY_BRIDGE }.host(0, false)));
    for sample in [CASCADE_LAKE, SAPPHIRE_RAPIDS, ROME, GENOA, EMULATED] {
        assert!(!has_meltdown(&sample.host(0, true)));
    }
    // An Atom that does not speculate.
    assert!(!has_meltdown(&Sample { leaf_1: [0x0003_0661, 0], ..SANDY_BRIDGE }.host(0, true)));
}

#[test]
fn an_old_cpu_of_intel_keeps_what_no_switch_can_close() {
    let all = SANDY_BRIDGE.host(on::VERW | on::IBPB | on::L1TF | on::STIBP, false);
    assert_eq!(open(&all), ["meltdown", "spectre-v2", "ssb", "mmio-stale-data"]);
    let shared = Host { smt: true, ..all };
    assert!(open(&shared).contains(&"mds"));
    let nothing = Host { mitigations: 0, ..all };
    assert!(["l1tf", "mds"].iter().all(|name| open(&nothing).contains(name)));
    assert!(
        judged(&all)
            .contains(&"l1tf: mitigated by refusing absent entries that name memory".into())
    );
}

#[test]
fn what_the_switches_close_is_open_without_them() {
    let switches = on::VERW | on::IBPB | on::IBRS | on::STIBP | on::NO_TSX | on::SSBD;
    let host = CASCADE_LAKE.host(switches, false);
    // Its microcode from 2019 does not address later issues.
    assert_eq!(open(&host), ["bhi", "its", "mmio-stale-data", "gds"]);
    let host = CASCADE_LAKE.host(0, true);
    assert_eq!(open(&host)[..5], ["spectre-v2", "bhi", "retbleed", "its", "ssb"]);
    assert!(open(&host).contains(&"taa") && open(&host).contains(&"mmio-stale-data"));
    let host = SAPPHIRE_RAPIDS.host(on::IBPB | on::IBRS | on::STIBP | on::BHI | on::SSBD, true);
    assert_eq!(open(&host), [""; 0]);
}

#[test]
fn amd_has_issues_of_its_own() {
    let host = ROME.host(on::IBPB | on::STIBP, true);
    let some = ["spectre-v2", "retbleed", "srso", "ssb", "zenbleed"];
    assert_eq!(open(&host), some);
    let host = ROME.host(on::ZENBLEED | on::SSBD, false);
    assert_eq!(open(&host), ["spectre-v2", "retbleed"]);
    let mended = Sample { microcode: 0x0830_107b, ..ROME };
    assert!(!open(&mended.host(0, true)).contains(&"zenbleed"));
    let host = GENOA.host(on::AUTO_IBRS | on::IBPB | on::STIBP | on::VERW | on::SSBD, true);
    assert_eq!(open(&host), ["srso"]);
    let old = Sample { microcode: 0x0a10_1148, ..GENOA };
    assert!(open(&old.host(on::VERW, false)).contains(&"tsa"));
}

#[test]
fn an_emulated_cpu_has_few() {
    assert_eq!(open(&EMULATED.host(0, false)), ["spectre-v2"]);
    assert_eq!(judged(&EMULATED.host(0, false)).len(), 2);
}

#[test]
fn names_are_unique_and_every_way_out_says_something() {
    let names: BTreeSet<_> = ISSUES.iter().map(|issue| issue.name).collect();
    assert_eq!(names.len(), ISSUES.len());
    assert!(ISSUES.iter().all(|issue| !issue.way_out.is_empty()));
}

/// The rows of the table in the book, with the first cell of each.
fn table() -> Vec<(String, String)> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/src/soundness.md");
    let book = std::fs::read_to_string(path).unwrap();
    let section = book.split("## What the CPU leaks").nth(1).unwrap();
    let section = section.split("\n## ").next().unwrap();
    let rows = section.lines().filter_map(|line| line.strip_prefix("| "));
    let cells = rows.filter_map(|row| row.split_once(" |"));
    let name = |cell: &str| cell.trim_matches(['`', ' ']).to_string();
    let rows = cells.map(|(cell, rest)| (name(cell), rest.to_string()));
    rows.filter(|(name, _)| name != "issue").collect()
}

#[test]
fn the_book_has_a_row_for_each_issue_in_this_order() {
    let rows = table();
    let names: Vec<_> = rows.iter().map(|(name, _)| name.as_str()).collect();
    let ours: Vec<_> = ISSUES.iter().map(|issue| issue.name).collect();
    assert_eq!(names, ours);
}

/// Every possible verdict on each issue, found by trying.
fn verdicts() -> BTreeMap<&'static str, BTreeSet<String>> {
    let mut found: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let samples = [SANDY_BRIDGE, CASCADE_LAKE, SAPPHIRE_RAPIDS, ROME, GENOA, EMULATED];
    let zen_1 = Sample { leaf_1: [0x0080_0f12, AVX_RDRAND], ..ROME };
    let coffee_lake = Sample { leaf_1: [0x0009_06ed, AVX_RDRAND], ..CASCADE_LAKE };
    let alder_lake = Sample { leaf_1: [0x0009_0672, AVX_RDRAND], ..CASCADE_LAKE };
    let samples = [&samples[..], &[zen_1, coffee_lake, alder_lake]].concat();
    for sample in samples {
        for _ in 0..3000 {
            let mut now = sample;
            let mut flip = |bits: &mut u32| *bits ^= (random() & random() & random()) as u32;
            now.leaf_7.iter_mut().chain(&mut now.leaf_21).for_each(&mut flip);
            [&mut now.leaf_7_2, &mut now.leaf_8].into_iter().for_each(&mut flip);
            now.capabilities ^= random() & random() & random();
            let host = now.host(random() as u32, random() & 1 != 0);
            for issue in ISSUES {
                found.entry(issue.name).or_default().insert(issue.verdict(&host).to_string());
            }
        }
    }
    found
}

#[test]
fn the_book_has_the_words_of_every_verdict() {
    let found = verdicts();
    for (name, row) in table() {
        for verdict in &found[name.as_str()] {
            assert!(row.contains(verdict.as_str()), "{name}: no {verdict:?} in {row}");
        }
    }
}
