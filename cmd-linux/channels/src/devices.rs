//! The kernel's grant and event-channel devices, and memory that another partition shares.
//!
//! Numbers and layouts are those of `gntdev.h` and `evtchn.h` among Xen's public headers. Rule:
//! shared memory is accessed as atomic words only, because the other side may write to it at any
//! time; a mapping lives as long as the borrow of its words.
#![expect(unsafe_code, reason = "mmap and ioctl")]

use std::ffi::c_void;
use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU32;

use nix::errno::Errno;
use nix::libc::{Ioctl, O_NONBLOCK};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use pv_abi::PAGE_SIZE;

const GRANT_DEVICE: &str = "/dev/xen/gntdev";
const EVENT_DEVICE: &str = "/dev/xen/evtchn";

/// `_IOC(_IOC_NONE, kind, number, bytes)` (ioctl.h).
pub const fn request(kind: u8, number: u8, bytes: usize) -> Ioctl {
    (bytes as Ioctl) << 16 | (kind as Ioctl) << 8 | number as Ioctl
}

/// `struct ioctl_gntdev_map_grant_ref`: count and padding, index, and one grant of two u32.
const MAP_GRANT_REF: Ioctl = request(b'G', 0, 24);
/// `struct ioctl_evtchn_bind_interdomain`: partition and port.
const BIND_INTERDOMAIN: Ioctl = request(b'E', 1, 8);
/// `struct ioctl_evtchn_notify`: port.
const NOTIFY: Ioctl = request(b'E', 4, 4);

nix::ioctl_readwrite_bad!(map_grant_ref, MAP_GRANT_REF, u64);
nix::ioctl_write_ptr_bad!(bind_interdomain, BIND_INTERDOMAIN, [u32; 2]);
nix::ioctl_write_ptr_bad!(notify, NOTIFY, u32);

/// Memory that is shared with another partition (in tests: within this process).
pub struct Shared {
    address: NonNull<c_void>,
    bytes: NonZeroUsize,
}

impl Shared {
    /// Maps pages of a file, for reading and writing.
    pub fn map(file: &impl AsFd, offset: u64, pages: u32) -> nix::Result<Self> {
        let bytes = NonZeroUsize::new(pages as usize * PAGE_SIZE).ok_or(Errno::EINVAL)?;
        let offset = i64::try_from(offset).map_err(|_| Errno::EINVAL)?;
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice; it overlaps nothing.
        let address = unsafe { mmap(None, bytes, access, MapFlags::MAP_SHARED, file, offset)? };
        Ok(Self { address, bytes })
    }

    /// Maps pages that partition `from` granted with `pages` consecutive references.
    pub fn map_grants(from: u32, first: u32, pages: u32) -> io::Result<Self> {
        let device = open(GRANT_DEVICE, 0)?;
        let grants = (0..pages).map(|page| {
            let reference = first.wrapping_add(page);
            u64::from(from) | u64::from(reference) << 32
        });
        let mut request: Vec<u64> = [u64::from(pages), 0].into_iter().chain(grants).collect();
        // SAFETY: the kernel reads `pages` grants after the two words and writes the second word;
        // the vector holds all of them.
        unsafe { map_grant_ref(device.as_raw_fd(), request.as_mut_ptr()) }
            .map_err(|error| named(GRANT_DEVICE, "naming the grants", error))?;
        Self::map(&device, request[1], pages)
            .map_err(|error| named(GRANT_DEVICE, "mapping the grants", error))
    }

    /// The shared memory, as words.
    pub fn words(&self) -> &[AtomicU32] {
        // SAFETY: the mapping is page-aligned, readable and writable, `bytes` long, and stays until
        // `self` is dropped. Others may change atomic words.
        unsafe { std::slice::from_raw_parts(self.address.as_ptr().cast(), self.bytes.get() / 4) }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: it is our mapping, and no borrow of its words outlives self.
        let _ = unsafe { munmap(self.address, self.bytes.get()) };
    }
}

/// A local event port, bound to a port of another partition.
pub struct EventPort {
    device: File,
    port: u32,
}

impl EventPort {
    /// Binds a new port to port `theirs` of partition `from`.
    pub fn bind(from: u32, theirs: u32) -> io::Result<Self> {
        let device = open(EVENT_DEVICE, O_NONBLOCK)?;
        // SAFETY: the kernel reads the two words.
        let port = unsafe { bind_interdomain(device.as_raw_fd(), &[from, theirs]) }
            .map_err(|error| named(EVENT_DEVICE, "binding the event port", error))?;
        Ok(Self { device, port: port.cast_unsigned() })
    }

    /// The descriptor that becomes readable when the port is pending.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.device.as_fd()
    }

    /// Reads the port if it is pending, and enables it again. Reads at most one event: the other
    /// end may ring as often as it likes, and a later event is left for the next call.
    pub fn take(&mut self) -> bool {
        // One port is bound, and its number takes four bytes.
        let mut ports = [0; 16];
        let Ok(read @ 4..) = nix::unistd::read(&self.device, &mut ports) else {
            return false;
        };
        let _ = nix::unistd::write(&self.device, &ports[..read]);
        true
    }

    /// Raises the event at the other end.
    pub fn ring(&mut self) {
        // SAFETY: A closed other end is no error here. A closed other end is no error to us.
        let _ = unsafe { notify(self.device.as_raw_fd(), &self.port) };
    }
}

fn open(path: &'static str, flags: i32) -> io::Result<File> {
    let opened = File::options().read(true).write(true).custom_flags(flags).open(path);
    opened.map_err(|error| io::Error::new(error.kind(), format!("{path}: {error}")))
}

fn named(path: &str, what: &str, error: Errno) -> io::Error {
    let kind = io::Error::from(error).kind();
    io::Error::new(kind, format!("{path}: {what}: {}", error.desc()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::memfd::{MFdFlags, memfd_create};
    use std::sync::atomic::Ordering;

    fn memory(pages: usize) -> File {
        let file = File::from(memfd_create("channel", MFdFlags::MFD_CLOEXEC).unwrap());
        file.set_len((pages * PAGE_SIZE) as u64).unwrap();
        file
    }

    #[test]
    fn two_mappings_of_a_file_are_the_same_memory() {
        let file = memory(2);
        let (a, b) = (Shared::map(&file, 0, 2).unwrap(), Shared::map(&file, 0, 2).unwrap());
        assert_eq!(a.words().len(), 2048);
        a.words()[2047].store(7, Ordering::Release);
        assert_eq!(b.words()[2047].load(Ordering::Acquire), 7);
        drop(a);
        assert_eq!(b.words()[2047].load(Ordering::Acquire), 7);
    }

    #[test]
    fn requests_have_the_numbers_of_the_headers() {
        assert_eq!(MAP_GRANT_REF, 0x0018_4700);
        assert_eq!(BIND_INTERDOMAIN, 0x0008_4501);
        assert_eq!(NOTIFY, 0x0004_4504);
    }

    #[test]
    fn no_pages_are_refused() {
        assert!(Shared::map(&memory(1), 0, 0).is_err());
    }
}
