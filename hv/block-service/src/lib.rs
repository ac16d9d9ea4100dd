//! Serves block rings of clients from disks: the decisions of an I/O partition between both.
//!
//! ```text
//! ring -> journal -> checked request -> pins, extents -> pieces for disks
//!      <- journal <- all pieces done, pins dropped     <- completions
//! ```
//!
//! An [`Endpoint`] is one client's ring. A request of it becomes one *piece* for each extent that it
//! touches, and more if a disk takes fewer segments at a time. Pieces of many requests are in flight
//! together, and a request is answered once its last piece is done, in any order.
//!
//! # Rules
//! 1. Requests are issued from the journal alone, so a successor can issue them again.
//! 2. A page of the client is pinned before a disk gets its address, and the pin is dropped before
//!    the client sees the answer.
//! 3. A mistake of the client costs the client an error or its ring, and no one else anything.
//! 4. A flush is never answered with an error. One that fails is issued again. After [`FLUSH_TRIES`]
//!    ([`Trouble::Flush`]) neither that flush nor any later one is answered: what the client wrote may
//!    be lost, and no answer may hide that.
//! 5. No request allocates: all lists have their room from the attach on. What waits for room in a
//!    queue or in the table of pins, or for the limits, is looked at again at the next
//!    [`Endpoint::serve`].
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod driven;
mod endpoint;
mod work;

pub use driven::Driven;
pub use endpoint::{Endpoint, Parts, Tag, Trouble};
pub use work::{FLUSH_TRIES, SEGMENTS_OFFERED};

use alloc::vec::Vec;
use virtio::drive::{Medium, Request, Unsubmitted};
use virtio::queue::Segment;

/// A pinned page of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pin {
    /// Machine address of the page.
    pub address: u64,
    /// The handle by which the pin is dropped.
    pub handle: u32,
}

/// Why pages of a client were not pinned, or not copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unreached {
    /// A grant that the client does not offer, or has revoked.
    NoGrant,
    /// The server's own table of pins is full, or the grants are in use for a moment: the request is
    /// tried again.
    NoRoom,
}

/// The memory and the port of a client.
pub trait Client {
    /// Pins the pages of these grants for a disk, at most [`SEGMENTS_OFFERED`], and appends the pins
    /// in the same order. `disk_writes` says that the disk writes the pages.
    ///
    /// # Errors
    /// See [`Unreached`]; no page is pinned then.
    fn pin(
        &mut self,
        grants: &[u32],
        disk_writes: bool,
        pins: &mut Vec<Pin>,
    ) -> Result<(), Unreached>;
    /// Drops pins.
    fn unpin(&mut self, pins: &[Pin]);
    /// Copies the first words of the page of a grant.
    ///
    /// # Errors
    /// See [`Unreached`].
    fn copy(&mut self, grant: u32, to: &mut [u64]) -> Result<(), Unreached>;
    /// Raises the client's event.
    fn notify(&mut self);
}

/// The disks, by number; see [`virtio::drive::Drive`].
pub trait Disks {
    /// The medium of a disk; `None` if no driver drives the disk now.
    fn medium(&self, disk: u32) -> Option<Medium>;
    /// Submits a piece, whose completion comes with the tag.
    ///
    /// # Errors
    /// See [`Unsubmitted`].
    fn submit(
        &mut self,
        disk: u32,
        request: Request,
        segments: &[Segment],
        tag: Tag,
    ) -> Result<(), Unsubmitted>;
}
