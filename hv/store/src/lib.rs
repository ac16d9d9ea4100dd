//! The store: a small tree of names and values that partitions negotiate devices through.
//!
//! It speaks the xenstore protocol, byte for byte, as a stock kernel's xenbus uses it: the facts
//! are in the public header `xs_wire.h`. A client sends requests and gets replies in order, and
//! between them events for what it watches.
//!
//! ```text
//! ring or socket --bytes--> Store::feed -> requests -> tree, transactions, watches
//!                <-bytes--- Store::output <- replies, watch events
//! ultravisor: Store::write / read / remove (privileged), Store::take_changes
//! ```
//!
//! Rule: what a client sends is believed nothing. A message that is too long ends the
//! conversation; everything else that is wrong gets an error reply. What is kept for a client is
//! counted in bytes against a budget (see [`ledger`]), so none can use up the memory of all.
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
    /// Nodes it owns.
    pub const NODES: u32 = 1000;
    /// Watches it has.
    pub const WATCHES: usize = 128;
    /// Transactions it has open.
    pub const TRANSACTIONS: usize = 10;
    /// Nodes that one transaction may change, and nodes that it may depend on.
    pub const CHANGES: usize = 256;
    /// Entries in a node's permissions.
    pub const PERMISSIONS: usize = 16;
    /// Bytes of a value.
    pub const VALUE: usize = 2048;
    /// Bytes of a watch's token: with any path, an event fits a message.
    pub const TOKEN: usize = 1022;
    /// Names in a path.
    pub const DEPTH: usize = 32;
    /// Bytes of output that a client has not read from which on it is not served.
    pub const UNREAD: usize = 1024;

    /// Bytes that one client may have at most in the ledger.
    pub const BYTES: usize = 512 * 1024;
    /// Bytes of the ledger that are each client's own.
    pub const RESERVE: usize = 12 * 1024;
    /// Bytes beside the ledger that each client may have: its record, a message that comes in, and
    /// the messages that go out.
    pub const FIXED: usize = 10 * 1024;

    /// What a node costs beside its path, its value and who its permissions name: its record and
    /// its place in the map of nodes.
    pub const NODE_BYTES: usize = 320;
    /// What a watch costs beside its path, twice, and its token.
    pub const WATCH_BYTES: usize = 512;
    /// What an event that waits costs beside its path.
    pub const EVENT_BYTES: usize = 256;
    /// What an open transaction costs beside what it changes and depends on.
    pub const TRANSACTION_BYTES: usize = 1024;
}
