//! Decides when a console is served: all guests together have a budget of time.
//!
//! The command partition runs before guests, so the time that `uvd` spends on a guest's console is
//! taken from the other guests. The rule is that of the ultravisor's services (see [`budget`]).
//! While the budget is used up, no console is served, and nobody waits for their ports. The kernel
//! keeps a port masked from its first event until that event is taken, so a guest that keeps
//! ringing wakes nobody. The output of a guest stays in its ring meanwhile, and the guest waits for
//! space.

use std::time::{Duration, Instant};

use budget::{Budget, Limits};

/// The share of a CPU that guests have for work on their consoles. It is less than the ultravisor's
/// part, because a ring of 2 KiB is read at once.
const LIMITS: Limits = Limits { rate: 2, burst: 2_000_000, turn: 400_000, switches: 100_000 };
/// The most nanoseconds that a turn is charged; a longer time means that something else ran on the
/// CPU.
const LONGEST: u64 = 500_000;

/// The budget, and when consoles are served again.
pub struct ServiceTime {
    budget: Budget,
    /// The start of the budget's clock.
    begin: Instant,
    rests: Option<Instant>,
}

impl Default for ServiceTime {
    fn default() -> Self {
        Self { budget: Budget::new(LIMITS), begin: Instant::now(), rests: None }
    }
}

impl ServiceTime {
    /// Whether a console may be served now. If not, [`Self::rests`] says when it may be.
    pub fn may_serve(&mut self, now: Instant) -> bool {
        let at = nanoseconds(now.saturating_duration_since(self.begin));
        let due = self.budget.due(at);
        self.rests = (due > at).then(|| now + Duration::from_nanos(due - at));
        self.rests.is_none()
    }

    /// The time at which consoles are served again, if they are not served now.
    pub fn rests(&self) -> Option<Instant> {
        self.rests
    }

    /// The rank of a partition; among those that wait, the lowest rank goes first.
    pub fn rank(&self, number: u32) -> u64 {
        self.budget.rank(number)
    }

    /// Nanoseconds that were spent on a partition's console.
    pub fn spent(&self, number: u32) -> u64 {
        self.budget.spent(number)
    }

    /// Charges a partition's budget for a turn, at most `LONGEST`.
    pub fn spend(&mut self, number: u32, took: Duration) {
        self.budget.spend(number, nanoseconds(took).min(LONGEST), true);
    }

    /// Forgets a partition that has gone.
    pub fn forget(&mut self, number: u32) {
        self.budget.forget(number);
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
