//! The monitor's image, which is part of the loader's image.

use ::elf::abi::{PF_W, PF_X};
use handover::{Bytes, IMAGE_MAGIC, ImageHeader, VERSION};
use zerocopy::{FromBytes, IntoBytes};

use crate::{
    early_frames::FrameRange,
    elf::Executable,
    interrupts, memory,
    messages::refuse,
    paging::{Largest, PageTables, Rights},
};

/// The monitor as an ELF file.
static FILE: &[u8] = include_bytes!(env!("MONITOR_IMAGE"));

/// For messages.
const WHAT: &str = "the monitor's image";

/// The loaded image.
#[derive(Debug)]
pub struct Image {
    file: Executable<'static>,
    /// The header at the start of the image.
    pub header: ImageHeader,
    /// Its frames.
    pub frames: FrameRange,
    /// Virtual address of the first frame.
    base: u64,
}

fn bad(problem: &str) -> ! {
    refuse(format_args!("the monitor's image: {problem}; build the loader again"))
}

/// Copies the image into frames and fills in the interrupt descriptor table, through the temporary
/// page tables.
pub fn load() -> Image {
    let file = Executable::new(FILE).unwrap_or_else(|problem| bad(problem));
    let segments = || file.segments().map(|segment| segment.unwrap_or_else(|problem| bad(problem)));
    let base = segments().map(|(header, _)| header.p_vaddr).min().unwrap_or(0);
    let end = segments().map(|(header, _)| header.p_vaddr + header.p_memsz).max().unwrap_or(0);
    let first = segments().find(|(header, _)| header.p_vaddr == base);
    let header = first.and_then(|(_, bytes)| ImageHeader::read_from_prefix(bytes).ok());
    let Some((header, _)) = header.filter(|(header, _)| header.magic == IMAGE_MAGIC) else {
        bad("it has no header");
    };
    if header.version != VERSION {
        bad("it is of another version");
    }
    let start = memory::take_zeroed(end - base, WHAT);
    for (header, contents) in segments() {
        memory::copy_to(start + (header.p_vaddr - base), contents);
    }
    memory::copy_to(
        start + (header.interrupts - base),
        interrupts::table(header.trap_stubs).as_bytes(),
    );
    let frames = FrameRange { first: start >> 12, frames: (end - base).div_ceil(4096) };
    Image { file, header, frames, base }
}

impl Image {
    /// The physical address of an address in the image.
    pub fn phys(&self, va: u64) -> u64 {
        (self.frames.first << 12) + (va - self.base)
    }

    /// Maps each segment with its rights. Returns `None` if memory is short.
    pub fn map(&self, tables: PageTables) -> Option<()> {
        for (header, _) in self.file.segments().flatten() {
            let rights = match header.p_flags {
                flags if flags & PF_W != 0 => Rights::DATA,
                flags if flags & PF_X != 0 => Rights::CODE,
                _ => Rights::READ,
            };
            let (va, bytes) = (header.p_vaddr, header.p_memsz.next_multiple_of(4096));
            tables.map(va, self.phys(va), bytes, rights, Largest::Page)?;
        }
        Some(())
    }

    /// Copies the symbol and string tables to frames of their own. Both are empty if the image has
    /// none.
    pub fn symbols(&self) -> [Bytes; 2] {
        self.file.symbols().unwrap_or([&[]; 2]).map(|bytes| {
            let start = memory::take_zeroed(bytes.len() as u64, WHAT);
            memory::copy_to(start, bytes);
            Bytes { start, bytes: bytes.len() as u64 }
        })
    }
}
