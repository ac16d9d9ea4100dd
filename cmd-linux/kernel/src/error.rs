//! Why a file is no kernel for a partition: the file, where, and the way out.

use std::fmt;
use std::path::PathBuf;

/// A file that cannot be used.
#[derive(Debug)]
pub struct Error {
    /// The file.
    pub file: PathBuf,
    /// What is wrong with it.
    pub problem: Problem,
}

/// What is wrong with a kernel file.
#[derive(Debug)]
pub enum Problem {
    /// It has no bytes.
    Empty,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "kernel {}: {}", self.file.display(), self.problem)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("empty; give a kernel image"),
        }
    }
}

impl std::error::Error for Error {}
