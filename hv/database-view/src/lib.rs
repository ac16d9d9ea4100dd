//! The resource database as a monitor sees it: read-only.
//!
//! This is all of the database that ring 0 links. The arena is a slice of
//! [`AtomicU32`](core::sync::atomic::AtomicU32): another partition writes it at the same time, and
//! a word is read without a data race and without `unsafe`. Rule: the reader believes nothing. An
//! index that leads outside the arena, a table that points at itself and a generation that stays
//! odd are errors, never panics and never unbounded loops.
#![cfg_attr(not(test), warn(clippy::cast_possible_truncation))]
#![no_std]
#![forbid(unsafe_code)]

mod reader;
mod words;

pub use reader::{
    DESCRIPTOR_BYTES, MAX_FRAMES, OwnedRange, Owner, ReadError, Reader, is_descriptor_number,
};
pub use words::{PAGE_WORDS, Words};
