//! A block front end that trusts no answer: requests from a seed, and checks of all that comes back.
//!
//! ```text
//! seed -> Plan -> requests -> ring -> back end
//!          |                           |
//!         Model <- checks of answers <-+
//! ```
//!
//! A [`Front`] has up to 32 requests in flight on each of its rings. A [`Model`] knows the contents
//! of each sector. Every written sector is a [`Cookie`], which names the seed, the sector and the
//! write; so a sector that is lost, old, or at a wrong place can be told by its contents. The
//! caller calls [`Front::step`] whenever something may have happened. The first difference ends the
//! run with a [`Fault`].
//!
//! # What is checked
//! 1. Each request is answered once, with its operation and status OK. The id of an answered request
//!    is used again at once, by the next request.
//! 2. When an answer is seen, no grant of the request is in use any more.
//! 3. A read shows what the last answered write of each sector wrote. No two requests in flight
//!    overlap unless both read.
//! 4. A read changes no byte beside its segments, and a write changes none at all.
//! 5. A page that no request uses is poisoned. The poison is looked at when a request uses the page
//!    again, which is as late as can be, and at the end: a transfer after its answer shows there.
//! 6. A request that waits longer than [`PATIENCE`] is never answered. A shorter silence is a
//!    *stall*, and no error: its length is reported.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod fault;
mod front;
mod hostile;
mod load;
mod machine;
mod model;
mod nodes;
mod plan;
mod pool;
mod ring;
mod sector;

pub use fault::Fault;
pub use front::{Counts, Flushed, Front, Goal, PATIENCE, STALL, Step};
pub use hostile::{Attack, Broken, Rubbish};
pub use load::{LOADS, Lean, Load};
pub use machine::{Machine, PAGE_WORDS, Page};
pub use model::{Known, Model, WINDOW};
pub use nodes::{Offer, state_of, write_nodes};
pub use ring::{Ring, SLOTS};
pub use sector::Cookie;

#[cfg(test)]
mod tests;
