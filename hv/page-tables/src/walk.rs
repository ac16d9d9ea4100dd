//! Takes and releases the references of entries: on pages, and on tables with everything below
//! them.
//!
//! # Partial tables
//! A table is *partial* while its entries are validated or dropped: entries below its progress hold
//! references, the others hold none, and one typed reference belongs to the partial state itself.
//! Validation increases the progress and dropping decreases it, so either can take over from the
//! other. If work stops inside the table that entry `progress` leads to, that table is partial too.
//! Validation reaches it again as the next entry; dropping looks there first ([`boundary`]). Only
//! this state refers to a partial table, so the table may always be dropped.
//!
//! In a table of level 1, work stops after at least [`STRIDE`] entries.
//!
//! [`boundary`]: Walk::drop_boundary

use crate::entry::{self, ENTRIES, MONITOR_SLOTS, bits, is_present, is_writable};
use crate::foreign::hold;
use crate::machine::{Machine, Space, Table};
use crate::{Error, Mfn, table::Present};
use core::sync::atomic::{AtomicU64, Ordering};
use frames::{Acquired, Frame, Released, Type};

/// Entries of a level-1 table between two checks whether to stop.
const STRIDE: u32 = 64;

/// The work is not finished.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unfinished;

/// One operation on the tables of one partition.
pub(crate) struct Walk<'a, M> {
    pub(crate) machine: &'a M,
    pub(crate) partition: u32,
    own_slot: u64,
    /// See [`Space::tables`].
    tables: u64,
    /// Steps made so far. The walk may stop after the first, in a level-1 table only after every
    /// `STRIDE` steps.
    steps: u32,
    /// Whether the partition's CPUs were flushed for the foreign frames of the table that is
    /// dropped.
    flushed: bool,
}

impl<'a, M: Machine> Walk<'a, M> {
    #[inline]
    pub(crate) const fn new(machine: &'a M, space: &Space) -> Self {
        let Space { partition, own_slot, tables, .. } = *space;
        Self { machine, partition, own_slot, tables, steps: 0, flushed: false }
    }

