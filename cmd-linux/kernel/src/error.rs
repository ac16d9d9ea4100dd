//! The reasons why a file is not a kernel for a partition. An error names the file, the place in
//! it, and the way out.

use std::fmt;
use std::io;
use std::path::PathBuf;

use builder::{Compression, ImageError, KernelError};

use crate::MAX_UNPACKED;

/// A file that cannot be used.
#[derive(Debug)]
pub struct Error {
    /// The file.
    pub file: PathBuf,
    /// The fault in the file.
    pub problem: Problem,
}

/// Faults of a kernel file. Offsets are bytes from its start.
#[derive(Debug)]
pub enum Problem {
    /// The file cannot be read.
    Read(io::Error),
    /// The path is a directory or a device.
    NoFile,
    /// The file has more than [`MAX_UNPACKED`] bytes.
    TooLarge,
    /// The file is not a kernel image, or is a damaged `bzImage`.
    Image(ImageError),
    /// The compressed part is damaged or cut off.
    Damaged {
        /// The compression.
        compression: Compression,
        /// The approximate place of the damage.
        offset: u64,
        /// The decompressor's reason.
        reason: String,
    },
    /// The file unpacks to more bytes than allowed.
    Bomb {
        /// The compression.
        compression: Compression,
        /// Where the compressed part starts.
        offset: u64,
        /// The most bytes that it may unpack to.
        most: u64,
    },
    /// Unpacking takes more memory than this process may have.
    OutOfMemory,
    /// Unpacking takes more memory than is free for it.
    Memory {
        /// Bytes that are free for it.
        room: u64,
    },
    /// Unpacking takes more CPU time than allowed.
    Time {
        /// The limit in seconds.
        seconds: u64,
    },
    /// The process that unpacks the file cannot be started.
    Start(io::Error),
    /// The process that unpacks the file ended; the text says how.
    Ended(String),
    /// The message of the process that unpacks the file: the parts of another problem.
    Told {
        /// The mistake.
        reason: String,
        /// The way out, if there is one.
        way_out: Option<String>,
    },
    /// The file unpacks to another size than it states.
    Size {
        /// Bytes that it unpacked to.
        got: u64,
        /// Bytes that it states.
        wanted: u64,
    },
    /// The unpacked contents are not an ELF image.
    Contents {
        /// The compression.
        compression: Compression,
        /// Where the compressed part starts.
        offset: u64,
    },
    /// The image cannot be started as a partition's kernel.
    Kernel(KernelError),
}

/// The way out if memory is short.
const LESS: &str = "give a smaller kernel, or this machine more memory \
                    (the command partition: boot option command_memory=)";

impl Error {
    /// The problem with the file's name, and the way out, if there is one.
    #[must_use]
    pub fn parts(&self) -> (String, Option<&str>) {
        let reason = fmt::from_fn(|f| self.problem.reason(f));
        (format!("kernel {}: {reason}", self.file.display()), self.problem.way_out())
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "kernel {}: {}", self.file.display(), self.problem)
    }
}

impl Problem {
    /// Writes the problem, without the way out.
    ///
    /// # Errors
    /// The error of the formatter.
    pub fn reason(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read(error) => write!(f, "cannot be read: {error}"),
            Self::NoFile => f.write_str("not a regular file"),
            Self::TooLarge => write!(f, "more than {} MiB", MAX_UNPACKED >> 20),
            Self::Image(error) => error.reason(f),
            Self::Damaged { compression, offset, reason } => {
                write!(f, "{compression}, and damaged near byte {offset}: {reason}")
            }
            Self::Bomb { compression, offset, most } => {
                write!(f, "{compression} at byte {offset}, and unpacks to more than ")?;
                match *most < MAX_UNPACKED {
                    false => write!(f, "{} MiB", most >> 20),
                    true => write!(f, "the {} MiB that are free to unpack it", most >> 20),
                }
            }
            Self::OutOfMemory => f.write_str("needs more memory than is free"),
            Self::Memory { room } => {
                write!(f, "needs more than the {} MiB that are free to unpack it", room >> 20)
            }
            Self::Time { seconds } => {
                write!(f, "needs more than {seconds} s of CPU time to unpack")
            }
            Self::Start(error) => {
                write!(f, "the process that unpacks it cannot be started: {error}")
            }
            Self::Ended(how) => write!(f, "the process that unpacks it ended: {how}"),
            Self::Told { reason, .. } => f.write_str(reason),
            Self::Size { got, wanted } => {
                write!(f, "unpacks to {got} bytes and says it has {wanted}")
            }
            Self::Contents { compression, offset } => {
                write!(f, "{compression} at byte {offset}, and holds no ELF image")
            }
            Self::Kernel(error) => error.reason(f),
        }
    }

    /// The way out, if there is one.
    #[must_use]
    pub fn way_out(&self) -> Option<&str> {
        Some(match self {
            Self::Read(_) | Self::NoFile => "give a kernel file",
            Self::Bomb { most, .. } if *most < MAX_UNPACKED => LESS,
            Self::TooLarge | Self::Bomb { .. } => "give a smaller kernel",
            Self::Image(error) => return error.way_out(),
            Self::Damaged { .. } | Self::Size { .. } => "copy it again",
            Self::OutOfMemory | Self::Memory { .. } => LESS,
            Self::Time { .. } | Self::Ended(_) => "give another kernel",
            Self::Start(_) => "free memory",
            Self::Told { way_out, .. } => return way_out.as_deref(),
            Self::Contents { .. } => "give a kernel image",
            Self::Kernel(error) => return error.way_out(),
        })
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.reason(f)?;
        self.way_out().map_or(Ok(()), |way_out| write!(f, "; {way_out}"))
    }
}

// The message already includes the source of an error.
impl std::error::Error for Error {}
