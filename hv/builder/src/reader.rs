//! Reads an ELF kernel range by range, and asks for the ranges that it needs.
//!
//! ```text
//! first bytes -> note segments -> (no Xen notes: section headers -> note sections
//!                               -> (still none: section names -> __xen_guest)) -> Kernel
//! ```
//!
//! So a kernel is known before most of its file has arrived. Xen's loader determines where notes
//! are searched, and in which order.

use crate::kernel::{Kernel, KernelError, Segment};
use crate::statements::Statements;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::ops::Range;
use elf::abi::{EI_NIDENT, EM_X86_64, ET_DYN, ET_EXEC, PF_R, PF_W, PF_X, PT_LOAD, PT_NOTE};
use elf::abi::{SHN_XINDEX, SHT_NOTE};
use elf::endian::LittleEndian;
use elf::file::{Class, FileHeader, parse_ident};
use elf::section::{SectionHeader, SectionHeaderTable};
use elf::segment::{ProgramHeader, SegmentTable};
use elf::string_table::StringTable;

/// Bytes at the start of a kernel that are asked for first; they must contain its ELF header and
/// program headers.
pub const HEAD_BYTES: u64 = 4 * 1024;
/// Maximum number of bytes of notes, of section headers, and of section names, each.
pub const NOTE_BYTES: u64 = 256 * 1024;
/// Maximum number of note segments that are read, and of sections.
pub(crate) const MAX_NOTES: usize = 64;
/// Bytes of the ELF header.
const ELF_HEADER_BYTES: usize = 64;
/// Bytes of a program header.
const PROGRAM_HEADER_BYTES: u16 = 56;
/// Bytes of a section header.
const SECTION_HEADER_BYTES: u16 = 64;
/// Maximum number of segments to load.
const MAX_SEGMENTS: usize = 64;
/// Maximum number of bytes of the text of a section `__xen_guest`.
const TEXT_BYTES: u64 = 4 * 1024;
/// The section of kernels older than notes.
const TEXT_SECTION: &str = "__xen_guest";

/// The bytes that are awaited.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Stage {
    /// The first bytes.
    Head,
    /// Notes of a segment.
    NoteSegment,
    /// The section headers.
    Sections,
    /// Notes of a section.
    NoteSection(Vec<SectionHeader>),
    /// The names of the sections.
    Names(Vec<SectionHeader>),
    /// The text of a section `__xen_guest`.
    Text,
}

/// A kernel whose file is being read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reader {
    file_bytes: u64,
    stage: Stage,
    /// The ranges that are awaited; the first is next.
    ranges: VecDeque<Range<u64>>,
    /// The entry point in the ELF header.
    entry: u64,
    /// The place of the section headers; empty if there are none.
    sections: Range<u64>,
    /// Index of the section that contains the names.
    names: usize,
    /// The segments to load, with the physical addresses of the program headers; the offset that a
    /// note states is not subtracted yet.
    segments: Vec<Segment>,
    statements: Statements,
}

/// The result of taking a range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Another range is needed.
    More(Reader),
    /// The kernel is known.
    Done(Kernel),
}

impl Reader {
    /// A reader for a file of this many bytes.
    #[must_use]
    pub fn new(file_bytes: u64) -> Self {
        let head = 0..HEAD_BYTES.min(file_bytes);
        Self {
            file_bytes,
            stage: Stage::Head,
            ranges: VecDeque::from([head]),
            entry: 0,
            sections: 0..0,
            names: 0,
            segments: Vec::new(),
            statements: Statements::default(),
        }
    }

    /// The next range of the file that is needed. The range lies in the file and has at most
    /// [`NOTE_BYTES`].
    #[must_use]
    pub fn wants(&self) -> Range<u64> {
        self.ranges.front().cloned().unwrap_or(0..0)
    }

    /// Takes the bytes of the range that was asked for.
    ///
    /// # Errors
    /// See [`KernelError`].
    pub fn take_in(mut self, bytes: &[u8]) -> Result<Progress, KernelError> {
        self.ranges.pop_front();
        let mut stage = core::mem::replace(&mut self.stage, Stage::Text);
        match &stage {
            Stage::Head => {
                self.read_head(bytes)?;
                stage = Stage::NoteSegment;
            }
            Stage::NoteSegment | Stage::NoteSection(_) => self.statements.take_notes(bytes)?,
            Stage::Sections => stage = Stage::NoteSection(self.read_sections(bytes)?),
            Stage::Names(sections) => {
                self.find_text(sections, bytes);
                stage = Stage::Text;
            }
            Stage::Text => self.statements.take_text(bytes)?,
        }
        while self.ranges.is_empty() {
            match self.after(stage) {
                Some(next) => stage = next,
                None => {
                    return self.statements.kernel(self.segments, self.entry).map(Progress::Done);
                }
            }
        }
        self.stage = stage;
        Ok(Progress::More(self))
    }

    /// The stage after `stage`, all of whose ranges have arrived, and its ranges. Returns `None` if
    /// nothing more is needed.
    fn after(&mut self, stage: Stage) -> Option<Stage> {
        if self.statements.notes {
            return None;
        }
        match stage {
            Stage::NoteSegment if !self.sections.is_empty() => {
                self.ranges.push_back(self.sections.clone());
                Some(Stage::Sections)
            }
            Stage::NoteSection(sections) => {
                let names = self.contents(sections.get(self.names)?, NOTE_BYTES)?;
                self.ranges.push_back(names);
                Some(Stage::Names(sections))
            }
            _ => None,
        }
    }

