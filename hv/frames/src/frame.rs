//! The frame and its state transitions.
//!
//! The rule: the word changes only by compare-and-swap. A fact about the frame that an operation
//! has established holds until the caller releases the reference that it got with it.

use crate::word::{OWNER_BUSY, TYPE_BUSY};
use crate::{Acquired, Kind, OWNER_NUMBER, Owner, Refused, Released, Type, Word};

#[cfg(not(loom))]
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
#[cfg(loom)]
use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// The stamp of a frame whose former use ended at an unknown time: flush always.
pub const FLUSH_ALWAYS: u32 = u32::MAX;

/// The part of the stamp that is [`Frame::progress`].
const PROGRESS: u32 = 0xFFFF;
/// Where [`Frame::noted`] is in the stamp.
const USED_SHIFT: u32 = 16;

/// A machine frame's state; 16 bytes. All zeros stand for unowned RAM without type or reference.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Frame {
    word: AtomicU64,
    owner: AtomicU32,
    /// At type count 0: the flush clock when the last typed reference was released. While a table
    /// is partial, bits 15:0 hold how many entries, from entry 0, hold references. While it is
    /// partial or validated, bits 31:16 mark the sixteenths of the table in which an entry may hold
    /// one.
    stamp: AtomicU32,
}

/// The loader fills the same bytes as a `Record`.
#[cfg(not(loom))]
const _: () = {
    use core::mem::offset_of;
    assert!(size_of::<Frame>() == size_of::<frame_record::Record>());
    assert!(offset_of!(Frame, word) == 0 && offset_of!(Frame, owner) == 8);
};

impl Frame {
    /// The word at this moment. Only the parts that the caller's reference or lock protects stay
    /// true.
    #[must_use]
    #[inline]
    pub fn word(&self) -> Word {
        Word(self.word.load(Ordering::Acquire))
    }

    /// The owning partition's number; stable while the caller holds a reference.
    #[must_use]
    #[inline]
    pub fn owner(&self) -> Owner {
        self.owner.load(Ordering::Acquire) & OWNER_NUMBER
    }

    /// The owner word: number and [`crate::OWNER_IO`].
    #[must_use]
    #[inline]
    pub fn owner_word(&self) -> u32 {
        self.owner.load(Ordering::Acquire)
    }

    /// Returns whether it is a validated table of type `ty` that `owner` owns. Stable under the
    /// owner's lock for a table that another table refers to.
    #[must_use]
    #[inline]
    pub fn is_table_of(&self, owner: Owner, ty: Type) -> bool {
        self.owner_word() == owner && self.word().is_validated_as(ty)
    }

    /// Tries once to replace `old` by `new`. The hot paths do this in the common case, and leave
    /// the other cases to [`Frame::change`].
    #[inline]
    fn replace(&self, old: Word, new: Option<Word>) -> bool {
        new.is_some_and(|new| {
            self.word.compare_exchange(old.0, new.0, Ordering::AcqRel, Ordering::Acquire).is_ok()
        })
    }

    /// Applies `change` to the word until the compare-and-swap succeeds. Returns the word before.
    #[inline]
    fn change<E>(&self, change: impl Fn(Word) -> Result<Word, E>) -> Result<Word, E> {
        let mut old = self.word();
        loop {
            let new = change(old)?;
            match self.word.compare_exchange_weak(old.0, new.0, Ordering::AcqRel, Ordering::Acquire)
            {
                Ok(_) => return Ok(old),
                Err(now) => old = Word(now),
            }
        }
    }

    /// Takes a reference without a type: for a read-only mapping, or to keep the frame.
    ///
    /// # Errors
    /// [`Refused::NotOwned`] if `owner` does not own it or it is [`Kind::Private`],
    /// [`Refused::Overflow`], [`Refused::Again`] while its owner changes.
    #[inline]
    pub fn get_ref(&self, owner: Owner) -> Result<(), Refused> {
        let old = self.word();
        if self.owner() == owner && self.replace(old, old.more_plain()) {
            return self.still_of(owner);
        }
        self.get_ref_slowly(owner, false)
    }

