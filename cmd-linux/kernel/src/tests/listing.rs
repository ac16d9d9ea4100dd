//! Sensitive instructions: the check finds, names and reports each kind.

use super::image::{BASE, Elf};
use super::unpack;
use crate::Fate::{Emulated, Faults, Hypercall, Ignored, Native};
use crate::{Fate, Place, Report, check};

/// Instructions, and the report on each.
const INSTRUCTIONS: &[(&[u8], &str, Fate)] = &[
    (b"\xfa", "cli", Ignored),
    (b"\xfb", "sti", Ignored),
    (b"\xf4", "hlt", Emulated),
    (b"\x0f\x01\x10", "lgdt", Hypercall),
    (b"\x0f\x01\x18", "lidt", Hypercall),
    (b"\x0f\x00\xd0", "lldt", Hypercall),
    (b"\x0f\x00\xd8", "ltr", Hypercall),
    (b"\x0f\x22\xc0", "mov cr0, reg", Emulated),
    (b"\x0f\x22\xd0", "mov cr2, reg", Emulated),
    (b"\x0f\x22\xd8", "mov cr3, reg", Emulated),
    (b"\x0f\x22\xe0", "mov cr4, reg", Emulated),
    (b"\x44\x0f\x22\xc0", "mov cr8, reg", Faults),
    (b"\x0f\x20\xc0", "mov reg, cr0", Emulated),
    (b"\x0f\x20\xd1", "mov reg, cr2", Emulated),
    (b"\x0f\x20\xd8", "mov reg, cr3", Emulated),
    (b"\x0f\x20\xe0", "mov reg, cr4", Emulated),
    (b"\x0f\x23\xf8", "mov dr, reg", Emulated),
    (b"\x0f\x21\xf8", "mov reg, dr", Emulated),
    (b"\x0f\x32", "rdmsr", Emulated),
    (b"\x0f\x30", "wrmsr", Emulated),
    (b"\xe4\x40", "in", Emulated),
    (b"\xed", "in", Emulated),
    (b"\xe6\x40", "out", Ignored),
    (b"\xee", "out", Ignored),
    (b"\x6c", "ins, outs", Faults),
    (b"\x6f", "ins, outs", Faults),
    (b"\x0f\x01\x38", "invlpg", Hypercall),
    (b"\x0f\x09", "wbinvd, invd", Ignored),
    (b"\x0f\x08", "wbinvd, invd", Ignored),
    (b"\x0f\x06", "clts", Emulated),
    (b"\x0f\x01\xf8", "swapgs", Hypercall),
    (b"\x48\xcf", "iret", Native),
    (b"\x48\x0f\x07", "sysret, sysexit", Hypercall),
    (b"\x9d", "popf", Native),
    (b"\x9c", "pushf", Native),
    (b"\x0f\x01\x00", "sgdt, sidt, sldt, str, smsw", Emulated),
    (b"\x0f\x01\x08", "sgdt, sidt, sldt, str, smsw", Emulated),
    (b"\x0f\x00\xc0", "sgdt, sidt, sldt, str, smsw", Emulated),
    (b"\x0f\x00\xc8", "sgdt, sidt, sldt, str, smsw", Emulated),
    (b"\x0f\x01\xe0", "sgdt, sidt, sldt, str, smsw", Emulated),
    (b"\x0f\x01\xf0", "lmsw", Faults),
    (b"\x0f\xa2", "cpuid", Native),
    (b"\x0f\x0bxen\x0f\xa2", "ud2; \"xen\"; cpuid", Emulated),
    (b"\x0f\x31", "rdtsc", Native),
    (b"\x0f\x01\xf9", "rdtscp", Native),
    (b"\x0f\x33", "rdpmc", Faults),
    (b"\x0f\x01\xd1", "xsetbv", Emulated),
    (b"\x0f\x02\xc1", "lar, lsl, verr, verw", Native),
    (b"\x0f\x03\xc1", "lar, lsl, verr, verw", Native),
    (b"\x0f\x00\xe0", "lar, lsl, verr, verw", Native),
    (b"\x0f\x00\xe8", "lar, lsl, verr, verw", Native),
    (b"\x8e\xd8", "mov sreg, reg", Native),
    (b"\x0f\x05", "syscall", Native),
    (b"\x0f\x34", "sysenter", Faults),
    (b"\x0f\x01\xca", "clac, stac", Faults),
    (b"\x0f\x01\xc1", "vmcall, vmmcall", Faults),
    (b"\x0f\x01\xc9", "monitor, mwait", Faults),
    (b"\xf3\x0f\x09", "wbnoinvd", Faults),
    (b"\xf3\x48\x0f\xae\xd8", "rdfsbase, wrgsbase and the like", Hypercall),
];

