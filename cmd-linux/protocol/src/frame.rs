//! Length-prefixed JSON: for blocking ends ([`read`], [`write`]) and for event loops ([`Frames`]).

use std::io::{Read, Write};

use serde::{Serialize, de::DeserializeOwned};

use crate::MAX_MESSAGE;

/// Why a message could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The socket failed.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// A message of this many bytes, more than [`MAX_MESSAGE`]. The stream cannot go on.
    #[error("message of {0} bytes, the limit is {MAX_MESSAGE}")]
    TooLong(usize),
    /// Not the JSON that was expected. The stream can go on.
    #[error("message not understood: {0}")]
    Json(#[from] serde_json::Error),
}

/// The bytes of a message.
///
/// # Errors
/// [`FrameError::TooLong`], or [`FrameError::Json`] for a value that JSON cannot express.
pub fn encode(message: &impl Serialize) -> Result<Vec<u8>, FrameError> {
    let text = serde_json::to_vec(message)?;
    if text.len() > MAX_MESSAGE {
        return Err(FrameError::TooLong(text.len()));
    }
    let mut bytes = Vec::with_capacity(4 + text.len());
    bytes.extend_from_slice(&(text.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&text);
    Ok(bytes)
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
/// See [`FrameError`]; the end of the stream is an [`FrameError::Io`] of *unexpected end*.
pub fn read<T: DeserializeOwned>(mut from: impl Read) -> Result<T, FrameError> {
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    let length = u32::from_le_bytes(length) as usize;
    if length > MAX_MESSAGE {
        return Err(FrameError::TooLong(length));
    }
    let mut text = vec![0; length];
    from.read_exact(&mut text)?;
    Ok(serde_json::from_slice(&text)?)
}

/// Collects bytes as they come and hands out messages.
#[derive(Debug, Default)]
pub struct Frames {
    bytes: Vec<u8>,
    used: usize,
}

impl Frames {
    /// Takes bytes that came in.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.used);
        self.used = 0;
        self.bytes.extend_from_slice(bytes);
    }

    /// The next message, or `None` where more bytes are needed.
    ///
    /// # Errors
    /// [`FrameError::Json`]: this message was dropped, call again. [`FrameError::TooLong`]: the
    /// stream is of no more use.
    pub fn next_message<T: DeserializeOwned>(&mut self) -> Result<Option<T>, FrameError> {
        let rest = &self.bytes[self.used..];
        let Some(length) = rest.get(..4).and_then(|bytes| bytes.try_into().ok()) else {
            return Ok(None);
        };
        let length = u32::from_le_bytes(length) as usize;
        if length > MAX_MESSAGE {
            return Err(FrameError::TooLong(length));
        }
        let Some(text) = rest.get(4..4 + length) else {
            return Ok(None);
        };
        let message = serde_json::from_slice(text);
        self.used += 4 + length;
        Ok(Some(message?))
    }
}
