//! The kernel's devices, as the daemon uses them.

use std::io;
use std::os::fd::BorrowedFd;

use channels::{BUILD_PATH, EventPort, Shared};
use control::build::PAGES;
use pv_abi::xen::grants::RESERVED_CONSOLE;

use crate::context::Devices;
use crate::link::Port;

impl Port for EventPort {
    fn fd(&self) -> BorrowedFd<'_> {
        self.fd()
    }

    fn take(&mut self) -> bool {
        self.take()
    }

    fn ring(&mut self) {
        self.ring();
    }
}

/// The devices of the kernel.
pub struct Kernel;

impl Devices for Kernel {
    fn console(&self, number: u32, port: u32) -> io::Result<(Shared, Box<dyn Port>)> {
        let shared = Shared::map_grants(number, RESERVED_CONSOLE, 1)?;
        Ok((shared, Box::new(EventPort::bind(number, port)?)))
    }

    fn build(&self) -> Result<(Shared, Box<dyn Port>), String> {
        let found = channels::find(BUILD_PATH, PAGES);
        found.map(|(shared, port)| (shared, Box::new(port) as _)).map_err(|error| error.to_string())
    }
}
