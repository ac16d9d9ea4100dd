//! Reading and writing a partition's memory by the addresses it gives.
//!
//! The addresses are allegations: [`GuestPointer`] is checked against the monitor's half of the
//! address space once, when it is made, and every access may still fault, which ends the copy
//! with [`Fault`] and nothing worse. The partition's kernel page tables must be loaded.
#![expect(unsafe_code, reason = "copies by raw address with fault recovery")]

use core::marker::PhantomData;

use zerocopy::{FromBytes, Immutable, IntoBytes};

/// The partition's address was not mapped, or not as needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault;

/// First address past the lower half.
const LOWER_END: u64 = 0x0000_8000_0000_0000;
/// First address of the monitor's part of the address space.
pub const MONITOR_START: u64 = 0xffff_8000_0000_0000;
/// First address past it.
pub const MONITOR_END: u64 = 0xffff_8800_0000_0000;

/// Whether `bytes` from `va` are canonical and outside the monitor's part.
#[must_use]
pub fn is_partition_range(va: u64, bytes: u64) -> bool {
    let Some(end) = va.checked_add(bytes) else {
        return false;
    };
    end <= LOWER_END || va >= MONITOR_END
}

/// Whether `va` is canonical.
#[must_use]
pub fn is_canonical(va: u64) -> bool {
    (((va as i64) << 16) >> 16) as u64 == va
}

/// An array of `T` in a partition's memory, known to lie outside the monitor's part.
pub struct GuestPointer<T> {
    va: u64,
    count: u64,
    kind: PhantomData<T>,
}

impl<T: FromBytes + IntoBytes + Immutable> GuestPointer<T> {
    /// Checks `count` elements from `va`.
    ///
    /// # Errors
    /// [`Fault`] where the range is not the partition's part of the address space.
    pub fn new(va: u64, count: u64) -> Result<Self, Fault> {
        let bytes = count.checked_mul(size_of::<T>() as u64).ok_or(Fault)?;
        if is_partition_range(va, bytes) {
            Ok(Self { va, count, kind: PhantomData })
        } else {
            Err(Fault)
        }
    }

    /// Reads element `index`.
    ///
    /// # Errors
    /// [`Fault`] past the end or where memory is not mapped.
    pub fn read(&self, index: u64) -> Result<T, Fault> {
        let va = self.address(index)?;
        let mut value = T::new_zeroed();
        copy(value.as_mut_bytes().as_mut_ptr() as u64, va, size_of::<T>())?;
        Ok(value)
    }

    /// Writes element `index`.
    ///
    /// # Errors
    /// [`Fault`] past the end or where memory is not mapped writable.
    pub fn write(&self, index: u64, value: &T) -> Result<(), Fault> {
        let va = self.address(index)?;
        copy(va, value.as_bytes().as_ptr() as u64, size_of::<T>())
    }

    fn address(&self, index: u64) -> Result<u64, Fault> {
        if index >= self.count {
            return Err(Fault);
        }
        Ok(self.va + index * size_of::<T>() as u64)
    }
}

/// Reads one `T` at `va`.
///
/// # Errors
/// [`Fault`].
pub fn read<T: FromBytes + IntoBytes + Immutable>(va: u64) -> Result<T, Fault> {
    GuestPointer::<T>::new(va, 1)?.read(0)
}

/// Writes one `T` at `va`.
///
/// # Errors
/// [`Fault`].
pub fn write<T: FromBytes + IntoBytes + Immutable>(va: u64, value: &T) -> Result<(), Fault> {
    GuestPointer::<T>::new(va, 1)?.write(0, value)
}

/// Fills `buffer` from `va`.
///
/// # Errors
/// [`Fault`].
pub fn read_bytes(va: u64, buffer: &mut [u8]) -> Result<(), Fault> {
    if !is_partition_range(va, buffer.len() as u64) {
        return Err(Fault);
    }
    copy(buffer.as_mut_ptr() as u64, va, buffer.len())
}

/// Writes `bytes` at `va`.
///
/// # Errors
/// [`Fault`].
pub fn write_bytes(va: u64, bytes: &[u8]) -> Result<(), Fault> {
    if !is_partition_range(va, bytes.len() as u64) {
        return Err(Fault);
    }
    copy(va, bytes.as_ptr() as u64, bytes.len())
}

/// Reads up to `buffer.len()` instruction bytes at `va`, fewer where the next page is absent.
pub fn read_instruction(va: u64, buffer: &mut [u8]) -> usize {
    if read_bytes(va, buffer).is_ok() {
        return buffer.len();
    }
    let page_rest = (4096 - (va & 4095)) as usize;
    let short = page_rest.min(buffer.len());
    let part = buffer.get_mut(..short).unwrap_or_default();
    if read_bytes(va, part).is_ok() { short } else { 0 }
}

unsafe extern "C" {
    fn guest_copy(to: u64, from: u64, bytes: usize) -> u64;
    static guest_copy_words: u8;
    static guest_copy_bytes: u8;
    static guest_copy_fault: u8;
}

fn copy(to: u64, from: u64, bytes: usize) -> Result<(), Fault> {
    // SAFETY: one side is the monitor's own object of that size, the other was checked to lie in
    // the partition's part of the address space; a fault there is recovered by `fixup`.
    if unsafe { guest_copy(to, from, bytes) } == 0 { Ok(()) } else { Err(Fault) }
}

/// Where a fault of the monitor at `rip` continues, if it happened in [`copy`].
#[must_use]
pub fn fixup(rip: u64) -> Option<u64> {
    let (words, bytes, fault) =
        (&raw const guest_copy_words, &raw const guest_copy_bytes, &raw const guest_copy_fault);
    let in_words = rip >= words as u64 && rip < words as u64 + 3;
    let in_bytes = rip >= bytes as u64 && rip < bytes as u64 + 2;
    (in_words || in_bytes).then_some(fault as u64)
}
