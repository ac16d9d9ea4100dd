//! Wakes the event loop from other threads.

use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::eventfd::{EfdFlags, EventFd};

/// A descriptor that is readable once it was rung.
pub struct Wake(EventFd);

impl Wake {
    /// A wake that has not rung.
    pub fn new() -> std::io::Result<Self> {
        Ok(Self(EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?))
    }

    /// Rings.
    pub fn ring(&self) {
        // A full counter means that it is readable already.
        let _ = self.0.write(1);
    }

    /// Takes the ring, so that it is not readable any more.
    pub fn take(&self) {
        let _ = self.0.read();
    }

    /// The descriptor to wait for.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
