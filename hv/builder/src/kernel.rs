//! An ELF kernel: its notes for a PV start, and the segments to load.
//!
//! A PV kernel says by notes of the owner "Xen" where it wants to be (public `elfnote.h`). A
//! segment is loaded at `VIRT_BASE + p_paddr - PADDR_OFFSET`: virtual addresses of segments do not
//! count, per-CPU data has 0 there. So everything here is an offset from `VIRT_BASE`, which is
//! pseudo-physical address 0.

use crate::PAGE_BYTES;
use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;
use elf::ElfBytes;
use elf::abi::{EM_X86_64, ET_EXEC, PT_LOAD, PT_NOTE};
use elf::endian::LittleEndian;
use elf::file::Class;
use elf::note::Note;
use pv_abi::xen::elfnote;

/// Segments to load at most.
const MAX_SEGMENTS: usize = 64;

/// Why an ELF image cannot be started as a PV kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KernelError {
    /// The ELF structures are damaged or cut off.
    Elf,
    /// Not a 64-bit x86 executable.
    Machine,
    /// It has no notes of the owner "Xen".
    NoNotes,
    /// It has such notes, but none that says where to enter: it starts in another mode only.
    NoEntry,
    /// A note is too short or has a value that makes no sense: its type.
    Note(u32),
    /// It was made for another interface version than xen-3.0.
    Version,
    /// A segment lies outside of the file or of the address space: its index.
    Segment(usize),
    /// It has no segment to load.
    NoSegments,
}

impl fmt::Display for KernelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Elf => f.write_str("damaged or truncated ELF image; copy it again"),
            Self::Machine => f.write_str("not a 64-bit x86 executable; give an x86-64 kernel"),
            Self::NoNotes => f.write_str("has no Xen PV notes; give a kernel with CONFIG_XEN_PV"),
            Self::NoEntry => {
                f.write_str("has Xen notes, but none for a PV start; give one with CONFIG_XEN_PV")
            }
            Self::Note(kind) => write!(f, "damaged Xen note {kind}; copy it again"),
            Self::Version => f.write_str("made for an interface other than xen-3.0"),
            Self::Segment(index) => {
                write!(f, "segment {index} lies outside of file or memory; copy it again")
            }
            Self::NoSegments => f.write_str("has nothing to load"),
        }
    }
}

impl core::error::Error for KernelError {}

/// A part of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment<'a> {
    /// Pseudo-physical address it is loaded at.
    pub address: u64,
    /// Its contents.
    pub bytes: &'a [u8],
    /// Bytes it takes in memory; what is over its contents is zero.
    pub memory: u64,
}

/// A PV kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel<'a> {
    /// What to load, sorted by address.
    pub segments: Vec<Segment<'a>>,
    /// Virtual address of pseudo-physical address 0, page-aligned.
    pub virt_base: u64,
    /// Virtual address to enter at.
    pub entry: u64,
    /// Virtual address that the table of machine frames shall have, page-aligned; `None`: in
    /// the mapping of the kernel.
    pub init_p2m: Option<u64>,
    /// The initial RAM disk may lie unmapped.
    pub unmapped_initrd: bool,
    /// Virtual address of a page to fill with hypercall stubs.
    pub hypercall_page: Option<u64>,
}

/// The notes as they are found.
#[derive(Default)]
struct Notes {
    any: bool,
    entry: Option<u64>,
    virt_base: u64,
    paddr_offset: u64,
    init_p2m: Option<u64>,
    unmapped_initrd: bool,
    hypercall_page: Option<u64>,
}

impl<'a> Kernel<'a> {
    /// Reads an ELF image.
    ///
    /// # Errors
    /// See [`KernelError`].
    pub fn parse(image: &'a [u8]) -> Result<Self, KernelError> {
        let elf = ElfBytes::<LittleEndian>::minimal_parse(image).map_err(|_| KernelError::Elf)?;
        let kind = (elf.ehdr.class, elf.ehdr.e_machine, elf.ehdr.e_type);
        if kind != (Class::ELF64, EM_X86_64, ET_EXEC) {
            return Err(KernelError::Machine);
        }
        let notes = read_notes(&elf)?;
        let entry = match (notes.any, notes.entry) {
            (false, _) => return Err(KernelError::NoNotes),
            (true, None) => return Err(KernelError::NoEntry),
            (true, Some(entry)) => entry,
        };
        check_page(notes.virt_base, elfnote::VIRT_BASE)?;
        check_page(notes.init_p2m.unwrap_or(0), elfnote::INIT_P2M)?;
        check_page(notes.hypercall_page.unwrap_or(0), elfnote::HYPERCALL_PAGE)?;
        let kernel = Self {
            segments: read_segments(&elf, image, notes.paddr_offset)?,
            virt_base: notes.virt_base,
            entry,
            init_p2m: notes.init_p2m,
            unmapped_initrd: notes.unmapped_initrd,
            hypercall_page: notes.hypercall_page,
        };
        if !kernel.holds(entry) {
            return Err(KernelError::Note(elfnote::ENTRY));
        }
        if kernel.hypercall_page.is_some_and(|page| !kernel.holds(page)) {
            return Err(KernelError::Note(elfnote::HYPERCALL_PAGE));
        }
        Ok(kernel)
    }

