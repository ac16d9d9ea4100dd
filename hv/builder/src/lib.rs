//! Turns a kernel into the initial memory of a partition, as the x86-64 PV ABI requires it.
//!
//! ```text
//! ranges of a file --Reader--> Kernel --Layout--> who lies where --Plan--> what goes where
//! pieces of kernel and RAM disk, in the files' order --Plan::places--> pages
//! page tables, start info, table of machine frames   --Plan::fill----> pages
//! ```
//!
//! [`Image`] identifies a file, [`Reader`] finds a [`Kernel`] in an ELF file, and [`Layout`] places
//! all parts. The [`Plan`] needs none of the files: when a piece arrives, it says where the bytes
//! belong; it generates the pages without file contents one by one. So no program keeps a whole
//! kernel, and the builder maps only a few of the partition's frames at once. Pages are numbered by
//! pseudo-physical frame (PFN); [`Memory`] knows the machine frame behind each.
//!
//! [`SystemPlan`] is the same for a Rust partition of the host, whose image is an ELF file of ours.
//!
//! The rule it keeps: kernel, command line and sizes come from outside. Whatever they are, the
//! result is a plan that lies inside the partition's memory, or an error that names the problem.
//! Nothing here panics on input, or accesses memory other than its arguments.
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
mod system;
mod tables;

pub use image::{Compression, Image, ImageError, Payload};
pub use kernel::{Kernel, KernelError, Segment};
pub use layout::{Layout, LayoutError, Request};
pub use memory::{Extent, Memory};
pub use plan::{File, Parameters, Place, Plan, PlanError};
pub use reader::{HEAD_BYTES, NOTE_BYTES, Progress, Reader};
pub use system::{SystemError, SystemImage, SystemLayout, SystemPlace, SystemPlan, SystemSizes};
pub use tables::Mapping;

/// Contents of a page.
pub type Page = [u8; pv_abi::PAGE_SIZE];

/// Bytes in a page, as a u64.
pub(crate) const PAGE_BYTES: u64 = pv_abi::PAGE_SIZE as u64;
