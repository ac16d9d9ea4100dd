//! Channels to other partitions, for a program in the command partition: this crate finds them in
//! the store, and maps and binds them through the kernel's devices.

pub use channel::{ring, words};

mod devices;
mod xenbus;

use std::io;

pub use devices::{EventPort, Shared, request};
pub use xenbus::{Store, StoreError};

/// The command channel's directory in the store, below the partition's own.
pub const COMMAND_PATH: &str = "device/uv-command/0";
/// The build channel's directory in the store, below the partition's own.
pub const BUILD_PATH: &str = "device/uv-build/0";

/// Why a channel could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum FindError {
    /// The store does not say where the channel is.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The channel's size is not the size that this program expects.
    #[error("{path}: has {pages} pages, not {wanted}; use a uvd of the ultravisor's version")]
    Size {
        /// The channel's directory.
        path: String,
        /// The pages that the channel has.
        pages: u32,
        /// The expected number of pages.
        wanted: usize,
    },
    /// A device refused.
    #[error(transparent)]
    Device(#[from] io::Error),
}

/// Finds the channel of `wanted` pages in this directory of the store, maps it and binds its port.
///
/// # Errors
/// See [`FindError`].
pub fn find(path: &str, wanted: usize) -> Result<(Shared, EventPort), FindError> {
    let mut store = Store::open()?;
    let mut number = |name: &str| store.number(&format!("{path}/{name}"));
    let backend = number("backend-id")?;
    let (reference, pages) = (number("ring-ref")?, number("pages")?);
    let event = number("event-channel")?;
    if pages as usize != wanted {
        return Err(FindError::Size { path: path.into(), pages, wanted });
    }
    Ok((Shared::map_grants(backend, reference, pages)?, EventPort::bind(backend, event)?))
}
