//! The framed rings of a memory channel, over words that both sides can write.
//!
//! ```text
//! frame: length u32 | CRC-32 u32 | payload, padded with zeros to 8 bytes
//! ```
//!
//! An [`Endpoint`] is one side of a channel (`pv_abi::uv::channel` has the layout). The other side
//! is not trusted: its index is checked against ours at each use, our own indices are kept
//! privately and never read back, and a payload is copied out before its checksum is verified. No
//! write of the other side can have a worse result than an error, or a message that the other side
//! could have sent anyway.

use crate::words;
use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{AtomicU32, Ordering};
use pv_abi::PAGE_SIZE;
use pv_abi::uv::channel::{CHANNEL_MAGIC, MAX_PAYLOAD, REQUEST_RING};

/// Indices of the header's words among the channel's words.
mod word {
    pub const MAGIC: usize = 0;
    pub const EPOCH: usize = 2;
    pub const RING_BYTES: usize = 4;
    pub const RESERVED: usize = 5;
    pub const REQUEST_PRODUCED: usize = 6;
    pub const REQUEST_CONSUMED: usize = 7;
    pub const RESPONSE_PRODUCED: usize = 8;
    pub const RESPONSE_CONSUMED: usize = 9;
    pub const HEADER: usize = 10;
}

/// Bytes of a frame before its payload.
const FRAME_HEADER: u32 = 8;

/// One side of a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Writes requests, reads responses.
    Client,
    /// Reads requests, writes responses.
    Server,
}

/// Why a ring could not be used. Each error except [`RingError::Full`] and [`RingError::TooLarge`]
/// means that the other side broke the protocol, or reset the channel ([`RingError::Remade`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RingError {
    /// The channel's owner has not written the header yet.
    NotReady,
    /// The pages are not a channel of one page and two rings whose size is a power of two, or the
    /// header gives another ring size.
    Geometry,
    /// The owner reset the channel: open it again.
    Remade,
    /// An index is invalid: bytes produced and bytes consumed.
    Index(u32, u32),
    /// A frame claims the first length, but only the second number of bytes is there.
    Length(u32, u32),
    /// A frame's checksum is wrong.
    Checksum,
    /// There is no room for the frame until the other side has read.
    Full,
    /// A payload of this many bytes exceeds the limit.
    TooLarge(usize),
}

impl fmt::Display for RingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotReady => f.write_str("channel has no header yet"),
            Self::Geometry => f.write_str("channel has rings of an impossible size"),
            Self::Remade => f.write_str("the channel was reset"),
            Self::Index(produced, consumed) => {
                write!(f, "channel indices out of step: {produced} produced, {consumed} consumed")
            }
            Self::Length(length, there) => {
                write!(f, "channel frame of {length} bytes, {there} there")
            }
            Self::Checksum => f.write_str("channel frame with a wrong checksum"),
            Self::Full => f.write_str("channel full"),
            Self::TooLarge(bytes) => {
                write!(f, "message of {bytes} bytes, at most {MAX_PAYLOAD} fit")
            }
        }
    }
}

impl core::error::Error for RingError {}

/// One direction of a channel, seen from one side.
#[derive(Clone, Copy, Debug)]
struct Direction {
    /// First word of the ring.
    base: usize,
    /// Index of the word with the other side's index.
    theirs: usize,
    /// Index of the word with our index.
    ours: usize,
    /// Our index; the word in memory is written but never read back.
    index: u32,
}

/// One side of a channel.
#[derive(Debug)]
pub struct Endpoint<'a> {
    words: &'a [AtomicU32],
    ring_bytes: u32,
    epoch: u64,
    incoming: Direction,
    outgoing: Direction,
}

/// Bytes of each ring in a channel of `words` words.
fn ring_bytes(words: usize) -> Result<u32, RingError> {
    let bytes = words.checked_mul(4).ok_or(RingError::Geometry)?;
    let rings = bytes.checked_sub(REQUEST_RING).ok_or(RingError::Geometry)?;
    let ring = rings / 2;
    if !bytes.is_multiple_of(PAGE_SIZE) || !ring.is_power_of_two() {
        return Err(RingError::Geometry);
    }
    u32::try_from(ring).map_err(|_| RingError::Geometry)
}

/// Reads two words as a u64, little-endian.
fn read_u64(words: &[AtomicU32], at: usize) -> u64 {
    let word = |i: usize| words.get(i).map_or(0, |w| u64::from(w.load(Ordering::Acquire)));
    word(at) | word(at + 1) << 32
}

fn write_u64(words: &[AtomicU32], at: usize, value: u64) {
    for (word, value) in words.iter().skip(at).zip([value as u32, (value >> 32) as u32]) {
        word.store(value, Ordering::Release);
    }
}

