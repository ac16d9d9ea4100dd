//! The packets of the harness line, for both ends of it.
//!
//! The harness line is a raw, 8-bit clean byte stream between `uv-init` in the command partition
//! and the program that booted the machine. It carries one command at a time:
//!
//! ```text
//! outside                         command partition
//!        <---------------- R kernel release
//!   C words -------------------->        runs the command
//!   I bytes -------------------->        its standard input; empty: end of file
//!   K signal ------------------->
//!        <---------------- O, E bytes of its standard output and error
//!        <---------------- X exit status, the last packet of this command
//!   P -------------------------->        powers off (or another C)
//! ```
//!
//! A packet is `type: u8, length: u32 little-endian, payload`. Rule: whatever bytes arrive,
//! decoding gives a packet, a wait for more, or an error after which decoding can go on; the memory
//! held is bounded by [`MAX_PAYLOAD`].
#![forbid(unsafe_code)]

mod decode;

pub use decode::{DecodeError, Decoder};

/// Bytes of the payload of one packet at most (256 KiB).
pub const MAX_PAYLOAD: usize = 256 * 1024;
/// Bytes before the payload: the type and the length.
pub const HEADER_BYTES: usize = 5;

/// Type bytes.
mod kind {
    pub const READY: u8 = b'R';
    pub const COMMAND: u8 = b'C';
    pub const OUTPUT: u8 = b'O';
    pub const ERROR: u8 = b'E';
    pub const EXIT: u8 = b'X';
    pub const INPUT: u8 = b'I';
    pub const SIGNAL: u8 = b'K';
    pub const POWER_OFF: u8 = b'P';
}

/// One packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Packet {
    /// `R`, from the partition: it is ready for a command; the payload is the kernel's release.
    Ready(String),
    /// `C`, to the partition: run a command of these words.
    Command(Words),
    /// `O`, from the partition: bytes of the command's standard output.
    Output(Vec<u8>),
    /// `E`, from the partition: bytes of the command's standard error.
    Error(Vec<u8>),
    /// `X`, from the partition: the command's exit status (128 + n for signal n).
    Exit(i32),
    /// `I`, to the partition: bytes for the command's standard input; an empty payload means end of
    /// file.
    Input(Vec<u8>),
    /// `K`, to the partition: send the command this signal.
    Signal(i32),
    /// `P`, to the partition: power off.
    PowerOff,
}

/// The words of a command. There is at least one, the first is not empty, no word has a NUL byte,
/// and all of them with their separators fit into [`MAX_PAYLOAD`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Words(Vec<Vec<u8>>);

/// Why words cannot be a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WordsError {
    /// No word, or the first one is empty.
    Empty,
    /// The word of this index (from 0) contains a NUL byte.
    Nul(usize),
    /// The words take this many bytes, more than [`MAX_PAYLOAD`].
    TooLong(usize),
}

impl std::fmt::Display for WordsError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Empty => write!(f, "command is empty; give a program to run"),
            Self::Nul(index) => write!(f, "command word {index} contains a NUL byte"),
            Self::TooLong(bytes) => {
                write!(f, "command takes {bytes} bytes, the limit is {MAX_PAYLOAD}")
            }
        }
    }
}

impl std::error::Error for WordsError {}

impl Words {
    /// Checks the words.
    ///
    /// # Errors
    /// See [`WordsError`].
    pub fn new<W: Into<Vec<u8>>>(words: impl IntoIterator<Item = W>) -> Result<Self, WordsError> {
        let words: Vec<Vec<u8>> = words.into_iter().map(Into::into).collect();
        if words.first().is_none_or(Vec::is_empty) {
            return Err(WordsError::Empty);
        }
        if let Some(index) = words.iter().position(|word| word.contains(&0)) {
            return Err(WordsError::Nul(index));
        }
        let bytes = words.iter().map(|word| word.len() + 1).sum::<usize>() - 1;
        if bytes > MAX_PAYLOAD {
            return Err(WordsError::TooLong(bytes));
        }
        Ok(Self(words))
    }

    /// The words, the first one being the program.
    #[must_use]
    pub fn as_slice(&self) -> &[Vec<u8>] {
        &self.0
    }
}

impl Packet {
    /// The bytes of the packet. Output, error and input longer than [`MAX_PAYLOAD`] are split into
    /// several packets; a longer kernel release is cut.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        match self {
            Self::Ready(release) => {
                push_packet(&mut bytes, kind::READY, first_chunk(release.as_bytes()));
            }
            Self::Command(words) => push_packet(&mut bytes, kind::COMMAND, &words.0.join(&0)),
            Self::Output(data) => push_stream(&mut bytes, kind::OUTPUT, data),
            Self::Error(data) => push_stream(&mut bytes, kind::ERROR, data),
            Self::Exit(status) => push_packet(&mut bytes, kind::EXIT, &status.to_le_bytes()),
            Self::Input(data) => push_stream(&mut bytes, kind::INPUT, data),
            Self::Signal(number) => push_packet(&mut bytes, kind::SIGNAL, &number.to_le_bytes()),
            Self::PowerOff => push_packet(&mut bytes, kind::POWER_OFF, &[]),
        }
        bytes
    }
}

fn first_chunk(data: &[u8]) -> &[u8] {
    &data[..data.len().min(MAX_PAYLOAD)]
}

/// Appends one packet; `payload` is at most [`MAX_PAYLOAD`] long.
fn push_packet(bytes: &mut Vec<u8>, kind: u8, payload: &[u8]) {
    debug_assert!(payload.len() <= MAX_PAYLOAD);
    bytes.push(kind);
    bytes.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    bytes.extend_from_slice(payload);
}

/// Appends the packets of a part of a stream; an empty part becomes one empty packet.
fn push_stream(bytes: &mut Vec<u8>, kind: u8, data: &[u8]) {
    if data.is_empty() {
        push_packet(bytes, kind, data);
    }
    for chunk in data.chunks(MAX_PAYLOAD) {
        push_packet(bytes, kind, chunk);
    }
}

#[cfg(test)]
mod tests;
