//! Checks the executable parts of a kernel.
//!
//! Code is read from start to end, instruction by instruction. Data within it counts as code, and a
//! sensitive instruction that is never reached counts as well: a finding says where to look, not
//! that something goes wrong.

use std::collections::BTreeMap;
use std::collections::HashMap;

use elf::ElfBytes;
use elf::abi::{PF_X, PT_LOAD, SHF_EXECINSTR, SHT_NOBITS};
use elf::endian::LittleEndian;
use iced_x86::{Decoder, DecoderOptions, Instruction, Mnemonic};
use pv_abi::xen::features;

use crate::sensitive::{FORCED_CPUID, Kind, kind_of};
use crate::symbols::Symbols;
use crate::{Container, Finding, Loaded, NoteStyle, Notes, Place, Pv, Report};

/// The section from which Linux patches instructions.
const ALTERNATIVES: &str = ".altinstr_replacement";
/// The most parts that are checked.
const MAX_PARTS: usize = 256;

/// Disassembles the executable parts of a kernel, and reports how they would run in a partition.
#[must_use]
pub fn check(loaded: &Loaded) -> Report {
    let container = match loaded.container {
        Container::Elf => "ELF image",
        Container::BzImage => "bzImage",
    };
    let mut report = Report {
        file: loaded.file.display().to_string(),
        container: container.to_owned(),
        compression: loaded.compression.to_string(),
        elf_bytes: loaded.elf.len() as u64,
        pv: pv(loaded),
        ..Report::default()
    };
    if let Ok(elf) = ElfBytes::minimal_parse(&loaded.elf) {
        disassemble(&elf, &loaded.elf, &mut report);
    }
    report
}

fn pv(loaded: &Loaded) -> Pv {
    let notes = loaded.notes.clone();
    let error = builder::Kernel::parse(&loaded.elf).err();
    let reasons = error.iter().map(|error| std::fmt::from_fn(|f| error.reason(f)).to_string());
    let reasons: Vec<String> = reasons.collect();
    let way_out = error.and_then(|error| error.way_out()).map(str::to_owned);
    Pv { startable: reasons.is_empty(), remarks: remarks(&notes), reasons, way_out, notes }
}

/// Remarks on unusual notes.
fn remarks(notes: &Notes) -> Vec<String> {
    if notes.style == NoteStyle::Absent {
        return Vec::new();
    }
    let mut remarks = Vec::new();
    let mut remark = |condition: bool, text: &str| {
        if condition {
            remarks.push(text.to_owned());
        }
    };
    remark(notes.style == NoteStyle::GuestSection, "notes in a text section, of an old format");
    remark(
        notes.hypercall_page.is_none(),
        "no HYPERCALL_PAGE: the kernel makes hypercalls without this page",
    );
    remark(
        notes.init_p2m.is_none(),
        "no INIT_P2M: the table of machine frames lies in the initial mapping",
    );
    remark(
        notes.mod_start_pfn != Some(true),
        "no MOD_START_PFN: the initial RAM disk is mapped at the start",
    );
    remark(
        notes.bsd_symtab.as_deref() == Some("yes"),
        "BSD_SYMTAB: the symbol table is not loaded; a debugger inside the kernel has no names",
    );
    let writable = notes.supported_features.is_some_and(|mask| mask & (1 << features::DOM0) != 0);
    remark(writable, "can also run as the initial domain, which has no special rights here");
    remark(
        notes.features.as_deref().is_some_and(|text| text.contains("!auto_translated")),
        "wants auto-translated memory, which a PV partition does not have",
    );
    remarks
}

/// An executable part of the image.
struct Part<'a> {
    name: String,
    address: u64,
    bytes: &'a [u8],
}

/// The executable sections, or, if none is marked so, the executable segments.
fn parts<'a>(
    elf: &ElfBytes<'a, LittleEndian>,
    image: &'a [u8],
    report: &mut Report,
) -> Vec<Part<'a>> {
    let names = elf.section_headers_with_strtab().ok().and_then(|(_, names)| names);
    let sections = elf.section_headers().into_iter().flatten().filter(|header| {
        header.sh_flags & u64::from(SHF_EXECINSTR) != 0 && header.sh_type != SHT_NOBITS
    });
    let parts: Vec<Part<'_>> = sections
        .filter_map(|header| {
            let name = names.and_then(|names| names.get(header.sh_name as usize).ok());
            Some(Part {
                name: name.unwrap_or("a section").to_owned(),
                address: header.sh_addr,
                bytes: slice(image, header.sh_offset, header.sh_size)?,
            })
        })
        .take(MAX_PARTS)
        .collect();
    if parts.iter().any(|part| part.name == ALTERNATIVES) {
        report.remarks.push(format!(
            "{ALTERNATIVES}: put in place of other code only where the CPU has some feature, or \
             where the kernel does not run as a PV guest"
        ));
    }
    if !parts.is_empty() {
        return parts;
    }
    report.remarks.push(
        "no section is marked executable: all bytes of executable segments count as code, even data"
            .to_owned(),
    );
    let segments = elf.segments().into_iter().flatten().enumerate();
    segments
        .filter(|(_, header)| header.p_type == PT_LOAD && header.p_flags & PF_X != 0)
        .filter_map(|(index, header)| {
            let bytes = slice(image, header.p_offset, header.p_filesz)?;
            Some(Part { name: format!("segment {index}"), address: header.p_vaddr, bytes })
        })
        .take(MAX_PARTS)
        .collect()
}

