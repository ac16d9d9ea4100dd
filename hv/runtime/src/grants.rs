//! Grants: maps, pins and copies pages that another partition granted, and grants pages of this
//! partition (version 1).
//!
//! A [`Mapping`] is accessed only through atomics, because the page belongs to the other partition,
//! which may write it at any time. A *pin* ([`pin`]) maps a page for devices alone: the page has no
//! virtual address in this partition, but this partition may give its machine address to a device
//! until the [`unpin`]. The page still belongs to its granter.
#![expect(unsafe_code, reason = "hypercalls that map pages, and views of those pages")]

use crate::hypercall::{self, Errno};
use crate::partition;
use crate::window::{Pages, Window};
use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use pv_abi::PAGE_SIZE;
use pv_abi::xen::domid;
use pv_abi::xen::grants::{
    COPY, CopyEnd, GNTCOPY_SOURCE_GREF, GNTMAP_DEVICE_MAP, GNTMAP_HOST_MAP, GNTMAP_READONLY,
    GNTST_EAGAIN, GTF_PERMIT_ACCESS, GTF_READING, GTF_WRITING, GrantCopy, MAP_GRANT_REF,
    MapGrantRef, UNMAP_GRANT_REF, UnmapGrantRef,
};
use pv_abi::xen::hypercall::GRANT_TABLE_OP;

/// Maximum number of pages that are pinned or unpinned with one call.
const PINS: usize = 32;
/// How often an operation is tried that the monitor asks to try again.
const TRIES: usize = 8;

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

    /// The mapped words of 64 bits. A caller accesses a word through this view or through
    /// [`Mapping::words`], never through both.
    #[must_use]
    pub fn long_words(&self) -> &[AtomicU64] {
        let count = self.pages.count() * PAGE_SIZE / 8;
        let first = core::ptr::with_exposed_provenance(self.pages.va() as usize);
        // SAFETY: as for `words`; pages are aligned for words of 64 bits.
        unsafe { core::slice::from_raw_parts(first, count) }
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
    for _ in 0..TRIES {
        let arguments = [MAP_GRANT_REF, (&raw mut argument) as u64, 1, 0, 0];
        // SAFETY: the operation reads and writes the one argument, and maps a page of the window that
        // the caller holds and nothing refers to.
        unsafe { hypercall::call(GRANT_TABLE_OP, arguments) }.map_err(GrantError::Call)?;
        if argument.status != GNTST_EAGAIN {
            break;
        }
    }
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

/// A pinned page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pinned {
    /// Machine address of the page.
    pub address: u64,
    /// The handle by which the pin is dropped.
    pub handle: u32,
}

/// Makes grant operations with one call.
///
/// # Safety
/// The arguments are those of the operation, and ask for nothing but device mappings, or copies into
/// memory that is accessed through atomics.
unsafe fn operate<T>(operation: u64, arguments: &mut [T]) -> Result<(), GrantError> {
    let (list, count) = (arguments.as_mut_ptr() as u64, arguments.len() as u64);
    // SAFETY: the operation reads and writes the arguments, and beyond them what the caller promises.
    unsafe { hypercall::call(GRANT_TABLE_OP, [operation, list, count, 0, 0]) }
        .map(drop)
        .map_err(GrantError::Call)
}

/// Pins the pages of these references of domain `domain` for devices, which may write them if
/// `writable`. Passes each pin to `each`, in the order of the references.
///
/// # Errors
/// See [`GrantError`]; no page is pinned then, and `each` was not called.
pub fn pin(
    domain: u16,
    references: &[u32],
    writable: bool,
    each: impl FnMut(Pinned),
) -> Result<(), GrantError> {
    let flags = GNTMAP_DEVICE_MAP | if writable { 0 } else { GNTMAP_READONLY };
    let fresh = MapGrantRef { flags, dom: domain, ..MapGrantRef::default() };
    // Most requests have one page: no room for more is cleared then.
    match references.len() {
        0 => Ok(()),
        1 => pin_with([fresh; 1], references, each),
        _ => pin_with([fresh; PINS], references, each),
    }
}

