//! Decides when to restart a program that ended.
//!
//! Rule: a program that keeps ending is restarted ever more rarely, at least every [`LONGEST`]; a
//! program that ran for [`STEADY`] counts as sound again.

use std::time::Duration;

/// Wait before the first restart.
pub const FIRST: Duration = Duration::from_millis(100);
/// The longest wait. It is shorter than a client of `uvd` waits for its answer.
pub const LONGEST: Duration = Duration::from_secs(5);
/// A program that ran this long had started well. A program that ends after each such time is
/// restarted each time, which keeps no CPU busy.
pub const STEADY: Duration = Duration::from_secs(1);

/// State of the policy for one program.
#[derive(Clone, Copy, Debug, Default)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// Records that the program ended after it ran for `ran`; returns the wait before its restart.
    pub fn ended(&mut self, ran: Duration) -> Duration {
        if ran >= STEADY {
            self.failures = 0;
        }
        let wait = FIRST.saturating_mul(1 << self.failures.min(16)).min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn waits_double_up_to_the_longest_and_start_over_after_a_steady_run() {
        let mut backoff = Backoff::default();
        let waits: Vec<u64> =
            (0..9).map(|_| backoff.ended(Duration::ZERO).as_millis() as u64).collect();
        assert_eq!(waits, [100, 200, 400, 800, 1600, 3200, 5000, 5000, 5000]);
        assert_eq!(backoff.ended(STEADY), FIRST);
    }

    proptest! {
        #[test]
        fn waits_stay_in_bounds(runs in proptest::collection::vec(0u64..20_000, 0..100)) {
            let mut backoff = Backoff::default();
            for run in runs {
                let wait = backoff.ended(Duration::from_millis(run));
                prop_assert!((FIRST..=LONGEST).contains(&wait));
            }
        }
    }
}
