//! From a kernel to the initial memory of a partition, as the x86-64 PV ABI wants it.
//!
//! ```text
//! ranges of a file --Reader--> Kernel --Layout--> who lies where --Plan--> what goes where
//! pieces of kernel and RAM disk, in the files' order --Plan::places--> pages
//! page tables, start info, table of machine frames   --Plan::fill----> pages
//! ```
//!
//! [`Image`] tells what a file is, [`Reader`] finds a [`Kernel`] in an ELF file,
//! [`Layout`] puts everything in its place. The [`Plan`] needs none of the files: it says where
//! the bytes of a piece belong as the piece comes, and makes what no file has page by page. So
//! nobody keeps a whole kernel, and the builder needs to see only a few of the partition's frames
//! at once. Pages are numbered by pseudo-physical frame (PFN); [`Memory`] knows the machine frame
//! behind each.
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
mod reader;
mod statements;
mod tables;

pub use image::{Compression, Image, ImageError, Payload};
pub use kernel::{Kernel, KernelError, Segment};
pub use layout::{Layout, LayoutError, Request};
pub use memory::{Extent, Memory};
pub use plan::{File, Parameters, Place, Plan, PlanError, StartState};
pub use reader::{HEAD_BYTES, NOTE_BYTES, Progress, Reader};
pub use tables::Mapping;

/// Contents of a page.
pub type Page = [u8; pv_abi::PAGE_SIZE];

/// Bytes in a page, as a u64.
pub(crate) const PAGE_BYTES: u64 = pv_abi::PAGE_SIZE as u64;
