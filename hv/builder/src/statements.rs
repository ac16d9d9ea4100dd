//! A kernel's statements about a PV start, and the rules for their combinations.
//!
//! A kernel makes statements by ELF notes of the owner "Xen" (public `elfnote.h`) or, if it is
//! older, by the text `NAME=VALUE,NAME=VALUE` of a section `__xen_guest`. A later statement
//! replaces an earlier one. The defaults and refusals are those of Xen's loader (libelf of 4.17):
//!
//! | statement | without it |
//! |---|---|
//! | `LOADER` "generic…" or `GUEST_OS` "linux…" | refused |
//! | `XEN_VERSION` "xen-3.0…" | refused |
//! | `ENTRY` | the entry point of the ELF header |
//! | `VIRT_BASE` | 0, and `PADDR_OFFSET` is refused |
//! | `PADDR_OFFSET` | 0 with notes, `VIRT_BASE` with the text |
//! | `HYPERCALL_PAGE` | no page is filled; the text has its number after `VIRT_BASE` |
//! | `INIT_P2M`, a page below `VIRT_BASE` | the table of machine frames lies in the mapping |
//! | `MOD_START_PFN` | the initial RAM disk lies in the mapping |
//! | `FEATURES` | a feature behind `!` that no PV partition has is refused |
//!
//! A number that does not have 1, 2, 4 or 8 bytes is 0. One rule is ours: a kernel that has
//! `PHYS32_ENTRY` and neither `ENTRY` nor `VIRT_BASE` is refused, because it starts only in another
//! mode. Xen would enter that kernel where it cannot run.

use crate::PAGE_BYTES;
use crate::kernel::{Kernel, KernelError, Segment};
use alloc::vec::Vec;
use elf::endian::LittleEndian;
use elf::file::Class;
use elf::note::{Note, NoteIterator};
use pv_abi::xen::elfnote;

/// Alignment of notes, whatever a header says.
const NOTE_ALIGN: usize = 4;
/// No kernel is loaded at a higher address; this keeps sums of addresses far from overflow.
const LIMIT: u64 = 1 << 40;
/// The features that a kernel may require; any other required feature is refused.
const FEATURES: [&[u8]; 4] = [
    b"writable_page_tables",
    b"writable_descriptor_tables",
    b"pae_pgdir_above_4gb",
    b"hvm_callback_vector",
];

/// The statements found so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Statements {
    /// Whether there are notes of the owner "Xen".
    pub(crate) notes: bool,
    /// Whether there is the text section.
    text: bool,
    loader: bool,
    linux: bool,
    version: bool,
    physical_entry: bool,
    entry: Option<u64>,
    virt_base: Option<u64>,
    paddr_offset: Option<u64>,
    init_p2m: Option<u64>,
    unmapped_initrd: bool,
    hypercall_page: Option<u64>,
}

impl Statements {
    /// Reads the notes of a segment or section.
    pub(crate) fn take_notes(&mut self, bytes: &[u8]) -> Result<(), KernelError> {
        for note in NoteIterator::new(LittleEndian, Class::ELF64, NOTE_ALIGN, bytes) {
            if let Note::Unknown(note) = note
                && note.name == elfnote::OWNER
            {
                self.notes = true;
                self.take_note(note.n_type, note.desc)?;
            }
        }
        Ok(())
    }

    /// Reads one note. Skips types that do not matter to a loader.
    fn take_note(&mut self, kind: u64, value: &[u8]) -> Result<(), KernelError> {
        let number = number(value);
        match u32::try_from(kind).unwrap_or(u32::MAX) {
            elfnote::ENTRY => self.entry = Some(number),
            elfnote::VIRT_BASE => self.virt_base = Some(number),
            elfnote::PADDR_OFFSET => self.paddr_offset = Some(number),
            elfnote::INIT_P2M => self.init_p2m = Some(number),
            elfnote::MOD_START_PFN => self.unmapped_initrd = number != 0,
            elfnote::HYPERCALL_PAGE => self.hypercall_page = Some(number),
            elfnote::PHYS32_ENTRY => self.physical_entry = true,
            elfnote::LOADER => self.loader = value.starts_with(b"generic"),
            elfnote::GUEST_OS => self.linux = value.starts_with(b"linux"),
            elfnote::XEN_VERSION => self.version = value.starts_with(b"xen-3.0"),
            elfnote::FEATURES => check_features(up_to_zero(value))?,
            _ => {}
        }
        Ok(())
    }

    /// Reads the text of a section `__xen_guest`.
    pub(crate) fn take_text(&mut self, section: &[u8]) -> Result<(), KernelError> {
        self.text = true;
        for part in up_to_zero(section).split(|&byte| byte == b',') {
            let at = part.iter().position(|&byte| byte == b'=').unwrap_or(part.len());
            let (name, value) = (&part[..at], part.get(at + 1..).unwrap_or_default());
            match name {
                b"LOADER" => self.loader = value.starts_with(b"generic"),
                b"GUEST_OS" => self.linux = value.starts_with(b"linux"),
                b"XEN_VER" => self.version = value.starts_with(b"xen-3.0"),
                b"VIRT_BASE" => self.virt_base = Some(c_number(value)),
                b"VIRT_ENTRY" => self.entry = Some(c_number(value)),
                b"ELF_PADDR_OFFSET" => self.paddr_offset = Some(c_number(value)),
                b"HYPERCALL_PAGE" => {
                    self.hypercall_page = Some(c_number(value).wrapping_mul(PAGE_BYTES));
                }
                b"FEATURES" => check_features(value)?,
                _ => {}
            }
        }
        if let Some((page, base)) = self.hypercall_page.as_mut().zip(self.virt_base) {
            *page = page.wrapping_add(base);
        }
        Ok(())
    }

