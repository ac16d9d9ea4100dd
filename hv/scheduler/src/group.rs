//! The data shared by the virtual CPUs of one partition: weight, cap, and allowed CPUs.
//!
//! All fields are atomic, since each CPU that runs a virtual CPU of the partition charges the same
//! account.
//!
//! * Virtual time runs at `256 * runnable / weight` of real time, where `runnable` is the number of
//!   virtual CPUs that run or wait, because the partition has the weight, and not each virtual CPU.
//! * A cap is a budget that grows by a quota each [`PERIOD`]. Running consumes the budget and may
//!   overdraw it; later periods pay the debt. At most four quotas are kept, so that a late
//!   interrupt costs nothing and little is saved up.

use core::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering::Relaxed};

/// The weight at which virtual and real time advance alike.
const USUAL_WEIGHT: u64 = 256;
/// Nanoseconds over which a cap is enforced.
pub const PERIOD: u64 = 10_000_000;
/// Minimum number of nanoseconds that a virtual CPU with budget left runs before the budget is
/// checked again.
const LEAST_RUN: u64 = 100_000;

/// A set of physical CPUs, as one bit each, 256 at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuMask(pub [u64; 4]);

impl CpuMask {
    /// All CPUs.
    pub const ALL: Self = Self([u64::MAX; 4]);

    /// Returns whether `cpu` is in the set.
    #[must_use]
    pub fn contains(&self, cpu: u32) -> bool {
        let word = self.0.get(cpu as usize / 64).copied().unwrap_or(0);
        word >> (cpu % 64) & 1 == 1
    }
}

/// The limits of CPU time in a descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Relative share of the partition; 256 is usual, 0 counts as 1.
    pub weight: u32,
    /// Percent of one CPU for all virtual CPUs together; 0 for no cap.
    pub cap: u32,
    /// Physical CPUs that they may run on.
    pub allowed: CpuMask,
}

/// The account of a partition.
#[derive(Debug)]
pub struct Group {
    weight: AtomicU32,
    allowed: [AtomicU64; 4],
    /// Number of virtual CPUs that run or wait.
    runnable: AtomicU32,
    /// Nanoseconds per period; 0 for no cap.
    quota: AtomicU64,
    /// Nanoseconds left of the quota; negative if overdrawn.
    budget: AtomicI64,
    /// When the present period began.
    period: AtomicU64,
}

impl Group {
    /// The account of a partition with these limits, of which no virtual CPU is runnable yet.
    #[must_use]
    pub fn new(limits: &Limits, now: u64) -> Self {
        let group = Self {
            weight: AtomicU32::new(0),
            allowed: [const { AtomicU64::new(0) }; 4],
            runnable: AtomicU32::new(0),
            quota: AtomicU64::new(0),
            budget: AtomicI64::new(0),
            period: AtomicU64::new(now),
        };
        group.set(limits, now);
        group
    }

    /// Changes the limits. A virtual CPU that runs is charged by the new limits from its next
    /// charge on. Returns whether the limits changed.
    pub fn set(&self, limits: &Limits, now: u64) -> bool {
        let weight = limits.weight.max(1);
        let mut changed = self.weight.swap(weight, Relaxed) != weight;
        for (to, from) in self.allowed.iter().zip(limits.allowed.0) {
            changed |= to.swap(from, Relaxed) != from;
        }
        let quota = u64::from(limits.cap) * (PERIOD / 100);
        if self.quota.swap(quota, Relaxed) != quota {
            self.period.store(now, Relaxed);
            self.budget.store(quota.cast_signed(), Relaxed);
            changed = true;
        }
        changed
    }

    /// Returns whether its virtual CPUs may run on `cpu`.
    #[must_use]
    pub fn allows(&self, cpu: u32) -> bool {
        self.allowed.get(cpu as usize / 64).is_some_and(|w| w.load(Relaxed) >> (cpu % 64) & 1 == 1)
    }

    /// The CPUs that its virtual CPUs may run on.
    #[must_use]
    pub fn allowed(&self) -> CpuMask {
        CpuMask(core::array::from_fn(|n| self.allowed.get(n).map_or(0, |word| word.load(Relaxed))))
    }

    /// Counts one more runnable virtual CPU.
    pub(crate) fn add_runnable(&self) {
        self.runnable.fetch_add(1, Relaxed);
    }

    /// Counts one runnable virtual CPU less.
    pub(crate) fn remove_runnable(&self) {
        self.runnable.fetch_sub(1, Relaxed);
    }

    fn share(&self) -> u64 {
        u64::from(self.runnable.load(Relaxed).max(1))
    }

    /// The virtual time for `real` nanoseconds of running, added to `remainder`, and the new
    /// remainder of the division.
    pub(crate) fn charge(&self, real: u64, remainder: u64) -> (u64, u64) {
        if self.quota.load(Relaxed) != 0 {
            self.budget.fetch_sub(real.cast_signed(), Relaxed);
        }
        let weight = u64::from(self.weight.load(Relaxed));
        let scaled = real.saturating_mul(USUAL_WEIGHT * self.share()).saturating_add(remainder);
        (scaled / weight, scaled % weight)
    }

    /// Virtual time of `real` nanoseconds.
    pub(crate) fn virtual_time(&self, real: u64) -> u64 {
        real.saturating_mul(USUAL_WEIGHT * self.share()) / u64::from(self.weight.load(Relaxed))
    }

    /// When a partition that has used up its cap may continue. Returns `None` if it has not.
    pub(crate) fn resumes_at(&self, now: u64) -> Option<u64> {
        let quota = self.quota.load(Relaxed);
        if quota == 0 {
            return None;
        }
        let start = self.refill(now, quota);
        let budget = self.budget.load(Relaxed);
        let periods = budget.unsigned_abs() / quota + 1;
        (budget <= 0).then(|| start.saturating_add(periods.saturating_mul(PERIOD)))
    }

    /// When the budget should be checked, if one of its virtual CPUs runs from `now` on.
    pub(crate) fn look_at(&self, now: u64) -> Option<u64> {
        let left = u64::try_from(self.budget.load(Relaxed)).unwrap_or(0) / self.share();
        (self.quota.load(Relaxed) != 0).then_some(now.saturating_add(left.max(LEAST_RUN)))
    }

    /// Adds the quotas of the periods up to `now`. Returns when the present period began.
    fn refill(&self, now: u64, quota: u64) -> u64 {
        let start = self.period.load(Relaxed);
        let periods = now.saturating_sub(start) / PERIOD;
        let present = start.saturating_add(periods * PERIOD);
        let mine =
            periods > 0 && self.period.compare_exchange(start, present, Relaxed, Relaxed).is_ok();
        if mine {
            let grown = periods.saturating_mul(quota).min(FULL).cast_signed();
            let most = 4 * quota.cast_signed();
            let grow = |budget: i64| Some(budget.saturating_add(grown).min(most));
            let _ = self.budget.fetch_update(Relaxed, Relaxed, grow);
        }
        present
    }
}

/// More than any budget.
const FULL: u64 = 1 << 60;
