//! The negotiation of a device in the store: the states of its two ends (`io/xenbus.h`).
//!
//! Front end and back end each have a directory with a node `state`. Each end writes its own and
//! watches the other's.

/// The end has written nothing yet.
pub const INITIALISING: u32 = 1;
/// The back end has written its offer, and waits for the front end's nodes.
pub const INIT_WAIT: u32 = 2;
/// The front end has written its nodes, and waits for the back end to connect.
pub const INITIALISED: u32 = 3;
/// The end is connected.
pub const CONNECTED: u32 = 4;
/// The end is about to close.
pub const CLOSING: u32 = 5;
/// The end is closed.
pub const CLOSED: u32 = 6;
