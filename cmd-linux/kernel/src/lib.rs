//! A kernel file, as an operator names it, and what it would do as a partition's kernel.
//!
//! ```text
//! file --load--> ELF image, how it was packed, its PV notes
//!                  --check--> what is missing for a PV start, and the sensitive instructions
//! ```
//!
//! The rule it keeps: the file is hostile. It is unpacked into at most [`MAX_UNPACKED`] bytes by
//! pure Rust code, and whatever is wrong with it is an [`Error`] that names the file, where in it,
//! and what to do; nothing here panics.
#![forbid(unsafe_code)]

mod error;
mod notes;
mod report;

use std::path::Path;

pub use builder::Compression;
pub use error::{Error, Problem};
pub use notes::{NoteStyle, Notes};
pub use report::{Fate, Finding, Place, Pv, Report};

/// Bytes of a kernel file at most, and of what it unpacks to.
pub const MAX_UNPACKED: u64 = 512 << 20;

/// A kernel, ready for the builder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// The ELF image, unpacked.
    pub elf: Vec<u8>,
    /// How the file had it.
    pub container: Container,
    /// How it was compressed.
    pub compression: Compression,
    /// What it says about a PV start.
    pub notes: Notes,
}

/// What a kernel file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Container {
    /// An ELF image, as it is or compressed as a whole.
    Elf,
    /// A `bzImage`.
    BzImage,
}

/// Reads a kernel file and unpacks it.
///
/// # Errors
/// It cannot be read, is too large, or is no kernel; see [`Problem`].
pub fn load(path: &Path) -> Result<Loaded, Error> {
    Err(Error { file: path.to_owned(), problem: Problem::Empty })
}

/// As [`load`], of a file that was read already; `path` is for the messages.
///
/// # Errors
/// See [`load`].
pub fn unpack(bytes: Vec<u8>, path: &Path) -> Result<Loaded, Error> {
    let _ = bytes;
    Err(Error { file: path.to_owned(), problem: Problem::Empty })
}

/// Disassembles what is executable in a kernel, and tells what would become of it here.
#[must_use]
pub fn check(loaded: &Loaded) -> Report {
    let _ = loaded;
    Report::default()
}
