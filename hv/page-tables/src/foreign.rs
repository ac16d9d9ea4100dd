//! Entries that map another partition's frames, for grants and for building.
//!
//! The monitor decides whether the mapping is allowed. This module takes the reference, and
//! releases it after the mapper's translations are flushed. Until then the entry holds the
//! reference, like any other entry. If a partition overwrites such an entry by ordinary means, that
//! releases the reference, too. The partition's CPUs are flushed first, since a later type change
//! would flush only the CPUs of the frame's owner. The partition can neither make a read-only entry
//! writable nor restore an entry that it has overwritten. A monitor that gives a partition the
//! machine address of a granted frame, for DMA, takes its own reference on the frame for as long as
//! the grant is mapped.

use crate::entry::{device_of, is_present, is_writable};
use crate::update::{change_l1, l1_slot};
use crate::walk::{Walk, put_page, settle};
use crate::{Error, Machine, Mfn, Operation, Place, Space};
use core::sync::atomic::Ordering;
use frames::Type;

/// A reference on a frame that no entry holds: either that of an unmapped entry, to be released
/// after the partition's CPUs were flushed, or one of the monitor itself ([`hold`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "the reference is lost unless it is released"]
pub struct Release {
    /// The frame.
    pub mfn: Mfn,
    /// Whether the reference is typed: the frame can be written through it.
    pub writable: bool,
}

/// Takes a reference for the monitor itself on frame `mfn` of partition `owner`, for as long as it
/// reads the frame, writes it, or gives out its address. With `writable`, the frame cannot be a
/// table meanwhile. No [`Space`] lock is needed.
///
/// # Errors
/// [`Error::NoFrame`], [`Error::NotOwned`], [`Error::WrongType`], [`Error::Overflow`],
/// [`Error::Again`].
#[inline(always)]
pub fn hold<M: Machine>(
    machine: &M,
    owner: u32,
    mfn: Mfn,
    writable: bool,
) -> Result<Release, Error> {
    let frame = machine.frame(mfn).ok_or(Error::NoFrame)?;
    if writable {
        let acquired = frame.get_typed(owner, Type::Writable)?;
        settle(machine, frame, acquired);
    } else {
        frame.get_ref(owner)?;
    }
    Ok(Release { mfn, writable })
}

/// Writes `new`, which names a frame of partition `owner`, to the entry at `place` in a validated
/// level-1 table of the partition. Returns the old entry.
///
/// # Errors
/// [`Error::WrongType`] if `place` is in no such table, or if `new` is writable and the frame is a
/// table; [`Error::Invalid`] if `new` is not present; [`Error::NotOwned`] if the frame
/// is not `owner`'s; for others see [`Error`].
pub fn map_foreign<M: Machine>(
    machine: &M,
    space: &mut Space,
    place: Place,
    new: u64,
    owner: u32,
) -> Result<u64, Error> {
    space.finish(machine)?;
    if !is_present(new) {
        return Err(Error::Invalid);
    }
    if owner == 0 {
        return Err(Error::NotOwned);
    }
    let walk = Walk::new(machine, space);
    let entry = l1_slot(&walk, place)?;
    change_l1(&walk, entry, Operation::Store(new), owner)
}

/// Clears the entry at `place` if it maps frame `mfn` with the given writability. The caller must [`release`] the reference that the entry held.
///
/// # Errors
/// [`Error::Invalid`] if the entry is another one; [`Error::WrongType`] if `place` is in no
/// validated level-1 table of the partition.
pub fn unmap_entry_expect<M: Machine>(
    machine: &M,
    space: &mut Space,
    place: Place,
    mfn: Mfn,
    writable: bool,
) -> Result<Release, Error> {
    space.finish(machine)?;
    let walk = Walk::new(machine, space);
    let entry = l1_slot(&walk, place)?;
    let mut old = entry.load(Ordering::Acquire);
    loop {
        if !maps(old, mfn, writable) {
            return Err(Error::Invalid);
        }
        match entry.compare_exchange(old, 0, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => return Ok(Release { mfn, writable }),
            Err(now) => old = now,
        }
    }
}

/// Checks and unmaps the entry at `to` like [`unmap_entry_expect`].
/// Then moves the entry at `from` to `to`, and leaves `from` empty. The moved entry keeps its
/// reference.
///
/// # Errors
/// Those of [`unmap_entry_expect`]; [`Error::Invalid`] also if both are the same entry. Nothing is
/// changed.
pub fn replace_entry_expect<M: Machine>(
    machine: &M,
    space: &mut Space,
    to: Place,
    from: Place,
    mfn: Mfn,
    writable: bool,
) -> Result<Release, Error> {
    space.finish(machine)?;
    let walk = Walk::new(machine, space);
    let (entry, source) = (l1_slot(&walk, to)?, l1_slot(&walk, from)?);
    if core::ptr::eq(entry, source) || !maps(entry.load(Ordering::Acquire), mfn, writable) {
        return Err(Error::Invalid);
    }
    // The lock on the tables keeps other changes away. CPUs set only accessed and dirty bits.
    let moved = source.swap(0, Ordering::AcqRel);
    entry.swap(moved, Ordering::AcqRel);
    Ok(Release { mfn, writable })
}

/// Whether an entry maps the memory frame `mfn`, with write access as `writable` says. An entry for
/// a device's registers does not count: it holds no reference that could be released.
fn maps(entry: u64, mfn: Mfn, writable: bool) -> bool {
    let is_it = Mfn::of_entry(entry) == mfn && is_writable(entry) == writable;
    is_present(entry) && is_it && device_of(entry).is_none()
}

/// Releases the reference that [`unmap_entry_expect`] returned (after the CPUs of the mapping
/// partition were flushed) or that [`hold`] took.
pub fn release<M: Machine>(machine: &M, release: Release) {
    if let Some(frame) = machine.frame(release.mfn) {
        put_page(machine, frame, release.mfn, release.writable);
    }
}