    /// Frame `mfn`, which must be memory of the partition.
    #[inline]
    pub(crate) fn own_frame(&self, mfn: Mfn) -> Result<&'a Frame, Error> {
        let frame = self.machine.frame(mfn).ok_or(Error::NoFrame)?;
        if frame.owner_word() != self.partition {
            return Err(Error::NotOwned);
        }
        Ok(frame)
    }

    /// Returns whether to stop before the next entry of a table of `level`.
    #[inline]
    fn should_stop(&self, level: u8) -> bool {
        let may = if level == 1 { self.steps.is_multiple_of(STRIDE) } else { true };
        may && self.steps != 0 && self.machine.should_yield()
    }

    /// Takes the references of the present level-1 `entry`, which names a frame of `owner`.
    #[inline(always)]
    pub(crate) fn take_page(&self, entry: u64, owner: u32) -> Result<(), Error> {
        hold(self.machine, owner, Mfn::of_entry(entry), is_writable(entry)).map(|_held| ())
    }

    /// Upgrades the reference of a read-only entry on frame `mfn` of `owner` to that of a writable
    /// entry.
    #[inline]
    pub(crate) fn take_writable(&self, mfn: Mfn, owner: u32) -> Result<(), Error> {
        let Some(frame) = self.machine.frame(mfn) else {
            return Ok(());
        };
        let acquired = frame.get_type(owner, Type::Writable)?;
        settle(self.machine, frame, acquired);
        Ok(())
    }

    /// The frame on which the present level-1 `entry`, which is being removed, holds references. An
    /// entry of device memory holds none, and is counted by its device.
    #[inline(always)]
    fn frame_behind(&self, entry: u64) -> Option<&'a Frame> {
        if let Some(device) = entry::device_of(entry) {
            self.machine.count_device_entry(device, false);
            return None;
        }
        self.machine.frame(Mfn::of_entry(entry))
    }

    /// Releases the references of the present level-1 `entry`, which is no longer in its table.
    #[inline(always)]
    pub(crate) fn drop_page(&self, entry: u64) {
        let mfn = Mfn::of_entry(entry);
        let Some(frame) = self.frame_behind(entry) else {
            return;
        };
        self.flush_foreign(frame);
        put_page(self.machine, frame, mfn, is_writable(entry));
    }

    /// [`Walk::drop_page`] for an entry of a table that is dropped. CPUs can reach the pages of
    /// such a table only through old translations, so its first flush serves for all foreign frames
    /// in it.
    #[inline(always)]
    fn drop_page_of_table(&mut self, entry: u64) {
        let mfn = Mfn::of_entry(entry);
        let Some(frame) = self.frame_behind(entry) else {
            return;
        };
        if !self.flushed {
            self.flushed = self.flush_foreign(frame);
        }
        put_page(self.machine, frame, mfn, is_writable(entry));
    }

    /// The reverse of [`Walk::take_writable`].
    #[inline]
    pub(crate) fn drop_writable(&self, mfn: Mfn) {
        let Some(frame) = self.machine.frame(mfn) else {
            return;
        };
        self.flush_foreign(frame);
        if frame.put_type(|| self.machine.stamp()) != Released::Done {
            self.machine.broken(mfn);
        }
    }

    /// Flushes our CPUs if the frame belongs to another partition, because a later type change
    /// would not flush them. Returns whether it belongs to another partition.
    #[inline]
    fn flush_foreign(&self, frame: &Frame) -> bool {
        let foreign = frame.owner() != self.partition;
        if foreign {
            self.machine.flush_before_retype(self.partition, self.machine.stamp());
        }
        foreign
    }

    /// Takes a typed reference on table `mfn` of `level`, and validates the table unless it is
    /// validated. After an error the table may be partial.
    #[inline]
    pub(crate) fn take_table(&mut self, mfn: Mfn, level: u8) -> Result<(), Error> {
        let ty = Type::table(level).ok_or(Error::Invalid)?;
        let frame = self.own_frame(mfn)?;
        let acquired = frame.get_typed(self.partition, ty)?;
        if matches!(acquired, Acquired::Validate { resumed: false, .. }) {
            self.tables += 1;
        }
        if settle(self.machine, frame, acquired) {
            self.validate(mfn, frame, level)?;
        }
        Ok(())
    }

    fn validate(&mut self, mfn: Mfn, frame: &Frame, level: u8) -> Result<(), Error> {
        let table = self.machine.table(mfn);
        if frame.progress() == 0 {
            self.check_absent(table, level)?;
        }
        let mut entries = Present::from(table, frame.progress());
        while let Some((index, entry)) = entries.next() {
            if level == 4 && MONITOR_SLOTS.contains(&index) {
                continue;
            }
            let taken = if self.should_stop(level) {
                Err(Error::Again)
            } else {
                self.take_entry(entry, level)
            };
            if let Err(error) = taken {
                set_progress(frame, index);
                return Err(error);
            }
            frame.note_entry(index);
            force_user(table, index);
            self.steps = self.steps.wrapping_add(1);
        }
        if level == 4 {
            self.install_monitor(table);
        }
        frame.set_validated();
        Ok(())
    }

    /// Checks the present `entry` of a table of `level` and takes its references.
    fn take_entry(&mut self, entry: u64, level: u8) -> Result<(), Error> {
        if level == 1 {
            return self.take_page(self.normal(entry, 1)?, self.partition);
        }
        let entry = self.normal(entry, level)?;
        self.take_table(Mfn::of_entry(entry), level - 1)
    }

    /// An entry of a table of `level` in the form that the CPU gets.
    #[inline(always)]
    pub(crate) fn normal(&self, entry: u64, level: u8) -> Result<u64, Error> {
        match (is_present(entry), level) {
            (false, _) => entry::absent(entry, self.machine.memory_end()),
            (true, 1) => entry::normal_l1(entry),
            (true, _) => entry::normal_upper(entry),
        }
    }

    /// Checks the entries of a table of `level` that are not present.
    fn check_absent(&self, table: &Table, level: u8) -> Result<(), Error> {
        if self.machine.memory_end() == 0 {
            return Ok(());
        }
        let own = |index: &usize| level < 4 || !MONITOR_SLOTS.contains(index);
        let entries = table.iter().enumerate().filter(|(index, _)| own(index));
        let mut entries = entries.map(|(_, entry)| entry.load(Ordering::Relaxed));
        entries.try_for_each(|entry| match is_present(entry) {
            true => Ok(()),
            false => self.normal(entry, level).map(drop),
        })
    }

    fn install_monitor(&self, table: &Table) {
        let slots = self.machine.monitor_slots().iter().skip(1);
        let slots = core::iter::once(&self.own_slot).chain(slots);
        for (entry, value) in table.iter().skip(MONITOR_SLOTS.start).zip(slots) {
            entry.store(*value, Ordering::Release);
        }
    }

    /// Releases a typed reference on table `mfn`. Returns [`Unfinished`] if the table is partial.
    #[inline]
    pub(crate) fn drop_table(&mut self, mfn: Mfn) -> Result<(), Unfinished> {
        let Some(frame) = self.machine.frame(mfn) else {
            return Ok(());
        };
        match frame.put_typed(|| self.machine.stamp()) {
            Released::Done => Ok(()),
            Released::Devalidate => self.devalidate(mfn, frame),
            Released::Broken => {
                self.machine.broken(mfn);
                Ok(())
            }
        }
    }

    /// Drops the references of the entries of a partial table, from the progress down, and then the
    /// table.
    fn devalidate(&mut self, mfn: Mfn, frame: &Frame) -> Result<(), Unfinished> {
        let level = frame.word().ty().level().unwrap_or(1);
        let table = self.machine.table(mfn);
        if level > 1 {
            self.drop_boundary(table, frame.progress(), level)?;
        }
        let mut entries = Present::below(table, frame.progress(), frame.noted());
        while let Some((index, entry)) = entries.previous() {
            if level == 4 && MONITOR_SLOTS.contains(&index) {
                continue;
            }
            if self.should_stop(level) {
                set_progress(frame, index + 1);
                return Err(Unfinished);
            }
            if level == 1 {
                self.drop_page_of_table(entry);
            } else if let Err(unfinished) = self.drop_table(Mfn::of_entry(entry)) {
                set_progress(frame, index);
                return Err(unfinished);
            }
            self.steps = self.steps.wrapping_add(1);
        }
        retire(self.machine, frame, mfn);
        self.tables = self.tables.saturating_sub(1);
        Ok(())
    }

    /// Finishes the table that entry `index` leads to, if that table is partial.
    fn drop_boundary(&mut self, table: &Table, index: usize, level: u8) -> Result<(), Unfinished> {
        let Some(entry) = table.get(index) else {
            return Ok(());
        };
        let entry = entry.load(Ordering::Relaxed);
        if !is_present(entry) || (level == 4 && MONITOR_SLOTS.contains(&index)) {
            return Ok(());
        }
        let Ok(frame) = self.own_frame(Mfn::of_entry(entry)) else {
            return Ok(());
        };
        let word = frame.word();
        if word.is_partial() && word.ty().level() == Some(level - 1) {
            return self.devalidate(Mfn::of_entry(entry), frame);
        }
        Ok(())
    }
}