    /// Takes a reference for the monitor's own use of a frame, whatever its kind;
    /// [`Frame::put_ref`] releases it.
    ///
    /// # Errors
    /// Those of [`Frame::get_ref`], except that every kind is allowed.
    pub fn keep(&self, owner: Owner) -> Result<(), Refused> {
        self.get_ref_slowly(owner, true)
    }

    #[inline(never)]
    fn get_ref_slowly(&self, owner: Owner, private: bool) -> Result<(), Refused> {
        self.change(|w| {
            if self.owner() != owner || w.kind() == Kind::Private && !private {
                return Err(Refused::NotOwned);
            }
            if w.has(OWNER_BUSY) {
                return Err(Refused::Again);
            }
            w.more_references().ok_or(Refused::Overflow)
        })?;
        self.still_of(owner)
    }

    /// Completes [`Frame::get_ref`]: meanwhile the owner can have changed and the word can have
    /// returned to its old value.
    #[inline]
    fn still_of(&self, owner: Owner) -> Result<(), Refused> {
        if self.owner() == owner {
            return Ok(());
        }
        let _ = self.put_ref();
        Err(Refused::NotOwned)
    }

    /// Releases a reference of [`Frame::get_ref`]. If there is none, the counts are wrong: returns
    /// false, and changes nothing.
    #[must_use]
    #[inline]
    pub fn put_ref(&self) -> bool {
        self.change(|w| w.fewer_references().ok_or(())).is_ok()
    }

    /// Takes a typed reference: one reference and one type count.
    ///
    /// For a checked type, the caller must hold the owner's lock.
    ///
    /// # Errors
    /// [`Refused::NotOwned`] as for [`Frame::get_ref`], and for a checked type if the frame is not
    /// ordinary RAM; [`Refused::WrongType`] if it is in use as another type; [`Refused::Overflow`];
    /// [`Refused::Again`].
    #[inline]
    pub fn get_typed(&self, owner: Owner, ty: Type) -> Result<Acquired, Refused> {
        self.get(owner, ty, true)
    }

    /// Turns a plain reference of the caller into a typed one.
    ///
    /// # Errors
    /// The same as [`Frame::get_typed`].
    #[inline]
    pub fn get_type(&self, owner: Owner, ty: Type) -> Result<Acquired, Refused> {
        self.get(owner, ty, false)
    }

    #[inline]
    fn get(&self, owner: Owner, ty: Type, reference: bool) -> Result<Acquired, Refused> {
        let old = self.word();
        let new = old.more_typed(ty, reference.into());
        if self.owner() != owner || !self.replace(old, new) {
            return self.acquire(owner, ty, reference);
        }
        if self.owner() == owner {
            return Ok(Acquired::Ready);
        }
        self.undo(old, ty, reference);
        Err(Refused::NotOwned)
    }

    #[inline(never)]
    fn acquire(&self, owner: Owner, ty: Type, reference: bool) -> Result<Acquired, Refused> {
        let old = self.change(|w| {
            if self.owner() != owner {
                return Err(Refused::NotOwned);
            }
            with_typed(w, ty, reference)
        })?;
        if self.owner() != owner {
            self.undo(old, ty, reference);
            return Err(Refused::NotOwned);
        }
        let stamp = flush_owed(old, ty).then(|| self.stamp.load(Ordering::Relaxed));
        if !ty.is_checked() {
            return Ok(stamp.map_or(Acquired::Ready, |stamp| Acquired::Settle { stamp }));
        }
        if old.is_validated() {
            return Ok(Acquired::Ready);
        }
        if !old.is_partial() {
            self.stamp.store(0, Ordering::Relaxed);
        }
        Ok(Acquired::Validate { stamp, resumed: old.is_partial() })
    }

