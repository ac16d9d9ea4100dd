//! How long to wait before an I/O partition is built in the place of one that ended.
//!
//! All I/O partitions have one row of failures, since they run one program on the same functions: a
//! life of less than [`STABLE`], or a build that failed, is one failure more. As many lives as run at
//! once ([`WANTED`]) are made good at once, so that a host whose I/O partitions die together has both
//! again. From then on the builder waits: 1 s, then twice as long each time, up to a minute, because
//! a partition that ends again and again takes the others' time with it. It never gives up.
//!
//! Rule: a life of at least [`STABLE`] counts as no failure, and ends the row.
//!
//! For tests that end I/O partitions again and again, a row can be made that never waits.

/// Number of I/O partitions that run at once.
pub const WANTED: usize = 2;
/// Nanoseconds of the first wait, and of the longest.
const FIRST_WAIT: u64 = 1_000_000_000;
const LAST_WAIT: u64 = 60 * FIRST_WAIT;
/// A life of this many nanoseconds ends a row of failures.
const STABLE: u64 = 60_000_000_000;
/// Number of short lives in a row that are made good at once.
const AT_ONCE: u32 = WANTED as u32;
/// Number of failures in a row from which on a log of them helps.
const MANY: u32 = 8;

/// The row of failures; see the module.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Row {
    failures: u32,
    due: u64,
    never_waits: bool,
}

impl Row {
    /// A row without failures; `never_waits` is for tests.
    pub const fn new(never_waits: bool) -> Self {
        Self { failures: 0, due: 0, never_waits }
    }

    /// When the next partition is built, in system time.
    pub const fn due(&self) -> u64 {
        self.due
    }

    /// Notes that a partition has ended that began to run at `since`.
    pub const fn ended(&mut self, since: u64, now: u64) {
        let is_stable = now.saturating_sub(since) >= STABLE;
        self.failures = if is_stable { 0 } else { self.failures.saturating_add(1) };
        self.due = now.saturating_add(self.wait());
    }

    /// Notes that a partition was not built.
    pub const fn failed(&mut self, now: u64) {
        let failures = if self.failures > AT_ONCE { self.failures } else { AT_ONCE };
        self.failures = failures.saturating_add(1);
        self.due = now.saturating_add(self.wait());
    }

    /// The number of failures, if somebody should hear of the last one: of so many, only a few are
    /// told.
    pub const fn many(&self) -> Option<u32> {
        let is_told = self.failures >= MANY && self.failures.is_power_of_two();
        if is_told { Some(self.failures) } else { None }
    }

    const fn wait(&self) -> u64 {
        match self.failures.saturating_sub(AT_ONCE) {
            _ if self.never_waits => 0,
            0 => 0,
            more if more <= 6 => FIRST_WAIT << (more - 1),
            _ => LAST_WAIT,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_deaths_as_run_at_once_are_made_good_at_once() {
        let mut row = Row::default();
        assert_eq!(row.due(), 0);
        for death in [7, 8] {
            row.ended(5, death);
            assert_eq!(row.due(), death);
        }
        row.ended(8, 9);
        assert_eq!(row.due(), 9 + FIRST_WAIT);
    }

    #[test]
    fn early_deaths_and_failed_builds_are_waited_for_ever_longer_and_never_given_up() {
        for builds in [true, false] {
            let (mut row, mut now, mut waits, mut told) = (Row::default(), 100, Vec::new(), vec![]);
            if builds {
                row.ended(now, now);
                row.ended(now, now);
            }
            for _ in 0..40 {
                if builds {
                    row.ended(now, now + 1)
                } else {
                    row.failed(now + 1)
                }
                waits.push((row.due() - now) / FIRST_WAIT);
                told.extend(row.many());
                now = row.due();
            }
            assert_eq!(waits[..8], [1, 2, 4, 8, 16, 32, 60, 60], "builds: {builds}");
            assert!(waits[8..].iter().all(|&wait| wait == 60), "builds: {builds}");
            assert_eq!(told, [8, 16, 32], "builds: {builds}");
        }
    }

    #[test]
    fn a_row_of_a_test_never_waits() {
        let mut row = Row::new(true);
        for now in 5..50 {
            row.ended(5, now);
            assert_eq!(row.due(), now);
        }
    }

    #[test]
    fn a_long_life_ends_a_row_of_failures() {
        let mut row = Row::default();
        for _ in 0..20 {
            row.failed(0);
            row.ended(0, STABLE);
            assert_eq!(row.due(), STABLE);
            row.ended(0, STABLE - 1);
            assert_eq!(row.due(), STABLE - 1);
        }
    }
}
