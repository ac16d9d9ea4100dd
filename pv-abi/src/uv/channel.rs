//! Memory channels: framed byte rings in shared pages, plus an event in each direction.
//!
//! ```text
//! client                         shared pages                         server
//!   write frame -> request ring | header | request bytes | response bytes |
//!   raise event ------------------------------------------------------> read frames
//!   read frames <- response ring                       <------ write frame, raise event
//! ```
//!
//! Page 0 starts with a [`ChannelHeader`]; the pages after it are split into two equal rings. A
//! frame is a little-endian u32 length, a u32 CRC-32 (IEEE) of the payload, and the payload, padded
//! with zeros to 8 bytes. Indices run freely; an index modulo the ring's size is a position.

use crate::xen::grants::RESERVED_ENTRIES;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Pages of a command channel: one for the header, eight for each ring (32 KiB).
pub const COMMAND_PAGES: usize = 17;
/// Bytes of each ring of a command channel.
pub const COMMAND_RING_BYTES: usize = 32 * 1024;
/// First event port for channels at the server's end: the channel with index `n` in the channel
/// table has port `n` above it. The server's own ports are below.
pub const SERVER_PORTS: u32 = 256;
/// First event port for channels at the client's end of a partition that was not started yet. The
/// boot partition's command channel has this port.
pub const FIRST_CLIENT_PORT: u32 = 1;
/// First grant reference of the boot partition's command channel, in the boot partition's table.
pub const BOOT_COMMAND_GRANT: u32 = RESERVED_ENTRIES;
/// First grant reference of the build channel, in the boot partition's table.
pub const BUILD_GRANT: u32 = 64;
/// First grant reference of the command partition's command channel, in the ultravisor's table.
pub const COMMAND_GRANT: u32 = 64;
/// First grant reference of the journal pages of rings of disks, in the ultravisor's table, granted to
/// [`super::database::IO_SERVICE`].
pub const JOURNAL_GRANT: u32 = 128;
/// Number of journal pages: the most rings that one I/O partition serves, one page each. All I/O
/// partitions together have no more, so that one that is left has room for the rings of the others.
pub const JOURNAL_PAGES: u32 = 64;
/// First grant reference of an I/O partition's channel, in the I/O partition's table.
pub const IO_GRANT: u32 = RESERVED_ENTRIES;
/// The largest payload of one frame.
pub const MAX_PAYLOAD: usize = 24 * 1024;
/// The id of a reply to a message whose id could not be read.
pub const NO_ID: u64 = 0;

/// Header of a channel; each index is written by one side.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ChannelHeader {
    /// [`CHANNEL_MAGIC`], written by the side that owns the pages.
    pub magic: u64,
    /// Counts takeovers by the server, and resets by the owner of the pages.
    pub epoch: u64,
    /// Bytes of each ring; a power of two.
    pub ring_bytes: u32,
    /// Zero.
    pub reserved: u32,
    /// Client: bytes of requests written.
    pub request_produced: u32,
    /// Server: bytes of requests consumed.
    pub request_consumed: u32,
    /// Server: bytes of responses written.
    pub response_produced: u32,
    /// Client: bytes of responses consumed.
    pub response_consumed: u32,
}
/// `b"UVCHAN01"`, little-endian.
pub const CHANNEL_MAGIC: u64 = u64::from_le_bytes(*b"UVCHAN01");
/// Offset of the request ring in the channel's pages.
pub const REQUEST_RING: usize = 4096;

const _: () = {
    // The two channels of the boot partition's table do not overlap, and neither begins with
    // entries that the ABI reserves.
    assert!(BOOT_COMMAND_GRANT as usize + COMMAND_PAGES <= BUILD_GRANT as usize);
    assert!(COMMAND_GRANT >= RESERVED_ENTRIES);
    // Nor do the command channel and the journal pages in the ultravisor's table.
    assert!(COMMAND_GRANT as usize + COMMAND_PAGES <= JOURNAL_GRANT as usize);
    // Port 0 is never allocated.
    assert!(0 < FIRST_CLIENT_PORT && FIRST_CLIENT_PORT < SERVER_PORTS);
    assert!(size_of::<ChannelHeader>() == 40);
    assert_offsets!(ChannelHeader {
        magic: 0,
        epoch: 8,
        ring_bytes: 16,
        reserved: 20,
        request_produced: 24,
        request_consumed: 28,
        response_produced: 32,
        response_consumed: 36
    });
};
