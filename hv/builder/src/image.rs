//! Kernel files: an ELF image, or a `bzImage` that contains a compressed one.
//!
//! The x86 boot protocol defines the fields of a `bzImage` (Linux, `Documentation/x86/boot.rst`),
//! version 2.08 and up. This crate does not decompress; the caller passes a function that does.

use alloc::borrow::Cow;
use alloc::vec::Vec;
use core::fmt;

/// A kernel file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Image<'a> {
    /// An ELF image.
    Elf(&'a [u8]),
    /// A `bzImage`.
    BzImage(Payload<'a>),
}

/// The compressed kernel inside a `bzImage`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Payload<'a> {
    /// The compression of the stream.
    pub compression: Compression,
    /// The compressed stream, without the size that follows it.
    pub bytes: &'a [u8],
    /// Bytes after decompression.
    pub unpacked: usize,
}

/// A compression, recognised by its first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// No compression: the payload is the ELF image.
    None,
    /// gzip.
    Gzip,
    /// bzip2.
    Bzip2,
    /// LZMA in its own `.lzma` format.
    Lzma,
    /// XZ.
    Xz,
    /// LZO.
    Lzo,
    /// LZ4, legacy frame.
    Lz4,
    /// Zstandard.
    Zstd,
}

impl Compression {
    /// Recognises the compression by the first bytes; an ELF image is [`Self::None`].
    #[must_use]
    pub fn of(bytes: &[u8]) -> Option<Self> {
        let mut known = MAGICS.iter();
        known.find_map(|(magic, compression)| bytes.starts_with(magic).then_some(*compression))
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "not compressed",
            Self::Gzip => "gzip-compressed",
            Self::Bzip2 => "bzip2-compressed",
            Self::Lzma => "LZMA-compressed",
            Self::Xz => "XZ-compressed",
            Self::Lzo => "LZO-compressed",
            Self::Lz4 => "LZ4-compressed",
            Self::Zstd => "Zstandard-compressed",
        })
    }
}

/// Why a file is not a kernel image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageError {
    /// The file is empty.
    Empty,
    /// Neither ELF nor `bzImage`.
    Unknown,
    /// The `bzImage` ends before its payload: bytes needed and bytes present.
    Truncated(u64, u64),
    /// The `bzImage` has a boot protocol older than 2.08: its version.
    Protocol(u16),
    /// The payload of the `bzImage` starts with bytes of no known compression.
    Payload,
    /// The caller cannot decompress this.
    Compressed(Compression),
    /// The payload has the wrong size after decompression: the actual and the expected bytes.
    UnpackedSize(u64, u64),
}

impl ImageError {
    /// Writes the problem, without the way out.
    ///
    /// # Errors
    /// The error of the formatter.
    pub fn reason(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("empty"),
            Self::Unknown => f.write_str("neither an ELF image nor a bzImage"),
            Self::Truncated(needed, there) => {
                write!(f, "truncated bzImage: {needed} bytes needed, {there} there")
            }
            Self::Protocol(version) => {
                write!(f, "bzImage of boot protocol {}.{:02}", version >> 8, version & 0xff)?;
                f.write_str(", at least 2.08 is needed")
            }
            Self::Payload => f.write_str("damaged bzImage: a payload of no known compression"),
            Self::Compressed(compression) => {
                write!(f, "{compression} bzImage: unpack it and give the ELF image inside")
            }
            Self::UnpackedSize(got, wanted) => {
                write!(f, "damaged bzImage: its payload became {got} bytes instead of {wanted}")
            }
        }
    }

    /// The way out, if there is one.
    #[must_use]
    pub const fn way_out(&self) -> Option<&'static str> {
        match self {
            Self::Empty | Self::Unknown => Some("give a kernel image"),
            Self::Truncated(..) | Self::Payload => Some("copy it again"),
            Self::Protocol(_) | Self::Compressed(_) | Self::UnpackedSize(..) => None,
        }
    }
}

