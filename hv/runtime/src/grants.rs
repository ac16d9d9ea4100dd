//! Grants: maps pages that another partition granted, and grants our own (version 1).
//!
//! A [`Mapping`] is accessed only through atomics: the page belongs to the other side, which may
//! write it at any time.
#![expect(unsafe_code, reason = "hypercalls that map pages, and views of those pages")]

use crate::hypercall::{self, Errno};
use crate::partition;
use crate::window::{Pages, Window};
use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{AtomicU32, Ordering};
use pv_abi::PAGE_SIZE;
use pv_abi::xen::grants::{
    GNTMAP_HOST_MAP, GTF_PERMIT_ACCESS, GTF_READING, GTF_WRITING, MAP_GRANT_REF, MapGrantRef,
    UNMAP_GRANT_REF, UnmapGrantRef,
};
use pv_abi::xen::hypercall::GRANT_TABLE_OP;

/// Why a grant was not mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GrantError {
    /// The window has no gap of that many pages.
    WindowFull,
    /// The monitor refused the call as a whole.
    Call(Errno),
    /// The monitor refused one reference: the reference and its `GNTST_` status.
    Status(u32, i16),
}

impl fmt::Display for GrantError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WindowFull => f.write_str("no room in the mapping window"),
            Self::Call(errno) => write!(f, "grant call refused: {errno}"),
            Self::Status(reference, status) => {
                write!(f, "grant reference {reference} refused: status {status}")
            }
        }
    }
}

impl core::error::Error for GrantError {}

/// Granted pages that are mapped, one after the other.
#[derive(Debug)]
pub struct Mapping {
    pages: Pages,
    handles: Vec<u32>,
}

impl Mapping {
    /// The mapped words.
    #[must_use]
    pub fn words(&self) -> &[AtomicU32] {
        let count = (self.pages.count() * PAGE_SIZE / 4) as u64;
        // SAFETY: mapped writable as long as this value lives; unmapping consumes it.
        unsafe { partition::words(self.pages.va(), count) }
    }

    /// Virtual address of the first page.
    #[must_use]
    pub fn va(&self) -> u64 {
        self.pages.va()
    }
}

/// Maps these references of domain `domain`, writable, at contiguous pages of the window.
///
/// # Errors
/// See [`GrantError`]; nothing stays mapped then.
pub fn map(window: &mut Window, domain: u16, references: &[u32]) -> Result<Mapping, GrantError> {
    let pages = window.alloc(references.len()).ok_or(GrantError::WindowFull)?;
    let mut mapping = Mapping { pages, handles: Vec::with_capacity(references.len()) };
    for (index, &reference) in references.iter().enumerate() {
        let va = mapping.pages.va() + (index * PAGE_SIZE) as u64;
        match map_one(va, domain, reference) {
            Ok(handle) => mapping.handles.push(handle),
            Err(error) => {
                unmap(window, mapping);
                return Err(error);
            }
        }
    }
    Ok(mapping)
}

fn map_one(va: u64, domain: u16, reference: u32) -> Result<u32, GrantError> {
    let mut argument = MapGrantRef {
        host_addr: va,
        flags: GNTMAP_HOST_MAP,
        grant_ref: reference,
        dom: domain,
        ..MapGrantRef::default()
    };
    let arguments = [MAP_GRANT_REF, (&raw mut argument) as u64, 1, 0, 0];
    // SAFETY: the operation reads and writes the one argument, and maps a page of the window that
    // the caller holds and nothing refers to.
    unsafe { hypercall::call(GRANT_TABLE_OP, arguments) }.map_err(GrantError::Call)?;
    match argument.status {
        0 => Ok(argument.handle),
        status => Err(GrantError::Status(reference, status)),
    }
}

/// Unmaps the pages and returns them to the window. Pages that the monitor does not unmap are never
/// used again.
pub fn unmap(window: &mut Window, mapping: Mapping) {
    let Mapping { pages, handles } = mapping;
    let mut clean = true;
    for (index, handle) in handles.into_iter().enumerate() {
        let va = pages.va() + (index * PAGE_SIZE) as u64;
        clean &= unmap_one(va, handle);
    }
    if clean {
        window.free(pages);
    }
}

fn unmap_one(va: u64, handle: u32) -> bool {
    let mut argument = UnmapGrantRef { host_addr: va, handle, ..UnmapGrantRef::default() };
    let arguments = [UNMAP_GRANT_REF, (&raw mut argument) as u64, 1, 0, 0];
    // SAFETY: the operation reads and writes the one argument, and unmaps a page whose `Mapping`
    // is gone.
    let done = unsafe { hypercall::call(GRANT_TABLE_OP, arguments) };
    done.is_ok() && argument.status == 0
}

/// Lets domain `domain` map our frame by `reference`. Returns `false` if the table has no such
/// reference.
pub fn permit(reference: u32, domain: u16, frame: u32) -> bool {
    let index = reference as usize * 2;
    match partition::grant_table().get(index..index + 2) {
        Some([head, target]) => {
            target.store(frame, Ordering::Relaxed);
            head.store(u32::from(domain) << 16 | u32::from(GTF_PERMIT_ACCESS), Ordering::Release);
            true
        }
        _ => false,
    }
}

/// Ends a grant. Returns `false` while the other side still has it mapped.
pub fn revoke(reference: u32) -> bool {
    let Some(head) = partition::grant_table().get(reference as usize * 2) else {
        return false;
    };
    let now = head.load(Ordering::Acquire);
    now & u32::from(GTF_READING | GTF_WRITING) == 0
        && head.compare_exchange(now, 0, Ordering::AcqRel, Ordering::Acquire).is_ok()
}
