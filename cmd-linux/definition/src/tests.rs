//! Definitions that are read and written; [`wrong`] has the mistakes.

mod good;
mod properties;
mod schema;
mod wrong;
mod xl;

use std::path::Path;

use crate::{Definition, Errors};

/// Reads TOML as the file `/d/a.toml`.
fn toml(text: &str) -> Result<Vec<Definition>, Errors> {
    crate::parse(text, Path::new("/d/a.toml"))
}

/// A definition with the required fields and these lines.
fn with(lines: &str) -> String {
    format!("name = \"web\"\nkernel = \"/k\"\nmemory = \"256M\"\n{lines}\n")
}