    fn read_head(&mut self, head: &[u8]) -> Result<(), KernelError> {
        let ident = head.get(..EI_NIDENT).ok_or(KernelError::Elf)?;
        let ident = parse_ident::<LittleEndian>(ident).map_err(|_| KernelError::Elf)?;
        if ident.1 != Class::ELF64 {
            return Err(KernelError::Machine);
        }
        let tail = head.get(EI_NIDENT..ELF_HEADER_BYTES).ok_or(KernelError::Elf)?;
        let header = FileHeader::parse_tail(ident, tail).map_err(|_| KernelError::Elf)?;
        if header.e_machine != EM_X86_64 || !matches!(header.e_type, ET_EXEC | ET_DYN) {
            return Err(KernelError::Machine);
        }
        for (index, segment) in self.program_headers(&header, head)?.iter().enumerate() {
            self.read_program_header(index, &segment)?;
        }
        if self.segments.is_empty() {
            return Err(KernelError::NoSegments);
        }
        self.entry = header.e_entry;
        let bytes = u64::from(SECTION_HEADER_BYTES) * u64::from(header.e_shnum);
        let end = header.e_shoff.checked_add(bytes).filter(|&end| end <= self.file_bytes);
        if let Some(end) = end
            && header.e_shentsize == SECTION_HEADER_BYTES
            && header.e_shstrndx != SHN_XINDEX
            && bytes <= NOTE_BYTES
        {
            self.sections = header.e_shoff..end;
            self.names = header.e_shstrndx.into();
        }
        Ok(())
    }

    fn program_headers<'h>(
        &self,
        header: &FileHeader<LittleEndian>,
        head: &'h [u8],
    ) -> Result<SegmentTable<'h, LittleEndian>, KernelError> {
        if header.e_phentsize != PROGRAM_HEADER_BYTES {
            return Err(KernelError::Elf);
        }
        let bytes = u64::from(PROGRAM_HEADER_BYTES) * u64::from(header.e_phnum);
        let end = header.e_phoff.checked_add(bytes).ok_or(KernelError::Elf)?;
        if end > self.file_bytes {
            return Err(KernelError::Elf);
        }
        let place = usize::try_from(header.e_phoff).ok().zip(usize::try_from(end).ok());
        let bytes = place.and_then(|(start, end)| head.get(start..end)).ok_or(KernelError::Head)?;
        Ok(SegmentTable::new(header.endianness, header.class, bytes))
    }

    fn read_program_header(
        &mut self,
        index: usize,
        header: &ProgramHeader,
    ) -> Result<(), KernelError> {
        let error = KernelError::Segment(index);
        let wanted = match header.p_type {
            PT_LOAD => header.p_memsz > 0 && header.p_flags & (PF_R | PF_W | PF_X) != 0,
            // Some linkers wrote a note segment without its offset.
            PT_NOTE => header.p_filesz > 0 && header.p_offset != 0,
            _ => false,
        };
        if !wanted {
            return Ok(());
        }
        let end = header.p_offset.checked_add(header.p_filesz).ok_or(error)?;
        if end > self.file_bytes {
            return Err(error);
        }
        let file = header.p_offset..end;
        if header.p_type == PT_NOTE {
            return self.want_notes(file);
        }
        // No kernel is larger; this keeps sums of addresses far from overflow.
        let inside = header.p_memsz < 1 << 40 && header.p_filesz <= header.p_memsz;
        if !inside || self.segments.len() >= MAX_SEGMENTS {
            return Err(error);
        }
        self.segments.push(Segment { address: header.p_paddr, file, memory: header.p_memsz });
        Ok(())
    }

    /// Asks for notes.
    fn want_notes(&mut self, range: Range<u64>) -> Result<(), KernelError> {
        self.ranges.push_back(range);
        let bytes = self.ranges.iter().map(|range| range.end - range.start);
        let fits = bytes.fold(0, u64::saturating_add) <= NOTE_BYTES;
        let few = self.ranges.len() <= MAX_NOTES;
        if fits && few { Ok(()) } else { Err(KernelError::Notes) }
    }

    /// Reads the section headers and asks for notes; skips sections outside the file.
    fn read_sections(&mut self, bytes: &[u8]) -> Result<Vec<SectionHeader>, KernelError> {
        let table = SectionHeaderTable::new(LittleEndian, Class::ELF64, bytes);
        let sections: Vec<SectionHeader> = table.iter().collect();
        for section in sections.iter().skip(1).filter(|section| section.sh_type == SHT_NOTE) {
            if let Some(range) = self.contents(section, u64::MAX) {
                self.want_notes(range)?;
            }
        }
        Ok(sections)
    }

    /// Asks for the text of the section `__xen_guest` if there is one.
    fn find_text(&mut self, sections: &[SectionHeader], names: &[u8]) {
        let names = StringTable::new(names);
        let is_text = |section: &&SectionHeader| {
            let at = usize::try_from(section.sh_name).ok();
            at.and_then(|at| names.get(at).ok()).is_some_and(|name| name == TEXT_SECTION)
        };
        let found = sections.iter().skip(1).find(is_text);
        if let Some(Range { start, end }) = found.and_then(|it| self.contents(it, u64::MAX)) {
            self.ranges.push_back(start..end.min(start.saturating_add(TEXT_BYTES)));
        }
    }

    /// The place of a section's contents in the file. Returns `None` if the section is empty, has
    /// more than `most` bytes, or lies outside the file.
    fn contents(&self, section: &SectionHeader, most: u64) -> Option<Range<u64>> {
        let end = section.sh_offset.checked_add(section.sh_size)?;
        let inside = end <= self.file_bytes && (1..=most).contains(&section.sh_size);
        inside.then_some(section.sh_offset..end)
    }
}
