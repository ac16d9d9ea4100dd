//! The plan: the contents of each page of the partition.
//!
//! Bytes that the plan does not mention stay zero, as all frames of a new partition are. The caller
//! loads the files piece by piece, to the places that [`Plan::places`] returns. Then it maps the
//! frames of [`Plan::pages`], some at a time, and lets [`Plan::fill`] write each.

use crate::kernel::{Kernel, KernelError};
use crate::layout::{Layout, LayoutError, Request};
use crate::memory::Memory;
use crate::tables::{Mapping, Table, Target};
use crate::{PAGE_BYTES, Page};
use alloc::vec::Vec;
use control::command::Start;
use core::fmt;
use core::ops::Range;
use pv_abi::xen::hypercall::{IRET, PAGE_SLOT_BYTES};
use pv_abi::xen::mmu::{PTE_ACCESSED, PTE_DIRTY, PTE_PRESENT, PTE_RW, PTE_USER};
use pv_abi::xen::start_info::{COMMAND_LINE_BYTES, MAGIC, SIF_MOD_START_PFN, StartInfo};
use zerocopy::{FromZeros, IntoBytes};

/// The reason why there is no plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlanError {
    /// The kernel is invalid.
    Kernel(KernelError),
    /// Sizes or addresses are invalid.
    Layout(LayoutError),
    /// The command line is too long; the number is its length in bytes.
    CommandLine(usize),
}

impl PlanError {
    /// Writes the problem, without the way out.
    ///
    /// # Errors
    /// The error of the formatter.
    pub fn reason(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kernel(error) => error.reason(f),
            Self::Layout(error) => error.reason(f),
            Self::CommandLine(bytes) => {
                let most = COMMAND_LINE_BYTES - 1;
                write!(f, "command line of {bytes} bytes, at most {most} fit")
            }
        }
    }

    /// The way out, if there is one.
    #[must_use]
    pub const fn way_out(&self) -> Option<&'static str> {
        match self {
            Self::Kernel(error) => error.way_out(),
            Self::Layout(error) => error.way_out(),
            Self::CommandLine(_) => Some("shorten it"),
        }
    }
}

impl fmt::Display for PlanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.reason(f)?;
        self.way_out().map_or(Ok(()), |way_out| write!(f, "; {way_out}"))
    }
}

impl core::error::Error for PlanError {}

impl From<KernelError> for PlanError {
    fn from(error: KernelError) -> Self {
        Self::Kernel(error)
    }
}

impl From<LayoutError> for PlanError {
    fn from(error: LayoutError) -> Self {
        Self::Layout(error)
    }
}

/// The values in start info that the layout does not determine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Parameters {
    /// Machine address of the shared info page.
    pub shared_info: u64,
    /// Event port of the console ring; 0 if there is none.
    pub console_port: u32,
    /// Event port of the store ring; 0 if there is none.
    pub store_port: u32,
}

/// A file whose contents are loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum File {
    /// The kernel.
    Kernel,
    /// The initial RAM disk.
    Initrd,
}

/// The place of bytes of a piece of a file, within one page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The page.
    pub pfn: u64,
    /// Offset of the first byte in the page.
    pub at: usize,
    /// The bytes, as a range of the piece.
    pub bytes: Range<usize>,
}

/// The contents of a partition's pages.
#[derive(Clone, Debug)]
pub struct Plan {
    kernel: Kernel,
    layout: Layout,
    memory: Memory,
    initrd_bytes: u64,
    command_line: Vec<u8>,
    /// See [`Parameters`].
    pub parameters: Parameters,
}

impl Plan {
    /// Plans the start of a kernel in `memory`, with an initial RAM disk of this size (0 if there
    /// is none) and this command line.
    ///
    /// # Errors
    /// See [`PlanError`].
    pub fn new(
        kernel: Kernel,
        memory: Memory,
        initrd_bytes: u64,
        command_line: &str,
    ) -> Result<Self, PlanError> {
        if command_line.len() >= COMMAND_LINE_BYTES {
            return Err(PlanError::CommandLine(command_line.len()));
        }
        let layout = Layout::new(&kernel, Request { frames: memory.frames(), initrd_bytes })?;
        let command_line = command_line.as_bytes().to_vec();
        let parameters = Parameters::default();
        Ok(Self { kernel, layout, memory, initrd_bytes, command_line, parameters })
    }

