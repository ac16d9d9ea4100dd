//! A Rust partition of the host: the places of its parts, and the contents of its pages.
//!
//! The loader lays out the first two Rust partitions; the boot partition builds all others from
//! this plan. A Rust partition's frames are contiguous, and page n of its memory is mapped at
//! [`BASE`]` + 4096 * n`:
//!
//! ```text
//! image | stack | heap | start block | page tables | channel | DMA region     at BASE
//! shared info | grant table                                                    at SHARED
//! empty, with level-1 tables                                                   at WINDOW
//! ```
//!
//! Text is executable, read-only data, page tables and start block are read-only, and the rest is
//! writable; nothing is both. The rule that the module keeps: whatever the image is, the result is a
//! plan inside the partition's memory, or an error that names the problem.

use crate::{PAGE_BYTES, Page};
use alloc::boxed::Box;
use alloc::vec::Vec;
use control::command::Start;
use core::fmt;
use core::ops::Range;
use elf::ElfBytes;
use elf::abi::{EM_X86_64, ET_EXEC, PF_W, PF_X, PT_LOAD};
use elf::endian::LittleEndian;
use elf::file::Class;
use elf::segment::ProgramHeader;
use pv_abi::uv::channel::COMMAND_PAGES;
use pv_abi::uv::database::{INSTANCE_FIXED_FRAMES, INSTANCE_SHARED_INFO, INSTANCE_VCPU_FRAMES};
use pv_abi::uv::start::{ModuleRecord, START_MAGIC, StartBlock, WINDOW_PAGES};
use pv_abi::xen::mmu::{
    PTE_ACCESSED, PTE_ADDRESS, PTE_DIRTY, PTE_NX, PTE_PRESENT, PTE_RW, PTE_USER,
};
use zerocopy::{FromZeros, IntoBytes};

/// Virtual address of the first page.
pub const BASE: u64 = 0x20_0000;
/// Virtual address of shared info, with the grant table behind it.
pub const SHARED: u64 = 0x30_0000_0000;
/// Virtual address of the window.
pub const WINDOW: u64 = 0x40_0000_0000;
/// Pages of the stack.
const STACK_PAGES: u64 = 32;
/// Maximum number of pages of an image, and of the heap and the DMA region.
const MAX_PAGES: u64 = 16 * 1024;
/// Entries of a page table.
const ENTRIES: u64 = 512;
/// Tables for one mapping at each of three places, without the level-1 tables of whole 2 MiB.
const FIXED_TABLES: u64 = 16;

const READ_ONLY: u64 = PTE_PRESENT | PTE_USER | PTE_ACCESSED | PTE_DIRTY | PTE_NX;
const READ_WRITE: u64 = READ_ONLY | PTE_RW;
const EXECUTE: u64 = READ_ONLY & !PTE_NX;
const TABLE: u64 = PTE_PRESENT | PTE_RW | PTE_USER | PTE_ACCESSED | PTE_DIRTY;

/// The reason why the builder cannot make a Rust partition from an image and its sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SystemError {
    /// The ELF structures are damaged or cut off.
    Elf,
    /// The file is not an x86-64 executable with a fixed address.
    Machine,
    /// The segment with this index is cut off, lies outside of the image's addresses, or begins in
    /// the page of the one before.
    Segment(usize),
    /// The file has no segment to load.
    NoSegments,
    /// Heap or DMA region have more pages than the limit.
    Sizes,
}

impl fmt::Display for SystemError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const AGAIN: &str = "build it again and reinstall it";
        match self {
            Self::Elf => write!(f, "it is truncated, or not a 64-bit ELF file; {AGAIN}"),
            Self::Machine => write!(f, "it is not an x86-64 executable; {AGAIN}"),
            Self::Segment(index) => write!(
                f,
                "segment {index} is truncated, or lies outside the partition's image; {AGAIN}"
            ),
            Self::NoSegments => write!(f, "it has nothing to load; {AGAIN}"),
            Self::Sizes => {
                write!(f, "heap or DMA region of more than {MAX_PAGES} pages; ask for less")
            }
        }
    }
}

