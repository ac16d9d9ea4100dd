//! Our own part of the ABI: database layout, lead-monitor calls, start block, channels.

pub mod calls;
pub mod channel;
pub mod database;
pub mod devices;
pub mod endpoints;
pub mod start;
