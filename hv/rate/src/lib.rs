//! Limits of an endpoint: bytes and operations per second, with a burst.
//!
//! A [`Bucket`] fills with time, and requests empty it. A request passes while the bucket is not
//! empty, and may take more than is left. The bucket is then in debt, and the next request waits
//! until time has paid the debt. So a request that is larger than the burst passes too, and over
//! time no client gets more than the limit. Levels are kept in billionths, so that no time between
//! two requests is lost to rounding. The clock is a parameter, in nanoseconds; a clock that goes
//! back stands still.
#![cfg_attr(not(test), warn(clippy::cast_possible_truncation))]
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

/// Billionths in one.
const BILLION: i128 = 1_000_000_000;

/// A limit: a number of units a second, and a burst in units.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Limit {
    /// Units a second, not 0.
    pub per_second: u64,
    /// Units that can be saved up, not 0.
    pub burst: u64,
}

/// A bucket with a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bucket {
    limit: Limit,
    /// Billionths of a unit; a number below 0 is a debt.
    level: i128,
    /// The time of the level.
    at: u64,
}

impl Bucket {
    /// A full bucket. A rate or a burst of 0 counts as 1: a limit slows, and never stops.
    #[must_use]
    pub fn new(limit: Limit, now: u64) -> Self {
        let limit = Limit { per_second: limit.per_second.max(1), burst: limit.burst.max(1) };
        Self { limit, level: i128::from(limit.burst) * BILLION, at: now }
    }

    /// Changes the limit. A debt stays, and at most the new burst stays saved.
    pub fn set_limit(&mut self, limit: Limit, now: u64) {
        self.fill(now);
        let full = Self::new(limit, self.at);
        *self = Self { level: self.level.min(full.level), ..full };
    }

    /// The time from which on a request passes; at most `now` if it passes now.
    #[must_use]
    pub fn ready_at(&mut self, now: u64) -> u64 {
        self.fill(now);
        if self.level > 0 {
            return now;
        }
        // The first nanosecond at which the level is above 0.
        let wait = -self.level / i128::from(self.limit.per_second) + 1;
        self.at.saturating_add(u64::try_from(wait).unwrap_or(u64::MAX))
    }

    /// Takes the units of a request that passes.
    pub fn charge(&mut self, units: u64) {
        self.level -= i128::from(units) * BILLION;
    }

    fn fill(&mut self, now: u64) {
        let passed = now.saturating_sub(self.at);
        let filled = i128::from(passed) * i128::from(self.limit.per_second);
        self.level = (self.level + filled).min(i128::from(self.limit.burst) * BILLION);
        self.at = self.at.max(now);
    }
}

/// The limits of an endpoint; `None` where there is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limiter {
    /// Bytes.
    pub bytes: Option<Bucket>,
    /// Operations.
    pub operations: Option<Bucket>,
}

impl Limiter {
    /// Lets a request of `bytes` pass, and charges it to both limits; or to neither.
    ///
    /// # Errors
    /// The time from which on it passes.
    pub fn admit(&mut self, bytes: u64, now: u64) -> Result<(), u64> {
        let both = [&mut self.bytes, &mut self.operations];
        let ready = both.into_iter().flatten().map(|bucket| bucket.ready_at(now)).max();
        if let Some(ready) = ready.filter(|&ready| ready > now) {
            return Err(ready);
        }
        if let Some(bucket) = &mut self.bytes {
            bucket.charge(bytes);
        }
        if let Some(bucket) = &mut self.operations {
            bucket.charge(1);
        }
        Ok(())
    }
}
