//! Lines for the monitor's log, by `console_io`.
//!
//! A line is put together on the stack and goes out with one hypercall, so a log line needs no
//! heap, is never mixed with another one, and works in the panic handler.
#![expect(unsafe_code, reason = "the hypercall reads the line from memory")]

use crate::hypercall;
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
use pv_abi::xen::console::WRITE;
use pv_abi::xen::hypercall::CONSOLE_IO;

/// Bytes of a line at most; what is longer is cut.
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
    // SAFETY: `set_name` stored pointer and length of one `&'static str`, and is called once.
    unsafe {
        core::str::from_utf8_unchecked(core::slice::from_raw_parts(pointer.cast_const(), bytes))
    }
}

/// A line that is being put together; cut where it is full.
struct Line {
    bytes: [u8; LINE_BYTES],
    used: usize,
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        // One byte stays free for the line's end.
        let room = (LINE_BYTES - 1).saturating_sub(self.used);
        let text = &text.as_bytes()[..text.len().min(room)];
        self.bytes[self.used..self.used + text.len()].copy_from_slice(text);
        self.used += text.len();
        Ok(())
    }
}

/// Writes one line; [`crate::log!`] is the way to call it.
pub fn line(text: fmt::Arguments<'_>) {
    let mut line = Line { bytes: [0; LINE_BYTES], used: 0 };
    let _ = write!(line, "{}: {text}", name());
    line.bytes[line.used] = b'\n';
    write_console(&line.bytes[..=line.used]);
}

/// Sends bytes to the monitor's log as they are.
pub fn write_console(bytes: &[u8]) {
    let (length, address) = (bytes.len() as u64, bytes.as_ptr() as u64);
    // SAFETY: the operation reads `length` bytes from `address`. A refusal cannot be reported.
    let _ = unsafe { hypercall::call(CONSOLE_IO, [WRITE, length, address, 0, 0]) };
}

/// Writes a line to the monitor's log, as `format!` would put it.
#[macro_export]
macro_rules! log {
    ($($argument:tt)*) => { $crate::log::line(format_args!($($argument)*)) };
}