    /// Minimum number of frames that a partition needs to start this kernel, for use before memory
    /// is assigned.
    ///
    /// # Errors
    /// Those of [`Plan::new`], except that for too little memory.
    pub fn frames_needed(kernel: &Kernel, initrd_bytes: u64) -> Result<u64, PlanError> {
        // More memory makes the table of machine frames longer, so this iterates.
        let mut frames = 0;
        loop {
            match Layout::new(kernel, Request { frames, initrd_bytes }) {
                Ok(_) => return Ok(frames),
                Err(LayoutError::Memory(needed, _)) => frames = needed,
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// The layout.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The partition's memory.
    #[must_use]
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Start state of virtual CPU 0.
    #[must_use]
    pub fn start_state(&self) -> Start {
        let root = self.layout.mapping.table_pfns().start;
        Start {
            entry: self.kernel.entry,
            stack: self.address(self.layout.stack + 1),
            start_info: self.address(self.layout.start_info),
            page_table: self.frame(root),
            console_frame: self.frame(self.layout.console),
            store_frame: self.frame(self.layout.store),
        }
    }

    /// Virtual address of a PFN in the mapping.
    fn address(&self, pfn: u64) -> u64 {
        self.kernel.virt_base.wrapping_add(pfn * PAGE_BYTES)
    }

    /// Machine frame of a PFN of the layout, which always lies in memory.
    fn frame(&self, pfn: u64) -> u64 {
        self.memory.machine_frame(pfn).unwrap_or(0)
    }

    /// The parts of the files that are loaded, in order for each file.
    pub fn parts(&self) -> impl Iterator<Item = (File, Range<u64>)> + use<> {
        let kernel = self.kernel.parts().into_iter().map(|range| (File::Kernel, range));
        let initrd = 0..self.initrd_bytes;
        kernel.chain((!initrd.is_empty()).then_some((File::Initrd, initrd)))
    }

    /// The places of a piece: `length` bytes from `offset` of a file. Bytes that are not loaded
    /// have no place. The pages must be zero before.
    pub fn places(
        &self,
        file: File,
        offset: u64,
        length: usize,
    ) -> impl Iterator<Item = Place> + '_ {
        let piece = offset..offset.saturating_add(length as u64);
        let initrd = (0..self.initrd_bytes, self.layout.initrd.start * PAGE_BYTES);
        let kernel = self.kernel.segments.iter().map(|s| (s.file.clone(), s.address));
        let of = |wanted| (file == wanted).then_some(());
        let loaded = of(File::Kernel).into_iter().flat_map(move |()| kernel.clone());
        let loaded = loaded.chain(of(File::Initrd).map(|()| initrd));
        loaded.flat_map(move |(range, address)| pages_of(&range, address, &piece))
    }

    fn hypercall_page(&self) -> Option<u64> {
        let address = self.kernel.hypercall_page?;
        Some(address.checked_sub(self.kernel.virt_base)? / PAGE_BYTES)
    }

    /// The PFNs of the pages without file contents, to be filled once the files are loaded.
    pub fn pages(&self) -> impl Iterator<Item = u64> + use<> {
        let layout = &self.layout;
        let own = layout.p2m_mapping.as_ref().map_or(0..0, |mapping| mapping.table_pfns());
        self.hypercall_page()
            .into_iter()
            .chain(layout.p2m.clone())
            .chain([layout.start_info])
            .chain(layout.mapping.table_pfns())
            .chain(own)
    }

    /// Writes every byte of one of [`Self::pages`].
    pub fn fill(&self, pfn: u64, page: &mut Page) {
        let layout = &self.layout;
        if layout.p2m.contains(&pfn) {
            self.fill_p2m(pfn - layout.p2m.start, page);
        } else if pfn == layout.start_info {
            copy(page, self.start_info().as_bytes());
        } else if let Some(table) = layout.mapping.table(pfn) {
            self.fill_table(&table, page);
            // The root also contains the mapping of the table of machine frames.
            if let Some(own) = &layout.p2m_mapping
                && pfn == layout.mapping.table_pfns().start
            {
                self.add_to_root(own, page);
            }
        } else if let Some(table) = layout.p2m_mapping.as_ref().and_then(|own| own.table(pfn)) {
            self.fill_table(&table, page);
        } else if self.hypercall_page() == Some(pfn) {
            fill_hypercall_page(page);
        } else {
            page.fill(0);
        }
    }

    /// Fills page `index` of the table of machine frames; entries past memory are invalid.
    fn fill_p2m(&self, index: u64, page: &mut Page) {
        const ENTRIES: u64 = PAGE_BYTES / 8;
        let frames = self.memory.machine_frames(index * ENTRIES..(index + 1) * ENTRIES);
        page.fill(0xff);
        write_words(page, 0, frames);
    }

    /// Fills a table of a mapping. Successive entries refer to successive frames.
    fn fill_table(&self, table: &Table<'_>, page: &mut Page) {
        let present = table.present();
        page.fill(0);
        let (first, are_tables) = match table.entry(present.start) {
            Some(Target::Table(pfn)) => (pfn, true),
            Some(Target::Page(pfn)) => (pfn, false),
            None => return,
        };
        let tables = self.tables();
        let frames = self.memory.machine_frames(first..first + (present.end - present.start));
        let entries = (first..).zip(frames).map(|(pfn, frame)| {
            entry(frame, are_tables || !tables.iter().any(|tables| tables.contains(&pfn)))
        });
        write_words(page, present.start, entries);
    }

    /// Adds the entries for the mapping of the table of machine frames to the root.
    fn add_to_root(&self, own: &Mapping, page: &mut Page) {
        if let Some((first, last)) = own.root_slots() {
            let below = (first..=last).filter_map(|slot| own.below_root(slot));
            write_words(
                page,
                first,
                below
                    .filter_map(|table| self.memory.machine_frame(table))
                    .map(|frame| entry(frame, true)),
            );
        }
    }

    /// The pages that are page tables, and so are mapped read-only.
    fn tables(&self) -> [Range<u64>; 2] {
        let own = self.layout.p2m_mapping.as_ref();
        [self.layout.mapping.table_pfns(), own.map_or(0..0, Mapping::table_pfns)]
    }

    fn start_info(&self) -> StartInfo {
        let layout = &self.layout;
        let mut info = StartInfo::new_zeroed();
        copy(&mut info.magic, MAGIC);
        info.nr_pages = self.memory.frames();
        info.shared_info = self.parameters.shared_info;
        info.store_mfn = self.frame(layout.store);
        info.store_evtchn = self.parameters.store_port;
        info.console_mfn = self.frame(layout.console);
        info.console_evtchn = self.parameters.console_port;
        let tables = layout.mapping.table_pfns();
        info.pt_base = self.address(tables.start);
        info.nr_pt_frames = layout.mapping.table_count();
        info.mfn_list = self.kernel.init_p2m.unwrap_or(self.address(layout.p2m.start));
        if let Some(mapping) = &layout.p2m_mapping {
            info.first_p2m_pfn = layout.p2m.start;
            info.nr_p2m_frames = mapping.table_pfns().end - layout.p2m.start;
        }
        if self.initrd_bytes != 0 {
            info.mod_len = self.initrd_bytes;
            info.mod_start = self.address(layout.initrd.start);
            if self.kernel.unmapped_initrd {
                info.flags |= SIF_MOD_START_PFN;
                info.mod_start = layout.initrd.start;
            }
        }
        copy(&mut info.cmd_line, &self.command_line);
        info
    }
}

/// The places of a `piece` of the file's bytes `range`, which are loaded at `address`.
fn pages_of(
    range: &Range<u64>,
    address: u64,
    piece: &Range<u64>,
) -> impl Iterator<Item = Place> + use<> {
    let (from, to) = (range.start.max(piece.start), range.end.min(piece.end));
    let (skip, start, base) = (range.start, piece.start, address);
    let mut next = from;
    core::iter::from_fn(move || {
        if next >= to {
            return None;
        }
        let place = base + (next - skip);
        let within = place % PAGE_BYTES;
        let end = to.min(next + PAGE_BYTES - within);
        let bytes = usize::try_from(next - start).ok()?..usize::try_from(end - start).ok()?;
        next = end;
        Some(Place { pfn: place / PAGE_BYTES, at: usize::try_from(within).ok()?, bytes })
    })
}

/// Copies as much as fits, and zeros the rest.
fn copy(target: &mut [u8], source: &[u8]) {
    let length = source.len().min(target.len());
    let (head, tail) = target.split_at_mut(length);
    head.copy_from_slice(&source[..length]);
    tail.fill(0);
}

/// The bits of a page-table entry.
fn entry(frame: u64, writable: bool) -> u64 {
    const ALL: u64 = PTE_PRESENT | PTE_USER | PTE_ACCESSED | PTE_DIRTY;
    (frame * PAGE_BYTES) | ALL | if writable { PTE_RW } else { 0 }
}

/// Writes u64 words into a page, from word `first` on.
fn write_words(page: &mut Page, first: u64, values: impl Iterator<Item = u64>) {
    let (words, _) = page.as_chunks_mut::<8>();
    let first = usize::try_from(first).unwrap_or(usize::MAX);
    for (word, value) in words.iter_mut().skip(first).zip(values) {
        *word = value.to_le_bytes();
    }
}

/// Fills a page with stubs that a kernel calls to make a hypercall: slot n saves rcx and r11, which
/// the instruction destroys, and makes call n. The slot of `iret` never returns.
fn fill_hypercall_page(page: &mut Page) {
    /// push rcx; push r11
    const SAVE: [u8; 3] = [0x51, 0x41, 0x53];
    /// push rax
    const SAVE_RAX: u8 = 0x50;
    /// mov eax, imm32
    const NUMBER: u8 = 0xb8;
    /// syscall
    const CALL: [u8; 2] = [0x0f, 0x05];
    /// pop r11; pop rcx; ret
    const RETURN: [u8; 4] = [0x41, 0x5b, 0x59, 0xc3];
    for (number, slot) in (0_u32..).zip(page.chunks_exact_mut(PAGE_SLOT_BYTES)) {
        let iret = u64::from(number) == IRET;
        let code = SAVE
            .into_iter()
            .chain(iret.then_some(SAVE_RAX))
            .chain([NUMBER])
            .chain(number.to_le_bytes())
            .chain(CALL)
            .chain(RETURN.into_iter().filter(|_| !iret));
        slot.fill(0xcc);
        for (target, byte) in slot.iter_mut().zip(code) {
            *target = byte;
        }
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
