//! A change to the database as the log keeps it: what was, and what is after it.
//!
//! Rule: applying or undoing a change twice is the same as once.

use alloc::string::String;
use alloc::vec::Vec;
use core::mem::offset_of;

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
    /// Fields of a descriptor that stays: a transaction may change a thousand of them.
    Fields {
        /// Its number.
        number: u32,
        /// The version it was created at, by which it is told from another of this number.
        created_at: u64,
        /// The bytes that differ.
        parts: Vec<Part>,
    },
}

/// Bytes of a descriptor that a change replaces.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Offset of the first.
    pub at: u16,
    /// What they were.
    #[serde(with = "serde_bytes")]
    pub before: Vec<u8>,
    /// What they become, as many.
    #[serde(with = "serde_bytes")]
    pub after: Vec<u8>,
}

/// Bytes of a part, but for names: a field of eight bytes differs as a whole.
const PART: usize = 8;
/// Where the name of a descriptor is; a name differs as a whole.
const NAME: core::ops::Range<usize> = offset_of!(PartitionDescriptor, name)
    ..offset_of!(PartitionDescriptor, name) + size_of::<[u8; 32]>();

/// The change that makes one descriptor of another, or of none; generations are not compared.
pub(crate) fn of_descriptor(
    number: u32,
    before: Option<&PartitionDescriptor>,
    after: Option<&PartitionDescriptor>,
) -> Change {
    let (Some(old), Some(new)) = (before, after) else {
        return Change::Descriptor { number, before: packed(before), after: packed(after) };
    };
    let (old, bytes) = (old.as_bytes(), new.as_bytes());
    let (used, most) = (without_zeros(bytes).len(), without_zeros(old).len());
    let end = used.max(most).next_multiple_of(PART);
    let mut parts: Vec<Part> = Vec::new();
    let mut at = 0;
    while at < end {
        let stop = if at == NAME.start { NAME.end } else { at + PART };
        let range = at..stop;
        if let (Some(before), Some(after)) = (old.get(range.clone()), bytes.get(range))
            && before != after
        {
            let at = u16::try_from(at).unwrap_or(u16::MAX);
            parts.push(Part { at, before: before.to_vec(), after: after.to_vec() });
        }
        at = stop;
    }
    Change::Fields { number, created_at: new.created_at, parts }
}

/// The descriptor with what a change says of its parts.
fn patched(mut descriptor: PartitionDescriptor, parts: &[Part], redo: bool) -> PartitionDescriptor {
    for part in parts {
        let bytes = if redo { &part.after } else { &part.before };
        let from = usize::from(part.at);
        let to = descriptor.as_mut_bytes().get_mut(from..from.saturating_add(bytes.len()));
        if let Some(to) = to {
            to.copy_from_slice(bytes);
        }
    }
    descriptor
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

    /// The descriptor before and after the change of one that stays, made of what it is now.
    pub(crate) fn around(
        &self,
        now: &PartitionDescriptor,
    ) -> Option<(PartitionDescriptor, PartitionDescriptor)> {
        match self {
            Self::Fields { parts, .. } => {
                Some((patched(*now, parts, false), patched(*now, parts, true)))
            }
            Self::Descriptor { before, after, .. } if !before.is_empty() && !after.is_empty() => {
                Some((unpacked(before), unpacked(after)))
            }
            _ => None,
        }
    }

    /// The partition of a descriptor that comes, goes, or has another name: its number, and its name
    /// before and after, `None` while it is not there.
    #[must_use]
    pub fn names(&self) -> Option<(u32, [Option<String>; 2])> {
        let name = |bytes: &[u8]| {
            let bytes = bytes.split(|&byte| byte == 0).next().unwrap_or_default();
            Some(String::from_utf8_lossy(bytes).into_owned())
        };
        let (number, names) = match self {
            Self::Descriptor { number, before, after } => {
                let of = |bytes: &[u8]| {
                    let named = NAME.start..NAME.end.min(bytes.len());
                    bytes.get(named).and_then(name)
                };
                (*number, [of(before), of(after)])
            }
            Self::Fields { number, parts, .. } => {
                let part = parts.iter().find(|part| usize::from(part.at) == NAME.start)?;
                (*number, [name(&part.before), name(&part.after)])
            }
            _ => return None,
        };
        let [before, after] = &names;
        (before != after).then_some((number, names))
    }

    /// Bytes in a record, at most.
    pub(crate) fn bytes(&self) -> usize {
        /// Numbers and lengths beside the bytes.
        const BESIDE: usize = 24;
        BESIDE
            + match self {
                Self::Descriptor { before, after, .. } | Self::Channel { before, after, .. } => {
                    before.len() + after.len()
                }
                Self::Pages { .. } => 0,
                Self::Fields { parts, .. } => {
                    parts.iter().map(|part| part.before.len() + part.after.len() + 5).sum()
                }
            }
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
            Self::Fields { number, created_at, parts } => {
                let descriptor = database.descriptor_in_part(*number)?;
                if descriptor.created_at != *created_at {
                    return Err(WriteError::OutOfRange);
                }
                database.write_descriptor(&patched(*descriptor, parts, redo))
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
