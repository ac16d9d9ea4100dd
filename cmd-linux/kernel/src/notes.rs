//! The facts about a PV start that a kernel states: ELF notes of the owner "Xen" (public
//! `elfnote.h`), or the older text section `__xen_guest`.
//!
//! These values are for people; the builder reads the notes it needs by itself. An invalid note is
//! therefore skipped here, and the builder reports it.

use elf::ElfBytes;
use elf::abi::{PT_NOTE, SHT_NOTE};
use elf::endian::LittleEndian;
use elf::note::Note;
use pv_abi::xen::elfnote;
use serde::{Deserialize, Serialize};

/// The source of the notes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NoteStyle {
    /// The image has no such notes.
    #[default]
    Absent,
    /// ELF notes of the owner "Xen".
    ElfNotes,
    /// A section `__xen_guest` with `NAME=VALUE` text, as before xen-3.1.
    GuestSection,
}

/// The notes. `None` means that the kernel does not say.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notes {
    /// The source of the notes.
    pub style: NoteStyle,
    /// Name of the system.
    pub guest_os: Option<String>,
    /// Version of the system.
    pub guest_version: Option<String>,
    /// The loader that the kernel was made for.
    pub loader: Option<String>,
    /// Interface version.
    pub xen_version: Option<String>,
    /// Features as text.
    pub features: Option<String>,
    /// Features as a bit mask.
    pub supported_features: Option<u32>,
    /// Virtual address of the entry point.
    pub entry: Option<u64>,
    /// Virtual address of pseudo-physical address 0.
    pub virt_base: Option<u64>,
    /// The number to subtract from the physical addresses of the segments.
    pub paddr_offset: Option<u64>,
    /// Virtual address of the page to fill with hypercall stubs.
    pub hypercall_page: Option<u64>,
    /// Virtual address for the table of machine frames.
    pub init_p2m: Option<u64>,
    /// Whether the initial RAM disk may lie unmapped.
    pub mod_start_pfn: Option<bool>,
    /// Lowest address of the hypervisor's hole.
    pub hv_start_low: Option<u64>,
    /// Entry point of a hardware-virtualized start.
    pub phys32_entry: Option<u64>,
    /// "yes" if the symbol table shall lie behind the kernel.
    pub bsd_symtab: Option<String>,
}

type Elf<'a> = ElfBytes<'a, LittleEndian>;

impl Notes {
    /// Reads the notes of an ELF image; from a damaged image, it reads as much as possible.
    #[must_use]
    pub fn read(image: &[u8]) -> Self {
        let mut notes = Self::default();
        let Ok(elf) = Elf::minimal_parse(image) else { return notes };
        notes.read_segments(&elf);
        if notes.style == NoteStyle::Absent {
            notes.read_sections(&elf);
        }
        if notes.style == NoteStyle::Absent
            && let Ok(Some(header)) = elf.section_header_by_name("__xen_guest")
            && let Ok((text, None)) = elf.section_data(&header)
        {
            notes.read_text(&String::from_utf8_lossy(text));
        }
        notes
    }

    fn read_segments(&mut self, elf: &Elf<'_>) {
        for header in elf.segments().into_iter().flatten().filter(|h| h.p_type == PT_NOTE) {
            if let Ok(found) = elf.segment_data_as_notes(&header) {
                self.take_all(found);
            }
        }
    }

    fn read_sections(&mut self, elf: &Elf<'_>) {
        for header in elf.section_headers().into_iter().flatten() {
            if header.sh_type == SHT_NOTE
                && let Ok(found) = elf.section_data_as_notes(&header)
            {
                self.take_all(found);
            }
        }
    }

    fn take_all<'a>(&mut self, found: impl Iterator<Item = Note<'a>>) {
        for note in found {
            if let Note::Unknown(note) = note
                && note.name == elfnote::OWNER
            {
                self.style = NoteStyle::ElfNotes;
                self.take(note.n_type, note.desc);
            }
        }
    }

    fn take(&mut self, kind: u64, value: &[u8]) {
        let number = || number(value);
        let text = || Some(text(value));
        match u32::try_from(kind).unwrap_or(u32::MAX) {
            elfnote::ENTRY => self.entry = number(),
            elfnote::HYPERCALL_PAGE => self.hypercall_page = number(),
            elfnote::VIRT_BASE => self.virt_base = number(),
            elfnote::PADDR_OFFSET => self.paddr_offset = number(),
            elfnote::XEN_VERSION => self.xen_version = text(),
            elfnote::GUEST_OS => self.guest_os = text(),
            elfnote::GUEST_VERSION => self.guest_version = text(),
            elfnote::LOADER => self.loader = text(),
            elfnote::FEATURES => self.features = text(),
            elfnote::HV_START_LOW => self.hv_start_low = number(),
            elfnote::INIT_P2M => self.init_p2m = number(),
            elfnote::MOD_START_PFN => self.mod_start_pfn = number().map(|flag| flag != 0),
            elfnote::SUPPORTED_FEATURES => {
                self.supported_features = number().and_then(|mask| u32::try_from(mask).ok());
            }
            elfnote::PHYS32_ENTRY => self.phys32_entry = number(),
            elfnote::BSD_SYMTAB => self.bsd_symtab = text(),
            _ => {}
        }
    }

    /// Reads `NAME=VALUE,NAME=VALUE`: numbers in C's notation, the hypercall page as a page number.
    fn read_text(&mut self, section: &str) {
        self.style = NoteStyle::GuestSection;
        for part in section.trim_end_matches('\0').split(',') {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            let text = || Some(value.to_owned());
            match name {
                "GUEST_OS" => self.guest_os = text(),
                "GUEST_VER" => self.guest_version = text(),
                "XEN_VER" => self.xen_version = text(),
                "LOADER" => self.loader = text(),
                "FEATURES" => self.features = text(),
                "BSD_SYMTAB" => self.bsd_symtab = text(),
                "VIRT_BASE" => self.virt_base = c_number(value),
                "VIRT_ENTRY" => self.entry = c_number(value),
                "ELF_PADDR_OFFSET" => self.paddr_offset = c_number(value),
                "HYPERCALL_PAGE" => {
                    let page = c_number(value).and_then(|page| page.checked_mul(4096));
                    self.hypercall_page = page;
                }
                _ => {}
            }
        }
        let base = self.virt_base.unwrap_or(0);
        self.hypercall_page = self.hypercall_page.and_then(|page| page.checked_add(base));
    }
}

/// A note's number of 1, 2, 4 or 8 bytes, little-endian.
fn number(value: &[u8]) -> Option<u64> {
    let mut bytes = [0; 8];
    bytes.get_mut(..value.len())?.copy_from_slice(value);
    matches!(value.len(), 1 | 2 | 4 | 8).then(|| u64::from_le_bytes(bytes))
}

/// A note's text, without characters that a terminal cannot show.
fn text(value: &[u8]) -> String {
    const MOST: usize = 256;
    let text = value.split(|byte| *byte == 0).next().unwrap_or(&[]);
    String::from_utf8_lossy(text).chars().filter(|c| !c.is_control()).take(MOST).collect()
}

fn c_number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}
