//! The build channel: the command partition sends kernels and RAM disks to the boot partition,
//! which builds partitions from them.
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
//! ([`RING_PAGES`]), followed by the window ([`WINDOW_PAGES`]). The partition must be *building*
//! and belong to the client. The server asks for each next piece, so neither end keeps a whole
//! file. A build ends with the start state set; the client starts the partition by a transaction of
//! its own. If the client ends halfway, the partition stays *building*, and nothing else is
//! affected.

use alloc::string::String;
use serde::{Deserialize, Serialize};

use crate::command::{Heap, Refusal};
use pv_abi::uv::channel::COMMAND_PAGES;

/// Version of these messages, sent first in a [`BuildRequest::Begin`].
pub const PROTOCOL: u16 = 2;
/// Pages of the ring, at the start of the channel.
pub const RING_PAGES: usize = COMMAND_PAGES;
/// Pages of the window through which data is passed, after the ring (1 MiB).
pub const WINDOW_PAGES: usize = 256;
/// Pages of the channel.
pub const PAGES: usize = RING_PAGES + WINDOW_PAGES;
/// Maximum number of bytes of a command line (the start info's field, without its final zero).
pub const MAX_COMMAND_LINE: usize = 1023;

/// A request with its id, which increases.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// The id, which the reply repeats.
    pub id: u64,
    /// The request itself.
    pub body: BuildRequest,
}

/// A reply to the request of the same id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    /// The request's id.
    pub id: u64,
    /// The next step, or a refusal, which ends the build.
    pub result: Result<BuildReply, Refusal>,
}

/// A message from the client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum BuildRequest {
    /// Begin to build; a build that was in progress is abandoned.
    Begin {
        /// [`PROTOCOL`].
        protocol: u16,
        /// A partition of the client, in state *building*, with its memory assigned.
        partition: u32,
        /// Bytes of the kernel, an ELF image (unpacked).
        kernel_bytes: u64,
        /// Bytes of the RAM disk; 0 if there is none.
        initrd_bytes: u64,
        /// The kernel's command line, at most [`MAX_COMMAND_LINE`] bytes.
        command_line: String,
        /// Frames that its kernel must use at first, at most those assigned.
        memory_target: u64,
    },
    /// The wanted bytes are at the start of the window.
    Data {
        /// The file that the bytes come from.
        file: File,
        /// Offset of the first byte.
        offset: u64,
        /// Number of bytes.
        bytes: u64,
    },
    /// Abandon the build.
    Abort,
    /// Report how much of its heap the server uses; a build in progress continues.
    Heap,
}

/// A file of a build.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum File {
    /// The kernel.
    Kernel,
    /// The RAM disk.
    Initrd,
}

/// A message from the server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum BuildReply {
    /// Send these bytes next.
    Want {
        /// The file that the bytes come from.
        file: File,
        /// Offset of the first byte.
        offset: u64,
        /// Number of bytes, at most the window.
        bytes: u64,
    },
    /// The partition is written, and its channels and its start state are set.
    Built {
        /// Pages written.
        pages: u64,
        /// Event port of its console; 0 if there is none.
        console_port: u32,
        /// Grant reference of its console ring.
        console_grant: u32,
    },
    /// Answer to [`BuildRequest::Abort`].
    Aborted,
    /// Answer to [`BuildRequest::Heap`].
    Heap(Heap),
}