fn pin_with<const N: usize>(
    mut arguments: [MapGrantRef; N],
    references: &[u32],
    mut each: impl FnMut(Pinned),
) -> Result<(), GrantError> {
    let Some(arguments) = arguments.get_mut(..references.len()) else {
        return Err(GrantError::Call(Errno::EINVAL));
    };
    for (argument, reference) in arguments.iter_mut().zip(references) {
        argument.grant_ref = *reference;
        // Until the monitor says otherwise.
        argument.status = GNTST_EAGAIN;
    }
    let open = |argument: &MapGrantRef| argument.status == GNTST_EAGAIN;
    // SAFETY: device mappings, by the flags.
    let mut made = unsafe { operate(MAP_GRANT_REF, arguments) };
    for _ in 1..TRIES {
        if made.is_err() || !arguments.iter().any(open) {
            break;
        }
        // What the monitor asks to try again.
        for some in arguments.chunk_by_mut(|one, next| open(one) == open(next)) {
            if made.is_ok() && some.first().is_some_and(open) {
                // SAFETY: device mappings, by the flags.
                made = unsafe { operate(MAP_GRANT_REF, some) };
            }
        }
    }
    let failed = arguments.iter().find(|argument| argument.status != 0);
    made = made.and(match failed {
        Some(argument) => Err(GrantError::Status(argument.grant_ref, argument.status)),
        None => Ok(()),
    });
    let pinned = arguments.iter().filter(|argument| argument.status == 0);
    let pinned = pinned.map(|one| Pinned { address: one.dev_bus_addr, handle: one.handle });
    match made {
        Ok(()) => pinned.for_each(&mut each),
        Err(_) => unpin(pinned),
    }
    made
}

/// Drops pins. By then, the device must have ended its accesses to the pages, or its reset must be
/// confirmed.
pub fn unpin(mut pins: impl Iterator<Item = Pinned>) {
    let Some(first) = pins.next() else { return };
    let Some(second) = pins.next() else { return drop_pins(&mut [unmap_of(first)]) };
    let mut arguments = [UnmapGrantRef::default(); PINS];
    let mut count = 0;
    for pin in [first, second].into_iter().chain(pins) {
        arguments[count] = unmap_of(pin);
        count += 1;
        if count == PINS {
            drop_pins(&mut arguments);
            count = 0;
        }
    }
    if count > 0 {
        drop_pins(&mut arguments[..count]);
    }
}

fn unmap_of(pin: Pinned) -> UnmapGrantRef {
    UnmapGrantRef { dev_bus_addr: pin.address, handle: pin.handle, ..UnmapGrantRef::default() }
}

fn drop_pins(arguments: &mut [UnmapGrantRef]) {
    // SAFETY: an address of 0 keeps what is mapped for this partition. A pin that the monitor does
    // not know needs no drop.
    let _ = unsafe { operate(UNMAP_GRANT_REF, arguments) };
}

/// A page of this partition into which pages of grants are copied.
#[derive(Debug)]
pub struct Copies {
    words: &'static [AtomicU32],
    frame: u64,
}

impl Copies {
    /// Takes a page of the heap, for the partition's life.
    #[must_use]
    pub fn take() -> Option<Self> {
        let (address, words) = partition::shared_pages(1)?;
        Some(Self { words, frame: partition::frame_of(address)? })
    }

    /// Copies the first words of the page of a reference of domain `domain`.
    ///
    /// # Errors
    /// See [`GrantError`].
    pub fn copy(&mut self, domain: u16, reference: u32, to: &mut [u64]) -> Result<(), GrantError> {
        let bytes = (to.len() * 8).min(PAGE_SIZE);
        let mut argument = GrantCopy {
            source: CopyEnd { frame: reference.into(), domid: domain, ..CopyEnd::default() },
            dest: CopyEnd { frame: self.frame, domid: domid::SELF, ..CopyEnd::default() },
            len: u16::try_from(bytes).unwrap_or(0),
            flags: GNTCOPY_SOURCE_GREF,
            status: GNTST_EAGAIN,
            ..GrantCopy::default()
        };
        for _ in 0..TRIES {
            // SAFETY: copies into the page of `self`, which is accessed through atomics.
            unsafe { operate(COPY, core::slice::from_mut(&mut argument)) }?;
            if argument.status != GNTST_EAGAIN {
                break;
            }
        }
        if argument.status != 0 {
            return Err(GrantError::Status(reference, argument.status));
        }
        for (word, pair) in to.iter_mut().zip(self.words.chunks_exact(2)) {
            let [low, high] = [0, 1].map(|half| u64::from(pair[half].load(Ordering::Acquire)));
            *word = high << 32 | low;
        }
        Ok(())
    }
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
