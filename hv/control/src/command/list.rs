//! Short rows of partitions, for lists of a thousand of them.
//!
//! The rows stay in the form in which they travel, and are read one at a time where they lie: a row
//! takes some 20 bytes, and no memory of its own at either end. A number is in LEB128, as in the
//! rest of a message, and a name comes after its length.

use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// A partition in short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListRow<'a> {
    /// Its number.
    pub number: u32,
    /// Its name.
    pub name: &'a str,
    /// See [`pv_abi::uv::database::kind`].
    pub kind: u32,
    /// See [`pv_abi::uv::database::state`].
    pub state: u32,
    /// Number of virtual CPUs.
    pub vcpus: u32,
    /// Number of virtual CPUs that are up.
    pub vcpus_up: u32,
    /// Number of frames assigned to it.
    pub memory_frames: u64,
    /// Nanoseconds in which it ran.
    pub cpu_time: u64,
}

impl ListRow<'_> {
    /// The most bytes of a row without its name: five numbers of 32 bits, two of 64 bits, and the
    /// length of the name.
    pub const MOST_BYTES: usize = 5 * 5 + 2 * 10 + 5;
}

/// Rows, one after the other. Whoever sent them may have written anything: see [`Rows::rest`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListRows(#[serde(with = "serde_bytes")] Vec<u8>);

impl ListRows {
    /// No rows, with room for this many bytes of rows.
    #[must_use]
    pub fn with_room(bytes: usize) -> Self {
        Self(Vec::with_capacity(bytes))
    }

    /// Adds a row.
    pub fn push(&mut self, row: &ListRow<'_>) {
        push(&mut self.0, row.number.into());
        push(&mut self.0, row.name.len() as u64);
        self.0.extend_from_slice(row.name.as_bytes());
        for number in [row.kind, row.state, row.vcpus, row.vcpus_up] {
            push(&mut self.0, number.into());
        }
        push(&mut self.0, row.memory_frames);
        push(&mut self.0, row.cpu_time);
    }

    /// Adds the rows of the next page.
    pub fn append(&mut self, next: Self) {
        match self.0.is_empty() {
            true => *self = next,
            false => self.0.extend_from_slice(&next.0),
        }
    }

    /// Bytes of all rows.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.0.len()
    }

    /// The rows, up to the first one that cannot be read.
    #[must_use]
    pub fn iter(&self) -> Rows<'_> {
        Rows { rest: &self.0 }
    }
}

impl<'a> FromIterator<ListRow<'a>> for ListRows {
    fn from_iter<I: IntoIterator<Item = ListRow<'a>>>(rows: I) -> Self {
        let mut all = Self::default();
        rows.into_iter().for_each(|row| all.push(&row));
        all
    }
}

impl<'a> IntoIterator for &'a ListRows {
    type Item = ListRow<'a>;
    type IntoIter = Rows<'a>;

    fn into_iter(self) -> Rows<'a> {
        self.iter()
    }
}

/// Reads rows.
#[derive(Clone, Debug)]
pub struct Rows<'a> {
    rest: &'a [u8],
}

impl<'a> Rows<'a> {
    /// Bytes that were not read yet; at the end there are some only if these are no row.
    #[must_use]
    pub fn rest(&self) -> usize {
        self.rest.len()
    }

    /// Reads a row; the second part is what follows it.
    fn row(bytes: &'a [u8]) -> Option<(ListRow<'a>, &'a [u8])> {
        let short = |(number, rest): (u64, _)| Some((u32::try_from(number).ok()?, rest));
        let (number, rest) = take(bytes).and_then(short)?;
        let (length, rest) = take(rest)?;
        let (name, rest) = rest.split_at_checked(usize::try_from(length).ok()?)?;
        let (kind, rest) = take(rest).and_then(short)?;
        let (state, rest) = take(rest).and_then(short)?;
        let (vcpus, rest) = take(rest).and_then(short)?;
        let (vcpus_up, rest) = take(rest).and_then(short)?;
        let (memory_frames, rest) = take(rest)?;
        let (cpu_time, rest) = take(rest)?;
        let name = core::str::from_utf8(name).ok()?;
        let row = ListRow { number, name, kind, state, vcpus, vcpus_up, memory_frames, cpu_time };
        Some((row, rest))
    }
}

impl<'a> Iterator for Rows<'a> {
    type Item = ListRow<'a>;

    fn next(&mut self) -> Option<ListRow<'a>> {
        let (row, rest) = Self::row(self.rest)?;
        self.rest = rest;
        Some(row)
    }
}

/// Adds a number in LEB128.
fn push(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

/// Reads a number in LEB128, of 64 bits at most; the second part is what follows it.
#[inline]
fn take(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (&first, mut rest) = bytes.split_first()?;
    let (mut number, mut last, mut shift) = (u64::from(first & 0x7f), first, 0_u32);
    while last >= 0x80 {
        (last, rest) = rest.split_first().map(|(byte, rest)| (*byte, rest))?;
        shift += 7;
        let bits = u64::from(last & 0x7f);
        if shift > 63 || bits << shift >> shift != bits {
            return None;
        }
        number |= bits << shift;
    }
    Some((number, rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    fn row(name: &str, number: u32, most: u64) -> ListRow<'_> {
        let (kind, state, vcpus, vcpus_up) = (5, 0x80, u32::MAX, 0);
        ListRow { number, name, kind, state, vcpus, vcpus_up, memory_frames: 1024, cpu_time: most }
    }

    #[test]
    fn rows_are_read_as_they_were_written() {
        let all = [row("web", 16, u64::MAX), row("", u32::MAX, 0), row("größer", 0, 1 << 63)];
        let (head, tail) = all.split_at(1);
        let mut rows: ListRows = head.iter().copied().collect();
        rows.append(tail.iter().copied().collect());
        assert!(rows.iter().eq(all));
        assert_eq!(rows.iter().rest(), rows.bytes());
        let bytes = postcard::to_allocvec(&rows).unwrap();
        assert_eq!(postcard::from_bytes::<ListRows>(&bytes).unwrap(), rows);
    }

    #[test]
    fn no_row_is_longer_than_the_most_bytes() {
        let most = u32::MAX;
        let longest = ListRow {
            number: most,
            name: "",
            kind: most,
            state: most,
            vcpus: most,
            vcpus_up: most,
            memory_frames: u64::MAX,
            cpu_time: u64::MAX,
        };
        let rows: ListRows = [longest].into_iter().collect();
        assert!(rows.bytes() <= ListRow::MOST_BYTES, "{}", rows.bytes());
        assert_eq!(rows.iter().next(), Some(longest));
    }

    #[test]
    fn bytes_that_are_no_row_are_left_over() {
        let good: ListRows = [row("web", 16, u64::MAX)].into_iter().collect();
        for length in 1..good.bytes() {
            let cut = ListRows(good.0[..length].to_vec());
            let mut rows = cut.iter();
            assert_eq!((rows.next(), rows.rest()), (None, length));
        }
        let mut wide = vec![0xff; 9];
        wide.push(2);
        let (no_text, far) = (vec![1, 1, 0xff, 1, 1, 1, 1, 1, 1], vec![1, 0x7f, b'a']);
        let above = vec![0xff, 0xff, 0xff, 0xff, 0x1f, 0, 1, 1, 1, 1, 1, 1];
        for bytes in [wide, no_text, far, above] {
            let rest = bytes.len();
            let rows = ListRows(bytes);
            let mut rows = rows.iter();
            assert_eq!((rows.next(), rows.rest()), (None, rest));
        }
    }
}
