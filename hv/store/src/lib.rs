//! The store: a small tree of names and values through which partitions negotiate devices.
//!
//! The store speaks the xenstore protocol, byte for byte as a stock kernel's xenbus uses it; the
//! public header `xs_wire.h` defines it. A client sends requests and gets replies in order, and
//! between them events for its watches.
//!
//! ```text
//! ring or socket --bytes--> Store::feed -> requests -> tree, transactions, watches
//!                <-bytes--- Store::output <- replies, watch events
//! ultravisor: Store::write / read / remove (privileged), Store::take_changes
//! ```
//!
//! Rule: nothing that a client sends is trusted. A message that is too long ends the conversation;
//! every other mistake gets an error reply. All data kept for a client is counted in bytes against
//! a budget (see [`ledger`]), so no client can use up the memory of others.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod connection;
mod ledger;
mod nodes;
mod overlay;
mod path;
mod request;
mod service;
mod tree;
mod wire;

pub use path::{Path, home};
pub use service::{Fault, Fed, Store};
pub use tree::{Access, Permissions};
pub use wire::Error;

/// Limits of one client.
pub mod limits {
    /// Maximum number of nodes that it owns.
    pub const NODES: u32 = 1000;
    /// Maximum number of watches.
    pub const WATCHES: usize = 128;
    /// Maximum number of open transactions.
    pub const TRANSACTIONS: usize = 10;
    /// Maximum number of nodes that one transaction may change, and on which it may depend.
    pub const CHANGES: usize = 256;
    /// Maximum number of entries in a node's permissions.
    pub const PERMISSIONS: usize = 16;
    /// Maximum number of bytes of a value.
    pub const VALUE: usize = 2048;
    /// Maximum number of bytes of a watch's token: with any path, an event fits a message.
    pub const TOKEN: usize = 1022;
    /// Maximum number of names in a path.
    pub const DEPTH: usize = 32;
    /// Bytes of unread output at which a client is no longer served.
    pub const UNREAD: usize = 1024;

    /// Maximum number of bytes of one client in the ledger.
    pub const BYTES: usize = 512 * 1024;
    /// Bytes of the ledger that are reserved for each client.
    pub const RESERVE: usize = 12 * 1024;
    /// Bytes beside the ledger for each client: its record, an incoming message, and outgoing
    /// messages.
    pub const FIXED: usize = 10 * 1024;

    /// Bytes of a node beside its path, its value and its named permissions: its record and its
    /// place in the map of nodes.
    pub const NODE_BYTES: usize = 320;
    /// Bytes of a watch beside its token and, twice, its path.
    pub const WATCH_BYTES: usize = 512;
    /// Bytes of a queued event beside its path.
    pub const EVENT_BYTES: usize = 256;
    /// Bytes of an open transaction beside its changes and dependencies.
    pub const TRANSACTION_BYTES: usize = 1024;
}
