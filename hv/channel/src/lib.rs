//! Memory channels: framed rings over words that two sides share, and the messages in them.
//!
//! * [`words`] copies bytes to and from words that another side may write at the same time.
//! * [`ring`] makes two rings of frames of such words.
//! * [`ends`] sends and receives messages over these rings.
//!
//! The rule it keeps: nothing here makes a hypercall, and only [`words`] has `unsafe`. A Rust
//! partition gets the words from its start block or a grant, a Linux process from its own mapping.
#![no_std]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod ends;
pub mod ring;
pub mod words;
