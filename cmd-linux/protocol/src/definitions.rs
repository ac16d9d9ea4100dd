//! Definitions in their transport form: each as its bytes, which are decoded only if necessary.
//!
//! Clients send a file of a thousand partitions again and again, and most of them are unchanged. So
//! `uvd` compares the bytes of a definition with those of the definition that it keeps, and decodes
//! only those that differ. Rule: equal bytes are equal definitions; equal definitions that were
//! packed here have equal bytes.

use definition::{Definition, Listed};
use serde::{Deserialize, Serialize};

/// Definitions, one after the other.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Definitions {
    /// Each definition in postcard, whose first field is the name.
    #[serde(with = "serde_bytes")]
    bytes: Vec<u8>,
}

/// A definition that has not been decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packed<'a> {
    /// The definition's name.
    pub name: &'a str,
    /// The whole definition, with the name.
    pub bytes: &'a [u8],
}

/// Bytes that are not a definition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a definition was not understood")]
pub struct Unclear;

/// Size of a length in bytes; it is little-endian.
const LENGTH: usize = 4;

impl Definitions {
    /// Adds a definition.
    pub fn push(&mut self, one: &Definition) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; LENGTH]);
        let bytes = std::mem::take(&mut self.bytes);
        // A definition that cannot be encoded, such as one with a path that is not UTF-8, is
        // invalid for the reader, and so is everything behind it.
        let Ok(bytes) = postcard::to_extend(one, bytes) else {
            self.bytes = vec![0; LENGTH];
            return;
        };
        self.bytes = bytes;
        self.note_length(start);
    }

    /// Adds a copy of the last definition, which begins at byte `last`, under another name.
    fn push_like(&mut self, last: usize, name: &str) {
        let start = self.bytes.len();
        if self.try_push_like(last, name).is_none() {
            self.bytes = vec![0; LENGTH];
            return;
        }
        self.note_length(start);
    }

    fn try_push_like(&mut self, last: usize, name: &str) -> Option<()> {
        let (old, []) = split(self.bytes.get(last..)?)? else { return None };
        let (_, others) = postcard::take_from_bytes::<&str>(old.bytes).ok()?;
        let end = self.bytes.len();
        let others = end - others.len()..end;
        self.bytes.extend_from_slice(&[0; LENGTH]);
        self.bytes = postcard::to_extend(name, std::mem::take(&mut self.bytes)).ok()?;
        self.bytes.extend_from_within(others);
        Some(())
    }

    /// Writes the length of the definition that begins at byte `start` and ends here.
    fn note_length(&mut self, start: usize) {
        let length = self.bytes.len().saturating_sub(start + LENGTH) as u32;
        if let Some(place) = self.bytes.get_mut(start..start + LENGTH) {
            place.copy_from_slice(&length.to_le_bytes());
        }
    }

    /// All definitions, in order; invalid bytes end the iteration.
    pub fn iter(&self) -> impl Iterator<Item = Result<Packed<'_>, Unclear>> {
        let mut rest = self.bytes.as_slice();
        std::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            let packed = split(rest);
            rest = packed.map_or(&[], |(_, rest)| rest);
            Some(packed.map(|(packed, _)| packed).ok_or(Unclear))
        })
    }
}

/// Splits off the first definition.
fn split(bytes: &[u8]) -> Option<(Packed<'_>, &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<LENGTH>()?;
    let (bytes, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
    let (name, _) = postcard::take_from_bytes::<&str>(bytes).ok()?;
    Some((Packed { name, bytes }, rest))
}

/// The bytes of a definition; empty if it cannot be encoded.
#[must_use]
pub fn packed(one: &Definition) -> Vec<u8> {
    postcard::to_allocvec(one).unwrap_or_default()
}

impl Packed<'_> {
    /// Decodes the definition.
    ///
    /// # Errors
    /// [`Unclear`] if the bytes are no definition.
    pub fn read(&self) -> Result<Definition, Unclear> {
        match postcard::take_from_bytes(self.bytes) {
            Ok((definition, [])) => Ok(definition),
            _ => Err(Unclear),
        }
    }
}

/// Bytes that are reserved for a definition.
const USUAL: usize = 128;

impl<'a> FromIterator<&'a Definition> for Definitions {
    fn from_iter<I: IntoIterator<Item = &'a Definition>>(all: I) -> Self {
        let all = all.into_iter();
        let mut packed =
            Self { bytes: Vec::with_capacity(all.size_hint().0.saturating_mul(USUAL)) };
        all.for_each(|one| packed.push(one));
        packed
    }
}

impl<'a> FromIterator<&'a Listed> for Definitions {
    fn from_iter<I: IntoIterator<Item = &'a Listed>>(all: I) -> Self {
        let all = all.into_iter();
        let mut packed =
            Self { bytes: Vec::with_capacity(all.size_hint().0.saturating_mul(USUAL)) };
        let mut last = 0;
        for one in all {
            let start = packed.bytes.len();
            match one {
                Listed::Whole(definition) => packed.push(definition),
                Listed::Like(name) => packed.push_like(last, name),
            }
            last = start;
        }
        packed
    }
}

impl<D: AsRef<[Definition]>> From<D> for Definitions {
    fn from(all: D) -> Self {
        all.as_ref().iter().collect()
    }
}
