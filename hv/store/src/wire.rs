//! Messages: a header of four words, then at most 4096 bytes.
//!
//! Numbers are those of the public header `xs_wire.h`. They are constants, not an enum: what a
//! client sends may be any number.

use alloc::vec::Vec;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Message types.
pub(crate) mod kind {
    pub const CONTROL: u32 = 0;
    pub const DIRECTORY: u32 = 1;
    pub const READ: u32 = 2;
    pub const GET_PERMS: u32 = 3;
    pub const WATCH: u32 = 4;
    pub const UNWATCH: u32 = 5;
    pub const TRANSACTION_START: u32 = 6;
    pub const TRANSACTION_END: u32 = 7;
    pub const INTRODUCE: u32 = 8;
    pub const RELEASE: u32 = 9;
    pub const GET_DOMAIN_PATH: u32 = 10;
    pub const WRITE: u32 = 11;
    pub const MKDIR: u32 = 12;
    pub const RM: u32 = 13;
    pub const SET_PERMS: u32 = 14;
    pub const WATCH_EVENT: u32 = 15;
    pub const ERROR: u32 = 16;
    pub const IS_DOMAIN_INTRODUCED: u32 = 17;
    pub const RESUME: u32 = 18;
    pub const SET_TARGET: u32 = 19;
    pub const RESET_WATCHES: u32 = 21;
    pub const DIRECTORY_PART: u32 = 22;
}

/// Bytes that may follow a header.
pub(crate) const MAX_PAYLOAD: usize = 4096;
/// Bytes of a header.
pub(crate) const HEADER: usize = size_of::<Header>();

/// Header of a message; 16 bytes.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct Header {
    /// See [`kind`].
    pub(crate) kind: u32,
    /// Chosen by the client, repeated in the reply.
    pub(crate) request: u32,
    /// The transaction, 0: none.
    pub(crate) transaction: u32,
    /// Bytes that follow.
    pub(crate) length: u32,
}
const _: () = assert!(size_of::<Header>() == 16);

/// Why a request is refused; on the wire it is its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// The request makes no sense.
    Invalid,
    /// The client may not.
    Access,
    /// It is there already.
    Exists,
    /// There is no such node, watch or transaction.
    Absent,
    /// A limit of the client is reached.
    NoSpace,
    /// The transaction met changes by others: do it again.
    Again,
    /// The reply would not fit a message.
    TooBig,
    /// There is no such request.
    NoSystem,
    /// A transaction is open where none may be.
    Busy,
}

impl Error {
    /// The name on the wire.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Invalid => "EINVAL",
            Self::Access => "EACCES",
            Self::Exists => "EEXIST",
            Self::Absent => "ENOENT",
            Self::NoSpace => "ENOSPC",
            Self::Again => "EAGAIN",
            Self::TooBig => "E2BIG",
            Self::NoSystem => "ENOSYS",
            Self::Busy => "EBUSY",
        }
    }
}

/// Appends a message.
pub(crate) fn message(out: &mut Vec<u8>, head: Header, payload: &[u8]) {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    out.extend_from_slice(Header { length, ..head }.as_bytes());
    out.extend_from_slice(payload);
}

/// Splits a payload into its NUL-terminated strings. `None` where the last is not terminated or
/// one is no UTF-8.
pub(crate) fn strings(payload: &[u8]) -> Option<Vec<&str>> {
    let body = payload.strip_suffix(&[0])?;
    body.split(|&byte| byte == 0)
        .map(|part| core::str::from_utf8(part).ok())
        .collect()
}

/// The only string of a payload.
pub(crate) fn one_string(payload: &[u8]) -> Result<&str, Error> {
    match strings(payload).as_deref() {
        Some([one]) => Ok(one),
        _ => Err(Error::Invalid),
    }
}
