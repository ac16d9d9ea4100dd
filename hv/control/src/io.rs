//! The I/O channel: the ultravisor gives orders to an I/O partition, which reports.
//!
//! ```text
//! I/O partition (client, owns the pages)                 ultravisor (server)
//!   Ready { protocol, restarts } -------------------------->
//!   <------------------------------------------------ Function { index, record }
//!   Driving { index, sectors, .. } or Failed { index, .. } ->
//!   <------------------------------ Attach { endpoint, incarnation, .. }
//!   Endpoint { .. Attached } or { .. Refused } ------------->
//!   <---------------------------------- Detach { endpoint, incarnation }
//!   Endpoint { .. Detached } ------------------------------->
//!   <------------------------------------------------ Ping { number }
//!   Alive { number } --------------------------------------->
//! ```
//!
//! Orders name functions by their index in the device table, and clients by *endpoint*: a number
//! that the ultravisor chooses. No message has an id: each report names the object that it is about.
//! Each set of rings that an endpoint is attached with has an *incarnation*, whose number is not used
//! again. A report about an old one changes nothing (crate `backend`).
//! Clients grant their pages, and the ultravisor grants journal pages, to the *service*
//! ([`pv_abi::uv::database::IO_SERVICE`]), so that either I/O partition can map them.
//!
//! After [`Report::Ready`] the ultravisor repeats the orders that hold, so an I/O partition that was
//! started again needs no memory of what it served before.

use alloc::string::String;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// Version of these messages, sent first in [`Report::Ready`].
pub const PROTOCOL: u16 = 5;

/// What the ultravisor wants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Order {
    /// Drive this function, which the database gives to the I/O partition.
    Function {
        /// Its index in the device table.
        index: u32,
        /// Its record, the bytes of a [`pv_abi::uv::devices::DeviceFunction`].
        #[serde(with = "serde_bytes")]
        record: Vec<u8>,
    },
    /// Stop driving this function: reset it and forget it. What its clients' rings have not answered
    /// is left to a successor. The answer is [`Report::Left`].
    Leave {
        /// Its index in the device table.
        index: u32,
    },
    /// Serve a client's rings. The answer is [`EndpointReport::Attached`] or
    /// [`EndpointReport::Refused`].
    Attach(Attach),
    /// Let the client reach these sectors, which begin with those that it reaches. The answer is
    /// [`EndpointReport::Resized`].
    Resize {
        /// The endpoint of the [`Attach`].
        endpoint: u32,
        /// The incarnation of the [`Attach`].
        incarnation: u64,
        /// The sectors that the endpoint consists of, in its own order.
        extents: Vec<Extent>,
    },
    /// Stop serving a client's rings: take nothing more, finish what was taken, unpin, unmap, unbind.
    /// A successor that never attached them drops what its predecessor took. The answer is
    /// [`EndpointReport::Detached`], also if nothing was attached.
    Detach {
        /// The endpoint of the [`Attach`].
        endpoint: u32,
        /// The incarnation of the [`Attach`].
        incarnation: u64,
    },
    /// Show that the event loop goes round. The answer is [`Report::Alive`], also while the I/O
    /// partition waits for a device.
    Ping {
        /// The number that the answer must have.
        number: u64,
    },
}

/// A client's rings and what it may reach.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attach {
    /// The endpoint.
    pub endpoint: u32,
    /// The number of these rings; a successor gets them with the same number.
    pub incarnation: u64,
    /// The client's domid.
    pub client: u16,
    /// A ring for each queue; at least one, all of one size, no page and no port named twice.
    pub rings: Vec<Ring>,
    /// Whether the client may only read.
    pub read_only: bool,
    /// Whether the client may discard sectors.
    pub discard: bool,
    /// Maximum number of segments of an indirect request; 0 if the client may make none.
    pub indirect_segments: u16,
    /// The sectors that the endpoint consists of, in its own order.
    pub extents: Vec<Extent>,
}

