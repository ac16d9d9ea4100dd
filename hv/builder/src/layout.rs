//! The layout of the partition's initial memory.
//!
//! The x86-64 PV start defines the order (public `xen.h`, "start of day memory layout"):
//!
//! ```text
//! PFN 0 … kernel | start info | store | console | page tables | stack | pad    mapped at VIRT_BASE
//!         initrd | table of machine frames | its page tables | free            not mapped there
//! ```
//!
//! The mapping begins at `VIRT_BASE` and includes a pad of at least 512 KiB after the stack. It
//! ends on a 4 MiB boundary, or after the pad if memory ends before that boundary. If a kernel does
//! not accept its initial RAM disk or its table of machine frames unmapped, they lie after the
//! kernel, inside the mapping.

use crate::PAGE_BYTES;
use crate::kernel::Kernel;
use crate::tables::Mapping;
use core::fmt;
use core::ops::Range;
use pv_abi::xen::mmu::{HOLE_END_SLOT, HOLE_FIRST_SLOT};

/// Minimum number of free mapped frames after the stack.
const PAD_FRAMES: u64 = 512 * 1024 / PAGE_BYTES;
/// The mapping ends on a multiple of this many frames.
const ROUND_FRAMES: u64 = 4 * 1024 * 1024 / PAGE_BYTES;
/// Bytes of an entry of the table of machine frames.
const P2M_ENTRY_BYTES: u64 = 8;
/// Maximum number of frames of a partition: 16 TiB, so that sums of PFNs never overflow.
const MAX_FRAMES: u64 = 1 << 32;

/// The sizes for a layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Frames of the partition's memory.
    pub frames: u64,
    /// Bytes of the initial RAM disk; 0 if there is none.
    pub initrd_bytes: u64,
}

/// The reason why there is no layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayoutError {
    /// There is too little memory: frames needed and frames present.
    Memory(u64, u64),
    /// There are more frames than a partition can have.
    TooMuchMemory(u64),
    /// The kernel's virtual addresses reach the end of the address space, the monitor's part, or
    /// the table of machine frames.
    Addresses,
}

impl LayoutError {
    /// Writes the problem, without the way out.
    ///
    /// # Errors
    /// The error of the formatter.
    pub fn reason(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |frames: u64| frames.div_ceil(256);
        match self {
            Self::Memory(needed, there) => write!(
                f,
                "kernel, initial RAM disk and tables need {} MiB, the partition has {} MiB",
                mib(*needed),
                mib(*there)
            ),
            Self::TooMuchMemory(frames) => {
                write!(f, "{} MiB of memory, at most {} fit", mib(*frames), mib(MAX_FRAMES))
            }
            Self::Addresses => f.write_str("the kernel asks for virtual addresses it cannot have"),
        }
    }

    /// The way out, if there is one.
    #[must_use]
    pub const fn way_out(&self) -> Option<&'static str> {
        match self {
            Self::Memory(..) => Some("give it more memory"),
            Self::TooMuchMemory(_) | Self::Addresses => None,
        }
    }
}

impl fmt::Display for LayoutError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.reason(f)?;
        self.way_out().map_or(Ok(()), |way_out| write!(f, "; {way_out}"))
    }
}

impl core::error::Error for LayoutError {}

/// The places of all parts, in PFNs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The kernel.
    pub kernel: Range<u64>,
    /// The initial RAM disk.
    pub initrd: Range<u64>,
    /// The table of machine frames.
    pub p2m: Range<u64>,
    /// Start info.
    pub start_info: u64,
    /// The store ring.
    pub store: u64,
    /// The console ring.
    pub console: u64,
    /// The stack.
    pub stack: u64,
    /// The mapping of the PFNs from 0 at `VIRT_BASE`; its first table is the root.
    pub mapping: Mapping,
    /// The mapping of the table of machine frames, if it has its own address.
    pub p2m_mapping: Option<Mapping>,
    /// First free PFN after all parts.
    pub end: u64,
}

/// Allocates PFNs in order.
struct Cursor(u64);

impl Cursor {
    fn take_frames(&mut self, frames: u64) -> Range<u64> {
        let first = self.0;
        self.0 = first.saturating_add(frames);
        first..self.0
    }

