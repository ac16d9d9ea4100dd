//! The file format of lzop, big-endian, as far as Linux reads it.
//!
//! ```text
//! magic, version, library version, [needed version], method, [level], flags, [filter],
//! mode, time, [time], name length, name, checksum of the header, [extra field]
//! blocks: uncompressed bytes (0: the end), compressed bytes, [checksums], the block
//! ```

use std::io;

use crate::unpack::{array, damaged, next};

const MAGIC: &[u8] = b"\x89LZO\0\r\n\x1a\n";
/// The most uncompressed bytes of a block.
const MAX_BLOCK: usize = 64 << 20;
/// From this version on, the format has a needed version, a level and long times.
const VERSION_WITH_LEVEL: u16 = 0x0940;

/// Flags of the header.
mod flag {
    pub(super) const ADLER32_DATA: u32 = 1 << 0;
    pub(super) const ADLER32_COMPRESSED: u32 = 1 << 1;
    pub(super) const EXTRA_FIELD: u32 = 1 << 6;
    pub(super) const CRC32_DATA: u32 = 1 << 8;
    pub(super) const CRC32_COMPRESSED: u32 = 1 << 9;
    pub(super) const FILTER: u32 = 1 << 11;
}

/// Unpacks a file; stops soon after `most` bytes.
pub(crate) fn unpack(stream: &mut &[u8], most: u64) -> io::Result<Vec<u8>> {
    let flags = header(stream)?;
    let mut unpacked = Vec::new();
    while unpacked.len() as u64 <= most {
        let size = word(stream)?;
        if size == 0 {
            break;
        }
        block(stream, flags, size, &mut unpacked)?;
    }
    Ok(unpacked)
}

/// Reads the header and returns its flags.
fn header(stream: &mut &[u8]) -> io::Result<u32> {
    if next(stream, MAGIC.len())? != MAGIC {
        return Err(damaged("no lzop header"));
    }
    let version = u16::from_be_bytes(array(stream)?);
    next(stream, 2)?;
    let with_level = version >= VERSION_WITH_LEVEL;
    next(stream, if with_level { 2 } else { 0 })?;
    let [method] = array(stream)?;
    if !(1..=3).contains(&method) {
        return Err(damaged(format!("compression method {method}, of which 1 to 3 are known")));
    }
    next(stream, usize::from(with_level))?;
    let flags = u32::from_be_bytes(array(stream)?);
    next(stream, if flags & flag::FILTER != 0 { 4 } else { 0 })?;
    next(stream, if with_level { 12 } else { 8 })?;
    let [name] = array(stream)?;
    next(stream, name.into())?;
    next(stream, 4)?;
    if flags & flag::EXTRA_FIELD != 0 {
        let length = word(stream)?;
        next(stream, length)?;
        next(stream, 4)?;
    }
    Ok(flags)
}

fn block(stream: &mut &[u8], flags: u32, size: usize, unpacked: &mut Vec<u8>) -> io::Result<()> {
    let compressed = word(stream)?;
    if size > MAX_BLOCK || compressed > size {
        return Err(damaged(format!("a block of {compressed} bytes for {size}")));
    }
    let has = |flag| flags & flag != 0;
    let stored = compressed == size;
    let adler32 = if has(flag::ADLER32_DATA) { Some(array(stream)?) } else { None };
    next(stream, if has(flag::CRC32_DATA) { 4 } else { 0 })?;
    next(stream, if has(flag::ADLER32_COMPRESSED) && !stored { 4 } else { 0 })?;
    next(stream, if has(flag::CRC32_COMPRESSED) && !stored { 4 } else { 0 })?;
    let bytes = next(stream, compressed)?;
    let start = unpacked.len();
    if stored {
        unpacked.extend_from_slice(bytes);
    } else {
        let block = lzo::decompress(bytes, size).map_err(|error| damaged(error.to_string()))?;
        if block.len() != size {
            return Err(damaged(format!("a block becomes {} bytes, not {size}", block.len())));
        }
        unpacked.extend_from_slice(&block);
    }
    match adler32 {
        Some(sum) if adler2::adler32_slice(&unpacked[start..]) != u32::from_be_bytes(sum) => {
            Err(damaged("the checksum of a block is wrong"))
        }
        _ => Ok(()),
    }
}

fn word(stream: &mut &[u8]) -> io::Result<usize> {
    Ok(u32::from_be_bytes(array(stream)?) as usize)
}
