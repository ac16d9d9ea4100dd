//! Consoles: the ring that a kernel shares with its console server, and the emergency console
//! (`io/console.h`, `xen.h`).
//!
//! Indices run freely; an index modulo the size of its buffer is a position. The server fills the
//! input buffer, and the kernel fills the output buffer; each side raises the ring's event channel
//! after it has moved one of its indices.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `console_io`: write rsi bytes at rdx.
pub const WRITE: u64 = 0;
/// `console_io`: read at most rsi bytes to rdx.
pub const READ: u64 = 1;

/// Bytes of the input buffer.
pub const IN_BYTES: usize = 1024;
/// Bytes of the output buffer.
pub const OUT_BYTES: usize = 2048;

/// The console ring (`xencons_interface`); 3088 bytes at the start of its page.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ConsoleRing {
    /// Input for the kernel.
    pub input: [u8; IN_BYTES],
    /// Output from the kernel.
    pub output: [u8; OUT_BYTES],
    /// Kernel: input consumed.
    pub in_cons: u32,
    /// Server: input produced.
    pub in_prod: u32,
    /// Server: output consumed.
    pub out_cons: u32,
    /// Kernel: output produced.
    pub out_prod: u32,
}

const _: () = {
    use core::mem::offset_of;
    assert!(size_of::<ConsoleRing>() == 3088);
    assert!(offset_of!(ConsoleRing, output) == 1024);
    assert!(offset_of!(ConsoleRing, in_cons) == 3072);
    assert!(offset_of!(ConsoleRing, in_prod) == 3076);
    assert!(offset_of!(ConsoleRing, out_cons) == 3080);
    assert!(offset_of!(ConsoleRing, out_prod) == 3084);
};
