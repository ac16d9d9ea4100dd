//! Length-prefixed messages: for blocking ends ([`read`], [`write`]) and for event loops
//! ([`Frames`]).

use std::io::{Read, Write};

use postcard::ser_flavors::Flavor;
use serde::{Serialize, de::DeserializeOwned};

use crate::MAX_MESSAGE;

/// Version of the messages: the first byte of each.
pub const VERSION: u8 = 5;
/// Bytes before a message: its length.
const LENGTH: usize = 4;

/// Why a message could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The socket failed.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// A message of more than [`MAX_MESSAGE`] bytes. The stream cannot be used any more.
    #[error("a message has more than {MAX_MESSAGE} bytes")]
    TooLong,
    /// Another message than the expected one, or one of another version. The stream can still be
    /// used.
    #[error("a message was not understood")]
    Unclear,
}

/// The bytes of a message while it is written, up to the longest.
struct Bounded(Vec<u8>);

impl Bounded {
    /// An empty message: room for its length, then the version.
    fn new() -> Self {
        let mut bytes = Vec::with_capacity(128);
        bytes.extend_from_slice(&[0; LENGTH]);
        bytes.push(VERSION);
        Self(bytes)
    }
}

impl Flavor for Bounded {
    type Output = Vec<u8>;

    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.try_extend(&[byte])
    }

    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        if self.0.len() + bytes.len() > LENGTH + MAX_MESSAGE {
            return Err(postcard::Error::SerializeBufferFull);
        }
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    fn finalize(mut self) -> postcard::Result<Vec<u8>> {
        let length = (self.0.len() - LENGTH) as u32;
        if let Some(place) = self.0.first_chunk_mut::<LENGTH>() {
            *place = length.to_le_bytes();
        }
        Ok(self.0)
    }
}

/// Encodes a message.
///
/// # Errors
/// [`FrameError::TooLong`], or [`FrameError::Unclear`] for a path that is not UTF-8.
pub fn encode(message: &impl Serialize) -> Result<Vec<u8>, FrameError> {
    postcard::serialize_with_flavor(message, Bounded::new()).map_err(|error| match error {
        postcard::Error::SerializeBufferFull => FrameError::TooLong,
        _ => FrameError::Unclear,
    })
}

/// Encodes a [`Told`](crate::Told) with an answer of the ultravisor, from the bytes in which the
/// answer came. No process between the ultravisor and the client decodes them.
///
/// # Errors
/// [`FrameError::TooLong`].
pub fn encode_carried(id: u64, version: u64, answer: &[u8]) -> Result<Vec<u8>, FrameError> {
    /// The numbers of `Ok` and of [`Answered::Ultravisor`](crate::Answered::Ultravisor) on the
    /// wire.
    const ANSWERED: (u32, u32) = (0, 0);
    let mut message = Bounded::new();
    let begin = postcard::to_allocvec(&(id, ANSWERED, version)).map_err(|_| FrameError::TooLong)?;
    for bytes in [&begin, answer] {
        message.try_extend(bytes).map_err(|_| FrameError::TooLong)?;
    }
    message.finalize().map_err(|_| FrameError::TooLong)
}

/// Bytes that a value takes in a message.
pub(crate) fn size(value: &impl Serialize) -> usize {
    let counted = postcard::ser_flavors::Size::default();
    postcard::serialize_with_flavor(value, counted).unwrap_or(usize::MAX)
}

/// Decodes a message.
fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, FrameError> {
    let message = bytes.strip_prefix(&[VERSION]).ok_or(FrameError::Unclear)?;
    match postcard::take_from_bytes(message) {
        Ok((message, [])) => Ok(message),
        _ => Err(FrameError::Unclear),
    }
}

/// Writes a message.
///
/// # Errors
/// See [`FrameError`].
pub fn write(mut to: impl Write, message: &impl Serialize) -> Result<(), FrameError> {
    Ok(to.write_all(&encode(message)?)?)
}

/// Waits for a message and reads it.
///
/// # Errors
/// See [`FrameError`]; the end of the stream is a [`FrameError::Io`] of *unexpected end*.
pub fn read<T: DeserializeOwned>(mut from: impl Read) -> Result<T, FrameError> {
    let mut length = [0; LENGTH];
    from.read_exact(&mut length)?;
    let length = u32::from_le_bytes(length) as usize;
    if length > MAX_MESSAGE {
        return Err(FrameError::TooLong);
    }
    let mut bytes = vec![0; length];
    from.read_exact(&mut bytes)?;
    decode(&bytes)
}

/// Bytes that are read at a time while the length of the message is unknown; most messages are
/// shorter.
const LEAST_READ: usize = 512;
/// The most bytes that are read at a time.
const MOST_READ: usize = 64 * 1024;

/// Collects bytes as they arrive and hands out messages.
#[derive(Debug, Default)]
pub struct Frames {
    bytes: Vec<u8>,
    used: usize,
}

impl Frames {
    /// Takes bytes that arrived.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.used);
        self.used = 0;
        self.bytes.extend_from_slice(bytes);
    }

    /// Reads once from a stream: the bytes that the current message still lacks, or a few if its
    /// length is unknown. Returns how many bytes were read; 0 is the end of the stream.
    ///
    /// # Errors
    /// The error of the stream.
    pub fn read_from(&mut self, mut from: impl Read) -> std::io::Result<usize> {
        self.push(&[]);
        let there = self.bytes.len();
        let whole = self
            .bytes
            .first_chunk::<LENGTH>()
            .map_or(0, |length| LENGTH.saturating_add(u32::from_le_bytes(*length) as usize));
        let wanted = whole.saturating_sub(there).clamp(LEAST_READ, MOST_READ);
        self.bytes.resize(there + wanted, 0);
        let read = from.read(self.bytes.get_mut(there..).unwrap_or_default());
        self.bytes.truncate(there + *read.as_ref().unwrap_or(&0));
        read
    }

    /// The next message, or `None` where more bytes are needed.
    ///
    /// # Errors
    /// [`FrameError::Unclear`]: this message was dropped; call again. [`FrameError::TooLong`]: the
    /// stream cannot be used any more.
    pub fn next_message<T: DeserializeOwned>(&mut self) -> Result<Option<T>, FrameError> {
        let rest = &self.bytes[self.used..];
        let Some((length, rest)) = rest.split_first_chunk::<LENGTH>() else {
            return Ok(None);
        };
        let length = u32::from_le_bytes(*length) as usize;
        if length > MAX_MESSAGE {
            return Err(FrameError::TooLong);
        }
        let Some(bytes) = rest.get(..length) else {
            return Ok(None);
        };
        let message = decode(bytes);
        self.used += LENGTH + length;
        message.map(Some)
    }
}