    fn take_frame(&mut self) -> u64 {
        self.take_frames(1).start
    }
}

impl Layout {
    /// Lays a kernel out.
    ///
    /// # Errors
    /// See [`LayoutError`].
    pub fn new(kernel: &Kernel, request: Request) -> Result<Self, LayoutError> {
        if request.frames > MAX_FRAMES {
            return Err(LayoutError::TooMuchMemory(request.frames));
        }
        match Self::rounded(kernel, request, ROUND_FRAMES) {
            Err(LayoutError::Memory(..)) => Self::rounded(kernel, request, 1),
            layout => layout,
        }
    }

    /// Lays out a kernel so that its mapping ends on a multiple of `round` frames.
    fn rounded(kernel: &Kernel, request: Request, round: u64) -> Result<Self, LayoutError> {
        let initrd_frames = request.initrd_bytes.div_ceil(PAGE_BYTES);
        let p2m_frames = (request.frames * P2M_ENTRY_BYTES).div_ceil(PAGE_BYTES);
        let image = kernel.pages();
        let mut cursor = Cursor(image.end);
        let mut initrd = 0..0;
        let mut p2m = 0..0;
        if !kernel.unmapped_initrd {
            initrd = cursor.take_frames(initrd_frames);
        }
        if kernel.init_p2m.is_none() {
            p2m = cursor.take_frames(p2m_frames);
        }
        let [start_info, store, console] = [(); 3].map(|()| cursor.take_frame());
        let (mapping, stack) =
            map_kernel(kernel, &mut cursor, round).ok_or(LayoutError::Addresses)?;
        if kernel.unmapped_initrd {
            initrd = cursor.take_frames(initrd_frames);
        }
        let mut p2m_mapping = None;
        if let Some(address) = kernel.init_p2m {
            p2m = cursor.take_frames(p2m_frames);
            let own = Mapping::new(address, p2m_frames, p2m.start, 3, cursor.0)
                .ok_or(LayoutError::Addresses)?;
            cursor.take_frames(own.table_count());
            p2m_mapping = Some(own);
        }
        check_slots(&mapping, p2m_mapping.as_ref())?;
        let end = cursor.0;
        if end > request.frames {
            return Err(LayoutError::Memory(end, request.frames));
        }
        let (kernel, start_info) = (image, start_info);
        Ok(Self {
            kernel,
            initrd,
            p2m,
            start_info,
            store,
            console,
            stack,
            mapping,
            p2m_mapping,
            end,
        })
    }
}

/// Places page tables and stack, and maps everything from PFN 0 to past the pad. The tables map
/// themselves, so their number is found by iteration.
fn map_kernel(kernel: &Kernel, cursor: &mut Cursor, round: u64) -> Option<(Mapping, u64)> {
    let tables = cursor.0;
    let base = kernel.virt_base / PAGE_BYTES;
    let mut count = 0;
    loop {
        let used = tables.checked_add(count)?.checked_add(1 + PAD_FRAMES)?;
        let end = base.checked_add(used)?.checked_next_multiple_of(round)? - base;
        let mapping = Mapping::new(kernel.virt_base, end, 0, 4, tables)?;
        if mapping.table_count() <= count {
            *cursor = Cursor(end);
            return Some((mapping, tables + count));
        }
        count = mapping.table_count();
    }
}

/// Checks that no mapping uses the monitor's root slots or those of the other mapping.
fn check_slots(mapping: &Mapping, p2m: Option<&Mapping>) -> Result<(), LayoutError> {
    let hole = Some((HOLE_FIRST_SLOT as u64, HOLE_END_SLOT as u64 - 1));
    let apart = |a: Option<(u64, u64)>, b: Option<(u64, u64)>| match (a, b) {
        (Some(a), Some(b)) => a.1 < b.0 || b.1 < a.0,
        _ => true,
    };
    let (kernel, p2m) = (mapping.root_slots(), p2m.and_then(Mapping::root_slots));
    let good = apart(kernel, hole) && apart(p2m, hole) && apart(kernel, p2m);
    if good { Ok(()) } else { Err(LayoutError::Addresses) }
}
