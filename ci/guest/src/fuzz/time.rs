//! The time by which programs are ended, from a copy of the clock.
//!
//! Programs write over the shared page, and so over the clock in it. By a clock of such words a
//! program's time would end in centuries, and nothing would end its list.

use crate::memory;
use core::sync::atomic::{AtomicU32, Ordering};

/// A word that a program might leave in the clock; a clock of such words is nearly 600 years late.
const SPOILT: u32 = u32::MAX - 1;

static CLOCK: [AtomicU32; 8] = [const { AtomicU32::new(0) }; 8];

/// Copies the clock, before the first program.
pub fn copy_clock() {
    for (copy, word) in CLOCK.iter().zip(memory::clock()) {
        copy.store(word.load(Ordering::Relaxed), Ordering::Relaxed);
    }
}

/// Overwrites the clock in the shared page with wrong words, as any program may, so that a use of
/// this clock shows. Calls that register areas restore the clock.
pub fn spoil_clock() {
    for word in memory::clock() {
        word.store(SPOILT, Ordering::Relaxed);
    }
}

/// System time in nanoseconds.
pub fn now() -> u64 {
    memory::now_by(&CLOCK)
}
