//! Taking and giving back whole tables: pins, CR3 bases, and everything when a partition goes.

use crate::walk::{self, Walk};
use crate::{Error, Machine, Space};
use frames::Type;

/// Pins frame `mfn` as a page table of `level` (1 to 4): it stays validated until unpinned.
///
/// # Errors
/// [`Error::Invalid`]: pinned already, or no such level. [`Error::WrongType`]: in use as
/// something else, mapped writable for one. [`Error::Again`]: call again to carry on. What an
/// invalid entry below is refused for: see [`Error`].
pub fn pin<M: Machine>(machine: &M, space: &mut Space, level: u8, mfn: u64) -> Result<(), Error> {
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

/// Takes the pin of `mfn` away. Dropping its entries may be left to [`Space::finish`].
///
/// # Errors
/// [`Error::Invalid`]: not pinned. [`Error::NoFrame`], [`Error::NotOwned`]. [`Error::Again`]:
/// earlier work is unfinished.
pub fn unpin<M: Machine>(machine: &M, space: &mut Space, mfn: u64) -> Result<(), Error> {
    space.finish(machine)?;
    let frame = Walk::new(machine, space).own_frame(mfn)?;
    if !frame.unpin() {
        return Err(Error::Invalid);
    }
    walk::put(machine, space, mfn);
    Ok(())
}

/// Takes a reference on level-4 table `mfn` for a virtual CPU's CR3.
///
/// # Errors
/// As [`pin`].
pub fn get_base<M: Machine>(machine: &M, space: &mut Space, mfn: u64) -> Result<(), Error> {
    space.finish(machine)?;
    walk::take(machine, space, mfn, 4)
}

/// Gives back a reference of [`get_base`]; no CPU may have the table in CR3 for it any more.
/// Dropping its entries may be left to [`Space::finish`].
///
/// # Errors
/// [`Error::Again`]: earlier work is unfinished; nothing was given back, call again.
pub fn put_base<M: Machine>(machine: &M, space: &mut Space, mfn: u64) -> Result<(), Error> {
    space.finish(machine)?;
    let word = Walk::new(machine, space).own_frame(mfn)?.word();
    if word.ty() != Type::L4 || !word.is_validated() {
        machine.broken(mfn);
        return Err(Error::Invalid);
    }
    walk::put(machine, space, mfn);
    Ok(())
}

/// For a partition that is destroyed: drops pins, half-validated tables and everything they hold,
/// for the frames from `*next` to before `end`, and moves `*next` on. Bases and descriptor tables
/// are put by the caller before.
///
/// # Errors
/// [`Error::Again`]: call again with the same variable.
pub fn drop_range<M: Machine>(
    machine: &M,
    space: &mut Space,
    next: &mut u64,
    end: u64,
) -> Result<(), Error> {
    space.finish(machine)?;
    let first = *next;
    while *next < end {
        let mfn = *next;
        if mfn != first && machine.should_yield() {
            return Err(Error::Again);
        }
        *next += 1;
        drop_frame(machine, space, mfn);
        space.finish(machine)?;
    }
    Ok(())
}

/// Drops the pin of frame `mfn`, or what is half done of it, where the partition owns it.
fn drop_frame<M: Machine>(machine: &M, space: &mut Space, mfn: u64) {
    let Ok(frame) = Walk::new(machine, space).own_frame(mfn) else {
        return;
    };
    if frame.unpin() {
        walk::put(machine, space, mfn);
    } else if frame.word().is_partial() {
        space.pending = Some(mfn);
    }
}
