//! Takes and releases whole tables: pins, CR3 bases, and everything that a destroyed partition
//! holds.

use crate::walk::{self, Walk};
use crate::{Error, Machine, Mfn, Space};
use core::num::NonZero;
use frames::Type;

/// Pins frame `mfn` as a page table of `level` (1 to 4): it stays validated until unpinned.
///
/// # Errors
/// [`Error::Invalid`] if it is pinned already, or there is no such level. [`Error::WrongType`] if
/// it is in use as something else, for example mapped writable. [`Error::Again`] if the call must
/// be made again to continue. The errors of an invalid entry below it; see [`Error`].
pub fn pin<M: Machine>(machine: &M, space: &mut Space, level: u8, mfn: Mfn) -> Result<(), Error> {
    space.finish(machine)?;
    let frame = Walk::new(machine, space).own_frame(mfn)?;
    if frame.word().is_pinned() {
        return Err(Error::Invalid);
    }
    walk::take(machine, space, mfn, level)?;
    if !frame.pin() {
        walk::put(machine, space, mfn);
        return Err(Error::Invalid);
    }
    Ok(())
}

/// Removes the pin of `mfn`. Dropping its entries may be left to [`Space::finish`].
///
/// # Errors
/// [`Error::Invalid`] if it is not pinned. [`Error::NoFrame`], [`Error::NotOwned`].
/// [`Error::Again`] if earlier work is unfinished.
pub fn unpin<M: Machine>(machine: &M, space: &mut Space, mfn: Mfn) -> Result<(), Error> {
    space.finish(machine)?;
    let frame = Walk::new(machine, space).own_frame(mfn)?;
    if !frame.unpin() {
        return Err(Error::Invalid);
    }
    walk::put(machine, space, mfn);
    Ok(())
}

/// A validated level-4 table, with a reference for a virtual CPU's CR3: [`get_base`] took the
/// reference, and [`put_base`] releases it. Until then the table stays valid, so a CPU may load it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "the reference is lost unless it is released"]
#[repr(transparent)]
pub struct Base(NonZero<u64>);

impl Base {
    /// The table's frame.
    pub const fn frame(self) -> Mfn {
        Mfn::new(self.0.get())
    }
}

/// Takes a reference on level-4 table `mfn` for a virtual CPU's CR3.
///
/// # Errors
/// The same as [`pin`].
pub fn get_base<M: Machine>(machine: &M, space: &mut Space, mfn: Mfn) -> Result<Base, Error> {
    space.finish(machine)?;
    let base = NonZero::new(mfn.number()).map(Base).ok_or(Error::NotOwned)?;
    walk::take(machine, space, mfn, 4).map(|()| base)
}

/// Releases a reference of [`get_base`]; no CPU may have the table in CR3 for that reference any
/// more. Dropping its entries may be left to [`Space::finish`].
///
/// # Errors
/// [`Error::Again`] if earlier work is unfinished; nothing was released then, so call again.
pub fn put_base<M: Machine>(machine: &M, space: &mut Space, base: Base) -> Result<(), Error> {
    space.finish(machine)?;
    let mfn = base.frame();
    let word = Walk::new(machine, space).own_frame(mfn)?.word();
    if word.ty() != Type::L4 || !word.is_validated() {
        machine.broken(mfn);
        return Err(Error::Invalid);
    }
    walk::put(machine, space, mfn);
    Ok(())
}

/// For a partition that is destroyed: drops pins, partial tables and everything they hold, for the
/// frames from `*next` to before `end`, and advances `*next`. The caller releases bases and
/// descriptor tables before.
///
/// # Errors
/// [`Error::Again`] if the call must be made again with the same variable.
pub fn drop_range<M: Machine>(
    machine: &M,
    space: &mut Space,
    next: &mut Mfn,
    end: Mfn,
) -> Result<(), Error> {
    space.finish(machine)?;
    let first = *next;
    while *next < end {
        let mfn = *next;
        if mfn != first && machine.should_yield() {
            return Err(Error::Again);
        }
        *next = mfn.plus(1);
        drop_frame(machine, space, mfn);
        space.finish(machine)?;
    }
    Ok(())
}

/// Drops the pin of frame `mfn`, or its partial state, if the partition owns it.
fn drop_frame<M: Machine>(machine: &M, space: &mut Space, mfn: Mfn) {
    let Ok(frame) = Walk::new(machine, space).own_frame(mfn) else {
        return;
    };
    if frame.unpin() {
        walk::put(machine, space, mfn);
    } else if frame.word().is_partial() {
        space.pending = Some(mfn);
    }
}
