//! Event channels with 2-level bits: what a port is, and how its event becomes pending.
//!
//! Two halves that meet in the monitor:
//! * [`PortTable`]: a partition's ports, a word each. It says where a send goes.
//! * [`EventBits`] and [`UpcallWords`]: the words that a partition and the monitor share. They
//!   say whether the partition has to be told.
//!
//! ```text
//! send(port of A) -> PortTable of A -> (B, port of B)
//!   PortTable of B -> virtual CPU it notifies
//!   EventBits of B: pending bit set, not masked -> UpcallWords: selector, upcall -> kick
//! ```
//!
//! All memory is the caller's. Every word is atomic, so sends need no lock; operations that
//! change a port (allocate, bind, close) are single compare-and-swaps and fail cleanly when two
//! race, but a caller that wants "lowest free port" or "one port per interrupt" answered exactly
//! holds its own lock per table. Errors are the negative errno values of the Xen ABI.
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

/// Result with a negative errno of [`pv_abi::xen::errno`].
pub type Result<T> = core::result::Result<T, i64>;