/// Does the flush that a type change needs. Returns true if the contents must still be checked.
#[inline]
pub(crate) fn settle<M: Machine>(machine: &M, frame: &Frame, acquired: Acquired) -> bool {
    let (stamp, validate) = match acquired {
        Acquired::Ready => return false,
        Acquired::Settle { stamp } => (Some(stamp), false),
        Acquired::Validate { stamp, .. } => (stamp, true),
    };
    if let Some(stamp) = stamp {
        machine.flush_before_retype(frame.owner(), stamp);
        frame.settle();
    }
    validate
}

/// Ends the partial state of a frame none of whose entries holds a reference.
pub(crate) fn retire<M: Machine>(machine: &M, frame: &Frame, mfn: Mfn) {
    if frame.retire(|| machine.stamp()) != Released::Done {
        machine.broken(mfn);
    }
}

/// Releases a page's references.
#[inline]
pub(crate) fn put_page<M: Machine>(machine: &M, frame: &Frame, mfn: Mfn, writable: bool) {
    let ok = if writable {
        frame.put_typed(|| machine.stamp()) == Released::Done
    } else {
        frame.put_ref()
    };
    if !ok {
        machine.broken(mfn);
    }
}

/// Sets the bits that the monitor requires in a present entry, whatever the CPU sets meanwhile.
#[inline]
fn force_user(table: &Table, index: usize) {
    let Some(entry) = table.get(index) else {
        return;
    };
    if entry.load(Ordering::Relaxed) & (bits::US | bits::G) != bits::US {
        entry.fetch_or(bits::US, Ordering::AcqRel);
        entry.fetch_and(!bits::G, Ordering::AcqRel);
    }
}

fn set_progress(frame: &Frame, entries: usize) {
    frame.set_progress(u32::try_from(entries.min(ENTRIES)).unwrap_or(0));
}

/// See [`Space::finish`].
#[inline]
pub(crate) fn finish<M: Machine>(machine: &M, space: &mut Space) -> Result<(), Error> {
    let Some(mfn) = space.pending else {
        return Ok(());
    };
    if let Some(frame) = machine.frame(mfn)
        && frame.word().is_partial()
    {
        let mut walk = Walk::new(machine, space);
        let dropped = walk.devalidate(mfn, frame);
        space.tables = walk.tables;
        dropped.map_err(|Unfinished| Error::Again)?;
    }
    space.pending = None;
    Ok(())
}

/// [`Walk::take_table`] for an operation: after a refusal, undoes its steps.
#[inline]
pub(crate) fn take<M: Machine>(
    machine: &M,
    space: &mut Space,
    mfn: Mfn,
    level: u8,
) -> Result<(), Error> {
    let mut walk = Walk::new(machine, space);
    let taken = walk.take_table(mfn, level);
    space.tables = walk.tables;
    if let Err(error) = taken
        && error != Error::Again
    {
        undo(machine, space, mfn);
    }
    taken
}

/// Drops the references that a refused operation left on table `mfn`.
#[cold]
fn undo<M: Machine>(machine: &M, space: &mut Space, mfn: Mfn) {
    let frame = Walk::new(machine, space).own_frame(mfn);
    if frame.is_ok_and(|frame| frame.word().is_partial()) {
        space.pending = Some(mfn);
        let _ = finish(machine, space);
    }
}

/// [`Walk::drop_table`] for an operation: leaves unfinished work to [`finish`].
#[inline]
pub(crate) fn put<M: Machine>(machine: &M, space: &mut Space, mfn: Mfn) {
    let mut walk = Walk::new(machine, space);
    let dropped = walk.drop_table(mfn);
    space.tables = walk.tables;
    if dropped.is_err() {
        space.pending = Some(mfn);
    }
}

/// Entry `index` of frame `table`.
#[inline]
pub(crate) fn slot<M: Machine>(machine: &M, table: Mfn, index: usize) -> Result<&AtomicU64, Error> {
    machine.table(table).get(index).ok_or(Error::Invalid)
}
