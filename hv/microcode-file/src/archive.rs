//! The archive format from which Linux loads microcode: the "new ASCII" format of cpio (Linux,
//! `Documentation/driver-api/early-userspace/buffer-format.rst`). A member consists of a header of
//! 110 characters, its name and its bytes, both padded to a multiple of 4.
//!
//! Distributions put this archive in front of their compressed RAM disk. So the search ends at the
//! archive's own end, and the rest is ignored.

use crate::Damaged;

const MAGIC: [&[u8]; 2] = [b"070701", b"070702"];
const HEADER: usize = 110;
/// Offsets in the header: the number of bytes, and the length of the name with its final zero.
const FILE_BYTES: usize = 54;
const NAME_BYTES: usize = 94;
/// The name that ends an archive.
const END: &[u8] = b"TRAILER!!!";

/// Returns whether the bytes begin like an archive.
pub fn is_archive(bytes: &[u8]) -> bool {
    MAGIC.iter().any(|magic| bytes.starts_with(magic))
}

/// The bytes of the member with this name.
///
/// # Errors
/// [`Damaged`] if the archive cannot be read to its end.
pub fn member<'a>(archive: &'a [u8], wanted: &str) -> Result<Option<&'a [u8]>, Damaged> {
    let mut at = 0;
    loop {
        let (name, bytes, next) = next(archive, at).ok_or(Damaged(at))?;
        if name == END {
            return Ok(None);
        }
        if name == wanted.as_bytes() {
            return Ok(Some(bytes));
        }
        at = next;
    }
}

/// The name and bytes of the member at an offset, and the offset of the next member.
fn next(archive: &[u8], at: usize) -> Option<(&[u8], &[u8], usize)> {
    let header = archive.get(at..at.checked_add(HEADER)?)?;
    if !is_archive(header) {
        return None;
    }
    let name_start = at + HEADER;
    let name_end = name_start.checked_add(number(header, NAME_BYTES)?)?;
    let start = name_end.checked_next_multiple_of(4)?;
    let end = start.checked_add(number(header, FILE_BYTES)?)?;
    let name = archive.get(name_start..name_end)?.strip_suffix(&[0])?;
    Some((name, archive.get(start..end)?, end.checked_next_multiple_of(4)?))
}

/// A number of eight hexadecimal digits.
fn number(header: &[u8], at: usize) -> Option<usize> {
    let digits = header.get(at..at + 8)?;
    digits.iter().try_fold(0, |number, digit| {
        let digit = char::from(*digit).to_digit(16)?;
        Some(number << 4 | usize::try_from(digit).ok()?)
    })
}
