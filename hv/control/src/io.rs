//! The I/O channel: the ultravisor gives orders to an I/O partition, which reports.
//!
//! ```text
//! I/O partition (client, owns the pages)                 ultravisor (server)
//!   Ready { protocol, restarts } -------------------------->
//!   <------------------------------------------------ Function { index, record }
//!   Driving { index, sectors, .. } or Failed { index, .. } ->
//!   <------------------------------------------------ Attach { endpoint, .. }
//!   Attached { endpoint } or Detached { endpoint, cause } -->
//! ```
//!
//! Orders name functions by their index in the device table, and clients by *endpoint*: a number
//! that the ultravisor chooses. No message has an id: each report names the object that it is about.
//! After [`Report::Ready`] the ultravisor repeats the orders that hold, so an I/O partition that was
//! started again needs no memory of what it served before.

use alloc::string::String;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// Version of these messages, sent first in [`Report::Ready`].
pub const PROTOCOL: u16 = 1;

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
    /// Stop driving this function: reset it and forget it.
    Leave {
        /// Its index in the device table.
        index: u32,
    },
    /// Serve a client's ring.
    Attach(Attach),
    /// Stop serving a client's ring: take nothing more, finish what was taken, unmap the ring.
    Detach {
        /// The endpoint of the [`Attach`].
        endpoint: u32,
    },
}

/// A client's ring and what it may reach.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attach {
    /// The endpoint.
    pub endpoint: u32,
    /// Counts the times that the endpoint was attached to a new ring.
    pub incarnation: u32,
    /// The client's domid.
    pub client: u16,
    /// Grant references of the ring's pages, in the client's table.
    pub ring: Vec<u32>,
    /// The client's event port, which waits to be bound.
    pub port: u32,
    /// Whether the client may only read.
    pub read_only: bool,
    /// The sectors that the endpoint consists of, in its own order.
    pub extents: Vec<Extent>,
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
    /// It serves a client's ring.
    Attached {
        /// The endpoint.
        endpoint: u32,
    },
    /// It does not serve a client's ring (any more), and has nothing of the client mapped.
    Detached {
        /// The endpoint.
        endpoint: u32,
        /// The reason, for people; `None` if that was an order.
        cause: Option<String>,
    },
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
    /// Whether it can discard sectors.
    pub discard: bool,
    /// Number of queues that are used.
    pub queues: u16,
    /// Whether it interrupts; otherwise it is polled by a timer.
    pub interrupts: bool,
}
