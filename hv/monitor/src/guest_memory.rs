//! Reads and writes of a partition's memory at addresses that the partition supplies.
//!
//! The addresses are allegations: [`GuestPointer`] is checked against the monitor's part of the
//! address space once, when it is made. Every access may still fault; the fault ends the copy with
//! [`Fault`] and does no other harm. The partition's kernel page tables must be loaded.
#![expect(unsafe_code, reason = "copies by raw address with fault recovery")]

use core::{arch::asm, marker::PhantomData, mem::MaybeUninit};

pub use page_tables::is_canonical;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::{cpu, recovery::recover};

/// The partition's address is not mapped, or not with the access needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault;

/// First address past the lower half.
const LOWER_END: u64 = 0x0000_8000_0000_0000;
/// First address of the monitor's part of the address space.
pub const MONITOR_START: u64 = 0xffff_8000_0000_0000;
/// First address past the monitor's part.
pub const MONITOR_END: u64 = 0xffff_8800_0000_0000;

/// Returns whether the `bytes` bytes from `va` are canonical and outside the monitor's part.
#[inline]
pub fn is_partition_range(va: u64, bytes: u64) -> bool {
    va.checked_add(bytes).is_some_and(|end| end <= LOWER_END || va >= MONITOR_END)
}

#[inline]
fn check_range(va: u64, bytes: u64) -> Result<(), Fault> {
    if is_partition_range(va, bytes) { Ok(()) } else { Err(Fault) }
}

/// An array of `T` in a partition's memory, known to lie outside the monitor's part.
pub struct GuestPointer<T> {
    va: u64,
    count: u64,
    kind: PhantomData<T>,
}

impl<T: FromBytes + IntoBytes + Immutable> GuestPointer<T> {
    /// Checks the range of `count` elements from `va`.
    ///
    /// # Errors
    /// [`Fault`] if the range is not in the partition's part of the address space.
    #[inline]
    pub fn new(va: u64, count: u64) -> Result<Self, Fault> {
        let bytes = count.checked_mul(size_of::<T>() as u64).ok_or(Fault)?;
        check_range(va, bytes)?;
        Ok(Self { va, count, kind: PhantomData })
    }

    /// Reads element `index`.
    ///
    /// # Errors
    /// [`Fault`] past the end, or if the memory is not mapped.
    #[inline]
    pub fn read(&self, index: u64) -> Result<T, Fault> {
        let va = self.address(index)?;
        let mut value = MaybeUninit::<T>::uninit();
        // SAFETY: `new` checked the range of the array. The copy writes all bytes of the value, and
        // `FromBytes`: any bytes are one.
        unsafe {
            copy_one::<T>(value.as_mut_ptr() as u64, va)?;
            Ok(value.assume_init())
        }
    }

    /// Reads elements from `first` on, until the array ends or `buffer` is full.
    ///
    /// # Errors
    /// [`Fault`] if the memory is not mapped.
    #[inline]
    pub fn read_some<'b, const N: usize>(
        &self,
        first: u64,
        buffer: &'b mut [MaybeUninit<T>; N],
    ) -> Result<&'b [T], Fault> {
        let count = narrow::size(self.count.saturating_sub(first)).min(N);
        let va = self.va + first * size_of::<T>() as u64;
        let to = buffer.as_mut_ptr().cast::<T>();
        // SAFETY: `new` checked the range of the array, and the buffer has room for that many
        // elements. The copy writes them all, and `FromBytes`: any bytes are a value.
        unsafe {
            copy(to as u64, va, count * size_of::<T>())?;
            Ok(core::slice::from_raw_parts(to, count))
        }
    }

    /// Writes element `index`.
    ///
    /// # Errors
    /// [`Fault`] past the end, or if the memory is not mapped writable.
    #[inline]
    pub fn write(&self, index: u64, value: &T) -> Result<(), Fault> {
        let va = self.address(index)?;
        // SAFETY: `new` checked the range of the array.
        unsafe { copy_one::<T>(va, value.as_bytes().as_ptr() as u64) }
    }

    #[inline]
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
#[inline]
pub fn read<T: FromBytes + IntoBytes + Immutable>(va: u64) -> Result<T, Fault> {
    GuestPointer::<T>::new(va, 1)?.read(0)
}

