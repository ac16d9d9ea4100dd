//! Version-1 grant tables. They answer two questions: may a partition use a frame that another
//! grants, and which grants has it mapped?
//!
//! * [`GrantTable`]: the granter's side. The entries lie in memory that the granter may write at
//!   any time. A [`PinnedEntry`], which the granter cannot write, records the grant as it was when
//!   the use began.
//! * [`MapTable`]: the mapper's side. A handle names the record of one mapping.
//!
//! The caller supplies all memory. Errors are `GNTST_` codes of [`pv_abi::xen::grants`].
#![cfg_attr(not(test), warn(clippy::cast_possible_truncation))]
#![cfg_attr(not(any(test, loom)), no_std)]
#![forbid(unsafe_code)]

mod maps;
mod sync;
mod table;

pub use maps::{MapRecord, MapTable};
pub use table::{Access, GrantTable, PinnedEntry, entry};

/// Result with a `GNTST_` code.
pub type Result<T> = core::result::Result<T, i16>;