/// Asks the owner of a channel's pages, from the other side, to reset the channel, because only the
/// owner can do that after an invalid index or frame. The caller then raises the event; until the
/// owner has handled it, [`Endpoint::open`] returns [`RingError::NotReady`].
pub fn ask_anew(words: &[AtomicU32]) {
    write_u64(words, word::MAGIC, 0);
}

impl<'a> Endpoint<'a> {
    /// Resets the channel, as the owner of its pages: empties both rings and increments the epoch.
    ///
    /// # Errors
    /// [`RingError::Geometry`].
    pub fn create(words: &'a [AtomicU32], side: Side) -> Result<Self, RingError> {
        let ring_bytes = ring_bytes(words.len())?;
        let epoch = read_u64(words, word::EPOCH).wrapping_add(1);
        write_u64(words, word::MAGIC, 0);
        for word in &words[word::RESERVED..word::HEADER] {
            word.store(0, Ordering::Release);
        }
        write_u64(words, word::EPOCH, epoch);
        words[word::RING_BYTES].store(ring_bytes, Ordering::Release);
        write_u64(words, word::MAGIC, CHANNEL_MAGIC);
        Ok(Self::new(words, side, ring_bytes, epoch))
    }

    /// Opens a channel that its owner made, at the indices in the header. Messages that were sent
    /// and not yet read are still there.
    ///
    /// # Errors
    /// [`RingError::NotReady`], [`RingError::Geometry`], [`RingError::Index`].
    pub fn open(words: &'a [AtomicU32], side: Side) -> Result<Self, RingError> {
        let ring_bytes = ring_bytes(words.len())?;
        if read_u64(words, word::MAGIC) != CHANNEL_MAGIC {
            return Err(RingError::NotReady);
        }
        if words[word::RING_BYTES].load(Ordering::Acquire) != ring_bytes {
            return Err(RingError::Geometry);
        }
        let mut endpoint = Self::new(words, side, ring_bytes, read_u64(words, word::EPOCH));
        for direction in [&mut endpoint.incoming, &mut endpoint.outgoing] {
            direction.index = words[direction.ours].load(Ordering::Acquire);
        }
        endpoint.readable()?;
        endpoint.writable()?;
        Ok(endpoint)
    }

    fn new(words: &'a [AtomicU32], side: Side, ring_bytes: u32, epoch: u64) -> Self {
        let requests = REQUEST_RING / 4;
        let responses = requests + ring_bytes as usize / 4;
        let direction = |base, theirs, ours| Direction { base, theirs, ours, index: 0 };
        let (incoming, outgoing) = match side {
            Side::Client => (
                direction(responses, word::RESPONSE_PRODUCED, word::RESPONSE_CONSUMED),
                direction(requests, word::REQUEST_CONSUMED, word::REQUEST_PRODUCED),
            ),
            Side::Server => (
                direction(requests, word::REQUEST_PRODUCED, word::REQUEST_CONSUMED),
                direction(responses, word::RESPONSE_CONSUMED, word::RESPONSE_PRODUCED),
            ),
        };
        Self { words, ring_bytes, epoch, incoming, outgoing }
    }

    /// The epoch of the channel when it was opened.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Bytes of each ring.
    #[must_use]
    pub fn ring_bytes(&self) -> u32 {
        self.ring_bytes
    }

    /// Bytes that can be read now.
    ///
    /// # Errors
    /// [`RingError::Remade`], [`RingError::Index`].
    pub fn readable(&self) -> Result<u32, RingError> {
        let produced = self.their_index(&self.incoming)?;
        self.difference(produced, self.incoming.index)
    }

    /// Bytes that can be written now, frame headers and padding included.
    ///
    /// # Errors
    /// [`RingError::Remade`], [`RingError::Index`].
    pub fn writable(&self) -> Result<u32, RingError> {
        let consumed = self.their_index(&self.outgoing)?;
        Ok(self.ring_bytes - self.difference(self.outgoing.index, consumed)?)
    }

    fn their_index(&self, direction: &Direction) -> Result<u32, RingError> {
        let made = (read_u64(self.words, word::MAGIC), read_u64(self.words, word::EPOCH));
        if made != (CHANNEL_MAGIC, self.epoch) {
            return Err(RingError::Remade);
        }
        let word = self.words.get(direction.theirs).ok_or(RingError::Geometry)?;
        Ok(word.load(Ordering::Acquire))
    }

    fn difference(&self, produced: u32, consumed: u32) -> Result<u32, RingError> {
        let used = produced.wrapping_sub(consumed);
        if used > self.ring_bytes || !used.is_multiple_of(FRAME_HEADER) {
            return Err(RingError::Index(produced, consumed));
        }
        Ok(used)
    }

