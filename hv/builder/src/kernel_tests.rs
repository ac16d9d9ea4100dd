//! Tests every form of a kernel's statements against the behaviour of Xen's loader.

use crate::{Kernel, KernelError};
use pv_abi::xen::elfnote::*;

const BASE: u64 = 0xffff_ffff_8000_0000;
const LOAD: u64 = 0x10_0000;
const P2M: u64 = 0x80_0000_0000;

/// A simulated ELF kernel with one segment of 4 pages.
#[derive(Clone, Debug)]
struct Elf {
    kind: u16,
    entry: u64,
    address: u64,
    flags: u32,
    /// Note segments: whether the offset is 0 instead of the right one, the alignment, the notes.
    segments: Vec<(bool, u64, Vec<u8>)>,
    /// Sections: name, type, contents.
    sections: Vec<(&'static str, u32, Vec<u8>)>,
}

/// Notes of an owner.
fn notes_of(owner: &[u8; 4], notes: &[(u32, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (kind, value) in notes {
        bytes.extend(4_u32.to_le_bytes());
        bytes.extend((value.len() as u32).to_le_bytes());
        bytes.extend(kind.to_le_bytes());
        bytes.extend(owner);
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    bytes
}

fn number(kind: u32, value: u64) -> (u32, Vec<u8>) {
    (kind, value.to_le_bytes().to_vec())
}

fn text(kind: u32, value: &str) -> (u32, Vec<u8>) {
    (kind, [value.as_bytes(), &[0]].concat())
}

/// The statements that every kernel needs.
fn least() -> Vec<(u32, Vec<u8>)> {
    vec![text(LOADER, "generic"), text(XEN_VERSION, "xen-3.0")]
}

fn least_and(more: impl IntoIterator<Item = (u32, Vec<u8>)>) -> Vec<(u32, Vec<u8>)> {
    let mut notes = least();
    notes.extend(more);
    notes
}

/// The statements that Linux has.
fn full() -> Vec<(u32, Vec<u8>)> {
    least_and([
        number(VIRT_BASE, BASE),
        number(ENTRY, BASE + LOAD + 0x40),
        number(HYPERCALL_PAGE, BASE + LOAD + 0x1000),
        number(INIT_P2M, P2M),
        number(MOD_START_PFN, 1),
    ])
}

impl Elf {
    fn new() -> Self {
        let (segments, sections) = (Vec::new(), Vec::new());
        Self { kind: 2, entry: LOAD + 8, address: LOAD, flags: 7, segments, sections }
    }

    /// A kernel with a note segment of the owner "Xen".
    fn with(notes: &[(u32, Vec<u8>)]) -> Self {
        Self::new().segment(4, notes_of(OWNER, notes))
    }

    /// A kernel with the section `__xen_guest`, loaded at its virtual address.
    fn with_text(text: &str) -> Self {
        Self::new().section("__xen_guest", 1, format!("{text}\0").into_bytes())
    }

    fn segment(mut self, align: u64, notes: Vec<u8>) -> Self {
        self.segments.push((false, align, notes));
        self
    }

    fn section(mut self, name: &'static str, kind: u32, bytes: Vec<u8>) -> Self {
        self.sections.push((name, kind, bytes));
        self
    }

    fn at(self, address: u64, entry: u64) -> Self {
        Self { address, entry, ..self }
    }

    fn build(&self) -> Vec<u8> {
        let mut body: Vec<u8> = vec![0x90; 0x1000];
        let at = 64 + 56 * (1 + self.segments.len());
        let mut segments =
            vec![(1, self.flags, [at as u64, 0, self.address, 0x1000, 0x4000, 4096])];
        for (lost, align, notes) in &self.segments {
            let (offset, length) = ((at + body.len()) as u64, notes.len() as u64);
            let offset = if *lost { 0 } else { offset };
            segments.push((4, 4, [offset, 0, 0, length, length, *align]));
            body.extend(notes);
        }
        let mut names = b"\0.shstrtab\0".to_vec();
        let mut sections = vec![[0; 64]];
        let header = |name: usize, kind: u32, offset: usize, length: usize| {
            let mut header = [0; 64];
            header[..4].copy_from_slice(&(name as u32).to_le_bytes());
            header[4..8].copy_from_slice(&kind.to_le_bytes());
            header[24..32].copy_from_slice(&(offset as u64).to_le_bytes());
            header[32..40].copy_from_slice(&(length as u64).to_le_bytes());
            header
        };
        for (name, kind, bytes) in &self.sections {
            sections.push(header(names.len(), *kind, at + body.len(), bytes.len()));
            names.extend(name.as_bytes());
            names.push(0);
            body.extend(bytes);
        }
        sections.push(header(1, 3, at + body.len(), names.len()));
        body.extend(names);
        let table = at + body.len();
        let count = if self.sections.is_empty() { 0 } else { sections.len() as u16 };
        let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
        file.extend([self.kind, 62].map(u16::to_le_bytes).concat());
        file.extend(1_u32.to_le_bytes());
        file.extend([self.entry, 64, table as u64].map(u64::to_le_bytes).concat());
        file.extend(0_u32.to_le_bytes());
        let shape = [64, 56, segments.len() as u16, 64, count, count.saturating_sub(1)];
        file.extend(shape.map(u16::to_le_bytes).concat());
        for (kind, flags, words) in segments {
            file.extend([kind, flags].map(u32::to_le_bytes).concat());
            file.extend(words.map(u64::to_le_bytes).concat());
        }
        file.extend(body);
        file.extend(sections.concat());
        file
    }

    /// Virtual address 0, entry point and pseudo-physical address of the first segment.
    fn places(&self) -> Result<[u64; 3], KernelError> {
        let kernel = Kernel::parse(&self.build())?;
        Ok([kernel.virt_base, kernel.entry, kernel.segments[0].address])
    }
}

/// The places where statements are searched.
#[test]
fn notes_are_found_where_xen_finds_them() {
    let (xen, gnu) = (notes_of(OWNER, &full()), notes_of(b"GNU\0", &[(1, vec![0; 16])]));
    let other = notes_of(OWNER, &least_and([number(VIRT_BASE, 0x5000)]));
    let text = b"LOADER=generic,XEN_VER=xen-3.0,VIRT_BASE=0x7000\0".to_vec();
    let found = Ok([BASE, BASE + LOAD + 0x40, LOAD]);
    let lost = Elf { segments: vec![(true, 4, xen.clone())], ..Elf::new() };
    let table = [
        ("a note segment", Elf::new().segment(4, xen.clone()), found),
        ("a note segment that says 8", Elf::new().segment(8, xen.clone()), found),
        ("the second segment", Elf::new().segment(4, gnu.clone()).segment(4, xen.clone()), found),
        ("a note section", Elf::new().section(".notes", 7, xen.clone()), found),
        (
            "a section, as no segment is of Xen",
            Elf::new().segment(4, gnu).section(".note.Xen", 7, xen.clone()),
            found,
        ),
        (
            "segments before sections",
            Elf::new().segment(4, xen.clone()).section(".n", 7, other.clone()).section(
                "__xen_guest",
                1,
                text.clone(),
            ),
            found,
        ),
        (
            "sections before the text",
            Elf::new().section("__xen_guest", 1, text).section(".n", 7, xen.clone()),
            found,
        ),
        (
            "all sections, the last counts",
            Elf::new().section(".a", 7, other).section(".b", 7, xen.clone()),
            found,
        ),
        ("a segment at offset 0 does not count", lost, Err(KernelError::NoNotes)),
        (
            "a section of another type",
            Elf::new().section(".notes", 1, xen.clone()),
            Err(KernelError::NoNotes),
        ),
        ("nothing", Elf::new(), Err(KernelError::NoNotes)),
        ("a position-independent image", Elf { kind: 3, ..Elf::with(&full()) }, found),
        ("an object file", Elf { kind: 1, ..Elf::with(&full()) }, Err(KernelError::Machine)),
        (
            "a segment without rights",
            Elf { flags: 0, ..Elf::with(&full()) },
            Err(KernelError::NoSegments),
        ),
    ];
    for (name, elf, expected) in table {
        assert_eq!(elf.places(), expected, "{name}");
    }
}

/// Notes that are present and absent.
#[test]
fn notes_that_are_absent_have_xens_defaults() {
    let (elf_entry, low) = (LOAD + 8, 0x40_0000);
    let table = [
        ("all", Elf::with(&full()), Ok([BASE, BASE + LOAD + 0x40, LOAD])),
        ("the least", Elf::with(&least()), Ok([0, elf_entry, LOAD])),
        (
            "Linux needs no loader",
            Elf::with(&[text(GUEST_OS, "linux"), text(XEN_VERSION, "xen-3.0-x86_64")]),
            Ok([0, elf_entry, LOAD]),
        ),
        (
            "no entry: that of the ELF header",
            Elf::with(&least_and([number(VIRT_BASE, BASE)])).at(LOAD, BASE + LOAD),
            Ok([BASE, BASE + LOAD, LOAD]),
        ),
        (
            "an offset: segments at virtual addresses",
            Elf::with(&least_and([number(VIRT_BASE, BASE), number(PADDR_OFFSET, BASE)]))
                .at(BASE + LOAD, BASE + LOAD),
            Ok([BASE, BASE + LOAD, LOAD]),
        ),
        (
            "the last of two counts",
            Elf::with(&least_and([number(ENTRY, 1), number(ENTRY, LOAD + 0x10)])),
            Ok([0, LOAD + 0x10, LOAD]),
        ),
        (
            "a number of 3 bytes is 0",
            Elf::with(&least_and([(VIRT_BASE, vec![1, 2, 3])])),
            Ok([0, elf_entry, LOAD]),
        ),
        (
            "a second entry for another mode",
            Elf::with(&least_and([number(PHYS32_ENTRY, low), number(ENTRY, LOAD)])),
            Ok([0, LOAD, LOAD]),
        ),
        (
            "notes for others and of unknown types",
            Elf::with(&least_and([
                text(PAE_MODE, "yes"),
                text(BSD_SYMTAB, "yes"),
                number(SUSPEND_CANCEL, 1),
                (L1_MFN_VALID, vec![1; 16]),
                number(HV_START_LOW, 0xffff_8000_0000_0000),
                number(SUPPORTED_FEATURES, 0x8801),
                text(FEATURES, "!writable_page_tables|pae_pgdir_above_4gb|whatever"),
                number(99, 1),
            ])),
            Ok([0, elf_entry, LOAD]),
        ),
    ];
    for (name, elf, expected) in table {
        assert_eq!(elf.places(), expected, "{name}");
    }
}

/// Kernels that Xen's loader refuses, and those with another mode of start.
#[test]
fn combinations_that_nobody_starts_are_refused() {
    let without = |kind| -> Vec<_> { full().into_iter().filter(|note| note.0 != kind).collect() };
    let needs = |name: &str| Elf::with(&least_and([text(FEATURES, name)]));
    let table = [
        ("no loader", Elf::with(&without(LOADER)), KernelError::Loader),
        ("another loader", Elf::with(&least_and([text(LOADER, "own")])), KernelError::Loader),
        ("no version", Elf::with(&without(XEN_VERSION)), KernelError::Version),
        ("another", Elf::with(&least_and([text(XEN_VERSION, "xen-4")])), KernelError::Version),
        (
            "an offset without a base",
            Elf::with(&least_and([number(PADDR_OFFSET, 0)])),
            KernelError::Note("PADDR_OFFSET"),
        ),
        (
            "another mode alone",
            Elf::with(&least_and([number(PHYS32_ENTRY, LOAD), number(HYPERCALL_PAGE, LOAD)])),
            KernelError::NoEntry,
        ),
        (
            "entry outside",
            Elf::with(&least_and([number(ENTRY, LOAD + 0x4000)])),
            KernelError::Note("ENTRY"),
        ),
        ("entry of ELF outside", Elf::with(&least()).at(LOAD, 4), KernelError::Note("ENTRY")),
        (
            "hypercall page outside",
            Elf::with(&least_and([number(HYPERCALL_PAGE, 0x1000)])),
            KernelError::Note("HYPERCALL_PAGE"),
        ),
        (
            "base amid a page",
            Elf::with(&least_and([number(VIRT_BASE, 8)])),
            KernelError::Note("VIRT_BASE"),
        ),
        (
            "a segment below the offset",
            Elf::with(&least_and([number(VIRT_BASE, BASE), number(PADDR_OFFSET, LOAD + 1)])),
            KernelError::Segment(0),
        ),
        ("a segment too high", Elf::with(&least()).at(1 << 40, 0), KernelError::Segment(0)),
        (
            "an unknown feature",
            needs("pae_pgdir_above_4gb|!perpetual_motion"),
            KernelError::Feature,
        ),
        ("the initial domain", needs("!dom0"), KernelError::Feature),
        ("supervisor mode", needs("!supervisor_mode_kernel"), KernelError::Feature),
        ("translated memory", needs("!auto_translated_physmap"), KernelError::Feature),
    ];
    for (name, elf, expected) in table {
        assert_eq!(elf.places(), Err(expected), "{name}");
    }
}

/// The table of machine frames, the RAM disk and the hypercall page.
#[test]
fn the_other_statements_are_taken_as_xen_takes_them() {
    let parse = |more: &[(u32, Vec<u8>)]| {
        let notes = least_and([number(VIRT_BASE, BASE), number(ENTRY, BASE + LOAD)]);
        let kernel = Kernel::parse(&Elf::with(&[&notes[..], more].concat()).build()).unwrap();
        (kernel.init_p2m, kernel.unmapped_initrd, kernel.hypercall_page)
    };
    let page = BASE + LOAD + 0x1000;
    let table = [
        ("none", vec![], (None, false, None)),
        ("a table", vec![number(INIT_P2M, P2M)], (Some(P2M), false, None)),
        ("amid a page", vec![number(INIT_P2M, P2M + 8)], (None, false, None)),
        ("above the base", vec![number(INIT_P2M, BASE + (1 << 30))], (None, false, None)),
        ("a disk by number", vec![(MOD_START_PFN, vec![1])], (None, true, None)),
        ("not so", vec![(MOD_START_PFN, vec![0; 4])], (None, false, None)),
        ("stubs", vec![number(HYPERCALL_PAGE, page)], (None, false, Some(page))),
        ("stubs amid a page", vec![number(HYPERCALL_PAGE, page + 32)], (None, false, Some(page))),
    ];
    for (name, notes, expected) in table {
        assert_eq!(parse(&notes), expected, "{name}");
    }
}

/// The section of kernels older than notes.
#[test]
fn the_old_text_is_taken_as_xen_takes_it() {
    const LEAST: &str = "GUEST_OS=minios,LOADER=generic,XEN_VER=xen-3.0";
    let with = |more: &str| Elf::with_text(&format!("{LEAST}{more}"));
    let table = [
        ("the least", with(""), Ok([0, LOAD + 8, LOAD])),
        (
            "segments lie at virtual addresses",
            with(",VIRT_BASE=0xffffffff80000000").at(BASE + LOAD, BASE + LOAD),
            Ok([BASE, BASE + LOAD, LOAD]),
        ),
        (
            "an offset and an entry",
            with(",VIRT_BASE=0x400000,ELF_PADDR_OFFSET=0,VIRT_ENTRY=5242880"),
            Ok([0x40_0000, 0x50_0000, LOAD]),
        ),
        ("octal", with(",VIRT_BASE=010000"), Ok([0x1000, LOAD + 8, LOAD - 0x1000])),
        ("an offset alone", with(",ELF_PADDR_OFFSET=0"), Err(KernelError::Note("PADDR_OFFSET"))),
        ("a feature", with(",FEATURES=!nonsense"), Err(KernelError::Feature)),
        ("no loader", Elf::with_text("XEN_VER=xen-3.0"), Err(KernelError::Loader)),
        ("no version", Elf::with_text("LOADER=generic"), Err(KernelError::Version)),
        ("nothing in it", Elf::with_text(""), Err(KernelError::Loader)),
    ];
    for (name, elf, expected) in table {
        assert_eq!(elf.clone().places(), expected, "{name}");
    }
    // Its hypercall page is given as a number of pages after the base.
    let elf =
        with(",HYPERCALL_PAGE=0x102,VIRT_BASE=0x400000,ELF_PADDR_OFFSET=0,VIRT_ENTRY=0x500000");
    let kernel = Kernel::parse(&elf.build()).unwrap();
    assert_eq!(kernel.hypercall_page, Some(0x50_2000));
}
