//! Output code that the loader and the monitor share: port I/O, a polled 16550, and the format of a
//! message.
//!
//! On a host target only the format of a message exists.
#![cfg_attr(not(test), warn(clippy::cast_possible_truncation))]
#![cfg_attr(not(test), no_std)]

use core::fmt::{self, Write};

use log::Level;

#[cfg(target_os = "none")]
pub mod ports;
#[cfg(target_os = "none")]
pub mod uart;

/// Writes a message as a line: `[seconds] uv: text`.
///
/// # Errors
/// If `out` fails.
pub fn write_message(
    out: &mut impl Write,
    microseconds: u64,
    level: Level,
    text: fmt::Arguments<'_>,
) -> fmt::Result {
    let (seconds, rest) = (microseconds / 1_000_000, microseconds % 1_000_000);
    let mark = match level {
        Level::Error => "error: ",
        Level::Warn => "warning: ",
        _ => "",
    };
    writeln!(out, "[{seconds:5}.{rest:06}] uv: {mark}{text}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_has_time_and_severity() {
        let mut text = String::new();
        write_message(&mut text, 1_000_002, Level::Warn, format_args!("hot")).unwrap();
        write_message(&mut text, 0, Level::Info, format_args!("cold")).unwrap();
        assert_eq!(text, "[    1.000002] uv: warning: hot\n[    0.000000] uv: cold\n");
    }
}
