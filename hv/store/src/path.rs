//! Names of nodes.
//!
//! Rule: a [`Path`] is absolute and well-formed, whoever made it: names of letters, digits, `-`,
//! `_` and `@`, one slash between them, none at the end.

use alloc::format;
use alloc::string::{String, ToString};
use core::fmt;

use pv_abi::xen::store::{ABS_PATH_MAX, REL_PATH_MAX};

use crate::limits;
use crate::wire::Error;

/// An absolute, well-formed path.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Path(String);

/// The home of a partition: what its relative paths are under.
#[must_use]
pub fn home(partition: u32) -> String {
    format!("/local/domain/{partition}")
}

impl Path {
    /// An absolute path.
    ///
    /// # Errors
    /// [`Error::Invalid`]: not well-formed.
    pub fn new(text: &str) -> Result<Self, Error> {
        let rest = text.strip_prefix('/').ok_or(Error::Invalid)?;
        let name = |name: &str| {
            !name.is_empty()
                && name.bytes().all(|c| c.is_ascii_alphanumeric() || b"-_@".contains(&c))
        };
        let names = rest.split('/');
        let sound = rest.is_empty() || names.clone().all(name);
        if !sound || text.len() > ABS_PATH_MAX || names.count() > limits::DEPTH {
            return Err(Error::Invalid);
        }
        Ok(Self(text.to_string()))
    }

    /// A path as a client names it: one without a leading slash is under its home.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn of_client(partition: u32, text: &str) -> Result<Self, Error> {
        if text.starts_with('/') {
            return Self::new(text);
        }
        if text.is_empty() || text.len() > REL_PATH_MAX {
            return Err(Error::Invalid);
        }
        Self::new(&format!("{}/{text}", home(partition)))
    }

    /// Its names, from the root.
    pub fn names(&self) -> impl Iterator<Item = &str> + Clone {
        self.0.split('/').filter(|name| !name.is_empty())
    }

    /// What it is called.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is `other` or below it.
    #[must_use]
    pub fn is_within(&self, other: &Self) -> bool {
        match self.0.strip_prefix(other.0.trim_end_matches('/')) {
            Some(rest) => rest.is_empty() || rest.starts_with('/'),
            None => false,
        }
    }

    /// A node below this one. `name` is taken from a path, so it is well-formed.
    pub(crate) fn child(&self, name: &str) -> Self {
        Self(format!("{}/{name}", self.0.trim_end_matches('/')))
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
