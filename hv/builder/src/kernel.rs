//! A PV kernel: its segments, and its statements about a PV start.
//!
//! The virtual addresses of segments are ignored, since per-CPU data has 0 there: a segment is
//! loaded at `VIRT_BASE + p_paddr - PADDR_OFFSET`. So all addresses here are offsets from
//! `VIRT_BASE`, which is pseudo-physical address 0. [`crate::Reader`] finds all of it in a file.

use crate::PAGE_BYTES;
use crate::reader::{HEAD_BYTES, MAX_NOTES, NOTE_BYTES, Progress, Reader};
use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;

/// Why an ELF image cannot be started as a PV kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KernelError {
    /// The ELF structures are damaged or cut off.
    Elf,
    /// The kernel's program headers are not among its first [`HEAD_BYTES`].
    Head,
    /// The kernel's notes or its section headers are too many or too large.
    Notes,
    /// Not a 64-bit x86 executable.
    Machine,
    /// The kernel contains nothing about Xen, neither notes nor a section `__xen_guest`.
    NoNotes,
    /// The kernel supports only another mode of start: it has `PHYS32_ENTRY`, but neither `ENTRY`
    /// nor `VIRT_BASE`.
    NoEntry,
    /// Neither `LOADER` says "generic" nor `GUEST_OS` "linux".
    Loader,
    /// A note, or a name in `__xen_guest`, has an invalid value.
    Note(&'static str),
    /// The kernel does not name the interface version xen-3.0.
    Version,
    /// The kernel needs a feature that a PV partition does not have.
    Feature,
    /// The segment with this index lies outside the file or the address space.
    Segment(usize),
    /// The kernel has no segment to load.
    NoSegments,
}

impl KernelError {
    /// Writes the problem, without the way out.
    ///
    /// # Errors
    /// The error of the formatter.
    pub fn reason(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Elf => f.write_str("damaged or truncated ELF image"),
            Self::Head => {
                write!(f, "its program headers lie past its first {} KiB", HEAD_BYTES / 1024)
            }
            Self::Notes => {
                let most = NOTE_BYTES / 1024;
                write!(f, "more than {MAX_NOTES} note segments or {most} KiB of notes")
            }
            Self::Machine => f.write_str("not a 64-bit x86 executable"),
            Self::NoNotes => f.write_str("has no Xen PV notes"),
            Self::NoEntry => f.write_str("has Xen notes, but none for a PV start"),
            Self::Loader => f.write_str("its Xen notes name neither the generic loader nor Linux"),
            Self::Note(name) => write!(f, "its Xen note {name} makes no sense"),
            Self::Version => f.write_str("not made for the interface xen-3.0"),
            Self::Feature => f.write_str("its Xen notes need a feature that PV partitions lack"),
            Self::Segment(index) => write!(f, "segment {index} is truncated, or outside of memory"),
            Self::NoSegments => f.write_str("has nothing to load"),
        }
    }

    /// The way out, if there is one.
    #[must_use]
    pub const fn way_out(&self) -> Option<&'static str> {
        match self {
            Self::Elf | Self::Segment(_) => Some("copy it again"),
            Self::Head | Self::Notes | Self::Note(_) => Some("give a kernel as it was linked"),
            Self::Machine => Some("give an x86-64 kernel"),
            Self::NoNotes => Some("give a kernel with CONFIG_XEN_PV"),
            Self::NoEntry => Some("give one with CONFIG_XEN_PV"),
            Self::Loader => Some("give one made for PV"),
            Self::Version => Some("give one whose notes say so"),
            Self::Feature => Some("give one made for PV guests"),
            Self::NoSegments => None,
        }
    }
}

impl fmt::Display for KernelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.reason(f)?;
        self.way_out().map_or(Ok(()), |way_out| write!(f, "; {way_out}"))
    }
}

impl core::error::Error for KernelError {}

/// A loadable part of the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Pseudo-physical address to load it at.
    pub address: u64,
    /// Its contents, as a range of the file.
    pub file: Range<u64>,
    /// Bytes in memory; those beyond its contents are zero.
    pub memory: u64,
}

/// A PV kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// The segments to load, sorted by address.
    pub segments: Vec<Segment>,
    /// Virtual address of pseudo-physical address 0, page-aligned.
    pub virt_base: u64,
    /// Virtual address of the entry point.
    pub entry: u64,
    /// Virtual address where the kernel wants the table of machine frames, page-aligned. If `None`,
    /// the table is in the kernel's mapping.
    pub init_p2m: Option<u64>,
    /// Whether the initial RAM disk may lie unmapped.
    pub unmapped_initrd: bool,
    /// Virtual address of a page to fill with hypercall stubs.
    pub hypercall_page: Option<u64>,
}

impl Kernel {
    /// Reads a whole ELF image.
    ///
    /// # Errors
    /// See [`KernelError`].
    pub fn parse(image: &[u8]) -> Result<Self, KernelError> {
        let mut reader = Reader::new(image.len() as u64);
        loop {
            let Range { start, end } = reader.wants();
            let range = usize::try_from(start).ok().zip(usize::try_from(end).ok());
            let bytes = range.and_then(|(start, end)| image.get(start..end));
            match reader.take_in(bytes.ok_or(KernelError::Elf)?)? {
                Progress::More(next) => reader = next,
                Progress::Done(kernel) => return Ok(kernel),
            }
        }
    }

    /// The PFNs from the kernel's first page to its last.
    #[must_use]
    pub fn pages(&self) -> Range<u64> {
        let first = self.segments.iter().map(|s| s.address).min().unwrap_or(0);
        let end = self.segments.iter().map(|s| s.address + s.memory).max().unwrap_or(0);
        first / PAGE_BYTES..end.div_ceil(PAGE_BYTES)
    }

    /// The parts of the file that are loaded, in the file's order, without duplicates.
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

    /// Returns whether a virtual address lies in the kernel's pages.
    pub(crate) fn holds(&self, address: u64) -> bool {
        let pages = self.pages();
        address
            .checked_sub(self.virt_base)
            .is_some_and(|offset| pages.contains(&(offset / PAGE_BYTES)))
    }
}

#[cfg(test)]
#[path = "kernel_tests.rs"]
mod tests;