/// Writes one `T` at `va`.
///
/// # Errors
/// [`Fault`].
#[inline]
pub fn write<T: FromBytes + IntoBytes + Immutable>(va: u64, value: &T) -> Result<(), Fault> {
    GuestPointer::<T>::new(va, 1)?.write(0, value)
}

/// Fills `buffer` from `va`.
///
/// # Errors
/// [`Fault`].
pub fn read_bytes(va: u64, buffer: &mut [u8]) -> Result<(), Fault> {
    check_range(va, buffer.len() as u64)?;
    // SAFETY: the range was just checked.
    unsafe { copy(buffer.as_mut_ptr() as u64, va, buffer.len()) }
}

/// Writes `bytes` at `va`.
///
/// # Errors
/// [`Fault`].
pub fn write_bytes(va: u64, bytes: &[u8]) -> Result<(), Fault> {
    check_range(va, bytes.len() as u64)?;
    // SAFETY: the range was just checked.
    unsafe { copy(va, bytes.as_ptr() as u64, bytes.len()) }
}

/// Reads up to `buffer.len()` instruction bytes at `va`, fewer where the next page is absent.
pub fn read_instruction(va: u64, buffer: &mut [u8]) -> usize {
    if read_bytes(va, buffer).is_ok() {
        return buffer.len();
    }
    let page_rest = narrow::size(4096 - (va & 4095));
    let short = page_rest.min(buffer.len());
    let part = buffer.get_mut(..short).unwrap_or_default();
    if read_bytes(va, part).is_ok() { short } else { 0 }
}

unsafe extern "C" {
    fn guest_copy(to: u64, from: u64, bytes: usize) -> u64;
}

/// Copies bytes between the monitor's memory and the partition's.
///
/// # Safety
/// One side is the monitor's own object of that size, which the caller may read or write; the other
/// lies in the partition's part of the address space. A fault on that side ends the copy.
unsafe fn copy(to: u64, from: u64, bytes: usize) -> Result<(), Fault> {
    // SAFETY: the caller vouches for both sides; a fault is in the table of `recovery`.
    if unsafe { guest_copy(to, from, bytes) } == 0 { Ok(()) } else { Err(Fault) }
}

/// Copies one `T`. Copies a small one of whole words inline, since most arguments of hypercalls are
/// such.
///
/// # Safety
/// As for [`copy`], of the size of a `T`.
#[inline]
unsafe fn copy_one<T>(to: u64, from: u64) -> Result<(), Fault> {
    let bytes = size_of::<T>();
    if !bytes.is_multiple_of(8) || bytes > 9 * 8 {
        // SAFETY: the caller vouches for both sides.
        return unsafe { copy(to, from, bytes) };
    }
    let failed: u64;
    // SAFETY: the caller vouches for both sides. A fault from `3` on continues at `4`.
    unsafe {
        asm!(
            "cmp byte ptr [rip + {smap}], 0",
            "je 2f",
            "stac",
            "2: mov {failed:e}, 1",
            "3: .set copied, 0",
            ".rept {words}",
            "mov {word}, [{from} + copied]",
            "mov [{to} + copied], {word}",
            ".set copied, copied + 8",
            ".endr",
            "xor {failed:e}, {failed:e}",
            "4: cmp byte ptr [rip + {smap}], 0",
            "je 5f",
            "clac",
            "5:",
            recover!("3b", "4b", "4b"),
            smap = sym cpu::SMAP_ON,
            words = const size_of::<T>() / 8,
            failed = out(reg) failed,
            word = out(reg) _,
            from = in(reg) from,
            to = in(reg) to,
            options(nostack),
        );
    }
    if failed == 0 { Ok(()) } else { Err(Fault) }
}
