//! Random programs of hypercalls and instructions: made from a seed, and shrunk.
//!
//! A [`Program`] is data: calls whose arguments are *words* such as "the frame of page 3 as an
//! entry with these bits" or "four bytes before the end of page 5". Only the guest that runs it
//! knows where pages and frames lie. So the same seed is the same program anywhere, and a tool on
//! any host can print what a guest ran.
//!
//! A program has steps for one virtual CPU, and half of the programs have steps for a second one
//! that executes them at the same time. The seed determines the steps, but not how the two
//! interleave.
//!
//! Arguments have a sane kind and a wild value, because the first check of every call would refuse
//! random bytes. Known ways in which a guest ends or stops itself are left out; an unknown way is
//! the guest's own end, never the monitor's.
#![no_std]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod batch;
mod calls;
mod generate;
mod keep;
mod random;
mod shrink;
mod store;
mod tables;
mod text;
mod word;

pub use batch::{Batch, PATTERN_WORDS};
pub use generate::{CODES, OTHER_SLOTS, Program, SLOTS, STORES, Step};
pub use keep::Keep;
pub use random::Random;
pub use shrink::shrink;
pub use store::{Message, Requests, Skew, Transaction};
pub use word::{Frame, PAGES, Place, Role, Word};
