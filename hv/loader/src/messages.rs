//! The loader's messages on COM1, and its only way to stop.
//!
//! The rule: whatever makes a start impossible ends in one message, which says the cause and the
//! remedy, and a stop.
#![expect(unsafe_code, reason = "stops the CPU")]

use core::{
    arch::asm,
    fmt,
    panic::PanicInfo,
    sync::atomic::{AtomicBool, Ordering},
};

use handover::layout::{DEBUG_EXIT_FAILED, DEBUG_EXIT_PORT};
use log::{LevelFilter, Metadata, Record, error};
use serial_line::{ports::output, uart::Uart, write_message};

static LINE: Uart = Uart::new(0x3f8);
static DEBUG_EXIT: AtomicBool = AtomicBool::new(false);

/// Writes to the line, with a carriage return before each line feed.
struct Console;

impl fmt::Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for line in text.split_inclusive('\n') {
            let text = line.strip_suffix('\n');
            LINE.send(text.unwrap_or(line).as_bytes());
            if text.is_some() {
                LINE.send(b"\r\n");
            }
        }
        Ok(())
    }
}

struct Messages;

impl log::Log for Messages {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        if LINE.is_present() {
            let _ = write_message(&mut Console, 0, record.level(), *record.args());
        }
    }

    fn flush(&self) {}
}

/// Finds and programs the serial port.
pub fn set_up() {
    LINE.set_up();
    let _ = log::set_logger(&Messages);
}

/// Shows messages of this severity and worse.
pub fn set_level(level: LevelFilter) {
    log::set_max_level(level);
}

/// Sets whether a refusal also exits QEMU.
pub fn set_debug_exit(on: bool) {
    DEBUG_EXIT.store(on, Ordering::Relaxed);
}

/// Logs why there is no start, and stops.
pub fn refuse(reason: fmt::Arguments<'_>) -> ! {
    error!("cannot start: {reason}");
    if DEBUG_EXIT.load(Ordering::Relaxed) {
        output(DEBUG_EXIT_PORT, DEBUG_EXIT_FAILED);
    }
    loop {
        // SAFETY: with interrupts off, only a non-maskable interrupt or a reset ends the halt.
        unsafe { asm!("cli", "hlt", options(nomem, nostack)) };
    }
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    refuse(format_args!("the loader failed: {info}"))
}
