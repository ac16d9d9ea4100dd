//! Small records in a partition's memory: a kernel registers each by virtual address, and the
//! monitor keeps it up to date.
//!
//! The monitor resolves the address once and holds the frames by writable references, so it can
//! write the record whatever page tables are loaded.
#![expect(unsafe_code, reason = "writes a partition's memory through the direct map")]

use core::sync::atomic::{AtomicU64, Ordering};

use page_tables::{Error, Mfn, Space};
use pv_abi::xen::mmu::PTE_RW;
use refusal::{Refused, errno, require};
use zerocopy::{Immutable, IntoBytes};

use crate::{guest_memory::is_partition_range, machine, vcpu::Vcpu, walk};

/// The place of a record: one frame, or two if it crosses into the next page.
#[derive(Clone, Copy, Debug, Default)]
pub struct Area {
    frames: [Mfn; 2],
    offset: u64,
}

impl Area {
    /// The area of a kernel that registered no record.
    pub const NONE: Self = Self { frames: [Mfn::NONE; 2], offset: 0 };

    /// Returns whether no record is registered.
    pub fn is_none(&self) -> bool {
        self.frames[0].is_none()
    }

    /// Resolves the `bytes` bytes at `va` in the kernel's page tables and takes a reference on each
    /// frame.
    ///
    /// # Errors
    /// `-EFAULT` if the range is not writable memory of the partition, `-EINVAL` if it is
    /// misaligned.
    pub fn new(vcpu: &Vcpu, va: u64, bytes: u64) -> Result<Self, Refused> {
        if va & 7 != 0 || bytes > 4096 {
            return Err(errno::EINVAL);
        }
        require(is_partition_range(va, bytes), errno::EFAULT)?;
        let space = vcpu.partition.space.lock_or_again()?;
        let first = hold(&space, vcpu, va)?;
        let last = va + bytes - 1;
        let mut area = Self { frames: [first, Mfn::NONE], offset: va & 4095 };
        if last >> 12 != va >> 12 {
            match hold(&space, vcpu, last) {
                Ok(second) => area.frames[1] = second,
                Err(error) => {
                    area.release();
                    return Err(error);
                }
            }
        }
        Ok(area)
    }

    /// Releases the references on the frames.
    pub fn release(self) {
        for mfn in self.frames.into_iter().filter(|mfn| !mfn.is_none()) {
            machine::release_writable(mfn);
        }
    }

    /// Writes the record, word by word.
    pub fn write<T: IntoBytes + Immutable>(&self, record: &T) {
        let words = record.as_bytes().chunks_exact(8);
        for (index, word) in words.enumerate() {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(word);
            self.write_word(index, u64::from_le_bytes(bytes));
        }
    }

    /// Writes word `index` of the record.
    pub fn write_word(&self, index: usize, value: u64) {
        let offset = self.offset + 8 * index as u64;
        let mfn = self.frames[usize::from(offset >= 4096)];
        if mfn.is_none() {
            return;
        }
        let address = machine::bytes(mfn) as u64 + (offset & 4095);
        // SAFETY: the frame is RAM held by a writable reference, reached through the direct map;
        // the word is aligned, and both sides access it atomically.
        unsafe { &*(address as *const AtomicU64) }.store(value, Ordering::Release);
    }
}

/// Takes a writable reference on the frame that backs `va` in the kernel's tables.
fn hold(space: &Space, vcpu: &Vcpu, va: u64) -> Result<Mfn, Refused> {
    let entry = walk::kernel_entry(space, vcpu, va).ok_or(errno::EFAULT)?;
    require(entry & PTE_RW != 0, errno::EFAULT)?;
    let mfn = Mfn::of_entry(entry);
    let held = machine::hold(vcpu.partition.number, mfn, true).map_err(|error| match error {
        Error::Again => Refused::Again,
        _ => errno::EFAULT,
    })?;
    Ok(held.mfn)
}
