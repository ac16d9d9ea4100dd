//! Definitions read and written; what is wrong with them is in [`wrong`].

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

/// A definition with nothing but what is required, and these lines.
fn with(lines: &str) -> String {
    format!("name = \"web\"\nkernel = \"/k\"\nmemory = \"256M\"\n{lines}\n")
}
