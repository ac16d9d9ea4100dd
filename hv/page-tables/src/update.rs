//! Changes single entries.
//!
//! The order is always: check the new value, take a reference on what it refers to, change the
//! entry in one atomic step, release the reference of the old value. The old value is the one that
//! the atomic step found.

use crate::entry::{HARMLESS, MONITOR_SLOTS, bits, is_present, is_writable};
use crate::foreign::{hold, release};
use crate::walk::{self, Walk, slot};
use crate::{Error, Machine, Mfn, Place, Space};
use core::sync::atomic::{AtomicU64, Ordering};
use frames::{Frame, Type};

const AD: u64 = bits::A | bits::D;

/// The change that an instruction or a call makes to an entry. All are atomic with respect to
/// accessed and dirty bits set by CPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Write the value.
    Store(u64),
    /// Write the value, and keep accessed and dirty bits that are set in a present entry.
    StoreKeepingAd(u64),
    /// Write the value, and return the old one.
    Exchange(u64),
    /// Keep the bits of the mask. (A byte operation: a mask with ones elsewhere.)
    And(u64),
    /// Set the bits of the mask.
    Or(u64),
    /// Clear this bit (modulo 64).
    BitReset(u8),
    /// Set this bit (modulo 64).
    BitSet(u8),
    /// Write `new` if the entry is `expected`.
    CompareExchange {
        /// The value that the entry must have, accessed and dirty bits included.
        expected: u64,
        /// The value to write.
        new: u64,
    },
}

impl Operation {
    /// The new value for `old`. Returns `None` if the operation writes nothing.
    #[inline]
    const fn apply(self, old: u64) -> Option<u64> {
        Some(match self {
            Self::Store(new) | Self::Exchange(new) => new,
            Self::StoreKeepingAd(new) if is_present(old) => new | (old & AD),
            Self::StoreKeepingAd(new) => new,
            Self::And(mask) => old & mask,
            Self::Or(mask) => old | mask,
            Self::BitReset(bit) => old & !(1 << (bit & 63)),
            Self::BitSet(bit) => old | 1 << (bit & 63),
            Self::CompareExchange { expected, new } if expected == old => new,
            Self::CompareExchange { .. } => return None,
        })
    }
}

/// Performs `request` on frame `table`, which is a page table of the partition, or any writable
/// page of it (kernels fill tables this way before they pin them). Returns the old entry, accessed
/// and dirty bits included.
///
/// A present value must name a frame of the partition itself; see [`crate::map_foreign`] for
/// others. The caller need not flush; the partition asks for the flushes it needs.
///
/// # Errors
/// See [`Error`]; nothing is changed then.
#[inline(always)]
pub fn update_entry<M: Machine>(
    machine: &M,
    space: &mut Space,
    table: Mfn,
    request: Request,
) -> Result<u64, Error> {
    space.finish(machine)?;
    let walk = Walk::new(machine, space);
    let frame = walk.own_frame(table)?;
    if !is_l1(frame) {
        return update_other(machine, space, table, request);
    }
    let entry = slot(machine, table, request.index)?;
    frame.note_entry(request.index);
    change_l1(&walk, entry, request.operation(), walk.partition)
}

/// [`update_entry`] for a `table` that is no level-1 table.
#[inline(never)]
fn update_other<M: Machine>(
    machine: &M,
    space: &mut Space,
    table: Mfn,
    request: Request,
) -> Result<u64, Error> {
    let walk = Walk::new(machine, space);
    let frame = walk.own_frame(table)?;
    let entry = slot(machine, table, request.index)?;
    let word = frame.word();
    let level = if word.count() > 0 { word.ty().level() } else { None };
    match level {
        Some(_) if !word.is_validated() => Err(Error::Busy),
        Some(4) if MONITOR_SLOTS.contains(&request.index) => Err(Error::Invalid),
        Some(level) => {
            frame.note_entry(request.index);
            change_upper(machine, space, entry, request.operation(), level)
        }
        // The partition could write this page by itself, too.
        None => {
            let held = hold(machine, walk.partition, table, true)?;
            let old = entry.swap(request.new, Ordering::AcqRel);
            release(machine, held);
            Ok(old)
        }
    }
}

/// A change of one entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// The index of the entry in its table.
    pub index: usize,
    /// The value to write.
    pub new: u64,
    /// Whether accessed and dirty bits stay set if they are set in a present old entry.
    pub preserve_ad: bool,
}

impl Request {
    #[inline]
    const fn operation(self) -> Operation {
        if self.preserve_ad {
            Operation::StoreKeepingAd(self.new)
        } else {
            Operation::Store(self.new)
        }
    }
}

