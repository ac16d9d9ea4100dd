//! An ELF kernel: its notes for a PV start, and the segments to load.
//!
//! ```text
//! first bytes --Headers--> where the notes are --their bytes--> Kernel
//! ```
//!
//! So a kernel is known before most of its file has come. A PV kernel says by notes of the owner
//! "Xen" where it wants to be (public `elfnote.h`). A segment is loaded at
//! `VIRT_BASE + p_paddr - PADDR_OFFSET`: virtual addresses of segments do not count, per-CPU data
//! has 0 there. So everything here is an offset from `VIRT_BASE`, which is pseudo-physical
//! address 0.

use crate::PAGE_BYTES;
use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;
use elf::abi::{EI_NIDENT, EM_X86_64, ET_EXEC, PT_LOAD, PT_NOTE};
use elf::endian::LittleEndian;
use elf::file::{Class, FileHeader, parse_ident};
use elf::note::{Note, NoteIterator};
use elf::segment::SegmentTable;
use pv_abi::xen::elfnote;

/// First bytes of a kernel that are asked for: its ELF header and program headers lie there.
pub const HEAD_BYTES: u64 = 4 * 1024;
/// Bytes of the notes in all, at most.
pub const NOTE_BYTES: u64 = 256 * 1024;
/// Bytes of the ELF header.
const ELF_HEADER_BYTES: usize = 64;
/// Bytes of a program header.
const PROGRAM_HEADER_BYTES: u16 = 56;
/// Segments to load at most.
const MAX_SEGMENTS: usize = 64;
/// Note segments that are looked at, at most.
const MAX_NOTES: usize = 16;
/// No kernel is loaded higher: keeps sums of addresses far from overflow.
const LIMIT: u64 = 1 << 40;

/// Why an ELF image cannot be started as a PV kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KernelError {
    /// The ELF structures are damaged or cut off.
    Elf,
    /// Its program headers are not among its first [`HEAD_BYTES`].
    Head,
    /// Its note segments are too many or too large.
    Notes,
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
            Self::Head => write!(
                f,
                "its program headers lie past its first {} KiB; give a kernel as it was linked",
                HEAD_BYTES / 1024
            ),
            Self::Notes => write!(
                f,
                "more than {MAX_NOTES} note segments or {} KiB of notes; give a kernel as it was \
                 linked",
                NOTE_BYTES / 1024
            ),
            Self::Machine => f.write_str("not a 64-bit x86 executable; give an x86-64 kernel"),
            Self::NoNotes => f.write_str("has no Xen PV notes; give a kernel with CONFIG_XEN_PV"),
            Self::NoEntry => {
                f.write_str("has Xen notes, but none for a PV start; give one with CONFIG_XEN_PV")
            }
            Self::Note(kind) => write!(f, "damaged Xen note {kind}; copy it again"),
            Self::Version => f.write_str("made for an interface other than xen-3.0"),
            Self::Segment(index) => {
                write!(f, "segment {index} is truncated, or outside of memory; copy it again")
            }
            Self::NoSegments => f.write_str("has nothing to load"),
        }
    }
}

impl core::error::Error for KernelError {}

/// A part of the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Pseudo-physical address it is loaded at.
    pub address: u64,
    /// Its contents: bytes of the file.
    pub file: Range<u64>,
    /// Bytes it takes in memory; what is over its contents is zero.
    pub memory: u64,
}

/// A PV kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// What to load, sorted by address.
    pub segments: Vec<Segment>,
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

/// What the first bytes of an ELF kernel tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Headers {
    /// Segments to load, their addresses as the file has them.
    segments: Vec<Segment>,
    /// Where its notes are, and how they are aligned.
    notes: Vec<(Range<u64>, usize)>,
}

impl Headers {
    /// Reads the headers of a kernel of `file_bytes` bytes from its first ones: all of them, or
    /// [`HEAD_BYTES`].
    ///
    /// # Errors
    /// See [`KernelError`].
    pub fn parse(head: &[u8], file_bytes: u64) -> Result<Self, KernelError> {
        let ident = head.get(..EI_NIDENT).ok_or(KernelError::Elf)?;
        let ident = parse_ident::<LittleEndian>(ident).map_err(|_| KernelError::Elf)?;
        if ident.1 != Class::ELF64 {
            return Err(KernelError::Machine);
        }
        let tail = head.get(EI_NIDENT..ELF_HEADER_BYTES).ok_or(KernelError::Elf)?;
        let header = FileHeader::parse_tail(ident, tail).map_err(|_| KernelError::Elf)?;
        if (header.e_machine, header.e_type) != (EM_X86_64, ET_EXEC) {
            return Err(KernelError::Machine);
        }
        let mut headers = Self { segments: Vec::new(), notes: Vec::new() };
        for (index, segment) in table(&header, head, file_bytes)?.iter().enumerate() {
            headers.take_in(index, &segment, file_bytes)?;
        }
        if headers.segments.is_empty() {
            return Err(KernelError::NoSegments);
        }
        headers.segments.sort_by_key(|segment| segment.address);
        Ok(headers)
    }

