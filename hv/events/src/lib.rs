//! Event channels with 2-level bits: the ports, and how an event becomes pending.
//!
//! The crate has two halves, which the monitor connects:
//! * [`PortTable`]: a partition's ports, one word each. It says where a send is delivered.
//! * [`EventBits`] and [`UpcallWords`]: the words that a partition and the monitor share. They say
//!   whether the partition must be notified.
//!
//! ```text
//! send(port of A) -> PortTable of A -> (B, port of B)
//!   PortTable of B -> virtual CPU it notifies
//!   EventBits of B: pending bit set, not masked -> UpcallWords: selector, upcall -> kick
//! ```
//!
//! The caller supplies all memory. Every word is atomic, so sends need no lock. Operations that
//! change a port (allocate, bind, close) are single compare-and-swaps and fail cleanly if two race.
//! A caller that needs exact answers to "lowest free port" or "one port per interrupt" holds its
//! own lock per table. Errors are those of the Xen ABI.
#![cfg_attr(not(test), warn(clippy::cast_possible_truncation))]
#![cfg_attr(not(any(test, loom)), no_std)]
#![forbid(unsafe_code)]

mod bits;
mod port;
mod sync;
mod table;

pub use bits::{EventBits, Raised, UpcallWords};
pub use port::{Port, PortCell, PortUse};
pub use table::{Delivery, PortTable, bind_interdomain, bind_pair};

/// A result, or a [`Refused::Errno`](refusal::Refused::Errno) of the Xen ABI.
pub type Result<T> = core::result::Result<T, refusal::Refused>;
