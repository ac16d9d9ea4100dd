//! The console: the ring that the loader made, or the monitor's log if there is no ring.
//!
//! Indices run freely, and the other side writes some of them, so none is trusted: an invalid
//! length counts as an empty or a full ring.
#![expect(unsafe_code, reason = "a ring in shared memory")]

use crate::{calls, memory};
use core::fmt;
use core::mem::offset_of;
use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use partition_runtime::hypercall::yield_now;
use pv_abi::xen::console::{ConsoleRing, IN_BYTES, OUT_BYTES};
use pv_abi::xen::start_info::StartInfo;

/// Address of the ring; 0 if there is none.
static RING: AtomicU64 = AtomicU64::new(0);
static PORT: AtomicU32 = AtomicU32::new(0);

/// Opens the ring that start info names.
pub fn open(info: &StartInfo) {
    if info.console_mfn != 0 && info.console_evtchn != 0 {
        PORT.store(info.console_evtchn, Ordering::Relaxed);
        RING.store(memory::address_of_machine_frame(info.console_mfn), Ordering::Relaxed);
        memory::unmask(info.console_evtchn);
    }
}

/// The ring's port; 0 if there is none.
pub fn port() -> u32 {
    PORT.load(Ordering::Relaxed)
}

/// A view of the ring.
#[derive(Clone, Copy)]
struct Ring(u64);

impl Ring {
    fn get() -> Option<Self> {
        let address = RING.load(Ordering::Relaxed);
        (address != 0).then_some(Self(address))
    }

    fn byte(self, offset: usize) -> &'static AtomicU8 {
        // SAFETY: the ring's page is mapped writable for as long as the guest runs.
        unsafe { &*core::ptr::with_exposed_provenance(self.0 as usize + offset) }
    }

    fn index(self, offset: usize) -> &'static AtomicU32 {
        // SAFETY: as above; the indices are aligned.
        unsafe { &*core::ptr::with_exposed_provenance(self.0 as usize + offset) }
    }

    /// Puts as many bytes as fit; returns how many.
    fn write_bytes(self, bytes: &[u8]) -> usize {
        let consumed = self.index(offset_of!(ConsoleRing, out_cons)).load(Ordering::Acquire);
        let produced = self.index(offset_of!(ConsoleRing, out_prod));
        let at = produced.load(Ordering::Relaxed);
        let room = OUT_BYTES.saturating_sub(at.wrapping_sub(consumed) as usize);
        let count = room.min(bytes.len());
        for (index, byte) in bytes[..count].iter().enumerate() {
            let place = (at as usize).wrapping_add(index) % OUT_BYTES;
            self.byte(offset_of!(ConsoleRing, output) + place).store(*byte, Ordering::Relaxed);
        }
        produced.store(at.wrapping_add(count as u32), Ordering::Release);
        count
    }

    fn read_byte(self) -> Option<u8> {
        let produced = self.index(offset_of!(ConsoleRing, in_prod)).load(Ordering::Acquire);
        let consumed = self.index(offset_of!(ConsoleRing, in_cons));
        let at = consumed.load(Ordering::Relaxed);
        if produced.wrapping_sub(at) as usize > IN_BYTES || produced == at {
            return None;
        }
        let byte = self.byte(at as usize % IN_BYTES).load(Ordering::Relaxed);
        consumed.store(at.wrapping_add(1), Ordering::Release);
        Some(byte)
    }

    fn is_empty(self) -> bool {
        let consumed = self.index(offset_of!(ConsoleRing, out_cons)).load(Ordering::Acquire);
        consumed == self.index(offset_of!(ConsoleRing, out_prod)).load(Ordering::Relaxed)
    }
}

/// Writes bytes; if the ring is full, waits for its reader.
pub fn write(mut bytes: &[u8]) {
    let Some(ring) = Ring::get() else {
        return calls::write_emergency(bytes);
    };
    while !bytes.is_empty() {
        let count = ring.write_bytes(bytes);
        bytes = &bytes[count..];
        calls::send(port());
        if !bytes.is_empty() {
            yield_now();
        }
    }
}

/// Writes as many bytes as fit, and rings in any case.
pub fn try_write(bytes: &[u8]) {
    if let Some(ring) = Ring::get() {
        ring.write_bytes(bytes);
        calls::send(port());
    }
}

/// Waits until the reader has read everything, for a guest that is about to stop; the wait is
/// bounded.
pub fn flush() {
    const TRIES: u32 = 100_000;
    for _ in 0..TRIES {
        if Ring::get().is_none_or(Ring::is_empty) {
            return;
        }
        yield_now();
    }
}

/// Writes to the monitor's log, before there is a ring.
pub fn emergency(text: &str) {
    calls::write_emergency(text.as_bytes());
}

/// Reads a byte of input; `None` if there is no input, or no ring.
pub fn read() -> Option<u8> {
    let byte = Ring::get()?.read_byte()?;
    calls::send(port());
    Some(byte)
}

/// Formats text into complete writes.
struct Writer;

impl fmt::Write for Writer {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        write(text.as_bytes());
        Ok(())
    }
}

/// Writes a formatted line.
pub fn line(arguments: fmt::Arguments<'_>) {
    use fmt::Write;
    let _ = Writer.write_fmt(format_args!("{arguments}\n"));
}

/// Prints a line.
#[macro_export]
macro_rules! println {
    ($($arguments:tt)*) => { $crate::console::line(format_args!($($arguments)*)) };
}
