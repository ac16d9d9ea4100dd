//! Definitions as they travel: each as its bytes, which are read only where they have to be.
//!
//! A file of a thousand partitions is sent again and again, and most of them are as they should be. So
//! `uvd` compares the bytes of a definition with those of the one that it keeps, and reads what differs.
//! Rule: equal bytes are equal definitions; definitions that are equal have equal bytes where they were
//! packed here.

use definition::Definition;
use serde::{Deserialize, Serialize};

/// Definitions, one after the other.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Definitions {
    /// Each in postcard, whose first field is the name.
    #[serde(with = "serde_bytes")]
    bytes: Vec<u8>,
}

/// A definition that was not read yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packed<'a> {
    /// Its name.
    pub name: &'a str,
    /// All of it.
    pub bytes: &'a [u8],
}

/// Bytes that are no definition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a definition was not understood")]
pub struct Unclear;

/// Bytes of a length, least significant first.
const LENGTH: usize = 4;

impl Definitions {
    /// Adds a definition.
    pub fn push(&mut self, one: &Definition) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; LENGTH]);
        let bytes = std::mem::take(&mut self.bytes);
        // What has no bytes, such as a path that is no UTF-8, is not understood by who reads it, and
        // nothing behind it is.
        let Ok(bytes) = postcard::to_extend(one, bytes) else {
            self.bytes = vec![0; LENGTH];
            return;
        };
        self.bytes = bytes;
        let length = self.bytes.len().saturating_sub(start + LENGTH) as u32;
        if let Some(place) = self.bytes.get_mut(start..start + LENGTH) {
            place.copy_from_slice(&length.to_le_bytes());
        }
    }

    /// All of them, in order; what makes no sense ends them.
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

/// The first definition, and what follows it.
fn split(bytes: &[u8]) -> Option<(Packed<'_>, &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<LENGTH>()?;
    let (bytes, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
    let (name, _) = postcard::take_from_bytes::<&str>(bytes).ok()?;
    Some((Packed { name, bytes }, rest))
}

/// The bytes of a definition; none where it has none.
#[must_use]
pub fn packed(one: &Definition) -> Vec<u8> {
    postcard::to_allocvec(one).unwrap_or_default()
}

impl Packed<'_> {
    /// Reads it.
    ///
    /// # Errors
    /// [`Unclear`].
    pub fn read(&self) -> Result<Definition, Unclear> {
        match postcard::take_from_bytes(self.bytes) {
            Ok((definition, [])) => Ok(definition),
            _ => Err(Unclear),
        }
    }
}

impl<'a> FromIterator<&'a Definition> for Definitions {
    fn from_iter<I: IntoIterator<Item = &'a Definition>>(all: I) -> Self {
        let mut packed = Self::default();
        all.into_iter().for_each(|one| packed.push(one));
        packed
    }
}

impl<D: AsRef<[Definition]>> From<D> for Definitions {
    fn from(all: D) -> Self {
        all.as_ref().iter().collect()
    }
}
