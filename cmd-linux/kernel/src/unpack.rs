//! Compressed streams, as Linux and its tools write them.
//!
//! Rule: whatever a stream says, at most [`Limits::most`] bytes come out, and dictionaries stay
//! within [`DICTIONARY`].

use std::io::{self, Read};

use builder::Compression;

use crate::error::Problem;
use crate::{lz4, lzop};

/// The most memory for a dictionary. Linux uses 32 MiB (xz) and 128 MiB (zstd -22).
const DICTIONARY: u64 = 160 << 20;

/// The limits of the output of a stream.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Bytes at most.
    pub(crate) most: u64,
    /// The size that the stream states, if it does; it is used only to reserve memory.
    pub(crate) expected: u64,
}

/// The compression of `bytes`, known by the first of them.
pub(crate) fn compression_of(bytes: &[u8]) -> Option<Compression> {
    Compression::of(bytes).filter(|compression| *compression != Compression::None)
}

/// Unpacks a stream that lies at `offset` of its file.
pub(crate) fn decompress(
    compression: Compression,
    stream: &[u8],
    offset: u64,
    limits: Limits,
) -> Result<Vec<u8>, Problem> {
    let mut rest = stream;
    let unpacked = match compression {
        Compression::None => copy(stream),
        Compression::Gzip => collect(flate2::bufread::GzDecoder::new(&mut rest), limits),
        Compression::Bzip2 => collect(bzip2::bufread::BzDecoder::new(&mut rest), limits),
        Compression::Lzma => lzma(&mut rest, limits),
        Compression::Xz => {
            let dictionary = (DICTIONARY >> 10) as u32;
            collect(lzma_rust2::XzReader::new_mem_limit(&mut rest, false, dictionary), limits)
        }
        Compression::Lzo => lzop::unpack(&mut rest, limits.most),
        Compression::Lz4 => lz4::unpack(&mut rest, limits),
        Compression::Zstd => zstd(&mut rest, limits),
    };
    match unpacked {
        Ok(bytes) if bytes.len() as u64 > limits.most => {
            Err(Problem::Bomb { compression, offset, most: limits.most })
        }
        Ok(bytes) => Ok(bytes),
        // A decoder that refuses a dictionary returns the same kind, with a source.
        Err(error) if error.kind() == io::ErrorKind::OutOfMemory && error.get_ref().is_none() => {
            Err(Problem::OutOfMemory)
        }
        Err(error) => {
            let offset = offset + (stream.len() - rest.len()) as u64;
            Err(Problem::Damaged { compression, offset, reason: one_line(&error) })
        }
    }
}

fn copy(stream: &[u8]) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(stream.len())?;
    bytes.extend_from_slice(stream);
    Ok(bytes)
}

/// Reads all that a decoder returns, and stops soon after the limit.
pub(crate) fn collect(decoder: impl Read, limits: Limits) -> io::Result<Vec<u8>> {
    /// The most memory that is reserved for a size that is only stated.
    const RESERVED: u64 = 128 << 20;
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(limits.expected.min(limits.most).min(RESERVED) as usize)?;
    decoder.take(limits.most + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn lzma(stream: &mut &[u8], limits: Limits) -> io::Result<Vec<u8>> {
    let dictionary = (DICTIONARY >> 10) as u32;
    let decoder = lzma_rust2::LzmaReader::new_mem_limit(stream, dictionary, None)?;
    collect(decoder, limits)
}

/// Unpacks zstd. The library reads the checksum and leaves its comparison to the caller.
fn zstd(stream: &mut &[u8], limits: Limits) -> io::Result<Vec<u8>> {
    use ruzstd::decoding::StreamingDecoder;
    let mut decoder = StreamingDecoder::new_with_max_window_size(stream, DICTIONARY)
        .map_err(|error| damaged(error.to_string()))?;
    let bytes = collect(&mut decoder, limits)?;
    let decoder = decoder.into_frame_decoder();
    match decoder.get_checksum_from_data() {
        // Of a bomb, not all bytes were read.
        _ if bytes.len() as u64 > limits.most => Ok(bytes),
        Some(sum) if decoder.get_calculated_checksum() != Some(sum) => {
            Err(damaged("its checksum is wrong"))
        }
        _ => Ok(bytes),
    }
}

/// An error while a file is read.
pub(crate) fn reading(error: io::Error) -> Problem {
    match error.kind() {
        io::ErrorKind::OutOfMemory => Problem::OutOfMemory,
        _ => Problem::Read(error),
    }
}

/// An error of a decoder, as part of a sentence.
fn one_line(error: &io::Error) -> String {
    const MOST: usize = 160;
    if error.kind() == io::ErrorKind::UnexpectedEof {
        return "it ends too early".to_owned();
    }
    let text = error.to_string().replace(['\n', '\r'], " ");
    text.chars().take(MOST).collect::<String>().trim_end_matches('.').to_owned()
}

/// An error of our own decoders.
pub(crate) fn damaged(reason: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason.into())
}

/// Takes the next `count` bytes of a stream.
pub(crate) fn next<'a>(stream: &mut &'a [u8], count: usize) -> io::Result<&'a [u8]> {
    let (head, tail) = stream
        .split_at_checked(count)
        .ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?;
    *stream = tail;
    Ok(head)
}

/// Takes the next bytes as an array.
pub(crate) fn array<const BYTES: usize>(stream: &mut &[u8]) -> io::Result<[u8; BYTES]> {
    let mut bytes = [0; BYTES];
    bytes.copy_from_slice(next(stream, BYTES)?);
    Ok(bytes)
}
