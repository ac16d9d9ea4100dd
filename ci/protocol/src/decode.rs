//! Decodes bytes into packets as the bytes arrive.
//!
//! Rule: a byte that cannot begin a packet is dropped by itself, so noise before the first packet
//! costs only itself; a whole packet with an invalid payload is dropped as a whole.

use crate::{HEADER_BYTES, MAX_PAYLOAD, Packet, Words, WordsError, kind};

/// Collects bytes and hands out packets.
#[derive(Debug, Default)]
pub struct Decoder {
    bytes: Vec<u8>,
    /// Bytes at the front that have been decoded.
    used: usize,
}

/// The fault in the bytes. The decoder goes on with the bytes that follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecodeError {
    /// No packet begins with this byte; it was dropped.
    UnknownType(u8),
    /// A packet of this type claims this length, more than [`MAX_PAYLOAD`]; the type byte was
    /// dropped.
    TooLong(u8, u32),
    /// A packet of this type cannot have a payload of this length; it was dropped.
    BadLength(u8, usize),
    /// The words of a command are invalid; the packet was dropped.
    BadCommand(WordsError),
}

impl std::fmt::Display for DecodeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::UnknownType(byte) => write!(f, "no packet type {byte:#04x}"),
            Self::TooLong(byte, length) => write!(
                f,
                "packet '{}' of {length} bytes, the limit is {MAX_PAYLOAD}",
                byte.escape_ascii()
            ),
            Self::BadLength(byte, length) => {
                write!(f, "packet '{}' cannot have {length} bytes", byte.escape_ascii())
            }
            Self::BadCommand(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for DecodeError {}

impl DecodeError {
    /// The byte that was dropped because no packet begins with it; `None` if a whole packet was
    /// dropped.
    #[must_use]
    pub fn dropped(&self) -> Option<u8> {
        match self {
            Self::UnknownType(byte) | Self::TooLong(byte, _) => Some(*byte),
            Self::BadLength(..) | Self::BadCommand(_) => None,
        }
    }
}

impl Decoder {
    /// An empty decoder.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes bytes that came in. To keep the memory bounded, call [`Decoder::next_packet`] until it
    /// returns `None` before the next push.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.used);
        self.used = 0;
        self.bytes.extend_from_slice(bytes);
    }

    /// The next packet, or `None` if more bytes are needed.
    ///
    /// # Errors
    /// See [`DecodeError`]; call again to go on.
    pub fn next_packet(&mut self) -> Result<Option<Packet>, DecodeError> {
        let rest = &self.bytes[self.used..];
        let Some(&kind) = rest.first() else {
            return Ok(None);
        };
        if !is_kind(kind) {
            self.used += 1;
            return Err(DecodeError::UnknownType(kind));
        }
        let Some(length) = rest.get(1..HEADER_BYTES).and_then(|bytes| bytes.try_into().ok()) else {
            return Ok(None);
        };
        let length = u32::from_le_bytes(length);
        if length as usize > MAX_PAYLOAD {
            self.used += 1;
            return Err(DecodeError::TooLong(kind, length));
        }
        let end = HEADER_BYTES + length as usize;
        let Some(payload) = rest.get(HEADER_BYTES..end) else {
            return Ok(None);
        };
        let packet = packet(kind, payload);
        self.used += end;
        packet.map(Some)
    }
}

fn is_kind(byte: u8) -> bool {
    matches!(
        byte,
        kind::READY
            | kind::COMMAND
            | kind::OUTPUT
            | kind::ERROR
            | kind::EXIT
            | kind::INPUT
            | kind::SIGNAL
            | kind::POWER_OFF
    )
}

fn packet(kind: u8, payload: &[u8]) -> Result<Packet, DecodeError> {
    let number = || {
        let bytes = payload.try_into();
        bytes.map(i32::from_le_bytes).map_err(|_| DecodeError::BadLength(kind, payload.len()))
    };
    Ok(match kind {
        kind::READY => Packet::Ready(String::from_utf8_lossy(payload).into_owned()),
        kind::COMMAND => {
            let words = payload.split(|byte| *byte == 0);
            Packet::Command(Words::new(words).map_err(DecodeError::BadCommand)?)
        }
        kind::OUTPUT => Packet::Output(payload.to_vec()),
        kind::ERROR => Packet::Error(payload.to_vec()),
        kind::EXIT => Packet::Exit(number()?),
        kind::INPUT => Packet::Input(payload.to_vec()),
        kind::SIGNAL => Packet::Signal(number()?),
        kind::POWER_OFF if payload.is_empty() => Packet::PowerOff,
        _ => return Err(DecodeError::BadLength(kind, payload.len())),
    })
}
