//! The watchdog of an I/O partition: notices that it hangs.
//!
//! ```text
//! tick -> Ask(number) -- Ping { number } --> I/O partition
//!         heard       <- Alive { number } --
//! tick -> Ask(number + 1), or nothing was heard: silence grows -> Hung
//! ```
//!
//! An I/O partition that stops is noticed by the monitor. One that runs in a circle, or waits for what
//! does not come, looks healthy from outside, so it must answer a numbered ping at each tick. Reports
//! of other kinds count for nothing: a loop may send those.
//!
//! # Rules
//! 1. Silence is counted at ticks of the ultravisor, and a tick adds [`TICK`] at most, however late it
//!    is: on a machine that stood still, nobody could answer.
//! 2. Time in which the partition waited for a CPU is no silence: it could not answer. So a
//!    partition that gets little of a CPU is given more time, and one that loops there is still
//!    found.
//! 3. A partition that is not to run is not watched, and begins anew when it runs again.

use core::fmt;

/// Nanoseconds between two ticks.
pub const TICK: u64 = 50_000_000;
/// Milliseconds of silence after which a partition is given up, unless an option says otherwise: ten
/// ticks.
pub const LIMIT: u32 = 500;
/// The limits that an option may set, in milliseconds; 0 turns the watchdog off. Two ticks are the
/// least: an answer may be under way at the first.
pub const LIMITS: core::ops::RangeInclusive<u32> = 100..=60_000;

/// What the ultravisor has to do after a tick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing: the last ping is under way, or this was the first tick.
    Wait,
    /// Send the ping with this number.
    Ask(u64),
    /// Give the partition up.
    Hung(Silence),
}

/// How long a partition was silent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Silence {
    /// The system time of its last answer, or of the first tick.
    pub since: u64,
    /// Milliseconds since then.
    pub milliseconds: u32,
}

impl fmt::Display for Silence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "silent for {} ms", self.milliseconds)
    }
}

/// The watchdog of one I/O partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Watch {
    /// The time of the last tick, and how long the partition had waited for a CPU by then; `None` if
    /// it did not run at the last tick.
    last: Option<(u64, u64)>,
    /// The number of the last ping.
    number: u64,
    /// Whether that ping may still be answered.
    is_asked: bool,
    /// Whether a ping was answered since the last tick.
    is_heard: bool,
    /// When a ping was answered last.
    since: u64,
    /// Nanoseconds of silence.
    silent: u64,
}

impl Watch {
    /// Notes the answer to a ping. Only the number of the last ping counts.
    pub const fn alive(&mut self, number: u64) {
        if self.is_asked && number == self.number {
            (self.is_asked, self.is_heard) = (false, true);
        }
    }

    /// Notes that the last ping may be lost, since the channel was made anew. The next tick sends
    /// another one; the silence goes on.
    pub const fn lost(&mut self) {
        self.is_asked = false;
    }

    /// Notes a tick at which the partition is not to run.
    pub const fn rest(&mut self) {
        self.last = None;
    }

    /// Counts a tick at which the partition is to run. `waited` is the time for which the partition
    /// has waited for a CPU in all its life; `limit` is in milliseconds.
    pub fn tick(&mut self, now: u64, waited: u64, limit: u32) -> Verdict {
        let last = self.last.replace((now, waited));
        let Some((time, waited_then)) = last else {
            (self.since, self.silent, self.is_heard) = (now, 0, false);
            return self.ask();
        };
        if core::mem::take(&mut self.is_heard) {
            (self.since, self.silent) = (now, 0);
            return self.ask();
        }
        let passed = now.saturating_sub(time).min(TICK);
        let own = passed.saturating_sub(waited.saturating_sub(waited_then));
        self.silent = self.silent.saturating_add(own);
        if self.silent >= u64::from(limit) * 1_000_000 {
            let milliseconds = now.saturating_sub(self.since) / 1_000_000;
            let milliseconds = u32::try_from(milliseconds).unwrap_or(u32::MAX);
            return Verdict::Hung(Silence { since: self.since, milliseconds });
        }
        self.ask()
    }

