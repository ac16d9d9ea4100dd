//! Why a file is no kernel for a partition: the file, where in it, and the way out.

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
    /// It cannot be read.
    Read(io::Error),
    /// It is a directory or a device.
    NoFile,
    /// It has more than [`MAX_UNPACKED`] bytes.
    TooLarge,
    /// It is no kernel image, or a damaged `bzImage`.
    Image(ImageError),
    /// Its compressed part is damaged or cut off.
    Damaged {
        /// How it is compressed.
        compression: Compression,
        /// About where.
        offset: u64,
        /// What the decompressor found.
        reason: String,
    },
    /// It unpacks to more than it may.
    Bomb {
        /// How it is compressed.
        compression: Compression,
        /// Where the compressed part starts.
        offset: u64,
        /// Bytes that it may unpack to.
        most: u64,
    },
    /// To unpack it takes more memory than this process may have.
    OutOfMemory,
    /// To unpack it takes more memory than is free for it.
    Memory {
        /// Bytes that are free for it.
        room: u64,
    },
    /// To unpack it takes more CPU time than it may.
    Time {
        /// Seconds that it may take.
        seconds: u64,
    },
    /// The process that unpacks it cannot be started.
    Start(io::Error),
    /// The process that unpacks it ended, and how.
    Ended(String),
    /// What the process that unpacks it said: the text of another problem.
    Told(String),
    /// It unpacks to another size than it says.
    Size {
        /// Bytes it unpacked to.
        got: u64,
        /// Bytes it says.
        wanted: u64,
    },
    /// What was compressed is no ELF image.
    Contents {
        /// How it was compressed.
        compression: Compression,
        /// Where the compressed part starts.
        offset: u64,
    },
    /// It cannot be started as a partition's kernel.
    Kernel(KernelError),
}

/// The way out where memory is short.
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

// What lies behind an error is in its message.
impl std::error::Error for Error {}
