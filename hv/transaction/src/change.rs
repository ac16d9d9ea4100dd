//! A change to the database as the log keeps it: what was, and what is after it.
//!
//! Rule: applying or undoing a change twice is the same as once.

use alloc::vec::Vec;
use pv_abi::uv::database::{ChannelEntry, PartitionDescriptor, channel_kind};
use resource_db::{Database, Owner, WriteError};
use serde::{Deserialize, Serialize};
use zerocopy::{FromZeros, IntoBytes};

/// One change. Bytes are those of the structure up to its last non-zero byte; none: it is not
/// there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// A partition descriptor.
    Descriptor {
        /// Its number.
        number: u32,
        /// What it was.
        #[serde(with = "serde_bytes")]
        before: Vec<u8>,
        /// What it becomes.
        #[serde(with = "serde_bytes")]
        after: Vec<u8>,
    },
    /// Page-map entries of frames that have one owner before and after.
    Pages {
        /// First frame.
        first: u64,
        /// Frames.
        frames: u64,
        /// Entry before.
        before: u32,
        /// Entry after.
        after: u32,
    },
    /// An entry of the channel table.
    Channel {
        /// Its index.
        index: u32,
        /// What it was.
        #[serde(with = "serde_bytes")]
        before: Vec<u8>,
        /// What it becomes.
        #[serde(with = "serde_bytes")]
        after: Vec<u8>,
    },
}

/// The bytes that a change keeps of a structure.
pub(crate) fn packed(value: Option<&(impl IntoBytes + zerocopy::Immutable)>) -> Vec<u8> {
    without_zeros(value.map(IntoBytes::as_bytes).unwrap_or_default()).to_vec()
}

/// Bytes without the zeros at their end: most of a page is zeros, so eight are looked at at a time.
pub(crate) fn without_zeros(bytes: &[u8]) -> &[u8] {
    let (rest, words) = bytes.as_rchunks::<8>();
    let last = words.iter().rposition(|word| u64::from_ne_bytes(*word) != 0);
    let most = rest.len() + last.map_or(0, |last| (last + 1) * 8);
    let bytes = bytes.get(..most).unwrap_or_default();
    let end = bytes.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
    bytes.get(..end).unwrap_or_default()
}

/// The structure that a change keeps the bytes of.
pub(crate) fn unpacked<T: FromZeros + IntoBytes + zerocopy::FromBytes>(bytes: &[u8]) -> T {
    let mut value = T::new_zeroed();
    for (to, from) in value.as_mut_bytes().iter_mut().zip(bytes) {
        *to = *from;
    }
    value
}

impl Change {
    /// Makes the database say what is after the change.
    ///
    /// # Errors
    /// What the database refuses with; it is unchanged then.
    pub fn apply(&self, database: &mut Database) -> Result<(), WriteError> {
        self.write(database, true)
    }

    /// Makes the database say what was before the change.
    ///
    /// # Errors
    /// As [`Self::apply`].
    pub fn undo(&self, database: &mut Database) -> Result<(), WriteError> {
        self.write(database, false)
    }

    fn write(&self, database: &mut Database, redo: bool) -> Result<(), WriteError> {
        match self {
            Self::Descriptor { number, before, after } => {
                let bytes = if redo { after } else { before };
                if bytes.is_empty() {
                    return database.remove_descriptor(*number);
                }
                let mut descriptor: PartitionDescriptor = unpacked(bytes);
                descriptor.number = *number;
                database.write_descriptor(&descriptor)
            }
            Self::Pages { first, frames, before, after } => {
                let entry = if redo { *after } else { *before };
                database.set_owner(*first, *frames, Owner::from_entry(entry))
            }
            Self::Channel { index, before, after } => {
                let bytes = if redo { after } else { before };
                let mut entry: ChannelEntry = unpacked(bytes);
                if bytes.is_empty() {
                    entry.kind = channel_kind::FREE;
                }
                database.write_channel(*index, &entry)
            }
        }
    }
}
