//! Reads the bytes of an instruction, at most 15, and never past the end.

use crate::MAX_LENGTH;

/// A position in an instruction. A copy serves as a bookmark.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cursor<'a> {
    bytes: &'a [u8],
    at: u8,
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes: bytes.get(..MAX_LENGTH).unwrap_or(bytes), at: 0 }
    }

    /// Bytes read.
    pub(crate) const fn position(&self) -> u8 {
        self.at
    }

    pub(crate) fn peek(&self) -> Option<u8> {
        self.bytes.get(usize::from(self.at)).copied()
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.take::<1>().map(|b| b[0])
    }

    pub(crate) fn i8(&mut self) -> Option<i64> {
        self.take().map(|b| i64::from(i8::from_le_bytes(b)))
    }

    pub(crate) fn i16(&mut self) -> Option<i64> {
        self.take().map(|b| i64::from(i16::from_le_bytes(b)))
    }

    pub(crate) fn i32(&mut self) -> Option<i64> {
        self.take().map(|b| i64::from(i32::from_le_bytes(b)))
    }

    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let taken = *self.bytes.get(usize::from(self.at)..)?.first_chunk()?;
        // At most 15 bytes are there, so this fits.
        self.at = self.at.checked_add(u8::try_from(N).ok()?)?;
        Some(taken)
    }
}
