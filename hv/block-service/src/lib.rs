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
//! 4. A flush is never answered with an error. One that fails is issued again, and after
//!    [`FLUSH_TRIES`] the endpoint ends ([`Trouble::Flush`]).
//! 5. No request allocates: all lists have their room from the attach on. What waits for room in a
//!    queue, or for the limits, is looked at again at the next [`Endpoint::serve`].
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod driven;
mod endpoint;
mod work;

pub use driven::Driven;
pub use endpoint::{Endpoint, Parts, Tag, Trouble};
pub use work::{FLUSH_TRIES, SEGMENTS_OFFERED};

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

/// The client could not be reached so: a grant that it does not give, or that is no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoGrant;

/// The memory and the port of a client.
pub trait Client {
    /// Pins the page of a grant for a disk. `disk_writes` says that the disk writes the page.
    ///
    /// # Errors
    /// [`NoGrant`].
    fn pin(&mut self, grant: u32, disk_writes: bool) -> Result<Pin, NoGrant>;
    /// Drops a pin.
    fn unpin(&mut self, pin: Pin);
    /// Copies the first words of the page of a grant.
    ///
    /// # Errors
    /// [`NoGrant`].
    fn copy(&mut self, grant: u32, to: &mut [u64]) -> Result<(), NoGrant>;
    /// Raises the client's event.
    fn notify(&mut self);
}

/// The disks, by number; see [`virtio::drive::Drive`].
pub trait Disks {
    /// What a disk is like; `None` if it is not driven now.
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
