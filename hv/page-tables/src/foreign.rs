//! Entries that map another partition's frames: grants, and building.
//!
//! The monitor decides whether the mapping is allowed; here the reference is taken, and given
//! back after the mapper's translations are gone. The entry itself holds the reference, as any
//! entry does. A partition that overwrites such an entry by ordinary means gives the reference
//! back too (its CPUs are flushed first, since the frame's owner is not the one whose CPUs a
//! later type change would flush), cannot make it writable that was read-only, and cannot get it
//! back. A monitor that hands out the machine address of a granted frame, for DMA, takes a
//! reference of its own on the frame for as long as the grant is mapped.

use crate::entry::{frame_of, is_present, is_writable};
use crate::update::{change_l1, l1_slot};
use crate::walk::{Walk, put_page, settle};
use crate::{Error, Machine, Operation, Space};
use core::sync::atomic::Ordering;
use frames::Type;

/// A reference on a frame that is not an entry's: one an unmapped entry held, to be given back
/// after the partition's CPUs were flushed, or one of the monitor itself ([`hold`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "the reference is lost unless it is released"]
pub struct Release {
    /// The frame.
    pub mfn: u64,
    /// Typed: the frame can be written by it.
    pub writable: bool,
}

/// Takes a reference for the monitor itself on frame `mfn` of partition `owner`: while it reads
/// the frame, or writes it (`writable`: then it is no table meanwhile), or hands out its address.
/// No [`Space`] lock is needed.
///
/// # Errors
/// [`Error::NoFrame`], [`Error::NotOwned`], [`Error::WrongType`], [`Error::Overflow`],
/// [`Error::Again`].
pub fn hold<M: Machine>(
    machine: &M,
    owner: u32,
    mfn: u64,
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

/// Writes `new`, which names a frame of partition `owner`, to entry `index` of the validated
/// level-1 table `table` of the partition; returns the old entry.
///
/// # Errors
/// [`Error::WrongType`] where `table` is no validated level-1 table, or `new` is writable and the
/// frame is a table; [`Error::Invalid`] where `new` is not present; [`Error::NotOwned`] where
/// the frame is not `owner`'s; see [`Error`] for the rest.
pub fn map_foreign<M: Machine>(
    machine: &M,
    space: &mut Space,
    table: u64,
    index: usize,
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
    let entry = l1_slot(&walk, table, index)?;
    change_l1(&walk, entry, Operation::Store(new), owner)
}

/// Clears entry `index` of level-1 table `table` if it maps frame `mfn`, writable or not as
/// said. The reference it held is the caller's to [`release`].
///
/// # Errors
/// [`Error::Invalid`] where the entry says something else; [`Error::WrongType`] where `table` is
/// no validated level-1 table of the partition.
pub fn unmap_entry_expect<M: Machine>(
    machine: &M,
    space: &mut Space,
    table: u64,
    index: usize,
    mfn: u64,
    writable: bool,
) -> Result<Release, Error> {
    space.finish(machine)?;
    let walk = Walk::new(machine, space);
    let entry = l1_slot(&walk, table, index)?;
    let mut old = entry.load(Ordering::Acquire);
    loop {
        if !is_present(old) || frame_of(old) != mfn || is_writable(old) != writable {
            return Err(Error::Invalid);
        }
        match entry.compare_exchange(old, 0, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => return Ok(Release { mfn, writable }),
            Err(now) => old = now,
        }
    }
}

/// As [`unmap_entry_expect`] for the entry at `to`, a table and an index in it, which then holds what
/// the entry at `from` held, and that one is empty. What `from` held goes on holding its reference.
///
/// # Errors
/// As [`unmap_entry_expect`]; [`Error::Invalid`] also where both are the same entry. Nothing is
/// changed.
pub fn replace_entry_expect<M: Machine>(
    machine: &M,
    space: &mut Space,
    to: (u64, usize),
    from: (u64, usize),
    mfn: u64,
    writable: bool,
) -> Result<Release, Error> {
    space.finish(machine)?;
    let walk = Walk::new(machine, space);
    let (entry, source) = (l1_slot(&walk, to.0, to.1)?, l1_slot(&walk, from.0, from.1)?);
    let maps = |old| is_present(old) && frame_of(old) == mfn && is_writable(old) == writable;
    if core::ptr::eq(entry, source) || !maps(entry.load(Ordering::Acquire)) {
        return Err(Error::Invalid);
    }
    // Others change neither: the tables are locked. CPUs set accessed and dirty bits alone.
    let moved = source.swap(0, Ordering::AcqRel);
    entry.swap(moved, Ordering::AcqRel);
    Ok(Release { mfn, writable })
}

/// Gives back what [`unmap_entry_expect`] left (after the CPUs of the partition that had the
/// entry were flushed) or what [`hold`] took.
pub fn release<M: Machine>(machine: &M, release: Release) {
    if let Some(frame) = machine.frame(release.mfn) {
        put_page(machine, frame, release.mfn, release.writable);
    }
}
