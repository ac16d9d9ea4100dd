//! Writes messages to the kernel log, where they stand in order with the kernel's own.
//!
//! Rule: a message is one write, so that it is one record; failing to log never stops anything.

use std::fs::File;
use std::io::Write;
use std::process::Stdio;

/// Kernel log level *notice*.
pub const NOTICE: u8 = 5;
/// Kernel log level *warning*.
pub const WARNING: u8 = 4;

/// Writes a record to the kernel log, or to standard error where there is no kernel log.
pub fn log(level: u8, text: &str) {
    let record = format!("<{level}>uv-init: {text}\n");
    let written = open().and_then(|mut log| log.write_all(record.as_bytes()));
    if written.is_err() {
        let _ = std::io::stderr().write_all(record.as_bytes());
    }
}

/// The kernel log as the standard output of a program; null if there is no kernel log.
pub fn stdio() -> Stdio {
    open().map_or_else(|_| Stdio::null(), Stdio::from)
}

fn open() -> std::io::Result<File> {
    File::options().write(true).open("/dev/kmsg")
}

/// Logs a notice.
#[macro_export]
macro_rules! notice {
    ($($argument:tt)*) => { $crate::message::log($crate::message::NOTICE, &format!($($argument)*)) };
}

/// Logs a warning.
#[macro_export]
macro_rules! warning {
    ($($argument:tt)*) => { $crate::message::log($crate::message::WARNING, &format!($($argument)*)) };
}
