//! The layout of a frame's record: the part that the loader and the monitor share.
//!
//! The loader fills the frame table before anything refers to a frame: it writes the owner of each
//! frame, and its use. From then on the monitor's crate `frames` makes every change. The rule: a
//! [`Record`] has the layout of `frames::Frame`, which that crate asserts; all zeros stand for
//! unowned RAM without a reference.
#![cfg_attr(not(test), no_std)]

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Number of the partition that owns a frame; 0 for nobody.
pub type Owner = u32;

/// Bits of an owner word that are the partition number.
pub const OWNER_NUMBER: u32 = (1 << 30) - 1;
/// Bit of an owner word: I/O memory, not RAM.
pub const OWNER_IO: u32 = 1 << 30;

/// Where the kind is in the word of a record.
pub const KIND_SHIFT: u32 = 55;

/// The uses that a frame allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// Ordinary memory of the partition, which allows any type.
    Ram = 0,
    /// Memory of the partition's monitor instance that is shared with the partition (shared info,
    /// grant frames). The owner may map it, and so may a partition that has a grant of it; it is
    /// never a table.
    InstanceShared = 1,
    /// Never mapped by any partition: the instance's own state, or reserved memory.
    Private = 2,
}

/// A frame's record before anything refers to the frame; 16 bytes.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Record {
    word: AtomicU64,
    owner: AtomicU32,
    stamp: AtomicU32,
}

const _: () = {
    use core::mem::offset_of;
    assert!(size_of::<Record>() == 16);
    assert!(offset_of!(Record, word) == 0 && offset_of!(Record, owner) == 8);
};

impl Record {
    /// The owner word: number and [`OWNER_IO`].
    #[must_use]
    pub fn owner_word(&self) -> u32 {
        self.owner.load(Ordering::Relaxed)
    }

    /// Makes `owner`, an owner word, the owner. Only while nothing refers to the frame.
    pub fn set_owner(&self, owner: u32, kind: Kind) {
        self.word.store((kind as u64) << KIND_SHIFT, Ordering::Relaxed);
        self.owner.store(owner, Ordering::Relaxed);
    }
}