fn slice(image: &[u8], offset: u64, length: u64) -> Option<&[u8]> {
    let start = usize::try_from(offset).ok()?;
    image.get(start..start.checked_add(usize::try_from(length).ok()?)?)
}

/// The count and the first address, by function.
type Places = BTreeMap<(u64, String), (u64, u64)>;

/// The findings of one kind, by the address of the kind's description.
#[derive(Default)]
struct Findings {
    by_kind: HashMap<&'static str, (&'static Kind, Places)>,
}

impl Findings {
    fn add(&mut self, kind: &'static Kind, address: u64, part: &Part<'_>, symbols: &Symbols) {
        let (_, places) = self.by_kind.entry(kind.name).or_insert_with(|| (kind, Places::new()));
        let place = match symbols.at(address) {
            // A symbol before the part belongs to another part.
            Some((start, name)) if start >= part.address => (start, name.to_owned()),
            _ => (part.address, part.name.clone()),
        };
        let (_, count) = places.entry(place).or_insert((address, 0));
        *count += 1;
    }

    /// The findings, harmful ones first.
    fn finish(self) -> Vec<Finding> {
        let mut found: Vec<_> = self.by_kind.into_values().collect();
        found.sort_by_key(|(kind, _)| *kind);
        found.into_iter().map(|(kind, places)| finding(kind, places)).collect()
    }
}

fn finding(kind: &Kind, places: Places) -> Finding {
    let mut places: Vec<Place> = places
        .into_iter()
        .map(|((_, symbol), (address, count))| Place { address, symbol, count })
        .collect();
    places.sort_by_key(|place| (std::cmp::Reverse(place.count), place.address));
    Finding {
        instruction: kind.name.to_owned(),
        fate: kind.fate,
        meaning: kind.meaning.to_owned(),
        count: places.iter().map(|place| place.count).sum(),
        places,
    }
}

fn disassemble<'a>(elf: &ElfBytes<'a, LittleEndian>, image: &'a [u8], report: &mut Report) {
    let symbols = Symbols::read(elf, image);
    symbols.source.clone_into(&mut report.symbols);
    let mut findings = Findings::default();
    // Parts may overlap in a hostile image, so their sum is bounded, too.
    let mut left = image.len();
    for part in parts(elf, image, report) {
        let bytes = &part.bytes[..part.bytes.len().min(left)];
        left -= bytes.len();
        report.code_bytes += bytes.len() as u64;
        report.instructions += sweep(bytes, &part, &symbols, &mut findings);
    }
    report.findings = findings.finish();
}

/// Decodes one part; returns how many instructions it has.
fn sweep(bytes: &[u8], part: &Part<'_>, symbols: &Symbols, findings: &mut Findings) -> u64 {
    /// The bytes that follow `ud2` in the forced-emulation prefix.
    const PREFIX: &[u8] = b"xen\x0f\xa2";
    let mut decoder = Decoder::with_ip(64, bytes, part.address, DecoderOptions::NONE);
    let mut instruction = Instruction::default();
    let mut instructions = 0;
    while decoder.can_decode() {
        decoder.decode_out(&mut instruction);
        instructions += 1;
        let next = decoder.position();
        if instruction.mnemonic() == Mnemonic::Ud2 && bytes[next..].starts_with(PREFIX) {
            findings.add(FORCED_CPUID, instruction.ip(), part, symbols);
            // The position is within the bytes, as was just checked.
            let _ = decoder.set_position(next + PREFIX.len());
            decoder.set_ip(part.address.wrapping_add((next + PREFIX.len()) as u64));
        } else if let Some(kind) = kind_of(&instruction) {
            findings.add(kind, instruction.ip(), part, symbols);
        }
    }
    instructions
}
