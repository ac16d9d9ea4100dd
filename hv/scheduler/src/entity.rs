//! What the scheduler knows of a virtual CPU, and how its time is weighed.
//!
//! Virtual time runs at `256 / weight` of real time while a virtual CPU runs. The remainder of
//! that division is kept, so no time is lost however often it is charged.

/// Weight at which virtual and real time run alike.
const USUAL_WEIGHT: u64 = 256;

/// A set of physical CPUs, a bit each, 256 at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuMask(pub [u64; 4]);

impl CpuMask {
    /// All CPUs.
    pub const ALL: Self = Self([u64::MAX; 4]);

    /// Whether `cpu` is in the set.
    #[must_use]
    pub fn contains(&self, cpu: u16) -> bool {
        let word = self.0.get(usize::from(cpu) / 64).copied().unwrap_or(0);
        word >> (cpu % 64) & 1 == 1
    }
}

/// A schedulable virtual CPU. The caller keeps it while the virtual CPU is blocked and hands it to
/// [`super::RunQueue::enqueue`] when it wakes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entity {
    /// Names the virtual CPU.
    pub slot: u16,
    /// Relative share, 1 to 65535; 256 is usual. 0 counts as 1.
    pub weight: u32,
    /// Physical CPUs it may run on.
    pub affinity: CpuMask,
    /// Virtual time, in the time of queue `home`.
    pub(crate) vruntime: u64,
    /// Remainder of the last charge.
    pub(crate) remainder: u64,
    /// Where `vruntime` counts.
    pub(crate) home: Home,
}

/// What an entity's virtual time is relative to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Home {
    /// Nothing yet: it starts where the queue is.
    New,
    /// The queue of this CPU.
    Queue(u16),
    /// The lowest virtual time of the queue it left.
    Moving,
}

impl Entity {
    /// A virtual CPU that has not run yet.
    #[must_use]
    pub const fn new(slot: u16, weight: u32, affinity: CpuMask) -> Self {
        Self { slot, weight, affinity, vruntime: 0, remainder: 0, home: Home::New }
    }

    /// Adds `elapsed` nanoseconds of real time.
    pub(crate) fn charge(&mut self, elapsed: u64) {
        let weight = u64::from(self.weight.max(1));
        let scaled = elapsed.saturating_mul(USUAL_WEIGHT).saturating_add(self.remainder);
        self.vruntime = self.vruntime.wrapping_add(scaled / weight);
        self.remainder = scaled % weight;
    }
}

/// Whether virtual time `a` is before `b`, however often the counter wrapped.
pub(crate) fn before(a: u64, b: u64) -> bool {
    a.wrapping_sub(b).cast_signed() < 0
}