    /// Undoes [`Frame::acquire`], which found `old`: the owner changed meanwhile.
    #[cold]
    fn undo(&self, old: Word, ty: Type, reference: bool) {
        if !ty.is_checked() && !flush_owed(old, ty) {
            // Other references may have come and gone, and it is not known when their use ended.
            let _ = self.release(|| FLUSH_ALWAYS, reference);
            return;
        }
        // No other CPU may change it until it is settled or validated; restores the old type state.
        let _ = self.change(|w| {
            let w = w.fewer_count().unwrap_or(w);
            let w = if reference { w.fewer_references().unwrap_or(w) } else { w };
            Ok::<_, ()>(w.unchecked().without(TYPE_BUSY).with_type(old.ty()))
        });
    }

    /// Completes [`Acquired::Settle`], and the flush part of [`Acquired::Validate`]: from now on
    /// the new type is reliable.
    #[inline]
    pub fn settle(&self) {
        self.word.fetch_and(!TYPE_BUSY, Ordering::AcqRel);
    }

    /// Releases a typed reference. `stamp` reads the flush clock; it is called after the use has
    /// ended, if this was the last typed reference.
    ///
    /// For a checked type, the caller must hold the owner's lock.
    #[inline]
    pub fn put_typed(&self, stamp: impl FnOnce() -> u32) -> Released {
        self.put(stamp, true)
    }

    /// Releases the type of a typed reference and keeps the plain reference.
    #[inline]
    pub fn put_type(&self, stamp: impl FnOnce() -> u32) -> Released {
        self.put(stamp, false)
    }

    #[inline]
    fn put(&self, stamp: impl FnOnce() -> u32, reference: bool) -> Released {
        let old = self.word();
        if self.replace(old, old.fewer_typed(reference.into())) {
            return Released::Done;
        }
        self.release(stamp, reference)
    }

    #[inline(never)]
    fn release(&self, stamp: impl FnOnce() -> u32, reference: bool) -> Released {
        let change = |w: Word| {
            if w.count() == 1 && w.is_validated() {
                return Ok(w.partial());
            }
            let last = w.count() == 1;
            let w = w.fewer_count().ok_or(())?;
            let w = if reference { w.fewer_references().ok_or(())? } else { w };
            Ok::<_, ()>(if last { w.with(TYPE_BUSY) } else { w })
        };
        match self.change(change) {
            Err(()) => Released::Broken,
            Ok(old) if old.count() > 1 => Released::Done,
            Ok(old) if old.is_validated() => {
                self.set_progress(512);
                Released::Devalidate
            }
            Ok(_) => {
                self.stamp.store(stamp(), Ordering::Relaxed);
                self.settle();
                Released::Done
            }
        }
    }

    /// How many entries of a partial frame hold references, counted from entry 0. The caller must
    /// hold the owner's lock.
    #[must_use]
    #[inline]
    pub fn progress(&self) -> usize {
        (self.stamp.load(Ordering::Relaxed) & PROGRESS) as usize
    }

    /// Records the progress of work on a partial frame. The caller must hold the owner's lock.
    #[inline]
    pub fn set_progress(&self, entries: u32) {
        let used = self.stamp.load(Ordering::Relaxed) & !PROGRESS;
        self.stamp.store(used | entries & PROGRESS, Ordering::Relaxed);
    }

    /// Records that entry `index` (0 to 511) of a partial or validated table may hold a reference.
    /// The caller must hold the owner's lock.
    #[inline]
    pub fn note_entry(&self, index: usize) {
        let sixteenth = (1 << USED_SHIFT) << (index >> 5 & 15);
        self.stamp.store(self.stamp.load(Ordering::Relaxed) | sixteenth, Ordering::Relaxed);
    }

    /// The sixteenths of a partial or validated table that hold references, by bit. The caller must
    /// hold the owner's lock.
    #[must_use]
    #[inline]
    pub fn noted(&self) -> u16 {
        (self.stamp.load(Ordering::Relaxed) >> USED_SHIFT & 0xffff) as u16
    }

    /// Marks a partial frame, all of whose entries hold their references, as validated. The typed
    /// reference of the partial state becomes the caller's. The caller must hold the owner's lock.
    #[inline]
    pub fn set_validated(&self) {
        let _ = self.change(|w| Ok::<_, ()>(w.validated()));
    }

