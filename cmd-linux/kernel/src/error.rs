//! Why a file is no kernel for a partition: names the file, the place in it, and the way out.

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
    /// What is wrong with it.
    pub problem: Problem,
}

/// What is wrong with a kernel file. Offsets are bytes from its start.
#[derive(Debug)]
pub enum Problem {
    /// The file cannot be read.
    Read(io::Error),
    /// The path is a directory or a device.
    NoFile,
    /// The file has more than [`MAX_UNPACKED`] bytes.
    TooLarge,
    /// The file is no kernel image, or a damaged `bzImage`.
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
    /// The message of the process that unpacks the file, which is the text of another problem.
    Told(String),
    /// The file unpacks to another size than it states.
    Size {
        /// Bytes that it unpacked to.
        got: u64,
        /// Bytes that it states.
        wanted: u64,
    },
    /// The unpacked contents are no ELF image.
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

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "kernel {}: {}", self.file.display(), self.problem)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let most = MAX_UNPACKED >> 20;
        match self {
            Self::Read(error) => write!(f, "cannot be read: {error}; give a kernel file"),
            Self::NoFile => f.write_str("no regular file; give a kernel file"),
            Self::TooLarge => write!(f, "more than {most} MiB; give a smaller kernel"),
            Self::Image(error) => error.fmt(f),
            Self::Damaged { compression, offset, reason } => {
                write!(f, "{compression}, and damaged near byte {offset}: {reason}; copy it again")
            }
            Self::Bomb { compression, offset, most } => {
                write!(f, "{compression} at byte {offset}, and unpacks to more than ")?;
                write!(f, "{} MiB", most >> 20)?;
                match *most < MAX_UNPACKED {
                    false => f.write_str("; give a smaller kernel"),
                    true => write!(f, ", which are free for it here; {LESS}"),
                }
            }
            Self::OutOfMemory => write!(f, "needs more memory than is free; {LESS}"),
            Self::Memory { room } => {
                let room = room >> 20;
                write!(f, "needs more than the {room} MiB that are free to unpack it; {LESS}")
            }
            Self::Time { seconds } => {
                write!(f, "needs more than {seconds} s of CPU time to unpack; give another kernel")
            }
            Self::Start(error) => {
                write!(f, "the process that unpacks it cannot be started: {error}; free memory")
            }
            Self::Ended(how) => {
                write!(f, "the process that unpacks it ended: {how}; give another kernel")
            }
            Self::Told(words) => f.write_str(words),
            Self::Size { got, wanted } => {
                write!(f, "unpacks to {got} bytes and says it has {wanted}; copy it again")
            }
            Self::Contents { compression, offset } => {
                write!(f, "{compression} at byte {offset}, and holds no ELF image")?;
                f.write_str("; give a kernel image")
            }
            Self::Kernel(error) => error.fmt(f),
        }
    }
}

// The message already includes the source of an error.
impl std::error::Error for Error {}