    const fn ask(&mut self) -> Verdict {
        if self.is_asked {
            return Verdict::Wait;
        }
        (self.number, self.is_asked) = (self.number.wrapping_add(1), true);
        Verdict::Ask(self.number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A partition under a watchdog.
    #[derive(Default)]
    struct Watched {
        watch: Watch,
        now: u64,
        waited: u64,
        asked: u64,
    }

    impl Watched {
        /// A tick after some time, of which the partition waited a part for a CPU.
        fn tick(&mut self, passed: u64, waited: u64) -> Option<u32> {
            (self.now, self.waited) = (self.now + passed, self.waited + waited);
            match self.watch.tick(self.now, self.waited, LIMIT) {
                Verdict::Hung(silence) => return Some(silence.milliseconds),
                Verdict::Ask(number) => self.asked = number,
                Verdict::Wait => {}
            }
            None
        }

        fn answer(&mut self) {
            self.watch.alive(self.asked);
        }

        /// Ticks until the partition, which answers nothing, is given up.
        fn ticks_to_end(&mut self, passed: u64, waited: u64) -> u32 {
            (1..10_000).find(|_| self.tick(passed, waited).is_some()).expect("it hangs for ever")
        }
    }

    #[test]
    fn who_answers_each_ping_is_never_given_up() {
        let mut one = Watched::default();
        for tick in 1..1000 {
            assert_eq!((one.tick(TICK, 0), one.asked), (None, tick));
            one.answer();
        }
    }

    #[test]
    fn who_answers_nothing_is_given_up_after_ten_ticks() {
        let mut one = Watched::default();
        assert_eq!(one.tick(TICK, 0), None);
        for _ in 1..10 {
            assert_eq!((one.tick(TICK, 0), one.asked), (None, 1), "one ping is under way");
        }
        assert_eq!(one.tick(TICK + 12_000_000, 0), Some(512));
        // The engine may have had no room for the record.
        assert_eq!(one.tick(TICK, 0), Some(562));
    }

    #[test]
    fn an_answer_in_the_last_moment_counts() {
        let mut one = Watched::default();
        for _ in 0..10 {
            assert_eq!(one.tick(TICK, 0), None);
        }
        one.answer();
        assert_eq!((one.tick(TICK, 0), one.asked), (None, 2));
        assert_eq!(one.ticks_to_end(TICK, 0), 10, "the silence begins anew");
    }

    #[test]
    fn wrong_numbers_do_not_help() {
        let mut one = Watched::default();
        one.tick(TICK, 0);
        one.answer();
        one.tick(TICK, 0);
        let mut given_up = 0;
        for tick in 1..=10 {
            // An old answer again, and those to pings that were never sent.
            [1, 0, 3, u64::MAX].into_iter().for_each(|number| one.watch.alive(number));
            given_up = one.tick(TICK, 0).map_or(given_up, |_| tick);
        }
        assert_eq!(given_up, 10);
        // The answer that counts was given before.
        one.answer();
        one.answer();
        assert_eq!(one.tick(TICK, 0), None);
        assert_eq!(one.tick(TICK, 0), None);
    }

    #[test]
    fn a_channel_that_is_made_anew_without_end_does_not_help() {
        let mut one = Watched::default();
        let mut ticks = 0;
        while one.tick(TICK, 0).is_none() {
            one.watch.lost();
            ticks += 1;
            assert_eq!(one.asked, ticks, "each channel gets its ping");
        }
        assert_eq!(ticks, 10);
    }

    #[test]
    fn a_machine_that_stands_still_loses_one_tick() {
        let mut one = Watched::default();
        one.tick(TICK, 0);
        assert_eq!(one.tick(1_000 * TICK, 0), None);
        one.answer();
        assert_eq!(one.tick(TICK, 0), None);
        assert_eq!(one.ticks_to_end(1_000 * TICK, 0), 10);
    }

    #[test]
    fn waiting_for_a_cpu_is_no_silence() {
        let mut one = Watched::default();
        for _ in 0..1000 {
            assert_eq!(one.tick(TICK, TICK), None);
        }
        // A loop that gets a tenth of a CPU is found after ten times as long.
        let mut two = Watched::default();
        two.tick(TICK, 0);
        assert_eq!(two.ticks_to_end(TICK, TICK / 10 * 9), 100);
    }

    #[test]
    fn who_is_paused_is_not_watched() {
        let mut one = Watched::default();
        for _ in 0..10 {
            assert_eq!(one.tick(TICK, 0), None);
        }
        for _ in 0..100 {
            one.now += TICK;
            one.watch.rest();
        }
        assert_eq!((one.tick(TICK, 0), one.asked), (None, 1), "the old ping can be answered still");
        assert_eq!(one.ticks_to_end(TICK, 0), 10);
    }
}
