//! Wakes the event loop from other threads.

use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::eventfd::{EfdFlags, EventFd};

/// Readable once somebody rang.
pub struct Wake(EventFd);

impl Wake {
    /// A bell that has not rung.
    pub fn new() -> std::io::Result<Self> {
        Ok(Self(EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?))
    }

    /// Rings.
    pub fn ring(&self) {
        // Full: it is readable already.
        let _ = self.0.write(1);
    }

    /// Makes it quiet.
    pub fn take(&self) {
        let _ = self.0.read();
    }

    /// To wait for.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
