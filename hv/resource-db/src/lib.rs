//! The resource database: one arena of pages that says who owns what.
//!
//! The ultravisor partition writes it through [`Database`]. Monitors map the same pages read-only,
//! and look things up through the crate `database-view`, which [`Reader`] extends.
//! [`pv_abi::uv::database`] defines the layout.
#![cfg_attr(not(any(test, feature = "cut")), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

#[cfg(feature = "cut")]
pub mod cut;
mod database;
mod page_map;
mod reader;
mod words;

pub use database::{Database, MIN_PAGES, WriteError};
pub use database_view::{MAX_FRAMES, OwnedRange, Owner, PAGE_WORDS, ReadError, Words};
pub use reader::{Entries, Ranges, Reader};