    /// Takes one program header in.
    fn take_in(
        &mut self,
        index: usize,
        header: &elf::segment::ProgramHeader,
        file_bytes: u64,
    ) -> Result<(), KernelError> {
        let error = KernelError::Segment(index);
        let wanted = match header.p_type {
            PT_LOAD => header.p_memsz > 0,
            PT_NOTE => header.p_filesz > 0,
            _ => false,
        };
        if !wanted {
            return Ok(());
        }
        let end = header.p_offset.checked_add(header.p_filesz).ok_or(error)?;
        if end > file_bytes {
            return Err(error);
        }
        let file = header.p_offset..end;
        if header.p_type == PT_NOTE {
            let align = usize::try_from(header.p_align).unwrap_or(0);
            self.notes.push((file, if align == 8 { 8 } else { 4 }));
            let bytes = self.notes.iter().map(|(range, _)| range.end - range.start);
            let fits = bytes.fold(0, u64::saturating_add) <= NOTE_BYTES;
            let few = self.notes.len() <= MAX_NOTES;
            return if fits && few { Ok(()) } else { Err(KernelError::Notes) };
        }
        let inside = header.p_paddr < LIMIT && header.p_memsz < LIMIT;
        if !inside || header.p_filesz > header.p_memsz || self.segments.len() >= MAX_SEGMENTS {
            return Err(error);
        }
        self.segments.push(Segment { address: header.p_paddr, file, memory: header.p_memsz });
        Ok(())
    }

    /// Where in the file the notes are. They are what [`Self::kernel`] wants.
    pub fn notes(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        self.notes.iter().map(|(range, _)| range.clone())
    }

    /// The kernel, with the bytes of its notes, in the order of [`Self::notes`].
    ///
    /// # Errors
    /// See [`KernelError`].
    pub fn kernel<'n>(
        self,
        contents: impl IntoIterator<Item = &'n [u8]>,
    ) -> Result<Kernel, KernelError> {
        let mut notes = Notes::default();
        for ((_, align), bytes) in self.notes.iter().zip(contents) {
            read_notes(&mut notes, *align, bytes)?;
        }
        let entry = match (notes.any, notes.entry) {
            (false, _) => return Err(KernelError::NoNotes),
            (true, None) => return Err(KernelError::NoEntry),
            (true, Some(entry)) => entry,
        };
        check_page(notes.virt_base, elfnote::VIRT_BASE)?;
        check_page(notes.init_p2m.unwrap_or(0), elfnote::INIT_P2M)?;
        check_page(notes.hypercall_page.unwrap_or(0), elfnote::HYPERCALL_PAGE)?;
        let kernel = Kernel {
            segments: self.placed(notes.paddr_offset)?,
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

    /// The segments at their pseudo-physical addresses.
    fn placed(self, paddr_offset: u64) -> Result<Vec<Segment>, KernelError> {
        let place = |(index, segment): (usize, Segment)| {
            let address = segment.address.checked_sub(paddr_offset);
            let address = address.ok_or(KernelError::Segment(index))?;
            Ok(Segment { address, ..segment })
        };
        self.segments.into_iter().enumerate().map(place).collect()
    }
}

/// The program headers.
fn table<'h>(
    header: &FileHeader<LittleEndian>,
    head: &'h [u8],
    file_bytes: u64,
) -> Result<SegmentTable<'h, LittleEndian>, KernelError> {
    if header.e_phentsize != PROGRAM_HEADER_BYTES {
        return Err(KernelError::Elf);
    }
    let bytes = u64::from(PROGRAM_HEADER_BYTES) * u64::from(header.e_phnum);
    let end = header.e_phoff.checked_add(bytes).ok_or(KernelError::Elf)?;
    if end > file_bytes {
        return Err(KernelError::Elf);
    }
    let place = usize::try_from(header.e_phoff).ok().zip(usize::try_from(end).ok());
    let bytes = place.and_then(|(start, end)| head.get(start..end)).ok_or(KernelError::Head)?;
    Ok(SegmentTable::new(header.endianness, header.class, bytes))
}

impl Kernel {
    /// Reads a whole ELF image.
    ///
    /// # Errors
    /// See [`KernelError`].
    pub fn parse(image: &[u8]) -> Result<Self, KernelError> {
        let headers = Headers::parse(image, image.len() as u64)?;
        let part = |range: Range<u64>| {
            let range = usize::try_from(range.start).ok()?..usize::try_from(range.end).ok()?;
            image.get(range)
        };
        let notes: Option<Vec<&[u8]>> = headers.notes().map(part).collect();
        headers.kernel(notes.ok_or(KernelError::Elf)?)
    }

    /// PFNs from the kernel's first page to its last.
    #[must_use]
    pub fn pages(&self) -> Range<u64> {
        let first = self.segments.iter().map(|s| s.address).min().unwrap_or(0);
        let end = self.segments.iter().map(|s| s.address + s.memory).max().unwrap_or(0);
        first / PAGE_BYTES..end.div_ceil(PAGE_BYTES)
    }

    /// Parts of the file that are loaded, in the file's order, none twice.
    #[must_use]
    pub fn parts(&self) -> Vec<Range<u64>> {
        let loaded = self.segments.iter().map(|segment| segment.file.clone());
        let mut parts: Vec<Range<u64>> = loaded.filter(|range| !range.is_empty()).collect();
        parts.sort_unstable_by_key(|range| range.start);
        parts.dedup_by(|next, before| {
            let joined = next.start <= before.end;
            if joined {
                before.end = before.end.max(next.end);
            }
            joined
        });
        parts
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

/// Goes through the notes of a note segment.
fn read_notes(notes: &mut Notes, align: usize, bytes: &[u8]) -> Result<(), KernelError> {
    for note in NoteIterator::new(LittleEndian, Class::ELF64, align, bytes) {
        if let Note::Unknown(note) = note
            && note.name == elfnote::OWNER
        {
            notes.any = true;
            read_note(notes, note.n_type, note.desc)?;
        }
    }
    Ok(())
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