impl fmt::Display for ImageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.reason(f)?;
        self.way_out().map_or(Ok(()), |way_out| write!(f, "; {way_out}"))
    }
}

impl core::error::Error for ImageError {}

/// Offsets in a `bzImage`.
const SETUP_SECTORS: usize = 0x1f1;
const BOOT_FLAG: usize = 0x1fe;
const HEADER_MAGIC: usize = 0x202;
const VERSION: usize = 0x206;
const PAYLOAD_OFFSET: usize = 0x248;
const PAYLOAD_LENGTH: usize = 0x24c;
const SECTOR_BYTES: u64 = 512;

const MAGICS: [(&[u8], Compression); 9] = [
    (b"\x7fELF", Compression::None),
    (b"\x1f\x8b", Compression::Gzip),
    (b"BZh", Compression::Bzip2),
    (b"\x5d\x00\x00", Compression::Lzma),
    (b"\xfd7zXZ\x00", Compression::Xz),
    (b"\x89LZO", Compression::Lzo),
    (b"\x02\x21\x4c\x18", Compression::Lz4),
    (b"\x28\xb5\x2f\xfd", Compression::Zstd),
    (b"\x04\x22\x4d\x18", Compression::Lz4),
];

fn field<const BYTES: usize>(file: &[u8], at: usize) -> Option<[u8; BYTES]> {
    file.get(at..)?.first_chunk().copied()
}

impl<'a> Image<'a> {
    /// Identifies the kind of a file.
    ///
    /// # Errors
    /// See [`ImageError`].
    pub fn identify(file: &'a [u8]) -> Result<Self, ImageError> {
        if file.is_empty() {
            return Err(ImageError::Empty);
        }
        if file.starts_with(b"\x7fELF") {
            return Ok(Self::Elf(file));
        }
        let magic = (field(file, BOOT_FLAG), field(file, HEADER_MAGIC));
        match (magic, field(file, VERSION)) {
            ((Some([0x55, 0xaa]), Some([b'H', b'd', b'r', b'S'])), Some(version)) => {
                payload(file, u16::from_le_bytes(version)).map(Self::BzImage)
            }
            _ => Err(ImageError::Unknown),
        }
    }

    /// The ELF image, decompressed by `decompress` if needed (which returns `None` for an unknown
    /// compression or a damaged stream).
    ///
    /// # Errors
    /// [`ImageError::Compressed`], [`ImageError::UnpackedSize`].
    pub fn unpack(
        self,
        decompress: impl FnOnce(&Payload<'a>) -> Option<Vec<u8>>,
    ) -> Result<Cow<'a, [u8]>, ImageError> {
        let payload = match self {
            Self::Elf(bytes) => return Ok(Cow::Borrowed(bytes)),
            Self::BzImage(payload) if payload.compression == Compression::None => {
                return Ok(Cow::Borrowed(payload.bytes));
            }
            Self::BzImage(payload) => payload,
        };
        let unpacked = decompress(&payload).ok_or(ImageError::Compressed(payload.compression))?;
        if unpacked.len() != payload.unpacked {
            return Err(ImageError::UnpackedSize(unpacked.len() as u64, payload.unpacked as u64));
        }
        Ok(Cow::Owned(unpacked))
    }
}