    /// The kernel with these segments, which have the addresses in the file, and this entry point
    /// in its ELF header.
    pub(crate) fn kernel(
        &self,
        segments: Vec<Segment>,
        elf_entry: u64,
    ) -> Result<Kernel, KernelError> {
        self.check()?;
        let virt_base = self.virt_base.unwrap_or(0);
        check_base(virt_base)?;
        let default_offset = if self.text { virt_base } else { 0 };
        let kernel = Kernel {
            segments: place(segments, self.paddr_offset.unwrap_or(default_offset))?,
            virt_base,
            entry: self.entry.unwrap_or(elf_entry),
            init_p2m: self
                .init_p2m
                .filter(|page| *page < virt_base && page.is_multiple_of(PAGE_BYTES)),
            unmapped_initrd: self.unmapped_initrd,
            hypercall_page: self.hypercall_page.map(|page| page - page % PAGE_BYTES),
        };
        if !kernel.holds(kernel.entry) {
            return Err(KernelError::Note("ENTRY"));
        }
        if kernel.hypercall_page.is_some_and(|page| !kernel.holds(page)) {
            return Err(KernelError::Note("HYPERCALL_PAGE"));
        }
        Ok(kernel)
    }

    /// Refuses statements that no loader would accept.
    fn check(&self) -> Result<(), KernelError> {
        if !self.notes && !self.text {
            return Err(KernelError::NoNotes);
        }
        if !self.loader && !self.linux {
            return Err(KernelError::Loader);
        }
        if !self.version {
            return Err(KernelError::Version);
        }
        if self.physical_entry && self.entry.is_none() && self.virt_base.is_none() {
            return Err(KernelError::NoEntry);
        }
        if self.paddr_offset.is_some() && self.virt_base.is_none() {
            return Err(KernelError::Note("PADDR_OFFSET"));
        }
        Ok(())
    }
}

/// The segments at their pseudo-physical addresses, sorted.
fn place(segments: Vec<Segment>, paddr_offset: u64) -> Result<Vec<Segment>, KernelError> {
    let place = |(index, segment): (usize, Segment)| {
        let address = segment.address.checked_sub(paddr_offset).filter(|&start| start < LIMIT);
        let address = address.ok_or(KernelError::Segment(index))?;
        Ok(Segment { address, ..segment })
    };
    let placed: Result<Vec<_>, _> = segments.into_iter().enumerate().map(place).collect();
    let mut placed = placed?;
    placed.sort_by_key(|segment| segment.address);
    Ok(placed)
}

/// `VIRT_BASE` is the address of a page.
fn check_base(address: u64) -> Result<(), KernelError> {
    let canonical = ((address << 16) as i64 >> 16) as u64 == address;
    let aligned = address.is_multiple_of(PAGE_BYTES);
    if canonical && aligned { Ok(()) } else { Err(KernelError::Note("VIRT_BASE")) }
}

/// Refuses required features, `!name` among `name|name`, that no PV partition has.
fn check_features(text: &[u8]) -> Result<(), KernelError> {
    let mut needed = text.split(|&byte| byte == b'|').filter_map(|name| name.strip_prefix(b"!"));
    if needed.all(|name| FEATURES.contains(&name)) { Ok(()) } else { Err(KernelError::Feature) }
}

fn up_to_zero(bytes: &[u8]) -> &[u8] {
    bytes.split(|&byte| byte == 0).next().unwrap_or_default()
}

/// A note's number: 1, 2, 4 or 8 bytes, little-endian.
fn number(value: &[u8]) -> u64 {
    let mut bytes = [0; 8];
    match bytes.get_mut(..value.len()) {
        Some(target) if matches!(value.len(), 1 | 2 | 4 | 8) => target.copy_from_slice(value),
        _ => return 0,
    }
    u64::from_le_bytes(bytes)
}

/// A number as C writes it: `0x` hexadecimal, `0` octal, else decimal. Ignores the text after the
/// digits, and turns a number that is too large into the largest.
fn c_number(text: &[u8]) -> u64 {
    let (digits, radix) = match text {
        [b'0', b'x' | b'X', rest @ ..] => (rest, 16),
        [b'0', rest @ ..] => (rest, 8),
        _ => (text, 10),
    };
    digits
        .iter()
        .map_while(|&byte| char::from(byte).to_digit(radix))
        .try_fold(0_u64, |sum, digit| {
            sum.checked_mul(u64::from(radix))?.checked_add(u64::from(digit))
        })
        .unwrap_or(u64::MAX)
}