    /// Reads the next payload into `payload`, and replaces its contents. Returns `false` if there
    /// is none.
    ///
    /// # Errors
    /// See [`RingError`]; the contents of `payload` are then undefined.
    pub fn receive(&mut self, payload: &mut Vec<u8>) -> Result<bool, RingError> {
        payload.clear();
        let there = self.readable()?;
        if there == 0 {
            return Ok(false);
        }
        let index = self.incoming.index;
        let [length, sum] = [0, 4].map(|at| self.load(index.wrapping_add(at)));
        let bytes = usize::try_from(length).unwrap_or(usize::MAX);
        if bytes > MAX_PAYLOAD || frame_bytes(bytes) > there {
            return Err(RingError::Length(length, there));
        }
        payload.resize(bytes, 0);
        let start = index.wrapping_add(FRAME_HEADER);
        let (first, second) = self.spans(&self.incoming, start, bytes);
        let (head, tail) = payload.split_at_mut(bytes.min(first.len() * words::WORD));
        words::load_bytes(first, 0, head);
        words::load_bytes(second, 0, tail);
        if crc32fast::hash(payload) != sum {
            return Err(RingError::Checksum);
        }
        self.incoming.index = index.wrapping_add(frame_bytes(bytes));
        self.publish(&self.incoming);
        Ok(true)
    }

    /// Writes a payload. The caller then raises the event.
    ///
    /// # Errors
    /// [`RingError::Full`] until the other side has read; for others see [`RingError`].
    pub fn send(&mut self, payload: &[u8]) -> Result<(), RingError> {
        let too_large = RingError::TooLarge(payload.len());
        let length = u32::try_from(payload.len()).map_err(|_| too_large)?;
        if payload.len() > MAX_PAYLOAD || frame_bytes(payload.len()) > self.ring_bytes {
            return Err(too_large);
        }
        let need = frame_bytes(payload.len());
        if need > self.writable()? {
            return Err(RingError::Full);
        }
        let index = self.outgoing.index;
        self.store(index, length);
        self.store(index.wrapping_add(4), crc32fast::hash(payload));
        let end = index.wrapping_add(need);
        if !payload.len().is_multiple_of(FRAME_HEADER as usize) {
            // The payload may end a word before the frame does.
            self.store(end.wrapping_sub(4), 0);
        }
        let start = index.wrapping_add(FRAME_HEADER);
        let (first, second) = self.spans(&self.outgoing, start, payload.len());
        let (head, tail) = payload.split_at(payload.len().min(first.len() * words::WORD));
        words::store_bytes(first, head);
        words::store_bytes(second, tail);
        self.outgoing.index = end;
        self.publish(&self.outgoing);
        Ok(())
    }

    fn publish(&self, direction: &Direction) {
        if let Some(word) = self.words.get(direction.ours) {
            word.store(direction.index, Ordering::Release);
        }
    }

    /// Reads the word of the incoming ring at a running index.
    fn load(&self, index: u32) -> u32 {
        self.words
            .get(self.position(&self.incoming, index))
            .map_or(0, |word| word.load(Ordering::Relaxed))
    }

    /// Writes the word of the outgoing ring at a running index.
    fn store(&self, index: u32, value: u32) {
        if let Some(word) = self.words.get(self.position(&self.outgoing, index)) {
            word.store(value, Ordering::Relaxed);
        }
    }

    /// The words of a ring that hold `bytes` bytes from a running index: up to the ring's end, and
    /// from its beginning on.
    fn spans(
        &self,
        direction: &Direction,
        index: u32,
        bytes: usize,
    ) -> (&'a [AtomicU32], &'a [AtomicU32]) {
        let words: &'a [AtomicU32] = self.words;
        let (base, end) = (direction.base, direction.base + self.ring_bytes as usize / 4);
        let (from, count) = (self.position(direction, index), bytes.div_ceil(words::WORD));
        let first = words.get(from..end.min(from + count)).unwrap_or_default();
        let second = words.get(base..base + (count - first.len())).unwrap_or_default();
        (first, second)
    }

    fn position(&self, direction: &Direction, index: u32) -> usize {
        direction.base + (index & (self.ring_bytes - 1)) as usize / 4
    }
}

/// Bytes of a frame with this payload, which is at most slightly larger than [`MAX_PAYLOAD`].
fn frame_bytes(payload: usize) -> u32 {
    u32::try_from(payload.next_multiple_of(8)).map_or(u32::MAX, |n| n.saturating_add(FRAME_HEADER))
}

#[cfg(test)]
#[path = "ring_tests.rs"]
mod tests;
