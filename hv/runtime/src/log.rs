//! Writes lines to the monitor's log, by `console_io`.
//!
//! A line is formatted on the stack and sent with one hypercall. So it needs no heap, is never
//! mixed with another line, and works in the panic handler.
#![expect(unsafe_code, reason = "the hypercall reads the line from memory")]

use crate::hypercall;
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
use pv_abi::xen::console::WRITE;
use pv_abi::xen::hypercall::CONSOLE_IO;

/// Maximum number of bytes of a line; a longer line is cut.
pub const LINE_BYTES: usize = 480;

static NAME: AtomicPtr<u8> = AtomicPtr::new(core::ptr::null_mut());
static NAME_BYTES: AtomicUsize = AtomicUsize::new(0);

/// Sets the name that lines start with.
pub fn set_name(name: &'static str) {
    NAME_BYTES.store(0, Ordering::Release);
    NAME.store(name.as_ptr().cast_mut(), Ordering::Release);
    NAME_BYTES.store(name.len(), Ordering::Release);
}

fn name() -> &'static str {
    let bytes = NAME_BYTES.load(Ordering::Acquire);
    let pointer = NAME.load(Ordering::Acquire);
    if bytes == 0 || pointer.is_null() {
        return "partition";
    }
    // SAFETY: `set_name` stored pointer and length of one `&'static str`, and no one reads
    // while it does.
    unsafe {
        core::str::from_utf8_unchecked(core::slice::from_raw_parts(pointer.cast_const(), bytes))
    }
}

/// A line that is being formatted; it is cut when it is full.
struct Line {
    bytes: [u8; LINE_BYTES],
    used: usize,
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        // One byte stays free for the newline.
        let room = (LINE_BYTES - 1).saturating_sub(self.used);
        let text = &text.as_bytes()[..text.len().min(room)];
        self.bytes[self.used..self.used + text.len()].copy_from_slice(text);
        self.used += text.len();
        Ok(())
    }
}

/// Writes one line; call it through [`crate::log!`].
pub fn line(text: fmt::Arguments<'_>) {
    let mut line = Line { bytes: [0; LINE_BYTES], used: 0 };
    let _ = write!(line, "{}: {text}", name());
    line.bytes[line.used] = b'\n';
    write_console(&line.bytes[..=line.used]);
}

/// Writes bytes to the monitor's log, unchanged.
pub fn write_console(bytes: &[u8]) {
    let (length, address) = (bytes.len() as u64, bytes.as_ptr() as u64);
    // SAFETY: the operation reads `length` bytes from `address`. A refusal cannot be reported.
    let _ = unsafe { hypercall::call(CONSOLE_IO, [WRITE, length, address, 0, 0]) };
}

/// Writes a line to the monitor's log, formatted as by `format!`.
#[macro_export]
macro_rules! log {
    ($($argument:tt)*) => { $crate::log::line(format_args!($($argument)*)) };
}
