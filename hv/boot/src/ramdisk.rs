//! Checks that the initial RAM disk is valid: archives one after the other, none of them cut off.
//!
//! The kernel defines the format (`Documentation/driver-api/early-userspace/buffer-format.rst`):
//! `newc` cpio archives, with zeros between them, each plain or compressed. A compressed part is
//! accepted as it is, and ends the check. In a plain part, every header is followed to the end.

use core::fmt;

/// Why a file is not a RAM disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RamdiskError {
    /// The RAM disk is empty, or contains only zeros.
    Empty,
    /// At this offset there is neither an archive nor a known compression.
    Unknown(usize),
    /// The archive continues past the file's end, in the entry at this offset.
    Truncated(usize),
}

impl fmt::Display for RamdiskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("empty; give an initial RAM disk (cpio archive)"),
            Self::Unknown(offset) => {
                write!(f, "no cpio archive at offset {offset}; give an initial RAM disk")
            }
            Self::Truncated(offset) => {
                write!(
                    f,
                    "truncated: the entry at offset {offset} ends past the file; copy it again"
                )
            }
        }
    }
}

impl core::error::Error for RamdiskError {}

/// First bytes of each compression that the kernel knows.
const COMPRESSED: [&[u8]; 7] = [
    b"\x1f\x8b",
    b"BZh",
    b"\x5d\x00\x00",
    b"\xfd7zXZ\x00",
    b"\x89LZO",
    b"\x02\x21\x4c\x18",
    b"\x28\xb5\x2f\xfd",
];
/// Bytes of a `newc` header: a magic number and 13 numbers of 8 hexadecimal digits.
const HEADER: usize = 110;
const FILE_SIZE: usize = 54;
const NAME_SIZE: usize = 94;
/// Name of an archive's last entry.
const TRAILER: &[u8] = b"TRAILER!!!\0";

/// Checks a RAM disk.
///
/// # Errors
/// See [`RamdiskError`].
pub fn check(file: &[u8]) -> Result<(), RamdiskError> {
    let (mut at, mut inside, mut any) = (0, false, false);
    loop {
        let rest = file.get(at..).unwrap_or(&[]);
        if !inside {
            let Some(zeros) = rest.iter().position(|&byte| byte != 0) else {
                return if any { Ok(()) } else { Err(RamdiskError::Empty) };
            };
            at += zeros;
            any = true;
        }
        let rest = file.get(at..).unwrap_or(&[]);
        if !inside && COMPRESSED.iter().any(|magic| rest.starts_with(magic)) {
            return Ok(());
        }
        if rest.len() < HEADER && (inside || rest.starts_with(b"0707")) {
            return Err(RamdiskError::Truncated(at));
        }
        if !rest.starts_with(b"070701") && !rest.starts_with(b"070702") {
            return Err(RamdiskError::Unknown(at));
        }
        let (trailer, length) = entry(rest).ok_or(RamdiskError::Truncated(at))?;
        inside = !trailer;
        at += length;
    }
}

/// Returns whether an entry is an archive's last one, and its bytes with padding (the data of the
/// last entry may end at the file's end, without padding). Returns `None` if the entry is cut off.
fn entry(rest: &[u8]) -> Option<(bool, usize)> {
    let name_end = HEADER.checked_add(number(rest, NAME_SIZE)?)?;
    let trailer = rest.get(HEADER..name_end)? == TRAILER;
    let data = name_end.checked_next_multiple_of(4)?;
    let end = data.checked_add(number(rest, FILE_SIZE)?)?;
    if trailer {
        return Some((true, data));
    }
    (end <= rest.len()).then_some((false, end.checked_next_multiple_of(4)?))
}

fn number(header: &[u8], at: usize) -> Option<usize> {
    let digits = core::str::from_utf8(header.get(at..at + 8)?).ok()?;
    usize::try_from(u32::from_str_radix(digits, 16).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn archive(files: &[(&str, usize)]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for &(name, size) in files.iter().chain(&[("TRAILER!!!", 0)]) {
            bytes.extend_from_slice(b"070701");
            for field in 0..13 {
                let value = [0, size, name.len() + 1]
                    [usize::from(field == 6) + 2 * usize::from(field == 11)];
                bytes.extend_from_slice(format!("{value:08X}").as_bytes());
            }
            bytes.extend_from_slice(name.as_bytes());
            bytes.push(0);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
            bytes.resize((bytes.len() + size).next_multiple_of(4), b'x');
        }
        bytes
    }

    #[test]
    fn archives_may_follow_one_another() {
        let one = archive(&[("init", 1000), ("bin/sh", 3)]);
        assert_eq!(check(&one), Ok(()));
        let two = [&one[..], &[0; 516], &archive(&[("file", 7)]), &[0; 4]].concat();
        assert_eq!(check(&two), Ok(()));
        let packed = [&one[..], b"\x1f\x8b anything"].concat();
        assert_eq!(check(&packed), Ok(()));
    }

    #[test]
    fn a_cut_anywhere_is_noticed() {
        let file = archive(&[("init", 1000), ("bin/sh", 3)]);
        for length in 4..file.len() - 3 {
            assert!(matches!(check(&file[..length]), Err(RamdiskError::Truncated(_))), "{length}");
        }
    }

    #[test]
    fn other_files_are_named() {
        assert_eq!(check(b""), Err(RamdiskError::Empty));
        assert_eq!(check(&[0; 4096]), Err(RamdiskError::Empty));
        assert_eq!(check(&[b'?'; 4096]), Err(RamdiskError::Unknown(0)));
    }

    proptest! {
        #[test]
        fn no_file_panics(at in 0_usize..1300, bytes: Vec<u8>) {
            let mut file = archive(&[("init", 1000)]);
            for (offset, byte) in (at..).zip(bytes) {
                if let Some(place) = file.get_mut(offset) {
                    *place = byte;
                }
            }
            let _ = check(&file);
        }
    }
}
