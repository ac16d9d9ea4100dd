//! The layout of a frame's atomic word, and the arithmetic on it.
//!
//! A [`Word`] is a plain value: all decisions here are made on a copy, which takes effect only
//! through the compare-and-swap loops of [`crate::Frame`]. Counts never wrap: a sum that does not
//! fit is refused before it is written.

use crate::{Kind, Type};
use frame_record::KIND_SHIFT;

/// Bits of the reference count.
pub const REFERENCE_BITS: u32 = 28;
/// Bits of the type count.
pub const COUNT_BITS: u32 = 24;

const ONE_REFERENCE: u64 = 1;
const REFERENCES: u64 = (1 << REFERENCE_BITS) - 1;
const ONE_COUNT: u64 = 1 << REFERENCE_BITS;
const COUNT: u64 = ((1 << COUNT_BITS) - 1) << REFERENCE_BITS;
const TYPE_SHIFT: u32 = 52;
const TYPE: u64 = 7 << TYPE_SHIFT;
const KIND: u64 = 3 << KIND_SHIFT;
const VALIDATED: u64 = 1 << 57;
const PARTIAL: u64 = 1 << 58;
const PINNED: u64 = 1 << 59;
/// A type change or the release of the last typed reference is in progress; the type cannot be
/// taken meanwhile.
pub(crate) const TYPE_BUSY: u64 = 1 << 60;
/// The owner is about to change; no reference can be taken meanwhile.
pub(crate) const OWNER_BUSY: u64 = 1 << 61;

/// The top bits of both counts: while both are clear, each count has room for one more.
const NEARLY_FULL: u64 = 1 << (REFERENCE_BITS - 1) | 1 << (REFERENCE_BITS + COUNT_BITS - 1);
/// Type counts beyond the first.
const SHARED: u64 = COUNT & !ONE_COUNT;

/// A copy of a frame's word at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Word(pub(crate) u64);

impl Word {
    /// The type that the frame has, or had last if [`Word::count`] is 0.
    #[must_use]
    pub const fn ty(self) -> Type {
        match (self.0 & TYPE) >> TYPE_SHIFT {
            1 => Type::Writable,
            2 => Type::L1,
            3 => Type::L2,
            4 => Type::L3,
            5 => Type::L4,
            6 => Type::SegDesc,
            _ => Type::None,
        }
    }

    /// How the frame may be used.
    #[must_use]
    pub const fn kind(self) -> Kind {
        match (self.0 & KIND) >> KIND_SHIFT {
            0 => Kind::Ram,
            1 => Kind::InstanceShared,
            _ => Kind::Private,
        }
    }

    /// References that need the frame to keep its type.
    #[must_use]
    pub const fn count(self) -> u32 {
        ((self.0 & COUNT) >> REFERENCE_BITS) as u32
    }

    /// Number of all references, typed ones included.
    #[must_use]
    pub const fn references(self) -> u32 {
        (self.0 & REFERENCES) as u32
    }

    /// Returns whether every present entry of the table holds its reference.
    #[must_use]
    pub const fn is_validated(self) -> bool {
        self.0 & VALIDATED != 0
    }

    /// The same as [`Word::is_validated`], for a frame of type `ty`.
    #[inline]
    pub(crate) const fn is_validated_as(self, ty: Type) -> bool {
        self.0 & (TYPE | VALIDATED) == (ty as u64) << TYPE_SHIFT | VALIDATED
    }

    /// Returns whether only the entries below [`crate::Frame::progress`] hold references; the one
    /// type count and the one reference belong to this state.
    #[must_use]
    pub const fn is_partial(self) -> bool {
        self.0 & PARTIAL != 0
    }

    /// Returns whether the partition pinned the table; the pin holds a typed reference.
    #[must_use]
    pub const fn is_pinned(self) -> bool {
        self.0 & PINNED != 0
    }

    pub(crate) const fn has(self, bits: u64) -> bool {
        self.0 & bits != 0
    }

    pub(crate) const fn with(self, bits: u64) -> Self {
        Self(self.0 | bits)
    }

    pub(crate) const fn without(self, bits: u64) -> Self {
        Self(self.0 & !bits)
    }

    pub(crate) const fn with_type(self, ty: Type) -> Self {
        Self((self.0 & !TYPE) | ((ty as u64) << TYPE_SHIFT))
    }

    pub(crate) const fn with_kind(self, kind: Kind) -> Self {
        Self((self.0 & !KIND) | ((kind as u64) << KIND_SHIFT))
    }

    /// One more reference, in the common case that needs no further check.
    #[inline]
    pub(crate) const fn more_plain(self) -> Option<Self> {
        if self.0 & (KIND | OWNER_BUSY | NEARLY_FULL) != 0 {
            return None;
        }
        Some(Self(self.0 + ONE_REFERENCE))
    }

    /// One more typed reference on a frame whose type is `ty` already, in the common case that
    /// needs no further check; `references` is 1, or 0 if the caller holds the plain reference.
    #[inline]
    pub(crate) const fn more_typed(self, ty: Type, references: u64) -> Option<Self> {
        const LOOKED_AT: u64 =
            TYPE | KIND | VALIDATED | PARTIAL | TYPE_BUSY | OWNER_BUSY | NEARLY_FULL;
        let validated = if ty.is_checked() { VALIDATED } else { 0 };
        if self.0 & LOOKED_AT != (ty as u64) << TYPE_SHIFT | validated {
            return None;
        }
        Some(Self(self.0 + ONE_COUNT + references))
    }

    /// One typed reference less, in the common case that it is not the last; `references` is as for
    /// [`Word::more_typed`].
    #[inline]
    pub(crate) const fn fewer_typed(self, references: u64) -> Option<Self> {
        if self.0 & SHARED == 0 || self.references() < self.count() {
            return None;
        }
        Some(Self(self.0 - ONE_COUNT - references))
    }

    /// One more reference, unless the count is full.
    pub(crate) const fn more_references(self) -> Option<Self> {
        if self.0 & REFERENCES == REFERENCES {
            return None;
        }
        Some(Self(self.0 + ONE_REFERENCE))
    }

    /// The word with one reference less, unless only those that belong to types are left.
    pub(crate) const fn fewer_references(self) -> Option<Self> {
        if self.references() <= self.count() {
            return None;
        }
        Some(Self(self.0 - ONE_REFERENCE))
    }

    /// One more type count, unless the count is full.
    pub(crate) const fn more_count(self) -> Option<Self> {
        if self.0 & COUNT == COUNT {
            return None;
        }
        Some(Self(self.0 + ONE_COUNT))
    }

    /// The word with one type count less, unless there is none.
    pub(crate) const fn fewer_count(self) -> Option<Self> {
        if self.0 & COUNT == 0 {
            return None;
        }
        Some(Self(self.0 - ONE_COUNT))
    }

    /// Changes the state from unchecked to partial.
    pub(crate) const fn partial(self) -> Self {
        Self((self.0 & !VALIDATED) | PARTIAL)
    }

    /// Changes the state from partial to validated.
    pub(crate) const fn validated(self) -> Self {
        Self((self.0 & !PARTIAL) | VALIDATED)
    }

    /// Changes the state from partial to unchecked.
    pub(crate) const fn unchecked(self) -> Self {
        Self(self.0 & !(PARTIAL | VALIDATED))
    }

    pub(crate) const fn pinned(self, on: bool) -> Self {
        if on { self.with(PINNED) } else { self.without(PINNED) }
    }
}
