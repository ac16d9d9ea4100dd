//! Writes the monitor's messages to the console's serial port.
//!
//! Each is one line, `[seconds] uv: text`; use the macros `error!`, `warn!`, `info!` and `debug!`.
//! The rule: whichever CPU writes a line, it is written whole, or dropped and counted. Only a
//! failing monitor may interrupt another CPU's line.

use core::{
    fmt::{self, Write},
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
};

use ::log::{Metadata, Record};
use heapless::Vec;
use spin::Mutex;

use super::{serial, time};

pub use ::log::{Level, LevelFilter, error, info, warn};

static FAILING: AtomicBool = AtomicBool::new(false);
static LINE: Mutex<()> = Mutex::new(());

/// The line that messages are written to.
struct Line;

impl ::log::Log for Line {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        write(record.level(), *record.args());
    }

    fn flush(&self) {}
}

/// Shows messages of this severity and worse.
pub fn set_level(level: LevelFilter) {
    let _ = ::log::set_logger(&Line);
    ::log::set_max_level(level);
}

/// Switches the log to the mode of a failing monitor: from then on, its messages do not wait for
/// another CPU that writes.
pub fn set_failing() {
    FAILING.store(true, Ordering::Relaxed);
}

/// Collects bytes so that they are sent a FIFO at a time.
#[derive(Default)]
struct Console {
    batch: Vec<u8, 128>,
}

impl Console {
    fn put(&mut self, byte: u8) {
        if self.batch.push(byte).is_err() {
            self.flush();
            let _ = self.batch.push(byte);
        }
    }

    fn flush(&mut self) {
        if FAILING.load(Ordering::Relaxed) {
            serial::write_anyway(serial::CONSOLE, &self.batch);
        } else {
            let _ = serial::write(serial::CONSOLE, &self.batch);
        }
        self.batch.clear();
    }
}

impl Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if byte == b'\n' {
                self.put(b'\r');
            }
            self.put(byte);
        }
        Ok(())
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        self.flush();
    }
}

/// Dropped messages and pieces of partitions' text, for which there was no room.
static LOST: AtomicU32 = AtomicU32::new(0);
/// Non-maskable interrupts that came while the CPU was in the monitor and may have held a lock.
static INTERRUPTED: AtomicU32 = AtomicU32::new(0);
/// Maximum number of bytes of a message.
const LONGEST: usize = 1024;

/// Counts a non-maskable interrupt of unknown cause that came in ring 0; the next message reports
/// it.
pub fn note_interrupted() {
    INTERRUPTED.fetch_add(1, Ordering::Relaxed);
}

/// Reports the events that were only counted.
fn tell_counts(console: &mut Console) {
    for (counter, what) in [
        (&LOST, "messages were lost, because the serial line is too slow"),
        (&INTERRUPTED, "non-maskable interrupts of unknown cause came in the monitor"),
    ] {
        let count = counter.swap(0, Ordering::Relaxed);
        if count != 0 {
            let _ = writeln!(console, "uv: warning: {count} {what}");
        }
    }
}

/// Returns whether `bytes` fit into the ring and leave `rest` free. If not, counts a loss.
fn has_room(bytes: usize, rest: usize) -> bool {
    let fits = FAILING.load(Ordering::Relaxed) || serial::room(serial::CONSOLE) >= bytes + rest;
    if !fits {
        LOST.fetch_add(1, Ordering::Relaxed);
    }
    fits
}

/// Writes one message.
fn write(level: Level, text: fmt::Arguments<'_>) {
    let _line = if FAILING.load(Ordering::Relaxed) { LINE.try_lock() } else { Some(LINE.lock()) };
    if !has_room(LONGEST, 0) {
        return;
    }
    let mut console = Console::default();
    tell_counts(&mut console);
    let _ = serial_line::write_message(&mut console, time::now() / 1000, level, text);
}

/// Writes a warning.
pub fn log_warning(text: fmt::Arguments<'_>) {
    warn!("{text}");
}

/// The partition whose text is the console's last line, while that line is unfinished.
static UNFINISHED: AtomicU32 = AtomicU32::new(0);

/// Maximum number of bytes of the mark at the start of a line of a partition's text.
const MARK: usize = 24;

/// Writes text for a partition, and marks its lines with the partition's number. A guest's text
/// leaves half of the ring free for others.
pub fn log_raw(partition: u32, text: &[u8], is_guest: bool) {
    let _line = LINE.lock();
    let lines = 1 + text.iter().filter(|byte| **byte == b'\n').count();
    if !has_room(text.len() + lines * MARK, if is_guest { serial::RING / 2 } else { 0 }) {
        return;
    }
    let mut console = Console::default();
    for piece in text.split_inclusive(|&b| b == b'\n') {
        if UNFINISHED.load(Ordering::Relaxed) != partition {
            let _ = write!(console, "[partition {partition}] ");
        }
        for &byte in piece {
            match byte {
                b'\n' => [b'\r', b'\n'].into_iter().for_each(|b| console.put(b)),
                b'\t' | b' '..=b'~' => console.put(byte),
                _ => {}
            }
        }
        let finished = piece.ends_with(b"\n");
        UNFINISHED.store(if finished { 0 } else { partition }, Ordering::Relaxed);
    }
}