/// [`update_entry`] for several entries of frame `table`, in order, up to the first that is
/// refused. The type of the frame is looked up once. Returns how many were done. With
/// [`Error::Again`], the caller must request the rest again, even if it is empty.
pub fn update_entries<M: Machine>(
    machine: &M,
    space: &mut Space,
    table: Mfn,
    requests: impl Iterator<Item = Request>,
) -> (u64, Result<(), Error>) {
    let mut done = 0;
    let outcome = update_each(machine, space, table, requests, &mut done);
    (done, outcome)
}

#[inline]
fn update_each<M: Machine>(
    machine: &M,
    space: &mut Space,
    table: Mfn,
    requests: impl Iterator<Item = Request>,
    done: &mut u64,
) -> Result<(), Error> {
    space.finish(machine)?;
    let walk = Walk::new(machine, space);
    // Changes of level-1 entries do not change the type of the table: they drop only pages.
    let frame = walk.own_frame(table)?;
    let level_1 = is_l1(frame);
    for request in requests {
        if level_1 {
            let entry = slot(machine, table, request.index)?;
            frame.note_entry(request.index);
            change_l1(&walk, entry, request.operation(), walk.partition)?;
            *done += 1;
        } else {
            // A whole table may have been taken, and another dropped.
            update_entry(machine, space, table, request)?;
            *done += 1;
            if machine.should_yield() {
                return Err(Error::Again);
            }
        }
    }
    Ok(())
}

/// Performs a trapped instruction's `operation` on the entry at `place` in a validated level-1 table
/// of the partition. Returns the old entry, from which the caller computes registers and flags.
///
/// # Errors
/// [`Error::WrongType`] if `place` is in no such table: let the instruction fault. For
/// others see [`Error`]; nothing is changed then. (After [`Error::Again`], run the instruction
/// again.)
#[inline]
pub fn update_entry_emulated<M: Machine>(
    machine: &M,
    space: &mut Space,
    place: Place,
    operation: Operation,
) -> Result<u64, Error> {
    space.finish(machine)?;
    let walk = Walk::new(machine, space);
    let entry = l1_slot(&walk, place)?;
    change_l1(&walk, entry, operation, walk.partition)
}

/// The entry at `place` in a validated level-1 table of the partition, which is about to change.
#[inline]
pub(crate) fn l1_slot<'a, M: Machine>(
    walk: &Walk<'a, M>,
    place: Place,
) -> Result<&'a AtomicU64, Error> {
    let frame = walk.own_frame(place.table)?;
    if !is_l1(frame) {
        return Err(Error::WrongType);
    }
    frame.note_entry(place.index);
    slot(walk.machine, place.table, place.index)
}

/// Returns whether the frame is a validated level-1 table.
#[inline]
fn is_l1(frame: &Frame) -> bool {
    let word = frame.word();
    word.ty() == Type::L1 && word.is_validated()
}

/// The references to release once the entry is changed.
#[must_use]
enum Leftover {
    Nothing,
    /// The type reference on a frame that stays mapped, read-only.
    Writable(Mfn),
    /// Everything that this entry held.
    Page(u64),
}

/// Changes a level-1 entry; a new mapping must be of a frame of `owner`. Returns the old entry.
#[inline(always)]
pub(crate) fn change_l1<M: Machine>(
    walk: &Walk<'_, M>,
    entry: &AtomicU64,
    operation: Operation,
    owner: u32,
) -> Result<u64, Error> {
    match operation {
        Operation::Store(new) | Operation::Exchange(new) => store_l1(walk, entry, new, owner),
        // A separate call, so that the compiler sees only one operation.
        Operation::StoreKeepingAd(_) => modify_l1(walk, entry, operation, owner),
        _ => modify_l1(walk, entry, operation, owner),
    }
}

/// Changes a level-1 entry to the value that `operation` computes from the old one.
#[inline(always)]
fn modify_l1<M: Machine>(
    walk: &Walk<'_, M>,
    entry: &AtomicU64,
    operation: Operation,
    owner: u32,
) -> Result<u64, Error> {
    let old = entry.load(Ordering::Acquire);
    let Some(new) = operation.apply(old) else {
        return Ok(old);
    };
    let new = walk.normal(new, 1)?;
    let leftover = take_difference(walk, old, new, owner)?;
    match commit(entry, old, new, operation, |value| walk.normal(value, 1)) {
        Ok(found) => {
            give_back(walk, leftover);
            Ok(found)
        }
        Err(refused) => {
            drop_difference(walk, old, new);
            refused
        }
    }
}

