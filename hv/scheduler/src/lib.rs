//! Chooses which virtual CPU runs next on a physical CPU, and which timer fires next.
//!
//! Everything is plain data, with the clock as a parameter. Times are nanoseconds of system time;
//! virtual CPUs are slots (`u16`) whose meaning is the caller's. Nothing here locks, allocates or
//! panics; a caller that shares a queue between CPUs locks it.
//!
//! * [`Group`]: the data shared by the virtual CPUs of a partition: weight, cap, CPUs allowed.
//! * [`RunQueue`]: one per physical CPU, fair by weight.
//! * [`RunQueue::give`]: moves between queues, so that shares are fair over all CPUs.
//! * [`TimerQueue`]: deadlines in a binary heap, with cancellation.
#![cfg_attr(not(test), warn(clippy::cast_possible_truncation))]
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

mod balance;
mod entity;
mod group;
mod heap;
mod run_queue;

pub use balance::{BALANCE, Leads, MOVE_LEAD};
pub use entity::Entity;
pub use group::{CpuMask, Group, Limits, PERIOD};
pub use heap::{FAR, Heap, TimerQueue};
pub use run_queue::{NoSuchSlot, RunQueue, SLICE, WAKE_CREDIT, WAKE_GRANULARITY};