impl core::error::Error for SystemError {}

/// A part of the image that is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Part<'f> {
    /// The first page.
    page: u64,
    /// Number of pages.
    pages: u64,
    contents: &'f [u8],
    /// Flags of the entries that map it.
    flags: u64,
}

/// The image of a Rust partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SystemImage<'f> {
    parts: Vec<Part<'f>>,
    entry: u64,
    pages: u64,
}

impl<'f> SystemImage<'f> {
    /// Reads an ELF file.
    ///
    /// # Errors
    /// See [`SystemError`].
    pub fn parse(file: &'f [u8]) -> Result<Self, SystemError> {
        let file = ElfBytes::<LittleEndian>::minimal_parse(file).map_err(|_| SystemError::Elf)?;
        let header = &file.ehdr;
        if (header.class, header.e_type, header.e_machine) != (Class::ELF64, ET_EXEC, EM_X86_64) {
            return Err(SystemError::Machine);
        }
        let mut image = Self { parts: Vec::new(), entry: header.e_entry, pages: 0 };
        let headers = file.segments().into_iter().flatten();
        let loaded = headers.filter(|header| header.p_type == PT_LOAD && header.p_memsz != 0);
        for (index, header) in loaded.enumerate() {
            let contents = file.segment_data(&header).map_err(|_| SystemError::Segment(index))?;
            let part = part(&header, contents, image.pages).ok_or(SystemError::Segment(index))?;
            image.pages = part.page + part.pages;
            image.parts.push(part);
        }
        if image.parts.is_empty() { Err(SystemError::NoSegments) } else { Ok(image) }
    }
}

/// The part for a segment, which begins at page `from` or later.
fn part<'f>(header: &ProgramHeader, contents: &'f [u8], from: u64) -> Option<Part<'f>> {
    let start = header.p_vaddr.checked_sub(BASE)?;
    let (page, pages) = (start / PAGE_BYTES, header.p_memsz.div_ceil(PAGE_BYTES));
    let fits = start.is_multiple_of(PAGE_BYTES)
        && page >= from
        && page.checked_add(pages)? <= MAX_PAGES
        && contents.len() as u64 <= header.p_memsz;
    let flags = match header.p_flags {
        flags if flags & PF_W != 0 => READ_WRITE,
        flags if flags & PF_X != 0 => EXECUTE,
        _ => READ_ONLY,
    };
    fits.then_some(Part { page, pages, contents, flags })
}

/// Sizes of a Rust partition, in pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SystemSizes {
    /// Pages of the heap.
    pub heap: u64,
    /// Pages of the DMA region.
    pub dma: u64,
    /// Frames of the grant table.
    pub grant_frames: u32,
}

/// The places of all parts, in pages from the partition's first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SystemLayout {
    /// The stack.
    pub stack: Range<u64>,
    /// The heap.
    pub heap: Range<u64>,
    /// The start block.
    pub start_block: u64,
    /// The page tables, the root first.
    pub tables: Range<u64>,
    /// The pages of the channel to the ultravisor.
    pub channel: Range<u64>,
    /// The DMA region.
    pub dma: Range<u64>,
    grant_frames: u32,
}

impl SystemLayout {
    /// Lays a partition out.
    ///
    /// # Errors
    /// [`SystemError::Sizes`].
    pub fn new(image: &SystemImage<'_>, sizes: SystemSizes) -> Result<Self, SystemError> {
        if sizes.heap > MAX_PAGES || sizes.dma > MAX_PAGES {
            return Err(SystemError::Sizes);
        }
        let (heap, dma) = (sizes.heap, sizes.dma);
        let channel = COMMAND_PAGES as u64;
        let others = image.pages + STACK_PAGES + heap + 1 + channel + dma;
        // The tables map themselves, and are far fewer than one of them maps.
        let tables = FIXED_TABLES + (others + ENTRIES).div_ceil(ENTRIES) + WINDOW_PAGES / ENTRIES;
        let mut next = image.pages;
        let mut take = |pages: u64| {
            let first = next;
            next += pages;
            first..next
        };
        let [stack, heap] = [STACK_PAGES, heap].map(&mut take);
        let start_block = take(1).start;
        let [tables, channel, dma] = [tables, channel, dma].map(&mut take);
        let grant_frames = sizes.grant_frames;
        Ok(Self { stack, heap, start_block, tables, channel, dma, grant_frames })
    }

