//! System time, from the clock page that the monitor keeps for a virtual CPU; and the timer.
//!
//! The clock is the Xen ABI's `vcpu_time_info`: a version that is odd while the rest changes, the
//! TSC and the system time at the last update, and a 32.32 factor with a shift. The timer is the
//! single-shot timer of virtual CPU 0; it raises the port bound to `VIRQ_TIMER`.
#![expect(unsafe_code, reason = "rdtsc, and hypercalls that read their arguments from memory")]

use crate::hypercall::{self, Errno};
use crate::partition;
use core::sync::atomic::{AtomicU32, Ordering, fence};
use pv_abi::xen::hypercall::VCPU_OP;
use pv_abi::xen::vcpu::{SET_SINGLESHOT_TIMER, STOP_SINGLESHOT_TIMER, SetSingleshotTimer};

/// The contents of the clock page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    /// TSC at the update.
    pub tsc: u64,
    /// System time at the update, in nanoseconds.
    pub system_time: u64,
    /// Nanoseconds per shifted TSC tick, as a fraction of 2^32.
    pub factor: u32,
    /// Left shift of the TSC difference before the factor; a negative number shifts right.
    pub shift: i8,
}

impl Clock {
    /// System time in nanoseconds at this TSC value.
    #[must_use]
    pub fn at(&self, tsc: u64) -> u64 {
        let ticks = tsc.saturating_sub(self.tsc);
        let places = u32::from(self.shift.unsigned_abs());
        let shifted = match self.shift {
            0.. => ticks.checked_shl(places).unwrap_or(0),
            _ => ticks.checked_shr(places).unwrap_or(0),
        };
        let nanoseconds = (u128::from(shifted) * u128::from(self.factor)) >> 32;
        self.system_time.saturating_add(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
    }

    /// Reads a clock page. Gives up after a bounded number of torn reads.
    #[must_use]
    pub fn read(words: &[AtomicU32; 8]) -> Option<Self> {
        for _ in 0..1000 {
            let version = words[0].load(Ordering::Acquire);
            let [_, _, tsc_low, tsc_high, time_low, time_high, factor, flags] =
                words.each_ref().map(|word| word.load(Ordering::Relaxed));
            fence(Ordering::Acquire);
            if version.is_multiple_of(2) && version == words[0].load(Ordering::Relaxed) {
                let [shift, ..] = flags.to_le_bytes();
                return Some(Self {
                    tsc: u64::from(tsc_high) << 32 | u64::from(tsc_low),
                    system_time: u64::from(time_high) << 32 | u64::from(time_low),
                    factor,
                    shift: i8::from_le_bytes([shift]),
                });
            }
        }
        None
    }
}

/// System time in nanoseconds; 0 on a host.
#[must_use]
pub fn now() -> u64 {
    if partition::try_start().is_none() {
        return 0;
    }
    let clock = Clock::read(partition::shared_info().time());
    // SAFETY: reads the time-stamp counter; the ABI makes it readable in every ring.
    let tsc = unsafe { core::arch::x86_64::_rdtsc() };
    clock.map_or(0, |clock| clock.at(tsc))
}

/// A number that identifies this boot of the machine, as far as its clocks can: the seconds since
/// 1970 at the boot, and the low half of the time-stamp counter. Returns 0 on a host.
#[must_use]
pub fn boot_identity() -> u64 {
    if partition::try_start().is_none() {
        return 0;
    }
    // SAFETY: reads the time-stamp counter; the ABI makes it readable in every ring.
    let tsc = unsafe { core::arch::x86_64::_rdtsc() };
    u64::from(partition::shared_info().wall_clock()) << 32 | (tsc & u64::from(u32::MAX))
}

/// Sets the timer to fire at this system time, or at once if it is past.
///
/// # Errors
/// The monitor's errno.
pub fn set_timer(deadline: u64) -> Result<(), Errno> {
    let argument = SetSingleshotTimer { timeout_abs_ns: deadline, flags: 0, pad: 0 };
    let address = (&raw const argument) as u64;
    let arguments = [SET_SINGLESHOT_TIMER, 0, address, 0, 0];
    // SAFETY: the operation reads the 16 bytes.
    unsafe { hypercall::call(VCPU_OP, arguments) }.map(drop)
}

/// Stops the timer.
///
/// # Errors
/// The monitor's errno.
pub fn stop_timer() -> Result<(), Errno> {
    let arguments = [STOP_SINGLESHOT_TIMER, 0, 0, 0, 0];
    // SAFETY: the operation touches no memory.
    unsafe { hypercall::call(VCPU_OP, arguments) }.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gigahertz_clock_counts_nanoseconds() {
        let clock = Clock { tsc: 1000, system_time: 5, factor: 1 << 31, shift: 1 };
        assert_eq!(clock.at(1000), 5);
        assert_eq!(clock.at(3000), 2005);
        assert_eq!(clock.at(0), 5);
    }

    #[test]
    fn no_clock_page_makes_it_panic() {
        for shift in [-128, -64, -1, 0, 63, 64, 127] {
            let clock = Clock { tsc: 0, system_time: u64::MAX, factor: u32::MAX, shift };
            assert_eq!(clock.at(u64::MAX), u64::MAX);
        }
    }

    #[test]
    fn a_page_that_is_being_written_is_not_read() {
        let words: [AtomicU32; 8] = core::array::from_fn(|_| AtomicU32::new(1));
        assert_eq!(Clock::read(&words), None);
        words[0].store(2, Ordering::Relaxed);
        assert_eq!(Clock::read(&words).map(|clock| clock.tsc), Some((1 << 32) + 1));
    }
}
