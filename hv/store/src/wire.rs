//! Messages: a header of four words, then at most 4096 bytes.
//!
//! The numbers and the header are those of [`pv_abi::xen::store`]; a client may send any number.

use alloc::vec::Vec;
use zerocopy::IntoBytes;

/// Message types are numbers in this module.
pub(crate) use pv_abi::xen::store as kind;
pub(crate) use pv_abi::xen::store::{Header, PAYLOAD_MAX};

/// Bytes of a header.
pub(crate) const HEADER: usize = size_of::<Header>();

/// The reason why a request is refused; its name goes on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// The request is malformed.
    Invalid,
    /// The client has no permission.
    Access,
    /// The node exists already.
    Exists,
    /// There is no such node, watch or transaction.
    Absent,
    /// A limit of the client, or the memory for all clients, is exhausted.
    NoSpace,
    /// The transaction conflicts with changes by others: repeat it.
    Again,
    /// The reply would not fit a message.
    TooBig,
    /// There is no such request.
    NoSystem,
    /// A transaction is open where none is allowed.
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

/// Appends a message of these parts.
pub(crate) fn message(out: &mut Vec<u8>, head: Header, payload: &[&[u8]]) {
    let bytes: usize = payload.iter().map(|part| part.len()).sum();
    let len = u32::try_from(bytes).unwrap_or(u32::MAX);
    out.reserve_exact(HEADER + bytes);
    out.extend_from_slice(Header { len, ..head }.as_bytes());
    payload.iter().for_each(|part| out.extend_from_slice(part));
}

/// Splits a payload into its NUL-terminated strings. Returns `None` if the last string is not
/// terminated, or one is not UTF-8.
pub(crate) fn strings(payload: &[u8]) -> Option<Vec<&str>> {
    let body = payload.strip_suffix(&[0])?;
    body.split(|&byte| byte == 0).map(|part| core::str::from_utf8(part).ok()).collect()
}

/// The only string of a payload.
pub(crate) fn one_string(payload: &[u8]) -> Result<&str, Error> {
    match strings(payload).as_deref() {
        Some([one]) => Ok(one),
        _ => Err(Error::Invalid),
    }
}