/// Finds the payload. `payload_offset` counts from the protected-mode code, which follows the boot
/// sector and the setup sectors; `payload_length` includes the size at the end.
fn payload(file: &[u8], version: u16) -> Result<Payload<'_>, ImageError> {
    const FIRST_WITH_PAYLOAD: u16 = 0x0208;
    if version < FIRST_WITH_PAYLOAD {
        return Err(ImageError::Protocol(version));
    }
    let there = file.len() as u64;
    let header = ImageError::Truncated(PAYLOAD_LENGTH as u64 + 4, there);
    let word = |at| field(file, at).map(|b| u64::from(u32::from_le_bytes(b))).ok_or(header);
    let [sectors] = field(file, SETUP_SECTORS).ok_or(header)?;
    let sectors = if sectors == 0 { 4 } else { u64::from(sectors) };
    let start = (sectors + 1) * SECTOR_BYTES + word(PAYLOAD_OFFSET)?;
    let end = start + word(PAYLOAD_LENGTH)?;
    let bytes = usize::try_from(start)
        .ok()
        .zip(usize::try_from(end).ok())
        .and_then(|(start, end)| file.get(start..end))
        .ok_or(ImageError::Truncated(end, there))?;
    let compression = Compression::of(bytes).ok_or(ImageError::Payload)?;
    if compression == Compression::None {
        return Ok(Payload { compression, bytes, unpacked: bytes.len() });
    }
    let (bytes, size) = bytes.split_last_chunk().ok_or(ImageError::Payload)?;
    let unpacked = usize::try_from(u32::from_le_bytes(*size)).map_err(|_| ImageError::Payload)?;
    Ok(Payload { compression, bytes, unpacked })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A `bzImage` with this payload, and its size at the end.
    fn bzimage(stream: &[u8], size: u32) -> Vec<u8> {
        let mut file = vec![0; 3 * 512 + 0x100];
        file[SETUP_SECTORS] = 2;
        file[BOOT_FLAG..BOOT_FLAG + 2].copy_from_slice(&[0x55, 0xaa]);
        file[HEADER_MAGIC..HEADER_MAGIC + 4].copy_from_slice(b"HdrS");
        file[VERSION..VERSION + 2].copy_from_slice(&0x20f_u16.to_le_bytes());
        file[PAYLOAD_OFFSET..PAYLOAD_OFFSET + 4].copy_from_slice(&0x100_u32.to_le_bytes());
        let length = stream.len() as u32 + 4;
        file[PAYLOAD_LENGTH..PAYLOAD_LENGTH + 4].copy_from_slice(&length.to_le_bytes());
        file.extend_from_slice(stream);
        file.extend_from_slice(&size.to_le_bytes());
        file
    }

    #[test]
    fn the_payload_is_found_and_its_size_cut_off() {
        let file = bzimage(b"\xfd7zXZ\0stream", 3);
        let Ok(Image::BzImage(payload)) = Image::identify(&file) else { panic!("a bzImage") };
        assert_eq!(payload.compression, Compression::Xz);
        assert_eq!(payload.bytes, b"\xfd7zXZ\0stream");
        assert_eq!(payload.unpacked, 3);
        let unpacked = Image::BzImage(payload).unpack(|_| Some(vec![1, 2, 3]));
        assert_eq!(unpacked.as_deref(), Ok(&[1, 2, 3][..]));
        let short = Image::BzImage(payload).unpack(|_| Some(vec![1]));
        assert_eq!(short, Err(ImageError::UnpackedSize(1, 3)));
        let error = Image::BzImage(payload).unpack(|_| None).unwrap_err();
        assert!(error.to_string().starts_with("XZ-compressed bzImage: unpack it"));
    }

    #[test]
    fn other_files_are_named() {
        assert_eq!(Image::identify(b""), Err(ImageError::Empty));
        assert_eq!(Image::identify(b"hello"), Err(ImageError::Unknown));
        let file = bzimage(b"\xfd7zXZ\0stream", 3);
        let cut = Image::identify(&file[..file.len() - 1]);
        assert_eq!(cut, Err(ImageError::Truncated(file.len() as u64, file.len() as u64 - 1)));
        assert_eq!(Image::identify(&bzimage(b"what", 3)), Err(ImageError::Payload));
    }

    proptest! {
        #[test]
        fn no_file_panics(bytes in prop::collection::vec(any::<u8>(), 0..700), head: [u8; 96]) {
            let _ = Image::identify(&bytes);
            let mut file = bzimage(&bytes, 7);
            file[SETUP_SECTORS..SETUP_SECTORS + 13].copy_from_slice(&head[..13]);
            file[PAYLOAD_OFFSET..PAYLOAD_OFFSET + 8].copy_from_slice(&head[13..21]);
            let _ = Image::identify(&file);
        }
    }
}
