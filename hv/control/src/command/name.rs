//! The name of a partition, which a row of a long list holds in place.

use core::fmt;
use core::ops::Deref;

use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Maximum number of bytes: those of
/// [`PartitionDescriptor::name`](pv_abi::uv::database::PartitionDescriptor::name).
const MOST: usize = 32;

/// A name of at most 32 bytes, without memory of its own. A list of a thousand partitions would
/// otherwise allocate, and free, memory for each name. In postcard it is encoded like a `String`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ShortName {
    length: u8,
    /// The rest after `length` is zero.
    bytes: [u8; MOST],
}

impl ShortName {
    /// The name in bytes, or its first 32 bytes if there are more.
    #[must_use]
    pub fn new(name: &[u8]) -> Self {
        let name = name.get(..MOST).unwrap_or(name);
        let mut bytes = [0; MOST];
        for (place, byte) in bytes.iter_mut().zip(name) {
            *place = *byte;
        }
        Self { length: u8::try_from(name.len()).unwrap_or_default(), bytes }
    }

    /// The name in a field that is padded with zeros; question marks instead if it is not UTF-8.
    #[must_use]
    pub fn padded(field: &[u8; MOST]) -> Self {
        let length = field.iter().position(|&byte| byte == 0).unwrap_or(MOST);
        let mut name = Self { length: u8::try_from(length).unwrap_or_default(), bytes: *field };
        name.bytes.get_mut(length..).unwrap_or_default().fill(0);
        if core::str::from_utf8(name.as_bytes()).is_err() {
            name.bytes.get_mut(..length).unwrap_or_default().fill(b'?');
        }
        name
    }

    /// The bytes of the name.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.length)).unwrap_or_default()
    }

    /// The name; a question mark if the sender of a message sent a name that is not UTF-8.
    #[must_use]
    pub fn as_str(&self) -> &str {
        core::str::from_utf8(self.as_bytes()).unwrap_or("?")
    }
}

impl Deref for ShortName {
    type Target = str;

    fn deref(&self) -> &str {
        self.as_str()
    }
}

impl fmt::Debug for ShortName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_str().fmt(f)
    }
}

impl From<&str> for ShortName {
    fn from(name: &str) -> Self {
        Self::new(name.as_bytes())
    }
}

impl Serialize for ShortName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.as_bytes())
    }
}

impl<'de> Deserialize<'de> for ShortName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bytes;

        impl Visitor<'_> for Bytes {
            type Value = ShortName;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a name of at most {MOST} bytes")
            }

            fn visit_bytes<E: Error>(self, name: &[u8]) -> Result<ShortName, E> {
                match name.len() {
                    ..=MOST => Ok(ShortName::new(name)),
                    length => Err(E::invalid_length(length, &self)),
                }
            }
        }

        deserializer.deserialize_bytes(Bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(name: &[u8]) -> [u8; MOST] {
        let mut field = [0; MOST];
        field[..name.len()].copy_from_slice(name);
        field
    }

    #[test]
    fn a_name_travels_like_a_string() {
        for name in ["", "web", "größer", "0123456789abcdef0123456789abcde"] {
            let short = ShortName::from(name);
            let bytes = postcard::to_allocvec(&short).unwrap();
            assert_eq!(bytes, postcard::to_allocvec(name).unwrap());
            assert_eq!(postcard::from_bytes::<ShortName>(&bytes).unwrap(), short);
            assert_eq!(&*short, name);
        }
    }

    #[test]
    fn a_longer_name_is_refused() {
        let bytes = |length| postcard::to_allocvec(&"x".repeat(length)).unwrap();
        assert_eq!(postcard::from_bytes::<ShortName>(&bytes(MOST)).unwrap().len(), MOST);
        assert!(postcard::from_bytes::<ShortName>(&bytes(MOST + 1)).is_err());
    }

    #[test]
    fn a_field_ends_at_its_first_zero() {
        assert_eq!(ShortName::padded(&field(b"web")), ShortName::from("web"));
        assert_eq!(ShortName::padded(&field(b"web\0x")), ShortName::from("web"));
        assert_eq!(ShortName::padded(&[b'x'; MOST]).len(), MOST);
        assert_eq!(ShortName::padded(&field(&[0xff, b'a'])), ShortName::from("??"));
    }

    #[test]
    fn bytes_that_are_not_text_are_shown_as_a_question_mark() {
        assert_eq!(ShortName::new(&[0xff, b'a']).as_str(), "?");
    }
}