fn report(elf: &Elf) -> Report {
    check(&unpack(&elf.build()).expect("an ELF image"))
}

#[test]
fn each_instruction_is_named_and_told() {
    for (bytes, name, fate) in INSTRUCTIONS {
        let code = [b"\x90", *bytes, b"\x90\xc3"].concat();
        let found = report(&Elf::startable(&code)).findings;
        let told: Vec<_> = found.iter().map(|f| (&*f.instruction, f.fate, f.count)).collect();
        assert_eq!(told, [(*name, *fate, 1)], "{bytes:02x?}");
        assert_eq!(found[0].places[0].address, BASE + 1, "{bytes:02x?}");
    }
}

/// The instructions that the monitor's decoder accepts are the same that a report calls done by the
/// monitor.
#[test]
fn what_is_told_is_what_the_monitor_decodes() {
    for (bytes, name, fate) in INSTRUCTIONS {
        let decoded = decode::decode(bytes);
        match fate {
            Emulated | Ignored => {
                let length = decoded.map(|instruction| usize::from(instruction.length));
                assert_eq!(length, Some(bytes.len()), "{name}");
            }
            Faults | Hypercall if *name != "mov cr8, reg" => assert_eq!(decoded, None, "{name}"),
            _ => {}
        }
    }
}

#[test]
fn plain_code_has_no_findings() {
    let code =
        b"\x55\x48\x89\xe5\x48\x8d\x3d\x10\0\0\0\xe8\0\0\0\0\x0f\xae\xf0\x0f\x0b\xf3\x90\x5d\xc3";
    let report = report(&Elf::startable(code));
    assert_eq!(report.findings, []);
    assert_eq!((report.code_bytes, report.instructions), (code.len() as u64, 9));
}

#[test]
fn findings_are_listed_by_function_the_harmful_first() {
    let mut elf = Elf::startable(b"\xfa\xfb\x90\xfa\xfa\x0f\x33\xc3");
    elf.symbols = vec![("main", 2), ("start", 0), ("", 3)];
    let report = report(&elf);
    let names: Vec<_> = report.findings.iter().map(|f| &*f.instruction).collect();
    assert_eq!(names, ["rdpmc", "cli", "sti"]);
    let place = |address, symbol: &str, count| Place {
        address: BASE + address,
        symbol: symbol.to_owned(),
        count,
    };
    assert_eq!(report.findings[1].places, [place(3, "main", 2), place(0, "start", 1)]);
    assert_eq!(report.symbols, "the symbol table");
}

#[test]
fn a_kernel_without_names_is_listed_by_section_or_segment() {
    let mut elf = Elf::startable(b"\xfa\xc3");
    assert_eq!(report(&elf).findings[0].places[0].symbol, ".text");
    elf.bare = true;
    let bare = report(&elf);
    assert_eq!(bare.findings[0].places[0].symbol, "segment 0");
    assert_eq!(
        bare.remarks,
        ["no section is marked executable: all bytes of executable segments count as code, \
            even data"]
    );
}

#[test]
fn the_text_is_for_people() {
    let mut elf = Elf::startable(b"\xfa\x0f\x01\x10\xc3");
    elf.symbols = vec![("start", 0)];
    let text = report(&elf).to_string();
    let expected = "\
/k: ELF image, not compressed
ELF image of 4607 bytes

PV start: yes
  LOADER             generic
  XEN_VERSION        xen-3.0
  ENTRY              0xffffffff81000000
  VIRT_BASE          0xffffffff80000000
  - no HYPERCALL_PAGE: the kernel makes hypercalls without this page
  - no INIT_P2M: the table of machine frames lies in the initial mapping
  - no MOD_START_PFN: the initial RAM disk is mapped at the start

Code: 5 bytes, 3 instructions; names from the symbol table

Faults, delivered to the kernel; a hypercall does the same:
  lgdt                             1 x  general protection; use set_gdt
      start

Without effect:
  cli                              1 x  no effect after set_iopl 1 (else it faults): events are masked in vcpu_info
      start
";
    assert_eq!(text, expected);
}

#[test]
fn the_json_is_for_programs() {
    let json = serde_json::to_value(report(&Elf::startable(b"\xfa\xc3"))).expect("JSON");
    assert_eq!(json["pv"]["startable"], true);
    assert_eq!(json["pv"]["notes"]["style"], "elf-notes");
    assert_eq!(json["findings"][0]["fate"], "ignored");
    assert_eq!(json["findings"][0]["places"][0]["count"], 1);
}
