//! The resource database: one arena of pages that says who owns what.
//!
//! The ultravisor partition writes it through [`Database`]; monitors map the same pages read-only
//! and look things up through [`Reader`]. The layout is [`pv_abi::uv::database`].
//!
//! Both work on a slice of [`AtomicU32`](core::sync::atomic::AtomicU32), the arena's words: the
//! two sides share the memory, and a word that another CPU may be writing is read without a data
//! race and without `unsafe`. Rule: the reader believes nothing. An index that leads outside the
//! arena, a table that points at itself and a generation that stays odd are errors, never panics
//! and never unbounded loops.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

mod database;
mod page_map;
mod reader;
mod words;

pub use database::{Database, MIN_PAGES, WriteError};
pub use page_map::{Entries, Ranges};
pub use reader::{OwnedRange, Owner, ReadError, Reader};
pub use words::{PAGE_WORDS, Words};
