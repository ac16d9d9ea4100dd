//! Drives virtio functions on PCI: finds their registers, and keeps their queues.
//!
//! * [`registers`] finds the register ranges of a function in its configuration space.
//! * [`queue`] is a split queue whose requests name machine addresses.
//! * [`drive`] is the interface that the rest of an I/O partition has to a disk.
//! * [`disk`] negotiates with a block device, and is such a drive.
//!
//! The crate `virtio-drivers` is not used: its PCI transport panics on a bad notify offset, waits
//! without a bound when it is dropped and cannot set interrupt vectors; its queue takes slices where
//! the pages of clients have no virtual address, and allocates for each request.
//!
//! Rule: a device is not trusted. Whatever its registers, its configuration space or its used rings
//! hold, the result is an error that names the fault; nothing here panics, loops without a bound or
//! names memory that no request named. No request allocates memory.
//!
//! Facts are from *Virtual I/O Device (VIRTIO) Version 1.2* (OASIS), cited by section.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod disk;
pub mod drive;
pub mod queue;
pub mod registers;

#[cfg(test)]
mod fake;
