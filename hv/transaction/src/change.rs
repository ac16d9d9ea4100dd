//! A change to the database as the log records it: the state before and the state after.
//!
//! Rule: applying or undoing a change twice has the same effect as once.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use core::mem::offset_of;

use pv_abi::uv::database::{ChannelEntry, PartitionDescriptor, channel_kind};
use pv_abi::uv::devices::DeviceEntry;
use pv_abi::uv::endpoints::Endpoint;
use resource_db::{Database, Owner, WriteError};
use serde::{Deserialize, Serialize};
use zerocopy::{FromZeros, IntoBytes};

/// One change. The bytes are those of the structure up to its last non-zero byte. If there are no
/// bytes, the structure does not exist.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// A partition descriptor.
    Descriptor {
        /// Its number.
        number: u32,
        /// Its bytes before.
        #[serde(with = "serde_bytes")]
        before: Vec<u8>,
        /// Its bytes after.
        #[serde(with = "serde_bytes")]
        after: Vec<u8>,
    },
    /// Page-map entries of frames that share one owner before and one after.
    Pages {
        /// First frame.
        first: u64,
        /// Number of frames.
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
        /// Its bytes before.
        #[serde(with = "serde_bytes")]
        before: Vec<u8>,
        /// Its bytes after.
        #[serde(with = "serde_bytes")]
        after: Vec<u8>,
    },
    /// Fields of a descriptor that continues to exist; a transaction may change a thousand such
    /// descriptors.
    Fields {
        /// Its number.
        number: u32,
        /// The version it was created at, which distinguishes it from another partition with this
        /// number.
        created_at: u64,
        /// The bytes that differ.
        parts: Vec<Part>,
    },
    /// The owner of a PCI function.
    Device {
        /// Its index.
        index: u32,
        /// Its owner before.
        before: u32,
        /// Its owner after.
        after: u32,
        /// The number of times that its owner had changed before.
        epoch: u64,
    },
    /// An entry of the endpoint table. An entry that was never used has no bytes.
    Endpoint {
        /// Its index.
        index: u32,
        /// Its bytes before.
        #[serde(with = "serde_bytes")]
        before: Vec<u8>,
        /// Its bytes after.
        #[serde(with = "serde_bytes")]
        after: Vec<u8>,
    },
    /// Who gets a PCI function once its owner has let go of it; 0 for nobody.
    Next {
        /// Its index.
        index: u32,
        /// Its owner before and after.
        owner: u32,
        /// How often its owner had changed.
        epoch: u64,
        /// Who was to get it before.
        before: u32,
        /// Who is to get it after.
        after: u32,
    },
}

/// Bytes of a descriptor that a change replaces.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Offset of the first byte.
    pub at: u16,
    /// The bytes before.
    #[serde(with = "serde_bytes")]
    pub before: Vec<u8>,
    /// The bytes after; their number is the same.
    #[serde(with = "serde_bytes")]
    pub after: Vec<u8>,
}

/// Bytes of a part, except for a name: a field of eight bytes is logged as a whole.
const PART: usize = 8;
/// The place of the name in a descriptor; a name is logged as a whole.
const NAME: core::ops::Range<usize> = offset_of!(PartitionDescriptor, name)
    ..offset_of!(PartitionDescriptor, name) + size_of::<[u8; 32]>();

/// The change from one descriptor to another, or from none. Generations are not compared.
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

/// The descriptor with its parts set to the state after the change, or before it if `redo` is
/// false.
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

/// The bytes that a change keeps of a structure, without trailing zeros; empty for `None`.
pub(crate) fn packed(value: Option<&(impl IntoBytes + zerocopy::Immutable)>) -> Vec<u8> {
    without_zeros(value.map(IntoBytes::as_bytes).unwrap_or_default()).to_vec()
}

/// The bytes without trailing zeros. Most of a page is zeros, so this compares eight bytes at a
/// time.
pub(crate) fn without_zeros(bytes: &[u8]) -> &[u8] {
    let (rest, words) = bytes.as_rchunks::<8>();
    let last = words.iter().rposition(|word| u64::from_ne_bytes(*word) != 0);
    let most = rest.len() + last.map_or(0, |last| (last + 1) * 8);
    let bytes = bytes.get(..most).unwrap_or_default();
    let end = bytes.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
    bytes.get(..end).unwrap_or_default()
}

/// The structure made of the bytes that a change keeps; the bytes that are missing are zeros.
pub(crate) fn unpacked<T: FromZeros + IntoBytes + zerocopy::FromBytes>(bytes: &[u8]) -> T {
    let mut value = T::new_zeroed();
    for (to, from) in value.as_mut_bytes().iter_mut().zip(bytes) {
        *to = *from;
    }
    value
}

/// The entry of a PCI function. Returns zeros if there is no such function; its write is refused.
fn device(database: &Database, index: u32) -> DeviceEntry {
    database.reader().device(index).unwrap_or_else(|_| DeviceEntry::new_zeroed())
}

impl Change {
    /// Writes the state after the change into the database.
    ///
    /// # Errors
    /// The database's error. The database is unchanged then.
    pub fn apply(&self, database: &mut Database) -> Result<(), WriteError> {
        self.write(database, true)
    }

    /// Writes the state before the change into the database.
    ///
    /// # Errors
    /// The same as [`Self::apply`].
    pub fn undo(&self, database: &mut Database) -> Result<(), WriteError> {
        self.write(database, false)
    }

    /// The descriptor before and after a change that neither creates nor removes it, reconstructed
    /// from its present state.
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

    /// The partition whose descriptor a change creates, removes or renames: its number, and its
    /// name before and after, `None` while it does not exist.
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

    /// Maximum number of bytes that the change takes in a record.
    pub(crate) fn bytes(&self) -> usize {
        /// Bytes for numbers and lengths beside the data.
        const BESIDE: usize = 24;
        BESIDE
            + match self {
                Self::Descriptor { before, after, .. }
                | Self::Channel { before, after, .. }
                | Self::Endpoint { before, after, .. } => before.len() + after.len(),
                Self::Pages { .. } | Self::Device { .. } => 8,
                Self::Next { .. } => 16,
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
            Self::Device { index, before, after, epoch } => {
                let mut entry = device(database, *index);
                (entry.owner, entry.epoch) =
                    if redo { (*after, epoch.saturating_add(1)) } else { (*before, *epoch) };
                database.write_device(*index, &entry)
            }
            Self::Next { index, before, after, .. } => {
                let mut entry = device(database, *index);
                entry.next = [u64::from(if redo { *after } else { *before }), 0];
                database.write_device(*index, &entry)
            }
            Self::Endpoint { index, before, after } => {
                let entry: Box<Endpoint> = Box::new(unpacked(if redo { after } else { before }));
                database.write_endpoint(*index, &entry)
            }
        }
    }
}
