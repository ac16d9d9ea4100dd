//! Arithmetic of clocks: TSC ticks to nanoseconds and back.
//!
//! The rule: the monitor and the partitions use one scale, in the form that the PV ABI gives to
//! partitions (`vcpu_time_info` of the public header `xen.h`), so that their times agree exactly.

/// Ticks to nanoseconds: `(ticks shifted left by shift) * multiplier / 2^32`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scale {
    /// Multiplier, in units of 2^-32.
    pub multiplier: u32,
    /// Left shift; a negative number shifts right.
    pub shift: i8,
}

impl Scale {
    /// The scale of a counter of `hertz` ticks a second, which must be more than 0.
    pub fn of(hertz: u64) -> Self {
        const SECOND: u64 = 1_000_000_000;
        let (mut rate, mut shift) = (hertz.max(1), 0);
        while rate > 2 * SECOND {
            rate >>= 1;
            shift -= 1;
        }
        while rate <= SECOND {
            rate <<= 1;
            shift += 1;
        }
        // The rate is above 10^9, so the quotient is below 2^32.
        let multiplier = (SECOND << 32).checked_div(rate).unwrap_or(0);
        Self { multiplier: u32::try_from(multiplier).unwrap_or(u32::MAX), shift }
    }

    /// Converts `ticks` to nanoseconds.
    pub fn nanoseconds(self, ticks: u64) -> u64 {
        let shift = u32::from(self.shift.unsigned_abs());
        let ticks = if self.shift < 0 { ticks >> shift } else { ticks << shift };
        let nanoseconds = (u128::from(ticks) * u128::from(self.multiplier)) >> 32;
        u64::try_from(nanoseconds).unwrap_or(u64::MAX)
    }
}

/// Longest time ahead, in nanoseconds, for which a hardware timer is set. An interrupt that comes
/// too early only sets the timer again.
pub const LONGEST_WAIT: u64 = 2_000_000_000;

/// Ticks of a counter of `hertz` ticks a second from `now` until `deadline`, capped at
/// [`LONGEST_WAIT`]; at least 1.
pub fn ticks_until(deadline: u64, now: u64, hertz: u64) -> u64 {
    let wait = deadline.saturating_sub(now).min(LONGEST_WAIT);
    // One tick more, since the clock rounds down and must have reached the deadline at the
    // interrupt.
    wait.saturating_mul(hertz) / 1_000_000_000 + 1
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn deadlines_of_all_distances_lie_ahead_and_near() {
        const DAY: u64 = 86_400 * 1_000_000_000;
        for hertz in [1_000_000, 24_000_000, 2_000_000_000, 5_800_000_000] {
            for now in [0, 1, DAY, 365 * DAY] {
                let until = |deadline| ticks_until(deadline, now, hertz);
                assert_eq!(until(0), 1, "a time that is past is due at once");
                assert_eq!(until(now), 1);
                assert_eq!(until(now + 1_000_000), hertz / 1000 + 1);
                let years = 200 * 365 * DAY;
                for far in [now + years, i64::MAX as u64, 1 << 63, u64::MAX - 1, u64::MAX] {
                    assert_eq!(until(far), 2 * hertz + 1, "{far:#x} from {now} at {hertz} Hz");
                }
            }
        }
        assert!(ticks_until(u64::MAX, 0, u64::MAX) > 1, "an absurd rate");
    }

    proptest! {
        /// When the timer interrupts, the clock shows the deadline, as exactly as the scale allows.
        #[test]
        fn a_deadline_is_when_the_clock_shows_it(
            hertz in 1_000_000u64..9_000_000_000,
            before in 0u64..1 << 60,
            wait in 0..LONGEST_WAIT,
        ) {
            let scale = Scale::of(hertz);
            let now = scale.nanoseconds(before);
            let after = scale.nanoseconds(before + ticks_until(now + wait, now, hertz));
            // The scale keeps the first 30 bits of the rate and 32 of the multiplier: the clock
            // runs fast by up to 2^-30 of the wait, or slow by up to 2^-32 of it.
            let (fast, slow) = ((wait >> 30) + 1, (wait >> 32) + 1);
            // Each of the two readings loses up to 1 ns by rounding, and up to 1 ns in ticks that
            // are shifted out. The wait is one tick longer than it has to be.
            let reading = 2;
            let tick = 1_000_000_000 / hertz + 1;
            prop_assert!(after + slow + reading >= now + wait, "{after} {now} {wait}");
            prop_assert!(after <= now + wait + fast + reading + tick, "{after} {now} {wait}");
        }

        #[test]
        fn scales_to_within_a_millionth(hertz in 1_000_000u64..10_000_000_000, ms in 1u64..100_000) {
            let ticks = hertz / 1000 * ms;
            let exact = (u128::from(ticks) * 1_000_000_000 / u128::from(hertz)) as u64;
            let scaled = Scale::of(hertz).nanoseconds(ticks);
            prop_assert!(scaled.abs_diff(exact) <= exact / 1_000_000 + 16, "{scaled} {exact}");
        }
    }
}
