//! Files as people have them, and as nobody should.

mod compressions;
mod confined;
mod debian;
mod image;
mod kallsyms;
mod listing;
mod notes;

use std::path::Path;

use crate::{Error, Loaded};

/// What becomes of a file `/k` with these bytes.
fn unpack(bytes: &[u8]) -> Result<Loaded, Error> {
    crate::unpack(bytes.to_vec(), Path::new("/k"))
}

/// What a person is told about a file that is refused.
fn told(bytes: &[u8]) -> String {
    unpack(bytes).map(|_| ()).expect_err("refused").to_string()
}
