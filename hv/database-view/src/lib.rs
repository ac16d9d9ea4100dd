//! The resource database as a monitor sees it: read-only.
//!
//! Ring 0 links only this part of the database. The arena is a slice of
//! [`AtomicU32`](core::sync::atomic::AtomicU32): another partition may write it at the same time,
//! and atomics read a word without a data race and without `unsafe`. Rule: the reader trusts no
//! word of the arena. An index that leads outside the arena, a table that points at itself, and a
//! generation that stays odd are errors. They never cause a panic or an unbounded loop.
#![cfg_attr(not(test), warn(clippy::cast_possible_truncation))]
#![no_std]
#![forbid(unsafe_code)]

mod reader;
mod words;

pub use reader::{
    DESCRIPTOR_BYTES, MAX_FRAMES, OwnedRange, Owner, ReadError, Reader, is_descriptor_number,
};
pub use words::{PAGE_WORDS, Words};
