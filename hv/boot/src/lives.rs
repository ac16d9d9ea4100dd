//! When an I/O partition that ended is built anew.
//!
//! The first time, that is as soon as its number is free. If it fails soon again, the builder waits:
//! 1 s, then twice as long each time, up to a minute. After [`MOST`] failures in a row the partition
//! stays away, because it would only end again, and take the other one's time with it.
//!
//! Rule: a life of at least [`STABLE`] counts as no failure, and ends the row.
//!
//! The news that a number is free can be lost. So the builder also looks by itself: at each running
//! partition every [`LOOKS`], and again after [`SOON`] if it could not look.

/// Nanoseconds of the first wait, and of the longest.
const FIRST_WAIT: u64 = 1_000_000_000;
const LAST_WAIT: u64 = 60 * FIRST_WAIT;
/// A life of this many nanoseconds ends a row of failures.
const STABLE: u64 = 60_000_000_000;
/// Nanoseconds from one look at a running partition to the next.
const LOOKS: u64 = 10_000_000_000;
/// Nanoseconds to the next look after one that failed.
const SOON: u64 = 1_000_000_000;
/// Maximum number of failures in a row.
pub const MOST: u32 = 8;

/// The lives of a partition; see the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lives {
    /// Lives that began so far.
    begun: u32,
    /// Failures in a row.
    failures: u32,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// It began to run, and is looked at; both in system time.
    Lives { since: u64, look: u64 },
    /// It is to be built at this time.
    Due(u64),
    /// It is not built anew.
    Away,
}

impl Lives {
    /// A partition that is to be built now.
    pub const fn new() -> Self {
        Self { begun: 0, failures: 0, state: State::Due(0) }
    }

    /// Number of its earlier lives.
    pub const fn restarts(&self) -> u32 {
        self.begun
    }

    /// When it is to be built, in system time.
    pub const fn due(&self) -> Option<u64> {
        match self.state {
            State::Due(time) => Some(time),
            State::Lives { .. } | State::Away => None,
        }
    }

    /// Returns whether it runs, as far as this partition knows.
    pub const fn is_running(&self) -> bool {
        matches!(self.state, State::Lives { .. })
    }

    /// When to look whether its number is free, in system time. Returns `None` if it does not run.
    pub const fn look(&self) -> Option<u64> {
        match self.state {
            State::Lives { look, .. } => Some(look),
            State::Due(_) | State::Away => None,
        }
    }

    /// Notes that its number may be free, so that a look is due.
    pub const fn look_at_once(&mut self) {
        self.set_look(0);
    }

    /// Notes a look: whether it told that the number is not free, or failed.
    pub const fn looked(&mut self, is_known: bool, now: u64) {
        self.set_look(now.saturating_add(if is_known { LOOKS } else { SOON }));
    }

    const fn set_look(&mut self, time: u64) {
        if let State::Lives { look, .. } = &mut self.state {
            *look = time;
        }
    }

    /// Notes that it was built and runs.
    pub const fn began(&mut self, now: u64) {
        self.begun = self.begun.saturating_add(1);
        self.state = State::Lives { since: now, look: now.saturating_add(LOOKS) };
    }

    /// Notes that its number is free. Returns `false` if it stays away from now on.
    pub const fn ended(&mut self, now: u64) -> bool {
        let State::Lives { since, .. } = self.state else {
            return true;
        };
        if now.saturating_sub(since) < STABLE && self.begun > 1 {
            return self.failed(now);
        }
        (self.failures, self.state) = (0, State::Due(now));
        true
    }

    /// Notes that it was not built, or did not live long. Returns `false` if it stays away from now
    /// on.
    pub const fn failed(&mut self, now: u64) -> bool {
        self.failures = self.failures.saturating_add(1);
        if self.failures >= MOST {
            self.state = State::Away;
            return false;
        }
        let wait = FIRST_WAIT << (self.failures - 1);
        let wait = if wait < LAST_WAIT { wait } else { LAST_WAIT };
        self.state = State::Due(now.saturating_add(wait));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_death_is_made_good_at_once() {
        let mut lives = Lives::new();
        assert_eq!((lives.due(), lives.restarts()), (Some(0), 0));
        lives.began(5);
        assert_eq!((lives.due(), lives.restarts()), (None, 1));
        assert!(lives.ended(7));
        assert_eq!(lives.due(), Some(7));
        // To be told again changes nothing.
        assert!(lives.ended(9));
        assert_eq!(lives.due(), Some(7));
    }

    #[test]
    fn a_running_partition_is_looked_at_and_soon_again_if_that_fails() {
        let mut lives = Lives::new();
        lives.look_at_once();
        assert_eq!(lives.look(), None);
        lives.began(5);
        assert_eq!(lives.look(), Some(5 + LOOKS));
        lives.look_at_once();
        assert_eq!(lives.look(), Some(0));
        lives.looked(false, 7);
        assert_eq!(lives.look(), Some(7 + SOON));
        lives.looked(true, 9);
        assert_eq!((lives.look(), lives.due()), (Some(9 + LOOKS), None));
        assert!(lives.ended(11));
        lives.looked(true, 11);
        assert_eq!((lives.look(), lives.due()), (None, Some(11)));
    }

    #[test]
    fn early_deaths_and_failed_builds_are_waited_for_ever_longer_and_then_given_up() {
        for builds in [true, false] {
            let (mut lives, mut now, mut waits) = (Lives::new(), 100, Vec::new());
            lives.began(now);
            assert!(lives.ended(now));
            loop {
                let stays = if builds {
                    lives.began(now);
                    lives.ended(now + 1)
                } else {
                    lives.failed(now + 1)
                };
                let Some(due) = lives.due() else {
                    assert!(!stays);
                    break;
                };
                assert!(stays);
                waits.push((due - now) / FIRST_WAIT);
                now = due;
            }
            assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60], "builds: {builds}");
            // It is away whatever is told.
            assert!(lives.ended(now + LAST_WAIT));
            assert_eq!(lives.due(), None);
        }
    }

    #[test]
    fn a_long_life_ends_a_row_of_failures() {
        let mut lives = Lives::new();
        lives.began(0);
        for _ in 0..3 * MOST {
            assert!(lives.ended(STABLE));
            assert_eq!(lives.due(), Some(STABLE));
            lives.began(STABLE);
            assert!(lives.ended(STABLE + 1));
            assert_eq!(lives.due(), Some(STABLE + 1 + FIRST_WAIT));
            lives.began(0);
        }
    }
}
