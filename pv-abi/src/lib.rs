//! The application binary interfaces of Ultravisor.
//!
//! The crate has two layers, which are defined only here:
//!
//! * [`xen`]: the part that is wire-compatible with Xen's x86-64 PV ABI, so that stock kernels run
//!   unmodified. Its words (domid, evtchn, grant) have the meaning of the public headers.
//! * [`uv`]: our own part: the layout of the resource database, the lead-monitor interface, the
//!   start block of a Rust partition, memory channels and the transactions sent over them.
//!
//! The rule this crate keeps: it has no `unsafe`; every structure that crosses a protection
//! boundary is `repr(C)`, with its size and offsets asserted beside it; and a value that the other
//! side supplies is an integer with named constants, never a Rust `enum`.
#![no_std]
#![forbid(unsafe_code)]

/// Asserts the byte offset of each field of a structure.
macro_rules! assert_offsets {
    ($structure:ident { $($field:ident: $offset:expr),+ $(,)? }) => {
        $(assert!(core::mem::offset_of!($structure, $field) == $offset);)+
    };
}

pub mod uv;
pub mod xen;

/// Bytes in a page and in a machine frame (Intel SDM vol. 3, 4.5).
pub const PAGE_SIZE: usize = 4096;
/// log2 of [`PAGE_SIZE`].
pub const PAGE_SHIFT: u32 = 12;