    /// PFNs from the kernel's first page to its last.
    #[must_use]
    pub fn pages(&self) -> Range<u64> {
        let first = self.segments.iter().map(|s| s.address).min().unwrap_or(0);
        let end = self.segments.iter().map(|s| s.address + s.memory).max().unwrap_or(0);
        first / PAGE_BYTES..end.div_ceil(PAGE_BYTES)
    }

    /// Whether a virtual address lies in the kernel's pages.
    fn holds(&self, address: u64) -> bool {
        let pages = self.pages();
        address
            .checked_sub(self.virt_base)
            .is_some_and(|offset| pages.contains(&(offset / PAGE_BYTES)))
    }
}

fn check_page(address: u64, note: u32) -> Result<(), KernelError> {
    let canonical = ((address << 16) as i64 >> 16) as u64 == address;
    let aligned = address.is_multiple_of(PAGE_BYTES);
    if canonical && aligned { Ok(()) } else { Err(KernelError::Note(note)) }
}

/// Goes through the notes of all note segments.
fn read_notes(elf: &ElfBytes<'_, LittleEndian>) -> Result<Notes, KernelError> {
    let mut notes = Notes::default();
    for header in elf.segments().ok_or(KernelError::Elf)? {
        if header.p_type != PT_NOTE {
            continue;
        }
        let found = elf.segment_data_as_notes(&header).map_err(|_| KernelError::Elf)?;
        for note in found {
            if let Note::Unknown(note) = note
                && note.name == elfnote::OWNER
            {
                notes.any = true;
                read_note(&mut notes, note.n_type, note.desc)?;
            }
        }
    }
    Ok(notes)
}

/// Takes one note in. Types that do not matter to a loader are passed over.
fn read_note(notes: &mut Notes, kind: u64, value: &[u8]) -> Result<(), KernelError> {
    let Ok(kind) = u32::try_from(kind) else {
        return Ok(());
    };
    let number = || number(value).ok_or(KernelError::Note(kind));
    match kind {
        elfnote::ENTRY => notes.entry = Some(number()?),
        elfnote::VIRT_BASE => notes.virt_base = number()?,
        elfnote::PADDR_OFFSET => notes.paddr_offset = number()?,
        elfnote::INIT_P2M => notes.init_p2m = Some(number()?),
        elfnote::MOD_START_PFN => notes.unmapped_initrd = number()? != 0,
        elfnote::HYPERCALL_PAGE => notes.hypercall_page = Some(number()?),
        elfnote::XEN_VERSION if !value.starts_with(b"xen-3.0") => {
            return Err(KernelError::Version);
        }
        _ => {}
    }
    Ok(())
}

/// A note's number: 1, 2, 4 or 8 bytes, little-endian.
fn number(value: &[u8]) -> Option<u64> {
    let mut bytes = [0; 8];
    bytes.get_mut(..value.len())?.copy_from_slice(value);
    matches!(value.len(), 1 | 2 | 4 | 8).then(|| u64::from_le_bytes(bytes))
}

fn read_segments<'a>(
    elf: &ElfBytes<'a, LittleEndian>,
    image: &'a [u8],
    paddr_offset: u64,
) -> Result<Vec<Segment<'a>>, KernelError> {
    /// No kernel is loaded higher: keeps sums of addresses far from overflow.
    const LIMIT: u64 = 1 << 40;
    let mut segments = Vec::new();
    let headers = elf.segments().ok_or(KernelError::Elf)?;
    for (index, header) in headers.into_iter().enumerate() {
        if header.p_type != PT_LOAD || header.p_memsz == 0 {
            continue;
        }
        let error = KernelError::Segment(index);
        let start = usize::try_from(header.p_offset).map_err(|_| error)?;
        let length = usize::try_from(header.p_filesz).map_err(|_| error)?;
        let end = start.checked_add(length).ok_or(error)?;
        let bytes = image.get(start..end).ok_or(error)?;
        let address = header.p_paddr.checked_sub(paddr_offset).ok_or(error)?;
        let inside = address < LIMIT && header.p_memsz < LIMIT;
        if !inside || header.p_filesz > header.p_memsz || segments.len() >= MAX_SEGMENTS {
            return Err(error);
        }
        segments.push(Segment { address, bytes, memory: header.p_memsz });
    }
    if segments.is_empty() {
        return Err(KernelError::NoSegments);
    }
    segments.sort_by_key(|segment| segment.address);
    Ok(segments)
}
