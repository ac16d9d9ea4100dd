//! The build channel: kernels and RAM disks on their way from the command partition to the boot
//! partition, which builds partitions of them.
//!
//! ```text
//! command partition (client)                             boot partition (server)
//!   Begin { partition, sizes, command line } ------------->  looks at the partition
//!   <------------------------------------------ Want { file, offset, bytes }
//!   the bytes, at the start of the window
//!   Data { file, offset, bytes } ------------------------->  writes them into the partition
//!   ...
//!   <------------------------------------------ Built { .. }
//! ```
//!
//! The channel lies in pages of the boot partition: a command ring as on every command channel
//! ([`RING_PAGES`]), then the window ([`WINDOW_PAGES`]). The partition must be *building* and the
//! client's own. The server asks for what it wants next, so neither end keeps a whole file. The
//! client starts the partition by a transaction of its own: building ends with the start state
//! set, and nothing is lost when the client ends halfway.

use alloc::string::String;
use serde::{Deserialize, Serialize};

use super::channel::COMMAND_PAGES;
use super::command::{Heap, Refusal};

/// Version of these messages; the first thing a [`BuildRequest::Begin`] carries.
pub const PROTOCOL: u16 = 2;
/// Pages of the ring, the first ones of the channel.
pub const RING_PAGES: usize = COMMAND_PAGES;
/// Pages of the window that data is handed over in, behind the ring (1 MiB).
pub const WINDOW_PAGES: usize = 256;
/// Pages of the channel.
pub const PAGES: usize = RING_PAGES + WINDOW_PAGES;
/// Bytes of a command line at most (the start info's field, without its final zero).
pub const MAX_COMMAND_LINE: usize = 1023;

/// A request with its id, which increases.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Comes back in the reply.
    pub id: u64,
    /// What is asked.
    pub body: BuildRequest,
}

/// A reply to the request of the same id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    /// The request's id.
    pub id: u64,
    /// What comes next, or why not; the build is over then.
    pub result: Result<BuildReply, Refusal>,
}

/// From the client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum BuildRequest {
    /// Begin to build; a build that was under way is given up.
    Begin {
        /// [`PROTOCOL`].
        protocol: u16,
        /// A partition of the client's, in state *building*, with its memory assigned.
        partition: u32,
        /// Bytes of the kernel, an ELF image (unpacked).
        kernel_bytes: u64,
        /// Bytes of the RAM disk; 0: none.
        initrd_bytes: u64,
        /// For the kernel; at most [`MAX_COMMAND_LINE`] bytes.
        command_line: String,
        /// Frames that its kernel is to use at first, at most those assigned.
        memory_target: u64,
    },
    /// What was wanted is at the start of the window.
    Data {
        /// Of which file.
        file: File,
        /// Its first byte.
        offset: u64,
        /// Bytes.
        bytes: u64,
    },
    /// Give the build up.
    Abort,
    /// How much of its heap the server uses; a build that is under way goes on.
    Heap,
}

/// Which file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum File {
    /// The kernel.
    Kernel,
    /// The RAM disk.
    Initrd,
}

/// From the server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum BuildReply {
    /// Hand over these bytes next.
    Want {
        /// Of which file.
        file: File,
        /// First byte.
        offset: u64,
        /// Bytes, at most the window.
        bytes: u64,
    },
    /// The partition is written, its channels and its start state are set.
    Built {
        /// Pages written.
        pages: u64,
        /// Event port of its console, 0: none.
        console_port: u32,
        /// Grant reference of its console ring.
        console_grant: u32,
    },
    /// To [`BuildRequest::Abort`].
    Aborted,
    /// To [`BuildRequest::Heap`].
    Heap(Heap),
}
