//! The messages that the partitions of the host exchange over memory channels.
//!
//! * [`command`]: requests to the ultravisor partition and its replies.
//! * [`build`]: kernels and RAM disks for the boot partition, which builds partitions from them.
//! * [`io`]: orders to an I/O partition, and its reports.
//!
//! `pv_abi::uv::channel` has the layout of a channel, and `hv/channel` carries messages over it.
//! The rule this crate keeps: it has messages and no machine-level layout, so ring 0 never links
//! it. Messages are encoded in postcard.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod build;
pub mod command;
pub mod io;
