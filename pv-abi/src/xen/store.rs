//! The store's wire protocol: ring, message header, message types (`io/xs_wire.h`).
//!
//! A message is a [`Header`] followed by `len` bytes. Indices of the ring run freely; an index
//! modulo [`RING_BYTES`] is a position.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Bytes of each direction of the ring.
pub const RING_BYTES: usize = 1024;
/// Maximum number of bytes of a message's body.
pub const PAYLOAD_MAX: usize = 4096;
/// Maximum number of bytes of an absolute path.
pub const ABS_PATH_MAX: usize = 3072;
/// Maximum number of bytes of a relative path.
pub const REL_PATH_MAX: usize = 2048;

/// The store ring (`xenstore_domain_interface`); 2076 bytes at the start of its page.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct StoreRing {
    /// Requests.
    pub req: [u8; RING_BYTES],
    /// Replies and watch events.
    pub rsp: [u8; RING_BYTES],
    /// Server: requests consumed.
    pub req_cons: u32,
    /// Kernel: requests produced.
    pub req_prod: u32,
    /// Kernel: replies consumed.
    pub rsp_cons: u32,
    /// Server: replies produced.
    pub rsp_prod: u32,
    /// `FEATURE_` bits, set by the server.
    pub server_features: u32,
    /// [`CONNECTED`] or [`RECONNECT`].
    pub connection: u32,
    /// One of the `ERROR_` constants, set by the server.
    pub error: u32,
}
/// In [`StoreRing::server_features`]: the connection can be reset.
pub const FEATURE_RECONNECTION: u32 = 1;
/// In [`StoreRing::server_features`]: errors are reported in [`StoreRing::error`].
pub const FEATURE_ERROR: u32 = 2;
/// Value of [`StoreRing::connection`]: in service.
pub const CONNECTED: u32 = 0;
/// Value of [`StoreRing::connection`]: the kernel asks for a reset.
pub const RECONNECT: u32 = 1;
/// No error.
pub const ERROR_NONE: u32 = 0;
/// Communication failed.
pub const ERROR_COMM: u32 = 1;
/// The ring's indices are invalid.
pub const ERROR_RINGIDX: u32 = 2;
/// A message is invalid.
pub const ERROR_PROTO: u32 = 3;

/// Header of a message (`xsd_sockmsg`); 16 bytes.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Header {
    /// One of the message types below.
    pub kind: u32,
    /// Id of the request, which the reply repeats.
    pub req_id: u32,
    /// Transaction; 0 for none.
    pub tx_id: u32,
    /// Number of bytes that follow.
    pub len: u32,
}

/// Control.
pub const CONTROL: u32 = 0;
/// List children.
pub const DIRECTORY: u32 = 1;
/// Read a value.
pub const READ: u32 = 2;
/// Read permissions.
pub const GET_PERMS: u32 = 3;
/// Watch a path: path, token.
pub const WATCH: u32 = 4;
/// Stop watching.
pub const UNWATCH: u32 = 5;
/// Start a transaction.
pub const TRANSACTION_START: u32 = 6;
/// End a transaction: `"T"` commits, `"F"` drops.
pub const TRANSACTION_END: u32 = 7;
/// Introduce a domain.
pub const INTRODUCE: u32 = 8;
/// Release a domain.
pub const RELEASE: u32 = 9;
/// Get the home path of a domain.
pub const GET_DOMAIN_PATH: u32 = 10;
/// Write a value: path, value.
pub const WRITE: u32 = 11;
/// Make a node.
pub const MKDIR: u32 = 12;
/// Remove a node and everything below it.
pub const RM: u32 = 13;
/// Set permissions.
pub const SET_PERMS: u32 = 14;
/// From the server: a watch fired: path, token.
pub const WATCH_EVENT: u32 = 15;
/// From the server: the request failed; the body is an errno's name.
pub const ERROR: u32 = 16;
/// Query whether a domain is introduced.
pub const IS_DOMAIN_INTRODUCED: u32 = 17;
/// A domain resumed.
pub const RESUME: u32 = 18;
/// Set the domain that a domain serves.
pub const SET_TARGET: u32 = 19;
/// Drop all watches of the connection.
pub const RESET_WATCHES: u32 = 21;
/// List children in parts.
pub const DIRECTORY_PART: u32 = 22;

const _: () = {
    use core::mem::offset_of;
    assert!(size_of::<StoreRing>() == 2076);
    assert!(offset_of!(StoreRing, req_cons) == 2048);
    assert!(offset_of!(StoreRing, server_features) == 2064);
    assert!(offset_of!(StoreRing, error) == 2072);
    assert!(size_of::<Header>() == 16);
    assert_offsets!(Header { kind: 0, req_id: 4, tx_id: 8, len: 12 });
};
