//! Paths of nodes.
//!
//! Rule: every [`Path`] is absolute and well-formed, no matter where it comes from. It has names of
//! letters, digits, `-`, `_` and `@`, with one slash before each and none at the end.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use core::borrow::Borrow;
use core::fmt;
use core::ops::Bound;

use pv_abi::xen::store::{ABS_PATH_MAX, REL_PATH_MAX};

use crate::limits;
use crate::wire::Error;

/// An absolute, well-formed path.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Path(Box<str>);

/// The home of a partition, which its relative paths start from.
#[must_use]
pub fn home(partition: u32) -> String {
    format!("/local/domain/{partition}")
}

impl Path {
    /// The path of the root.
    pub(crate) fn root() -> Self {
        Self("/".into())
    }

    /// Checks an absolute path.
    ///
    /// # Errors
    /// [`Error::Invalid`] if it is not well-formed.
    pub fn new(text: &str) -> Result<Self, Error> {
        let rest = text.strip_prefix('/').ok_or(Error::Invalid)?;
        // A slash, or the end, follows a name. Every path is checked, so one loop does it.
        let (mut names, mut length) = (1, 0_usize);
        for byte in rest.bytes() {
            match byte {
                b'/' if length == 0 => return Err(Error::Invalid),
                b'/' => (names, length) = (names + 1, 0),
                b'-' | b'_' | b'@' => length += 1,
                _ if byte.is_ascii_alphanumeric() => length += 1,
                _ => return Err(Error::Invalid),
            }
        }
        let sound = length != 0 || rest.is_empty();
        if !sound || text.len() > ABS_PATH_MAX || names > limits::DEPTH {
            return Err(Error::Invalid);
        }
        Ok(Self(text.into()))
    }

    /// A path as a client names it: one without a leading slash is relative to its home.
    ///
    /// # Errors
    /// The same as [`Self::new`].
    pub fn of_client(partition: u32, text: &str) -> Result<Self, Error> {
        if text.starts_with('/') {
            return Self::new(text);
        }
        if text.is_empty() || text.len() > REL_PATH_MAX {
            return Err(Error::Invalid);
        }
        Self::new(&format!("{}/{text}", home(partition)))
    }

    /// The path as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns whether it is `other` or below it.
    #[must_use]
    pub fn is_within(&self, other: &Self) -> bool {
        match self.0.strip_prefix(other.stem()) {
            Some(rest) => rest.is_empty() || rest.starts_with('/'),
            None => false,
        }
    }

    /// The path without the slash that only the root ends with.
    fn stem(&self) -> &str {
        self.0.trim_end_matches('/')
    }

    /// The prefix of the paths of all nodes below this one.
    pub(crate) fn prefix(&self) -> String {
        format!("{}/", self.stem())
    }

    /// The path of the node above; `None` for the root.
    pub(crate) fn above(&self) -> Option<Self> {
        above(&self.0).map(|text| Self(text.into()))
    }

    /// The texts of this path and of all above it, the root last.
    pub(crate) fn upwards(&self) -> impl Iterator<Item = &str> {
        upwards(&self.0)
    }

    /// The bounds of all paths below this one, in the order of paths. `'0'` follows `'/'`.
    pub(crate) fn below(&self) -> (Bound<String>, Bound<String>) {
        let end = format!("{}0", self.stem());
        (Bound::Excluded(self.prefix()), Bound::Excluded(end))
    }

    /// Bytes of the path.
    pub(crate) const fn bytes(&self) -> usize {
        self.0.len()
    }
}

/// The text of a path and the texts of all paths above it, the root last.
pub(crate) fn upwards(path: &str) -> impl Iterator<Item = &str> {
    core::iter::successors(Some(path), |path| above(path))
}

/// The path above a path; `None` for the root.
fn above(path: &str) -> Option<&str> {
    // Names are short, so the slash is near the end, and a plain loop finds it soonest.
    match path.bytes().rposition(|byte| byte == b'/')? {
        at if at + 1 == path.len() => None,
        0 => Some("/"),
        at => path.get(..at),
    }
}

impl Borrow<str> for Path {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
