//! The granter's side.
//!
//! A shared entry is one word: flags in bits 15:0, domain id in 31:16, frame in 63:32 (the layout
//! of the version-1 entry). The granter may change it at any time, except that it must not end
//! access while *reading* or *writing* is set, which it checks with a compare-and-swap. So:
//!
//! * The monitor sets those flags by a compare-and-swap of the whole word, after it has checked
//!   type, domain and read-only flag in the same word. The monitor gives up on a word that keeps
//!   changing after [`ATTEMPTS`] tries, so that a granter cannot keep it in a loop.
//! * While an entry is in use, its [`PinnedEntry`] holds domain and frame, and further uses are
//!   checked against these too. So a mapped grant stays as it was granted.
//! * The last use that ends clears the flags: *writing* with the last writer, *reading* with the
//!   last of all.
//!
//! Calls for one granter's table are made one at a time (`&mut`); only the granter itself races
//! with them.

use crate::Result;
use crate::sync::{AtomicU64, Ordering};
use pv_abi::xen::domid::DomId;
use pv_abi::xen::grants as abi;

/// Tries at an entry that keeps changing.
const ATTEMPTS: u32 = 4;

/// How a frame is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// For reading.
    Read,
    /// For reading and writing.
    Write,
}

/// The uses of an entry; 8 bytes, all zeros while there are none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct PinnedEntry {
    frame: u32,
    domid: DomId,
    readers: u8,
    writers: u8,
}

const _: () = assert!(size_of::<PinnedEntry>() == 8);

impl PinnedEntry {
    /// Returns whether anything uses the entry.
    #[must_use]
    pub const fn in_use(&self) -> bool {
        self.readers != 0 || self.writers != 0
    }
}

/// A shared entry that grants `frame` to `domid`.
#[must_use]
pub const fn entry(domid: DomId, frame: u32, access: Access) -> u64 {
    let flags = match access {
        Access::Read => abi::GTF_PERMIT_ACCESS | abi::GTF_READONLY,
        Access::Write => abi::GTF_PERMIT_ACCESS,
    };
    flags as u64 | (domid as u64) << 16 | (frame as u64) << 32
}

/// The grant table of a partition, in memory of the caller.
#[derive(Debug)]
pub struct GrantTable<'a> {
    entries: &'a [AtomicU64],
    pinned: &'a mut [PinnedEntry],
}

impl<'a> GrantTable<'a> {
    /// A table over the shared `entries` (those of the frames that are set up), with one
    /// [`PinnedEntry`] for each.
    pub fn new(entries: &'a [AtomicU64], pinned: &'a mut [PinnedEntry]) -> Self {
        Self { entries, pinned }
    }

    /// Begins a use of entry `reference` by a partition that has the domids `by`: its own, and that
    /// of the service whose member it is. Returns the granted frame. The caller must still check
    /// that the granter owns that frame; if not, it ends the use by [`Self::release`].
    ///
    /// Returns `GNTST_bad_gntref` if there is no such entry, or it grants no access;
    /// `GNTST_general_error` if it is not granted to one of `by`, is granted only for reading, or is
    /// used too often; `GNTST_eagain` if the granter is changing it.
    pub fn acquire(&mut self, reference: u32, by: [DomId; 2], access: Access) -> Result<u32> {
        let index = usize::try_from(reference).map_err(|_| abi::GNTST_BAD_GNTREF)?;
        let shared = masked::get(self.entries, index).ok_or(abi::GNTST_BAD_GNTREF)?;
        let pinned = masked::get_mut(self.pinned, index).ok_or(abi::GNTST_BAD_GNTREF)?;
        let mut next = *pinned;
        let count = match access {
            Access::Read => &mut next.readers,
            Access::Write => &mut next.writers,
        };
        *count = count.checked_add(1).ok_or(abi::GNTST_GENERAL_ERROR)?;
        (next.domid, next.frame) = set_in_use(shared, pinned, by, access)?;
        *pinned = next;
        Ok(next.frame)
    }

    /// Ends a use that [`Self::acquire`] began with the same `access`. Returns `GNTST_bad_gntref`
    /// if there is none.
    pub fn release(&mut self, reference: u32, access: Access) -> Result<()> {
        let index = usize::try_from(reference).map_err(|_| abi::GNTST_BAD_GNTREF)?;
        let shared = masked::get(self.entries, index).ok_or(abi::GNTST_BAD_GNTREF)?;
        let pinned = masked::get_mut(self.pinned, index).ok_or(abi::GNTST_BAD_GNTREF)?;
        let count = match access {
            Access::Read => &mut pinned.readers,
            Access::Write => &mut pinned.writers,
        };
        *count = count.checked_sub(1).ok_or(abi::GNTST_BAD_GNTREF)?;
        let mut clear = 0;
        if pinned.writers == 0 && access == Access::Write {
            clear |= abi::GTF_WRITING;
        }
        if !pinned.in_use() {
            clear |= abi::GTF_READING;
            *pinned = PinnedEntry::default();
        }
        if clear != 0 {
            shared.fetch_and(!u64::from(clear), Ordering::AcqRel);
        }
        Ok(())
    }
}

/// Checks the shared entry and sets its in-use flags in one step. Returns its domid and its frame.
fn set_in_use(
    shared: &AtomicU64,
    pinned: &PinnedEntry,
    by: [DomId; 2],
    access: Access,
) -> Result<(DomId, u32)> {
    let flags = match access {
        Access::Read => abi::GTF_READING,
        Access::Write => abi::GTF_READING | abi::GTF_WRITING,
    };
    let mut old = shared.load(Ordering::Acquire);
    for _ in 0..ATTEMPTS {
        let granted = check(old, pinned, by, access)?;
        let new = old | u64::from(flags);
        if old == new {
            return Ok(granted);
        }
        match shared.compare_exchange(old, new, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => return Ok(granted),
            Err(now) => old = now,
        }
    }
    Err(abi::GNTST_EAGAIN)
}

/// Checks that an entry with this value grants `access` to one of `by`, and still matches the grant
/// at the begin of its use. Returns its domid and its frame.
fn check(value: u64, pinned: &PinnedEntry, by: [DomId; 2], access: Access) -> Result<(DomId, u32)> {
    let (flags, domid, frame) =
        ((value & 0xffff) as u16, (value >> 16 & 0xffff) as DomId, (value >> 32) as u32);
    if flags & abi::GTF_TYPE_MASK != abi::GTF_PERMIT_ACCESS {
        return Err(abi::GNTST_BAD_GNTREF);
    }
    if flags & abi::GTF_SUB_PAGE != 0 || !by.contains(&domid) {
        return Err(abi::GNTST_GENERAL_ERROR);
    }
    if access == Access::Write && flags & abi::GTF_READONLY != 0 {
        return Err(abi::GNTST_GENERAL_ERROR);
    }
    if pinned.in_use() && (pinned.domid != domid || pinned.frame != frame) {
        return Err(abi::GNTST_GENERAL_ERROR);
    }
    Ok((domid, frame))
}
