//! LZ4, in the legacy frame that Linux uses and in the current one.
//!
//! ```text
//! legacy: magic, then blocks: le32 compressed bytes, the block (8 MiB uncompressed but the last)
//! ```

use std::io;

use crate::unpack::{Limits, array, collect, damaged, next};

const LEGACY: [u8; 4] = [0x02, 0x21, 0x4c, 0x18];
/// The most uncompressed bytes of a block.
const BLOCK: usize = 8 << 20;

/// Unpacks a frame.
pub(crate) fn unpack(stream: &mut &[u8], limits: Limits) -> io::Result<Vec<u8>> {
    if !stream.starts_with(&LEGACY) {
        return collect(lz4_flex::frame::FrameDecoder::new(stream), limits);
    }
    next(stream, LEGACY.len())?;
    let mut unpacked = Vec::new();
    let mut block = vec![0; BLOCK];
    while !stream.is_empty() && unpacked.len() as u64 <= limits.most {
        let size = array(stream)?;
        if size == LEGACY {
            continue; // Frames may follow one another.
        }
        let compressed = next(stream, u32::from_le_bytes(size) as usize)?;
        let bytes = lz4_flex::block::decompress_into(compressed, &mut block)
            .map_err(|error| damaged(error.to_string()))?;
        unpacked.extend_from_slice(&block[..bytes]);
    }
    Ok(unpacked)
}