    /// Ends the partial state of a frame whose entries hold no references any more, and releases
    /// the typed reference of that state. `stamp` is as for [`Frame::put_typed`]. The caller must
    /// hold the owner's lock.
    pub fn retire(&self, stamp: impl FnOnce() -> u32) -> Released {
        let old = self.change(|w| {
            if !w.is_partial() || w.count() != 1 {
                return Err(());
            }
            let w = w.fewer_count().and_then(Word::fewer_references).ok_or(())?;
            Ok(w.unchecked().with(TYPE_BUSY))
        });
        if old.is_err() {
            return Released::Broken;
        }
        self.stamp.store(stamp(), Ordering::Relaxed);
        self.settle();
        Released::Done
    }

    /// Turns the caller's typed reference on a validated frame into a pin. Returns false if it is
    /// pinned already. The caller must hold the owner's lock.
    #[must_use]
    pub fn pin(&self) -> bool {
        self.change(|w| if w.is_pinned() { Err(()) } else { Ok(w.pinned(true)) }).is_ok()
    }

    /// Turns the pin into a typed reference, which the caller must release. Returns false if there
    /// is no pin. The caller must hold the owner's lock.
    #[must_use]
    pub fn unpin(&self) -> bool {
        self.change(|w| if w.is_pinned() { Ok(w.pinned(false)) } else { Err(()) }).is_ok()
    }

    /// Changes the owner word (number and [`crate::OWNER_IO`]) from `from` to `to`, and the kind to
    /// `kind`.
    ///
    /// A frame without references can still be in a TLB. If another partition gets the frame, the
    /// frame loses its type. Before that, the caller must flush every CPU that may hold
    /// translations of `from`. If the owner stays the same, the frame keeps its type, so that a
    /// later type change does the flush that is due.
    ///
    /// # Errors
    /// [`Refused::InUse`] while it has references, [`Refused::NotOwned`] if `from` is not the owner
    /// word, [`Refused::Again`] during another such change.
    pub fn set_owner(&self, from: u32, to: u32, kind: Kind) -> Result<(), Refused> {
        self.change(|w| {
            if w.has(OWNER_BUSY | TYPE_BUSY) {
                return Err(Refused::Again);
            }
            if self.owner_word() != from {
                return Err(Refused::NotOwned);
            }
            if w.references() != 0 || w.count() != 0 {
                return Err(Refused::InUse);
            }
            Ok(w.with(OWNER_BUSY))
        })?;
        let right = self.owner_word() == from;
        let moved = (from ^ to) & OWNER_NUMBER != 0;
        if right {
            self.owner.store(to, Ordering::Release);
        }
        let _ = self.change(|w| {
            let w = if right { w.with_kind(kind) } else { w };
            let w = if right && moved { w.with_type(Type::None) } else { w };
            Ok::<_, ()>(w.without(OWNER_BUSY))
        });
        if right { Ok(()) } else { Err(Refused::NotOwned) }
    }
}

/// Returns whether translations of the frame's former use may still be cached when it becomes `ty`.
fn flush_owed(old: Word, ty: Type) -> bool {
    old.count() == 0 && old.ty() != ty && old.ty() != Type::None
}

/// The word after a typed reference of `ty` was taken.
fn with_typed(w: Word, ty: Type, reference: bool) -> Result<Word, Refused> {
    match w.kind() {
        Kind::Ram => {}
        Kind::InstanceShared if !ty.is_checked() => {}
        _ => return Err(Refused::NotOwned),
    }
    if w.has(OWNER_BUSY | TYPE_BUSY) {
        return Err(Refused::Again);
    }
    if w.count() > 0 && w.ty() != ty {
        return Err(Refused::WrongType);
    }
    if w.is_partial() {
        return Ok(w); // The reference of the partial state becomes the caller's.
    }
    let busy = if flush_owed(w, ty) { TYPE_BUSY } else { 0 };
    let first = w.count() == 0;
    let w = w.more_count().ok_or(Refused::Overflow)?;
    let w = if reference { w.more_references().ok_or(Refused::Overflow)? } else { w };
    let w = if first { w.with_type(ty).with(busy) } else { w };
    Ok(if first && ty.is_checked() { w.partial() } else { w })
}
