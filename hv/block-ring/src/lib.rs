//! The back end's half of the block protocol: ring, events, untrusted requests.
//!
//! The layout is that of the public headers (`pv_abi::xen::block`). A front end writes the ring
//! while the back end reads it, so nothing in the ring is trusted:
//!
//! * [`Ring`] loads and stores indices and slots through [`RingMemory`], one word at a time. A slot
//!   is fetched once, into a [`RawRequest`], and never looked at again.
//! * [`Cursor`] holds the back end's own indices. The ring's `rsp_prod` is never read in service,
//!   since the front end can write it. Indices of the front end that cannot be are a [`Broken`]
//!   ring: the client is detached, with that cause.
//! * [`decode`] turns a raw request into a [`Checked`] one, or into a [`Refusal`], which is answered
//!   with the status that [`Refusal::status`] gives. A segment outside its page, a sector past the
//!   end, a write to a read-only endpoint never become a `Checked` request.
//!
//! # Order of stores
//! A response stands in its slot before `rsp_prod` covers it, and a request is fetched after the
//! `req_prod` that covers it was loaded: [`RingMemory::store_index`] is a release,
//! [`RingMemory::load_index`] an acquire. Both sides store their producer index and then load the
//! other side's event index, so a full fence stands between ([`Ring::event_owed`],
//! [`Ring::ask_for_event`]); without it both could see the old value, and a wake-up would be lost.
//!
//! # Fields that are not checked
//! The `handle` of a request: a ring belongs to one endpoint, so the field decides nothing, and the
//! header defines it for reads and writes alone. The secure flag of a discard: the header says to
//! ignore it where `discard-secure` is 0, and it is never offered.
#![cfg_attr(not(test), warn(clippy::cast_possible_truncation))]
#![cfg_attr(not(any(test, loom)), no_std)]
#![forbid(unsafe_code)]

mod decode;
mod ring;

pub use decode::{
    Checked, Features, Indirect, Kind, RawRequest, Refusal, Segments, Transfer, decode,
    decode_segment,
};
pub use ring::{Broken, Cursor, Index, REQUEST_WORDS, Ring, RingMemory, RingSize};

#[cfg(all(test, loom))]
mod loom_tests;
