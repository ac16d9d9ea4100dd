//! The multiboot2 information structure, which GRUB hands over.
//!
//! The structure is a list of tags (type u32, size u32, payload; each starts on an 8-byte
//! boundary), from the *Multiboot2 Specification* 2.0, chapter 3.6. The rule: the parser reads only
//! the bytes that it was given, and data that does not fit its tables is a named error, not a
//! silent loss.
//!
//! The crate `multiboot2` (0.28) is no replacement. It panics on a memory map that is cut short,
//! that has a part of an entry at its end, or that has entries of a later, larger format; this
//! parser refuses the first two, and reads the third. The crate's errors do not say where the
//! structure is damaged.

use core::fmt;

use heapless::Vec;
use pv_abi::uv::start::MODULES;

use crate::bytes::{u32_at, u64_at};
use crate::regions::{Region, Regions};

/// Value of eax at entry (specification 3.1).
pub const MAGIC: u32 = 0x36d7_6289;
/// Maximum number of modules that the loader takes: those of the start block, the images of the two
/// partitions, and microcode of both manufacturers.
pub const MAX_MODULES: usize = MODULES + 4;

/// A module that GRUB loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Module {
    /// Physical address, page-aligned by the header's request.
    pub start: u64,
    /// Bytes.
    pub bytes: u64,
    /// The module's command line: its name as the first word, and its options as the rest.
    pub command_line: &'static str,
}

impl Module {
    /// The first word of the command line.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.command_line.split_ascii_whitespace().next().unwrap_or("")
    }
}

/// Everything that the loader uses of the information structure.
#[derive(Debug, Default)]
pub struct Information {
    /// Text after the file name on GRUB's `multiboot2` line.
    pub command_line: &'static str,
    /// Modules in the order they were loaded.
    pub modules: Vec<Module, MAX_MODULES>,
    /// The firmware's memory map, unsorted.
    pub memory: Regions,
    /// Copy of the root pointer of ACPI, the newer one if there are two.
    pub rsdp: Option<&'static [u8]>,
}

/// Why the information structure cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A tag or the structure ends before its contents, at this byte offset.
    Truncated(usize),
    /// The text of the tag at this byte offset is not UTF-8.
    NotText(usize),
    /// More than [`MAX_MODULES`] modules.
    TooManyModules,
    /// More memory regions than [`Regions`] holds.
    TooManyRegions,
    /// The structure has no memory map.
    NoMemoryMap,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated(at) => write!(f, "multiboot2 information ends early at byte {at}"),
            Self::NotText(at) => write!(f, "multiboot2 tag at byte {at} holds text not in UTF-8"),
            Self::TooManyModules => write!(f, "more than {MAX_MODULES} modules"),
            Self::TooManyRegions => write!(f, "more memory regions than the monitor can hold"),
            Self::NoMemoryMap => write!(f, "multiboot2 information has no memory map"),
        }
    }
}

/// The text up to the first zero byte.
fn text(bytes: &'static [u8], offset: usize) -> Result<&'static str, Fault> {
    let end = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
    let text = bytes.get(..end).unwrap_or(&[]);
    core::str::from_utf8(text).map_err(|_| Fault::NotText(offset))
}

/// Reads the structure, whose `bytes` start with its first field (`total_size`).
///
/// # Errors
/// The [`Fault`] that makes it unusable.
pub fn parse(bytes: &'static [u8]) -> Result<Information, Fault> {
    let mut information = Information::default();
    let mut offset = 8;
    loop {
        let cut = Fault::Truncated(offset);
        let kind = u32_at(bytes, offset).ok_or(cut)?;
        let size = u32_at(bytes, offset + 4).ok_or(cut)? as usize;
        let end = offset.checked_add(size).ok_or(cut)?;
        let payload = bytes.get(offset + 8..end).ok_or(cut)?;
        if kind == 0 {
            break;
        }
        information.take_tag(kind, payload, offset)?;
        offset = end.checked_next_multiple_of(8).ok_or(cut)?;
    }
    if information.memory.is_empty() { Err(Fault::NoMemoryMap) } else { Ok(information) }
}

impl Information {
    fn take_tag(&mut self, kind: u32, payload: &'static [u8], at: usize) -> Result<(), Fault> {
        match kind {
            1 => self.command_line = text(payload, at)?,
            3 => self.take_module(payload, at)?,
            6 => self.take_memory(payload, at)?,
            // The older root pointer counts only if there is no newer one.
            14 => self.rsdp = self.rsdp.or(Some(payload)),
            15 => self.rsdp = Some(payload),
            _ => {}
        }
        Ok(())
    }

    fn take_module(&mut self, payload: &'static [u8], at: usize) -> Result<(), Fault> {
        let cut = Fault::Truncated(at);
        let start = u64::from(u32_at(payload, 0).ok_or(cut)?);
        let end = u64::from(u32_at(payload, 4).ok_or(cut)?);
        let command_line = text(payload.get(8..).ok_or(cut)?, at)?;
        let module = Module { start, bytes: end.saturating_sub(start), command_line };
        self.modules.push(module).map_err(|_| Fault::TooManyModules)
    }

    fn take_memory(&mut self, payload: &'static [u8], at: usize) -> Result<(), Fault> {
        let cut = Fault::Truncated(at);
        let entry_bytes = u32_at(payload, 0).ok_or(cut)? as usize;
        if entry_bytes < 24 {
            return Err(cut);
        }
        for entry in payload.get(8..).ok_or(cut)?.chunks_exact(entry_bytes) {
            let region = Region {
                start: u64_at(entry, 0).ok_or(cut)?,
                bytes: u64_at(entry, 8).ok_or(cut)?,
                kind: u32_at(entry, 16).ok_or(cut)?,
            };
            self.memory.push(region).map_err(|_| Fault::TooManyRegions)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
