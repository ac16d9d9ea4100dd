//! Which virtual CPU runs next on a physical CPU, and which timer fires next.
//!
//! Everything is plain data with the clock as a parameter: times are nanoseconds of system time,
//! virtual CPUs are slots (`u16`) whose meaning is the caller's. Nothing here locks, allocates or
//! panics; whoever shares a queue between CPUs locks it.
//!
//! * [`RunQueue`]: one per physical CPU, fair by weight.
//! * [`TimerQueue`]: deadlines in a binary heap, with cancellation.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

mod entity;
mod run_queue;
mod timers;

pub use entity::{CpuMask, Entity};
pub use run_queue::{Full, RunQueue, SLICE, WAKE_CREDIT, WAKE_GRANULARITY};
pub use timers::TimerQueue;
