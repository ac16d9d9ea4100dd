//! The monitor's record of a machine frame: owner, type, type count, reference count.
//!
//! A partition may name any machine frame in its page tables. So containment rests on one question
//! about every such frame: *which partition owns it, and for what is it used?* A frame that serves
//! as a page table must not be writable by its partition at the same time, and a frame must not
//! change its owner while anything still refers to it.
//!
//! # Rules
//! 1. Every use of a frame holds a *reference*. A use that depends on the contents (a writable
//!    mapping, a page table of a level, a descriptor table) holds a *typed* reference: one
//!    reference and one type count together.
//! 2. The type changes only while the type count is 0, so a frame is never writable and a table at
//!    once.
//! 3. A frame keeps its type at count 0. A caller that takes it as another type then gets a stamp:
//!    translations that CPUs cached up to that time may still use the frame in its former role, and
//!    must be flushed before the new use begins.
//! 4. A *checked* type (tables, descriptor tables) at count 1 may be *partial*: some of its entries
//!    hold references ([`Frame::progress`] says which), the count belongs to that state, and
//!    nothing else relies on it. Any caller that meets a partial frame can continue the work on it
//!    in either direction.
//! 5. The owner changes only while there is no reference.
//!
//! # Who may call what
//! Every transition is a compare-and-swap on one word, so CPUs need no lock for references and for
//! the type *Writable*. Only the owner's own operations take checked types, and the lock of that
//! partition serializes them; methods that rely on it say so.
#![cfg_attr(not(test), warn(clippy::cast_possible_truncation))]
#![cfg_attr(not(any(test, loom)), no_std)]

mod frame;
mod hand_over;
mod word;

pub use frame::{FLUSH_ALWAYS, Frame};
pub use frame_record::{Kind, OWNER_IO, OWNER_NUMBER, Owner};
pub use hand_over::{HandOver, OtherMemory};
pub use word::{COUNT_BITS, REFERENCE_BITS, Word};

/// The use of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Type {
    /// No type yet.
    None = 0,
    /// Mapped writable somewhere.
    Writable = 1,
    /// Page table of level 1: its entries map frames.
    L1 = 2,
    /// Page table of level 2.
    L2 = 3,
    /// Page table of level 3.
    L3 = 4,
    /// Page table of level 4: its frame can be loaded into CR3.
    L4 = 5,
    /// Descriptor table of segments (GDT or LDT page).
    SegDesc = 6,
}

impl Type {
    /// Returns whether the contents are checked before a frame counts as this type.
    #[must_use]
    pub const fn is_checked(self) -> bool {
        !matches!(self, Self::None | Self::Writable)
    }

    /// The level of a page table, 1 to 4.
    #[must_use]
    pub const fn level(self) -> Option<u8> {
        match self {
            Self::L1 | Self::L2 | Self::L3 | Self::L4 => Some(self as u8 - 1),
            _ => None,
        }
    }

    /// The page-table type of a level, 1 to 4.
    #[must_use]
    pub fn table(level: u8) -> Option<Self> {
        [Self::L1, Self::L2, Self::L3, Self::L4].into_iter().find(|ty| ty.level() == Some(level))
    }
}

/// Why a frame could not be taken or changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refused {
    /// The frame belongs to another partition, or its kind forbids the use.
    NotOwned,
    /// The frame is in use as another type.
    WrongType,
    /// The frame still has references.
    InUse,
    /// A count is full.
    Overflow,
    /// Another CPU is changing the frame; serve that CPU's requests and try again.
    Again,
}

/// The result of taking a typed reference: the work before the caller may rely on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Acquired {
    /// No work is left.
    Ready,
    /// The frame had another type. The caller has to flush the translations that its owner's CPUs
    /// cached up to `stamp`, and then to call [`Frame::settle`]. No other caller gets the type
    /// before that.
    Settle {
        /// The flush clock when the frame's former use ended.
        stamp: u32,
    },
    /// A checked type whose entries above [`Frame::progress`] are not validated. The reference
    /// belongs to the partial state until [`Frame::set_validated`]; then it is the caller's.
    Validate {
        /// If set, as for [`Acquired::Settle`]: flush, call [`Frame::settle`], then validate.
        stamp: Option<u32>,
        /// Whether the frame was partial before, so that this continues earlier work.
        resumed: bool,
    },
}

/// The result of releasing a typed reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Released {
    /// No work is left.
    Done,
    /// The reference was the last one of a validated frame: the frame is now partial, and all its
    /// entries still hold references. Drop the entries from the highest down, then call
    /// [`Frame::retire`].
    Devalidate,
    /// There was no reference to release: the counts are broken.
    Broken,
}

#[cfg(all(test, loom))]
mod loom_tests;
#[cfg(all(test, not(loom)))]
mod tests;
