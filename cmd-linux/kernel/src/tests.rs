//! Kernel files as they occur, and hostile ones.

mod compressions;
mod confined;
mod debian;
mod image;
mod kallsyms;
mod listing;
mod notes;

use std::path::Path;

use crate::{Error, Loaded};

/// The result for a file `/k` with these bytes.
fn unpack(bytes: &[u8]) -> Result<Loaded, Error> {
    crate::unpack(bytes.to_vec(), Path::new("/k"))
}

/// The message about a file that is refused.
fn told(bytes: &[u8]) -> String {
    unpack(bytes).map(|_| ()).expect_err("refused").to_string()
}
