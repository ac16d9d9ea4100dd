//! The scheduler's data on a virtual CPU.

use crate::group::Group;

/// A schedulable virtual CPU. The caller keeps it while the virtual CPU is blocked, and passes it
/// to [`super::RunQueue::enqueue`] when the virtual CPU wakes.
#[derive(Clone, Copy, Debug)]
pub struct Entity<'g> {
    /// Identifies the virtual CPU.
    pub slot: u16,
    /// The account of its partition.
    pub group: &'g Group,
    /// Virtual time, relative to `home`.
    pub(crate) vruntime: u64,
    /// Remainder of the last charge.
    pub(crate) remainder: u64,
    pub(crate) home: Home,
}

/// The reference point of an entity's virtual time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Home {
    /// Nothing: it starts at the queue's virtual time.
    New,
    /// The queue that it was in last.
    Same,
    /// All queues: it moves from one to another, and counts as runnable.
    Moving {
        /// Whether the queue it comes from was not comparable to others.
        adrift: bool,
    },
}

impl<'g> Entity<'g> {
    /// A virtual CPU that has not run yet.
    #[must_use]
    pub const fn new(slot: u16, group: &'g Group) -> Self {
        Self { slot, group, vruntime: 0, remainder: 0, home: Home::New }
    }

    /// Marks the entity to be enqueued in another queue than the one it comes from.
    #[must_use]
    pub fn uprooted(self) -> Self {
        Self { home: Home::New, ..self }
    }

    /// Charges `elapsed` nanoseconds of real time.
    pub(crate) fn charge(&mut self, elapsed: u64) {
        let (time, remainder) = self.group.charge(elapsed, self.remainder);
        self.vruntime = self.vruntime.wrapping_add(time);
        self.remainder = remainder;
    }
}

/// Returns whether virtual time `a` is before `b`, even if the counter wrapped.
pub(crate) fn before(a: u64, b: u64) -> bool {
    a.wrapping_sub(b).cast_signed() < 0
}
