//! Reads a kernel file that an operator names, and says how it would run as a partition's kernel.
//!
//! ```text
//! file --load--> ELF image, how it was packed, its PV notes
//!                  --check--> what is missing for a PV start, and the sensitive instructions
//! ```
//!
//! A file may be an ELF image or a `bzImage`, as it is or compressed as a whole; its contents may
//! be compressed in every way that Linux offers.
//!
//! Rule: the file is hostile. Pure Rust code unpacks it into at most [`MAX_UNPACKED`] bytes, in a
//! process that has nothing to lose ([`confined`]). Every problem is an [`Error`] that names the
//! file, the place in it, and what to do; nothing here panics.
//!
//! Without the feature `check` files are loaded and not checked, and nothing disassembles.

#[cfg(feature = "check")]
mod check;
pub mod confined;
mod error;
#[cfg(feature = "check")]
mod kallsyms;
mod lz4;
mod lzop;
mod notes;
#[cfg(feature = "check")]
mod render;
#[cfg(feature = "check")]
mod report;
#[cfg(feature = "check")]
mod sensitive;
#[cfg(feature = "check")]
mod symbols;
mod unpack;

use std::io::Read;
use std::path::{Path, PathBuf};

use builder::{Image, ImageError, Payload};

pub use builder::Compression;
#[cfg(feature = "check")]
pub use check::check;
pub use error::{Error, Problem};
pub use notes::{NoteStyle, Notes};
#[cfg(feature = "check")]
pub use report::{Fate, Finding, Place, Pv, Report};

use unpack::{Limits, compression_of, decompress};

/// The most bytes of a kernel file, and of its unpacked contents.
pub const MAX_UNPACKED: u64 = 512 << 20;

/// A kernel, ready for the builder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// The file that the kernel was read from.
    pub file: PathBuf,
    /// The ELF image, unpacked.
    pub elf: Vec<u8>,
    /// The container that the image was in.
    pub container: Container,
    /// The compression.
    pub compression: Compression,
    /// The facts about a PV start that the kernel's notes give.
    pub notes: Notes,
}

/// The kind of a kernel file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Container {
    /// An ELF image, uncompressed or compressed as a whole.
    Elf,
    /// A `bzImage`.
    BzImage,
}

impl Loaded {
    /// Checks that the builder can start the image as a partition's kernel.
    ///
    /// # Errors
    /// [`Problem::Kernel`] if the builder cannot.
    pub fn check_startable(&self) -> Result<(), Error> {
        match builder::Kernel::parse(&self.elf) {
            Ok(_) => Ok(()),
            Err(error) => Err(Error { file: self.file.clone(), problem: Problem::Kernel(error) }),
        }
    }
}

/// Reads a kernel file and unpacks it in this process, which therefore has to trust the file; for
/// untrusted files there is [`confined`]. It does not check that the image can be started: see
/// [`Loaded::check_startable`].
///
/// # Errors
/// The file cannot be read, is too large, or is no kernel; see [`Problem`].
pub fn load(path: &Path) -> Result<Loaded, Error> {
    match read(path) {
        Ok(bytes) => unpack(bytes, path),
        Err(problem) => Err(Error { file: path.to_owned(), problem }),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Problem> {
    let file = confined::open(path)?;
    let mut bytes = Vec::new();
    file.take(MAX_UNPACKED + 1).read_to_end(&mut bytes).map_err(unpack::reading)?;
    if bytes.len() as u64 > MAX_UNPACKED { Err(Problem::TooLarge) } else { Ok(bytes) }
}

/// Unpacks a file that may be compressed as a whole, such as a kernel module; messages name `path`.
///
/// # Errors
/// See [`Problem`].
pub fn unpack_file(bytes: Vec<u8>, path: &Path) -> Result<Vec<u8>, Error> {
    let Some(compression) = compression_of(&bytes) else { return Ok(bytes) };
    let limits = Limits { most: MAX_UNPACKED, expected: 0 };
    decompress(compression, &bytes, 0, limits)
        .map_err(|problem| Error { file: path.to_owned(), problem })
}

/// Does what [`load`] does, with the bytes of a file; messages name `path`.
///
/// # Errors
/// See [`load`].
pub fn unpack(bytes: Vec<u8>, path: &Path) -> Result<Loaded, Error> {
    unpack_within(bytes, path, MAX_UNPACKED)
}

/// Does what [`unpack`] does, with another limit.
fn unpack_within(bytes: Vec<u8>, path: &Path, most: u64) -> Result<Loaded, Error> {
    match open(bytes, most) {
        Ok((elf, container, compression)) => {
            let notes = Notes::read(&elf);
            Ok(Loaded { file: path.to_owned(), elf, container, compression, notes })
        }
        Err(problem) => Err(Error { file: path.to_owned(), problem }),
    }
}

/// The ELF image in a file.
fn open(bytes: Vec<u8>, most: u64) -> Result<(Vec<u8>, Container, Compression), Problem> {
    let Some(outer) = compression_of(&bytes) else {
        return open_image(bytes, most);
    };
    let whole = decompress(outer, &bytes, 0, Limits { most, expected: 0 })?;
    drop(bytes);
    match open_image(whole, most) {
        Ok((elf, container, Compression::None)) => Ok((elf, container, outer)),
        Err(Problem::Image(ImageError::Unknown | ImageError::Empty)) => {
            Err(Problem::Contents { compression: outer, offset: 0 })
        }
        other => other,
    }
}

/// The ELF image in an image that is not compressed as a whole.
fn open_image(bytes: Vec<u8>, most: u64) -> Result<(Vec<u8>, Container, Compression), Problem> {
    let payload = match Image::identify(&bytes).map_err(Problem::Image)? {
        Image::Elf(_) => return Ok((bytes, Container::Elf, Compression::None)),
        Image::BzImage(payload) => payload,
    };
    let elf = open_payload(&bytes, &payload, most)?;
    Ok((elf, Container::BzImage, payload.compression))
}

fn open_payload(file: &[u8], payload: &Payload<'_>, most: u64) -> Result<Vec<u8>, Problem> {
    let Payload { compression, bytes, unpacked: wanted } = *payload;
    let start = bytes.as_ptr().addr() - file.as_ptr().addr();
    // The size after a gzip stream is that of gzip's own trailer.
    let trailer = if compression == Compression::Gzip { 4 } else { 0 };
    let stream = file.get(start..start + bytes.len() + trailer).unwrap_or(bytes);
    let offset = start as u64;
    let elf = decompress(compression, stream, offset, Limits { most, expected: wanted as u64 })?;
    if elf.len() != wanted {
        return Err(Problem::Size { got: elf.len() as u64, wanted: wanted as u64 });
    }
    match elf.starts_with(b"\x7fELF") {
        true => Ok(elf),
        false => Err(Problem::Contents { compression, offset }),
    }
}

#[cfg(all(test, feature = "check"))]
mod tests;
