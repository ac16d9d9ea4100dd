//! Functions of the machine that this partition drives: configuration space, registers, vectors.
//!
//! A function is named by its index in the device table. The monitor refuses every call about a
//! function that this partition does not own.
//!
//! Registers are mapped uncached at pages of the window until [`Registers`] are dropped. Their pages
//! return to the window then, so that a function which leaves and comes back takes no more of it.
//! After the function was taken away a read gives ones, and a write does nothing.
#![expect(unsafe_code, reason = "hypercalls that map registers, and accesses of registers")]

use crate::events::Port;
use crate::hypercall::{self, Errno};
use crate::window::{FreePages, Pages, Window};
use pv_abi::PAGE_SIZE;
use pv_abi::uv::calls;
use pv_abi::xen::hypercall::UPDATE_VA_MAPPING;
use pv_abi::xen::mmu::UVMF_INVLPG;

/// Makes a call that touches no memory of ours.
fn plain(operation: u64, function: u32, argument: u64) -> Result<u64, Errno> {
    // SAFETY: the operations below touch no memory of ours.
    unsafe { hypercall::call(calls::HYPERCALL, [operation, function.into(), argument, 0, 0]) }
}

/// Reads the word at an offset of a function's configuration space ([`calls::DEVICE_READ`]).
///
/// # Errors
/// The monitor's errno.
pub fn read(function: u32, offset: u16) -> Result<u32, Errno> {
    let word = plain(calls::DEVICE_READ, function, offset.into())?;
    Ok((word & u64::from(u32::MAX)) as u32)
}

/// Sets the bits of a function's command register that its owner may change
/// ([`calls::DEVICE_COMMAND`], bits of [`pv_abi::uv::devices::command`]).
///
/// # Errors
/// The monitor's errno.
pub fn set_command(function: u32, bits: u32) -> Result<(), Errno> {
    plain(calls::DEVICE_COMMAND, function, bits.into()).map(drop)
}

/// Says that a function was reset by its registers, and that the reset is confirmed
/// ([`calls::DEVICE_CONFIRM`]). Afterwards the function may master the bus, and owes no reset to a
/// partition that had it before.
///
/// # Errors
/// The monitor's errno.
pub fn confirm(function: u32) -> Result<(), Errno> {
    plain(calls::DEVICE_CONFIRM, function, 0).map(drop)
}

/// Resets a function as a whole, if it can do so ([`calls::DEVICE_RESET`]). The first call begins
/// the reset. Returns whether the reset is over; the caller calls again until then. Afterwards the
/// function owes no reset, and its command register is off.
///
/// # Errors
/// The monitor's errno; `ENODEV` if the function has no such reset.
pub fn reset(function: u32) -> Result<bool, Errno> {
    plain(calls::DEVICE_RESET, function, 0).map(|left| left == 0)
}

/// Lets an MSI-X vector of a function raise a new port ([`calls::DEVICE_BIND`]).
///
/// # Errors
/// The monitor's errno.
pub fn bind(function: u32, vector: u16) -> Result<Port, Errno> {
    let port = plain(calls::DEVICE_BIND, function, vector.into())?;
    u32::try_from(port).map(Port).map_err(|_| Errno::EINVAL)
}

/// Registers of a function, mapped until they are dropped.
#[derive(Debug)]
pub struct Registers {
    pages: Pages,
    /// Number of pages that are mapped, the first ones.
    mapped: u64,
    free: FreePages,
}

/// Why registers were not mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapError {
    /// The window has no gap of that many pages.
    WindowFull,
    /// The monitor refused the call.
    Refused(Errno),
}

impl core::fmt::Display for MapError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::WindowFull => f.write_str("no room in the mapping window"),
            Self::Refused(errno) => write!(f, "mapping registers refused: {errno}"),
        }
    }
}

impl core::error::Error for MapError {}

/// Maps `count` pages of BAR `bar` from page `first` on ([`calls::DEVICE_MAP`]).
///
/// # Errors
/// See [`MapError`]. Nothing stays mapped then.
pub fn map(
    window: &mut Window,
    function: u32,
    bar: usize,
    (first, count): (u32, u16),
) -> Result<Registers, MapError> {
    let pages = window.alloc(count.into()).ok_or(MapError::WindowFull)?;
    let mut registers = Registers { pages, mapped: 0, free: window.free_pages() };
    while registers.mapped < u64::from(count) {
        let done = registers.mapped;
        let what = (u64::from(first) + done) << 32 | (bar & 7) as u64;
        let at = registers.pages.va() + done * PAGE_SIZE as u64;
        let left = u64::from(count) - done;
        let arguments = [calls::DEVICE_MAP, function.into(), what, at, left];
        // SAFETY: the operation maps pages of the window that this call holds and nothing refers
        // to.
        match unsafe { hypercall::call(calls::HYPERCALL, arguments) } {
            Ok(mapped @ 1..) => registers.mapped += mapped.min(left),
            Ok(0) => return Err(MapError::Refused(Errno::EAGAIN)),
            Err(errno) => return Err(MapError::Refused(errno)),
        }
    }
    Ok(registers)
}

impl Drop for Registers {
    fn drop(&mut self) {
        let unmap = |page: u64| {
            let va = self.pages.va() + page * PAGE_SIZE as u64;
            // SAFETY: the operation clears the entry of a page that only this value gives access to,
            // and flushes it.
            unsafe { hypercall::call(UPDATE_VA_MAPPING, [va, 0, UVMF_INVLPG, 0, 0]) }
        };
        // Pages that the monitor does not unmap are never used again.
        if (0..self.mapped).all(|page| unmap(page).is_ok()) {
            self.free.give(&self.pages);
        }
    }
}

impl Registers {
    /// The address of a register, if the register is inside of the mapping and aligned.
    fn address(&self, offset: u32, bytes: u32) -> Option<usize> {
        let size = (self.pages.count() * PAGE_SIZE) as u64;
        let end = u64::from(offset) + u64::from(bytes);
        let fits = end <= size && offset.is_multiple_of(bytes.max(1));
        let va = usize::try_from(self.pages.va() + u64::from(offset)).ok()?;
        fits.then_some(va)
    }

    /// Reads a register of 1, 2 or 4 bytes at an offset from the first page. Returns ones if there is
    /// none, as a bus does.
    #[must_use]
    pub fn read(&self, offset: u32, bytes: u32) -> u32 {
        let Some(va) = self.address(offset, bytes) else {
            return u32::MAX;
        };
        let place = core::ptr::with_exposed_provenance::<u8>(va);
        // SAFETY: the address lies in pages that map registers until this value is dropped, is aligned,
        // and registers have no invalid values.
        unsafe {
            match bytes {
                1 => place.read_volatile().into(),
                2 => place.cast::<u16>().read_volatile().into(),
                4 => place.cast::<u32>().read_volatile(),
                _ => u32::MAX,
            }
        }
    }

    /// Writes a register of 1, 2 or 4 bytes at an offset from the first page. Does nothing if there
    /// is none.
    pub fn write(&mut self, offset: u32, bytes: u32, value: u32) {
        let Some(va) = self.address(offset, bytes) else {
            return;
        };
        let place = core::ptr::with_exposed_provenance_mut::<u8>(va);
        // SAFETY: as for `read`; the register belongs to a function that this partition drives, and
        // what the function does to memory is the driver's to answer for.
        unsafe {
            match bytes {
                1 => place.write_volatile(value as u8),
                2 => place.cast::<u16>().write_volatile(value as u16),
                4 => place.cast::<u32>().write_volatile(value),
                _ => {}
            }
        }
    }
}
