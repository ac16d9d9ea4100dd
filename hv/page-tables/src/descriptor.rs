//! Segment descriptor tables of partitions: GDT and LDT pages.
//!
//! The CPU uses a partition's descriptors unchanged, so a page of them is checked before it is
//! used, and not writable while it is used. System descriptors that are present are refused (gates,
//! task states and LDTs would lead to ring 0). Segments that are present get privilege level 3.

use crate::foreign::{hold, release};
use crate::walk::{Walk, retire, settle, slot};
use crate::{Error, Machine, Mfn, Space, Table};
use core::sync::atomic::Ordering;
use frames::{Released, Type};

/// The descriptor in the form that the CPU may load, or `None` if it is refused.
const fn check_descriptor(descriptor: u64) -> Option<u64> {
    const PRESENT: u64 = 1 << 47;
    const LEVEL_3: u64 = 3 << 45;
    const SEGMENT: u64 = 1 << 44;
    if descriptor & PRESENT == 0 {
        return Some(descriptor);
    }
    if descriptor & SEGMENT == 0 {
        return None;
    }
    Some(descriptor | LEVEL_3)
}

/// Checks frame `mfn` as a page of 512 descriptors, and takes a reference on it.
///
/// # Errors
/// [`Error::WrongType`] if it is in use as something else, [`Error::Invalid`] if a descriptor in it
/// is refused; for others see [`Error`].
pub fn get_descriptors<M: Machine>(machine: &M, space: &mut Space, mfn: Mfn) -> Result<(), Error> {
    space.finish(machine)?;
    let walk = Walk::new(machine, space);
    let frame = walk.own_frame(mfn)?;
    let acquired = frame.get_typed(walk.partition, Type::SegDesc)?;
    if !settle(machine, frame, acquired) {
        return Ok(());
    }
    if check_page(machine.table(mfn)) {
        frame.set_validated();
        return Ok(());
    }
    retire(machine, frame, mfn);
    Err(Error::Invalid)
}

/// Releases a reference of [`get_descriptors`]; no CPU may use the page for that reference any
/// more.
pub fn put_descriptors<M: Machine>(machine: &M, space: &Space, mfn: Mfn) {
    let Ok(frame) = Walk::new(machine, space).own_frame(mfn) else {
        return;
    };
    match frame.put_typed(|| machine.stamp()) {
        Released::Done => {}
        Released::Devalidate => retire(machine, frame, mfn),
        Released::Broken => machine.broken(mfn),
    }
}

/// Writes descriptor `index` (0 to 511) of frame `mfn`, which is a descriptor page or any writable
/// page of the partition.
///
/// # Errors
/// [`Error::Invalid`] if the descriptor is refused, [`Error::WrongType`] if the page is a page
/// table; for others see [`Error`].
pub fn update_descriptor<M: Machine>(
    machine: &M,
    space: &mut Space,
    mfn: Mfn,
    index: usize,
    descriptor: u64,
) -> Result<(), Error> {
    space.finish(machine)?;
    let walk = Walk::new(machine, space);
    let frame = walk.own_frame(mfn)?;
    let entry = slot(machine, mfn, index)?;
    let descriptor = check_descriptor(descriptor).ok_or(Error::Invalid)?;
    let word = frame.word();
    if word.ty() == Type::SegDesc && word.is_validated() {
        entry.store(descriptor, Ordering::Release);
        return Ok(());
    }
    let held = hold(machine, walk.partition, mfn, true)?;
    entry.store(descriptor, Ordering::Release);
    release(machine, held);
    Ok(())
}

/// Checks all descriptors of a page and sets their privilege level. Returns false if one is
/// refused.
fn check_page(page: &Table) -> bool {
    page.iter().all(|entry| {
        let old = entry.load(Ordering::Acquire);
        let Some(new) = check_descriptor(old) else {
            return false;
        };
        if new != old {
            entry.store(new, Ordering::Release);
        }
        true
    })
}
