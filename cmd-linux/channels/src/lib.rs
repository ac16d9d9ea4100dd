//! Channels to other partitions, from a program in the command partition: found in the store, mapped
//! and bound through the kernel's devices.

mod devices;
mod xenbus;

use std::io;

pub use devices::{EventPort, Shared, request};
pub use xenbus::{Store, StoreError};

/// The command channel's directory in the store, below the partition's own.
pub const COMMAND_PATH: &str = "device/uv-command/0";
/// The build channel's.
pub const BUILD_PATH: &str = "device/uv-build/0";

/// Why a channel could not be had.
#[derive(Debug, thiserror::Error)]
pub enum FindError {
    /// The store does not tell where it is.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It has another size than this program knows.
    #[error("{path}: has {pages} pages, not {wanted}; use a uvd of the ultravisor's version")]
    Size {
        /// Its directory.
        path: String,
        /// The pages it has.
        pages: u32,
        /// Those it should have.
        wanted: usize,
    },
    /// A device refused.
    #[error(transparent)]
    Device(#[from] io::Error),
}

/// Finds the channel of a directory in the store, of so many pages; maps it and binds its port.
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