    /// Frames of the partition's memory.
    #[must_use]
    pub fn frames(&self) -> u64 {
        self.dma.end
    }
}

/// The facts that the boot partition has about a partition that it created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SystemPlace {
    /// Its number.
    pub number: u32,
    /// Number of its earlier starts.
    pub restarts: u32,
    /// The first of its frames, which are contiguous.
    pub first_frame: u64,
    /// First frame of its monitor instance, which has one virtual CPU.
    pub instance: u64,
}

/// The contents of a partition's pages.
#[derive(Clone, Debug)]
pub struct SystemPlan<'f> {
    image: SystemImage<'f>,
    layout: SystemLayout,
    place: SystemPlace,
    tables: Tables,
    block: Box<StartBlock>,
}

impl<'f> SystemPlan<'f> {
    /// Plans a partition; `options` is the record that names its module and has its options.
    #[must_use]
    pub fn new(
        image: SystemImage<'f>,
        layout: SystemLayout,
        place: SystemPlace,
        options: ModuleRecord,
    ) -> Self {
        let mut tables = Tables::new(place.first_frame + layout.tables.start);
        let window_tables = tables.reserve(WINDOW, WINDOW_PAGES / ENTRIES);
        for part in &image.parts {
            let (va, frame) = (va_of(part.page), place.first_frame + part.page);
            tables.map(va, frame, part.pages, part.flags);
        }
        let mut own = |pages: Range<u64>, flags| {
            let (va, frame) = (va_of(pages.start), place.first_frame + pages.start);
            tables.map(va, frame, pages.end - pages.start, flags);
        };
        own(layout.stack.start..layout.heap.end, READ_WRITE);
        own(layout.start_block..layout.tables.end, READ_ONLY);
        own(layout.channel.start..layout.dma.end, READ_WRITE);
        tables.map(SHARED, place.instance + INSTANCE_SHARED_INFO, 1, READ_WRITE);
        let grants = place.instance + u64::from(INSTANCE_FIXED_FRAMES + INSTANCE_VCPU_FRAMES);
        tables.map(SHARED + PAGE_BYTES, grants, layout.grant_frames.into(), READ_WRITE);
        let block = Box::new(block(&layout, place, window_tables, options));
        Self { image, layout, place, tables, block }
    }

    /// Pages that hold something, in ascending order; the others stay zero.
    pub fn pages(&self) -> impl Iterator<Item = u64> + '_ {
        let image = self.image.parts.iter().flat_map(|part| {
            part.page..part.page + (part.contents.len() as u64).div_ceil(PAGE_BYTES)
        });
        let tables = self.layout.tables.start;
        let tables = tables..tables + self.tables.contents.len() as u64;
        image.chain([self.layout.start_block]).chain(tables)
    }

    /// Machine frame of a page.
    #[must_use]
    pub fn frame(&self, page: u64) -> u64 {
        self.place.first_frame + page
    }

    /// Writes the contents of a page.
    pub fn fill(&self, page: u64, to: &mut Page) {
        let bytes: &[u8] = match self.table(page) {
            Some(table) => table.as_bytes(),
            None if page == self.layout.start_block => self.block.as_bytes(),
            None => self.image_page(page),
        };
        if let Some(place) = to.get_mut(..bytes.len()) {
            place.copy_from_slice(bytes);
        }
    }

    fn table(&self, page: u64) -> Option<&Table> {
        let index = page.checked_sub(self.layout.tables.start)?;
        self.tables.contents.get(usize::try_from(index).ok()?)
    }

    fn image_page(&self, page: u64) -> &'f [u8] {
        let part = self.image.parts.iter().find(|p| (p.page..p.page + p.pages).contains(&page));
        let piece = part.and_then(|part| {
            let start = usize::try_from((page - part.page) * PAGE_BYTES).ok()?;
            let rest = part.contents.get(start..)?;
            Some(&rest[..rest.len().min(size_of::<Page>())])
        });
        piece.unwrap_or_default()
    }

    /// Start state of virtual CPU 0.
    #[must_use]
    pub fn start_state(&self) -> Start {
        Start {
            entry: self.image.entry,
            stack: va_of(self.layout.stack.end),
            start_info: va_of(self.layout.start_block),
            page_table: self.frame(self.layout.tables.start),
            console_frame: 0,
            store_frame: 0,
        }
    }
}