/// Writes `new` to a level-1 entry. Returns the old entry.
#[inline(always)]
fn store_l1<M: Machine>(
    walk: &Walk<'_, M>,
    entry: &AtomicU64,
    new: u64,
    owner: u32,
) -> Result<u64, Error> {
    let new = walk.normal(new, 1)?;
    let old = entry.load(Ordering::Acquire);
    let leftover = take_difference(walk, old, new, owner)?;
    // Meanwhile the CPU may have set accessed and dirty bits, but nothing else.
    let found = entry.swap(new, Ordering::AcqRel);
    give_back(walk, leftover);
    Ok(found)
}

#[inline(always)]
fn give_back<M: Machine>(walk: &Walk<'_, M>, leftover: Leftover) {
    match leftover {
        Leftover::Nothing => {}
        Leftover::Writable(mfn) => walk.drop_writable(mfn),
        Leftover::Page(entry) => walk.drop_page(entry),
    }
}

/// Replaces `old` by `new`. If the CPU set accessed or dirty bits meanwhile, applies the operation
/// again to the entry as it is now. Returns `Err` with the result of the call if nothing was
/// written.
#[inline(always)]
fn commit(
    entry: &AtomicU64,
    mut old: u64,
    mut new: u64,
    operation: Operation,
    normal: impl Fn(u64) -> Result<u64, Error>,
) -> Result<u64, Result<u64, Error>> {
    loop {
        match entry.compare_exchange(old, new, Ordering::AcqRel, Ordering::Acquire) {
            Ok(found) => return Ok(found),
            Err(now) if (now ^ old) & !AD != 0 => return Err(Err(Error::Again)),
            Err(now) => old = now,
        }
        new = match operation.apply(old).map(&normal) {
            Some(Ok(new)) => new,
            Some(Err(error)) => return Err(Err(error)),
            None => return Err(Ok(old)),
        };
    }
}

/// Returns whether both entries name the same frame and differ only in writability and in bits that
/// need no check of the frame.
#[inline]
fn keeps_frame(old: u64, new: u64) -> bool {
    is_present(old) && is_present(new) && (old ^ new) & !(HARMLESS | bits::RW) == 0
}

/// Takes the references that level-1 entry `new` holds and `old` does not.
#[inline(always)]
fn take_difference<M: Machine>(
    walk: &Walk<'_, M>,
    old: u64,
    new: u64,
    owner: u32,
) -> Result<Leftover, Error> {
    if keeps_frame(old, new) {
        return match (is_writable(old), is_writable(new)) {
            (false, true) => {
                walk.take_writable(Mfn::of_entry(new), owner)?;
                Ok(Leftover::Nothing)
            }
            (true, false) => Ok(Leftover::Writable(Mfn::of_entry(old))),
            _ => Ok(Leftover::Nothing),
        };
    }
    if is_present(new) {
        walk.take_page(new, owner)?;
    }
    Ok(if is_present(old) { Leftover::Page(old) } else { Leftover::Nothing })
}

/// Releases the reference that [`take_difference`] took.
fn drop_difference<M: Machine>(walk: &Walk<'_, M>, old: u64, new: u64) {
    if !keeps_frame(old, new) {
        if is_present(new) {
            walk.drop_page(new);
        }
    } else if is_writable(new) && !is_writable(old) {
        walk.drop_writable(Mfn::of_entry(new));
    }
}

/// Changes an entry of level 2, 3 or 4. Returns the old entry.
fn change_upper<M: Machine>(
    machine: &M,
    space: &mut Space,
    entry: &AtomicU64,
    operation: Operation,
    level: u8,
) -> Result<u64, Error> {
    let old = entry.load(Ordering::Acquire);
    let Some(new) = operation.apply(old) else {
        return Ok(old);
    };
    let normal = |space: &Space, value| Walk::new(machine, space).normal(value, level);
    let new = normal(space, new)?;
    let same = is_present(old) && is_present(new) && Mfn::of_entry(old) == Mfn::of_entry(new);
    if is_present(new) && !same {
        walk::take(machine, space, Mfn::of_entry(new), level - 1)?;
    }
    match commit(entry, old, new, operation, |value| normal(space, value)) {
        Ok(found) => {
            if is_present(found) && !same {
                walk::put(machine, space, Mfn::of_entry(found));
            }
            Ok(found)
        }
        Err(refused) => {
            if is_present(new) && !same {
                walk::put(machine, space, Mfn::of_entry(new));
            }
            refused
        }
    }
}
