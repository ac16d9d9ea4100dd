//! Random programs of hypercalls and instructions: made from a seed, told apart, shrunk.
//!
//! A [`Program`] is data: calls whose arguments are *words* such as "the frame of page 3 as an
//! entry with these bits" or "four bytes before the end of page 5". Where pages and frames lie,
//! only the guest that runs it knows. So the same seed is the same program anywhere, and a tool on
//! any host can print what a guest ran.
//!
//! A program has steps for one virtual CPU, and half of the programs have steps for a second one
//! that does them at the same time. The steps are the seed's; how the two interleave is not.
//!
//! Arguments are sane in kind and wild in value: random bytes would be refused by the first check
//! of every call. What a guest does to end or to stop itself is left out as far as it is known;
//! what slips through is the guest's own end, never the monitor's.
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