const fn va_of(page: u64) -> u64 {
    BASE + page * PAGE_BYTES
}

fn block(
    layout: &SystemLayout,
    place: SystemPlace,
    window_tables: u64,
    options: ModuleRecord,
) -> StartBlock {
    let mut block = StartBlock::new_zeroed();
    let count = |range: &Range<u64>| range.end - range.start;
    (block.modules[0], block.module_count) = (options, 1);
    block.magic = START_MAGIC;
    (block.number, block.restarts) = (place.number, place.restarts);
    (block.first_frame, block.frames) = (place.first_frame, layout.frames());
    block.base = BASE;
    (block.heap, block.heap_bytes) = (va_of(layout.heap.start), count(&layout.heap) * PAGE_BYTES);
    block.shared_info = SHARED;
    (block.window, block.window_tables) = (WINDOW, window_tables);
    block.window_pages = WINDOW_PAGES;
    block.command_pages = va_of(layout.channel.start);
    block.command_page_count = count(&layout.channel);
    (block.grant_table, block.grant_frames) = (SHARED + PAGE_BYTES, layout.grant_frames.into());
    (block.dma, block.dma_pages) = (va_of(layout.dma.start), count(&layout.dma));
    block
}

type Table = [u64; ENTRIES as usize];

/// Page tables in the making, in frames from `first` on; the first is the root.
#[derive(Clone, Debug)]
struct Tables {
    first: u64,
    contents: Vec<Table>,
}

impl Tables {
    fn new(first: u64) -> Self {
        Self { first, contents: alloc::vec![[0; ENTRIES as usize]] }
    }

    /// The table below entry `entry` of `table`. Makes the table if it does not exist.
    fn below(&mut self, table: usize, entry: u64) -> usize {
        let entry = (entry % ENTRIES) as usize;
        if self.contents[table][entry] == 0 {
            let frame = self.first + self.contents.len() as u64;
            self.contents[table][entry] = frame << 12 | TABLE;
            self.contents.push([0; ENTRIES as usize]);
        }
        let frame = (self.contents[table][entry] & PTE_ADDRESS) >> 12;
        usize::try_from(frame - self.first).unwrap_or(0)
    }

    /// The level-2 table for an address.
    fn level_2(&mut self, va: u64) -> usize {
        let level_3 = self.below(0, va >> 39);
        self.below(level_3, va >> 30)
    }

    /// Makes `count` level-1 tables from `va` on, one after the other. Returns the first's frame.
    fn reserve(&mut self, va: u64, count: u64) -> u64 {
        let level_2 = self.level_2(va);
        let first = self.first + self.contents.len() as u64;
        for table in 0..count {
            self.below(level_2, (va >> 21) + table);
        }
        first
    }

    fn map(&mut self, va: u64, frame: u64, pages: u64, flags: u64) {
        for page in 0..pages {
            let va = va + page * PAGE_BYTES;
            let level_2 = self.level_2(va);
            let level_1 = self.below(level_2, va >> 21);
            self.contents[level_1][(va >> 12) as usize % ENTRIES as usize] =
                (frame + page) << 12 | flags;
        }
    }
}

#[cfg(test)]
#[path = "system_tests.rs"]
mod tests;
