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
//! conversation; everything else that is wrong gets an error reply. Each client has limits on
//! nodes, watches, transactions and unread output, so none can use up the memory of all.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod connection;
mod path;
mod request;
mod service;
mod tree;
mod wire;

pub use path::{Path, home};
pub use service::{Fault, Store};
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
    /// Changes in one transaction.
    pub const CHANGES: usize = 1000;
    /// Entries in a node's permissions.
    pub const PERMISSIONS: usize = 16;
    /// Bytes of a value.
    pub const VALUE: usize = 2048;
    /// Names in a path.
    pub const DEPTH: usize = 32;
    /// Bytes of replies it has not read after which its requests wait.
    pub const UNREAD: usize = 16 * 1024;
    /// Bytes of replies and events it has not read after which events are dropped.
    pub const UNREAD_EVENTS: usize = 256 * 1024;
}
