//! From a kernel to the initial memory of a partition, as the x86-64 PV ABI wants it.
//!
//! ```text
//! bytes --Image--> ELF --Kernel--> notes, segments --Layout--> who lies where --Plan--> pages
//! ```
//!
//! [`Image`] tells what a file is, [`Kernel`] reads an ELF kernel and its notes, [`Layout`] puts
//! everything in its place, and [`Plan`] gives the contents of each page, one at a time, so that
//! the builder needs to see only a few of the partition's frames at once. Pages are numbered by
//! pseudo-physical frame (PFN); [`Memory`] knows the machine frame behind each.
//!
//! The rule it keeps: kernel, command line and sizes come from outside, and whatever they are, the
//! result is a plan that lies inside the partition's memory, or an error that says what is wrong.
//! Nothing here panics on input, and nothing here touches memory but its arguments.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod image;
mod kernel;
mod layout;
mod memory;
mod plan;
mod tables;

pub use image::{Compression, Image, ImageError, Payload};
pub use kernel::{Kernel, KernelError, Segment};
pub use layout::{Layout, LayoutError, Request};
pub use memory::{Extent, Memory};
pub use plan::{Parameters, Plan, PlanError, StartState};
pub use tables::Mapping;

/// Contents of a page.
pub type Page = [u8; pv_abi::PAGE_SIZE];

/// Bytes in a page, as a u64.
pub(crate) const PAGE_BYTES: u64 = pv_abi::PAGE_SIZE as u64;