/// A ring of a client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ring {
    /// Grant references of the ring's pages, in the client's table: a power of two of them.
    pub pages: Vec<u32>,
    /// The client's event port, which waits to be bound.
    pub port: u32,
    /// Grant reference of the ring's journal page, in the ultravisor's table. The page is zero, or
    /// holds the journal of this incarnation, which a successor settles.
    pub journal: u32,
}

/// Consecutive sectors of a function's medium.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extent {
    /// Index of the function in the device table.
    pub function: u32,
    /// First sector of 512 bytes.
    pub start: u64,
    /// Number of sectors.
    pub sectors: u64,
}

/// What an I/O partition has done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Report {
    /// It runs, and drives and serves nothing yet.
    Ready {
        /// [`PROTOCOL`].
        protocol: u16,
        /// Number of its earlier starts.
        restarts: u32,
    },
    /// It drives a function.
    Driving {
        /// The function's index in the device table.
        index: u32,
        /// The medium.
        medium: Medium,
    },
    /// It does not drive a function (any more).
    Failed {
        /// The function's index in the device table.
        index: u32,
        /// The reason, for people.
        reason: String,
    },
    /// It reports about an endpoint.
    Endpoint {
        /// The endpoint.
        endpoint: u32,
        /// The incarnation of the order that the report is about.
        incarnation: u64,
        /// What it reports.
        report: EndpointReport,
    },
    /// It has read an [`Order::Ping`].
    Alive {
        /// The number of the order.
        number: u64,
    },
    /// It has let go of a function as [`Order::Leave`] asks: the reset is confirmed, and it has no
    /// register of it mapped, no pin of what was in flight, and no ring of a client whose sectors are
    /// on it. The journals say what is unanswered. It sends no such report if it could not do that.
    Left {
        /// The function's index in the device table.
        index: u32,
    },
}

/// Maximum number of functions that an I/O partition drives.
pub const MAX_FUNCTIONS: usize = 12;

/// What an I/O partition reports about an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EndpointReport {
    /// It serves the client's rings.
    Attached,
    /// It cannot map or bind the rings, and holds nothing of them.
    Refused {
        /// The reason, for people.
        reason: String,
    },
    /// It stopped a ring for a mistake of the client, and waits for [`Order::Detach`].
    Broken {
        /// The reason, for people.
        reason: String,
    },
    /// The medium lost what was flushed, or may have. It serves on, with errors.
    MediumFailed {
        /// The reason, for people.
        reason: String,
    },
    /// The client reaches this number of sectors.
    Resized {
        /// The number of sectors.
        sectors: u64,
    },
    /// It has nothing of the client's rings any more.
    Detached,
}

/// What a disk is like.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Medium {
    /// Number of sectors of 512 bytes.
    pub sectors: u64,
    /// Bytes of a block, which the device writes as a whole.
    pub block_bytes: u32,
    /// Whether it can only be read.
    pub read_only: bool,
    /// Whether it has a write cache, which a flush empties.
    pub write_cache: bool,
    /// Bytes of the parts in which it discards sectors; 0 if it cannot.
    pub discard_bytes: u32,
    /// Number of queues that are used.
    pub queues: u16,
    /// Whether it interrupts; otherwise it is polled by a timer.
    pub interrupts: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    #[test]
    fn the_largest_attach_fits_a_message() {
        let ring = Ring { pages: vec![u32::MAX; 16], port: u32::MAX, journal: u32::MAX };
        let extent = Extent { function: u32::MAX, start: u64::MAX, sectors: u64::MAX };
        let order = Order::Attach(Attach {
            endpoint: u32::MAX,
            incarnation: u64::MAX,
            client: u16::MAX,
            rings: vec![ring; 16],
            read_only: true,
            discard: true,
            indirect_segments: u16::MAX,
            // `extents::EXTENTS_MAX`.
            extents: vec![extent; 64],
        });
        let bytes = postcard::to_allocvec(&order).unwrap();
        assert!(bytes.len() <= pv_abi::uv::channel::MAX_PAYLOAD, "{} bytes", bytes.len());
        assert_eq!(postcard::from_bytes(&bytes), Ok(order));
    }
}
