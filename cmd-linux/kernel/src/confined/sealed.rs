//! The bytes of a memory file that no process can change any more, read in place.
//!
//! `uvd` sends a kernel to the boot partition at each creation of a guest. Without a mapping, the
//! command partition's own kernel would copy all of the file into `uvd` first.
#![expect(unsafe_code, reason = "mmap, and a slice of what it maps")]

use std::ffi::c_void;
use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::ptr::NonNull;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

/// A mapping of a whole file whose contents and size are sealed.
#[derive(Debug)]
pub(super) struct Sealed {
    address: NonNull<c_void>,
    bytes: usize,
}

// SAFETY: the mapping is memory of the whole process, which all threads may read.
unsafe impl Send for Sealed {}
// SAFETY: as above; nobody writes to it.
unsafe impl Sync for Sealed {}

impl Sealed {
    /// Maps a file of this many bytes.
    ///
    /// # Errors
    /// The file is empty or not sealed, or an error of the system.
    pub(super) fn map(file: &File, bytes: u64) -> io::Result<Self> {
        let seals = SealFlag::from_bits_truncate(fcntl(file, FcntlArg::F_GET_SEALS)?);
        if !seals.contains(SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_SHRINK) {
            return Err(io::Error::other("the file is not sealed"));
        }
        let bytes = usize::try_from(bytes).map_err(io::Error::other)?;
        let length = NonZeroUsize::new(bytes).ok_or(io::ErrorKind::UnexpectedEof)?;
        // A shared mapping would be refused by kernels before 6.7, since it could become writable.
        let (protection, flags) = (ProtFlags::PROT_READ, MapFlags::MAP_PRIVATE);
        // SAFETY: a new mapping at an address of the kernel's choice; it overlaps nothing.
        let address = unsafe { mmap(None, length, protection, flags, file, 0)? };
        Ok(Self { address, bytes })
    }

    /// The file's bytes.
    pub(super) const fn bytes(&self) -> &[u8] {
        // SAFETY: the mapping is readable, `bytes` long, and stays until it is dropped. The seals
        // keep the file from being written and from being cut, so the bytes stay as they are and
        // no access to them fails.
        unsafe { std::slice::from_raw_parts(self.address.as_ptr().cast::<u8>(), self.bytes) }
    }
}

impl Drop for Sealed {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's, and no slice of it outlives the value.
        let _ = unsafe { munmap(self.address, self.bytes) };
    }
}
