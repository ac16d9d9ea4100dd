//! The run queue of a physical CPU, which runs the runnable virtual CPU with the least virtual
//! time.
//!
//! Rules:
//! * Waiting virtual CPUs are in a heap by virtual time; those whose partition has used up its cap
//!   are in another, by the time at which they continue. So each step takes logarithmic time.
//! * The running virtual CPU is *current* and in neither heap. [`RunQueue::account`] charges it;
//!   every other operation with a time does that first.
//! * A slice lasts [`SLICE`]. At its end the current virtual CPU yields to any that has less
//!   virtual time.
//! * A virtual CPU that wakes, or whose cap ends, is placed at most [`WAKE_CREDIT`] before the
//!   queue's virtual time, so that neither sleep nor a cap can be saved up. If it is ahead of the
//!   current virtual CPU by [`WAKE_GRANULARITY`], it preempts it; if it is only level with it, it
//!   runs after that time. Virtual time is slow for a great weight, so partitions that the host needs
//!   do not wait for guests.
//! * The queue's virtual time (`floor`) never runs backwards, and no virtual CPU is enqueued before
//!   it by more than a credit. So every waiting virtual CPU gets to run.

use crate::{
    balance::MOVE_CREDIT,
    entity::{Entity, Home, before},
    group::Group,
    heap::Heap,
};

/// Nanoseconds that a virtual CPU runs before it yields to an equal.
pub const SLICE: u64 = 4_000_000;
/// Virtual nanoseconds that a virtual CPU may be ahead of the queue when it wakes. This is also the
/// longest real time, in nanoseconds, that it may run until it is no longer ahead: a great weight
/// does not multiply that time, except for a lead of [`WAKE_GRANULARITY`].
pub const WAKE_CREDIT: u64 = 2_000_000;
/// Virtual nanoseconds by which a waking virtual CPU must be ahead to preempt at once; also
/// nanoseconds after which it runs if it is not behind.
pub const WAKE_GRANULARITY: u64 = 500_000;

/// How far a virtual CPU of the partition may be ahead when it wakes.
fn wake_credit(group: &Group) -> u64 {
    group.virtual_time(WAKE_CREDIT).clamp(WAKE_GRANULARITY, WAKE_CREDIT)
}

/// A slot past the capacity of the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoSuchSlot;

/// The run queue of one physical CPU, for virtual CPUs in slots `0..N`.
#[derive(Clone, Debug)]
pub struct RunQueue<'g, const N: usize> {
    /// Virtual time of the queue: the least of all entities, made monotonic.
    pub(crate) floor: u64,
    /// This plus `floor` is the queue's position among all queues.
    pub(crate) offset: u64,
    /// Set if the queue was idle, so that `offset` is meaningless.
    pub(crate) adrift: bool,
    /// When `offset` was last adjusted.
    pub(crate) adjusted: u64,
    /// When the next move to another queue is due.
    pub(crate) balance_at: u64,
    current: Option<u16>,
    /// When the current entity was last charged.
    charged: u64,
    /// When the current entity's slice ends.
    slice_end: u64,
    /// When the budget of the current entity's partition must be checked.
    budget_end: Option<u64>,
    /// Set if a newly enqueued entity preempts the current one.
    preempt: bool,
    /// Set if the current entity yields.
    yielded: bool,
    /// The entities that run, wait or are capped.
    pub(crate) entities: [Option<Entity<'g>>; N],
    /// The waiting entities, by virtual time.
    pub(crate) waiting: Heap<N>,
    /// The capped entities, by the time when they continue.
    capped: Heap<N>,
}

impl<const N: usize> Default for RunQueue<'_, N> {
    fn default() -> Self {
        Self::new()
    }
}

impl<'g, const N: usize> RunQueue<'g, N> {
    /// Makes an empty queue.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            floor: 0,
            offset: 0,
            adrift: false,
            adjusted: 0,
            balance_at: 0,
            current: None,
            charged: 0,
            slice_end: 0,
            budget_end: None,
            preempt: false,
            yielded: false,
            entities: [None; N],
            waiting: Heap::new(),
            capped: Heap::new(),
        }
    }

    /// Slot of the virtual CPU that runs.
    #[must_use]
    pub const fn current(&self) -> Option<u16> {
        self.current
    }

    /// Number of entities that wait for this CPU, without capped ones.
    #[must_use]
    pub const fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Number of entities that run, wait or are capped.
    #[must_use]
    pub const fn load(&self) -> usize {
        self.waiting.len() + self.capped.len() + self.current.is_some() as usize
    }

    /// Returns whether nothing runs or waits.
    pub(crate) const fn is_idle(&self) -> bool {
        self.current.is_none() && self.waiting.is_empty()
    }

    /// Enqueues a virtual CPU. Returns whether this CPU should check its queue, to choose again or
    /// to set its timer.
    ///
    /// # Errors
    /// [`NoSuchSlot`]; nothing has changed then.
    pub fn enqueue(&mut self, mut entity: Entity<'g>, now: u64) -> Result<bool, NoSuchSlot> {
        self.account(now);
        let (slot, idle) = (entity.slot, self.is_idle());
        let place = self.entities.get_mut(usize::from(slot)).ok_or(NoSuchSlot)?;
        match entity.home {
            Home::New => entity.vruntime = self.floor,
            Home::Same => {}
            Home::Moving { adrift } if idle => {
                // An idle queue takes the position of the new entity.
                self.offset = entity.vruntime.wrapping_sub(self.floor);
                entity.vruntime = self.floor;
                self.adrift = adrift;
            }
            Home::Moving { .. } => entity.vruntime = entity.vruntime.wrapping_sub(self.offset),
        }
        let credit = match entity.home {
            Home::Moving { .. } => entity.group.virtual_time(MOVE_CREDIT),
            Home::New | Home::Same => {
                entity.group.add_runnable();
                self.adrift |= idle;
                wake_credit(entity.group)
            }
        };
        entity.home = Home::Same;
        *place = Some(entity);
        Ok(match entity.group.resumes_at(now) {
            Some(resume) => self.capped.set(slot, resume),
            None => self.wait_with(slot, credit) || self.waiting.len() == 1,
        })
    }

    /// Removes a virtual CPU that waits or is capped, for instance because its partition stops.
    pub fn dequeue(&mut self, slot: u16) -> Option<Entity<'g>> {
        if !self.waiting.cancel(slot) && !self.capped.cancel(slot) {
            return None;
        }
        self.remove(slot)
    }

    /// Charges the current virtual CPU up to `now`.
    pub fn account(&mut self, now: u64) {
        let elapsed = now.saturating_sub(self.charged);
        self.charged = self.charged.max(now);
        if let Some(current) = self.current_entity() {
            current.charge(elapsed);
        }
        self.raise_floor();
    }

    /// Chooses the virtual CPU that runs from `now`. The current one, unless it left by
    /// [`Self::block_current`], competes with those that wait. Returns `None` if the CPU is idle.
    pub fn pick_next(&mut self, now: u64) -> Option<u16> {
        self.account(now);
        self.resume_capped(now);
        let due = self.preempt || self.yielded || now >= self.slice_end;
        let previous = self.current.and_then(|slot| self.cap(slot, now));
        let best = loop {
            match self.waiting.next() {
                Some((_, slot)) if self.cap(slot, now).is_none() => self.waiting.cancel(slot),
                best => break best,
            };
        };
        let keep = match (previous, best) {
            (Some(mine), Some((other, _))) => !due || !self.yielded && !before(other, mine),
            (mine, _) => mine.is_some(),
        };
        if !keep {
            self.replace_current(best.map(|(_, slot)| slot), previous);
        }
        if due || !keep {
            self.slice_end = now.saturating_add(SLICE);
        }
        (self.preempt, self.yielded) = (false, false);
        let group = self.current_entity().map(|entity| entity.group);
        self.budget_end = group.and_then(|group| group.look_at(now));
        self.raise_floor();
        self.current
    }

    /// Removes the current virtual CPU, which blocks or leaves. The caller keeps the entity.
    pub fn block_current(&mut self, now: u64) -> Option<Entity<'g>> {
        self.account(now);
        let slot = self.current.take()?;
        self.remove(slot)
    }

    /// Makes the current virtual CPU yield once: a waiting one runs in its place for a slice.
    pub fn yield_current(&mut self, now: u64) {
        self.account(now);
        self.yielded = !self.waiting.is_empty();
    }

    /// Returns whether this CPU should choose again now.
    pub fn should_preempt(&mut self, now: u64) -> bool {
        self.account(now);
        let chosen = self.current.is_some() || self.waiting.is_empty();
        !chosen || self.preempt || self.yielded || self.next_event().is_some_and(|at| now >= at)
    }

    /// The time at which this CPU should choose again: the end of the slice if others wait, the end
    /// of the budget, or the end of a cap. Returns `None` if none of these can come.
    #[must_use]
    pub fn next_event(&self) -> Option<u64> {
        let (running, never) = (self.current.is_some(), u64::MAX);
        let slice = if running && !self.waiting.is_empty() { self.slice_end } else { never };
        let budget = self.budget_end.filter(|_| running).unwrap_or(never);
        let next = self.capped.next().map_or(never, |(at, _)| at).min(slice).min(budget);
        (next != never).then_some(next)
    }

    pub(crate) fn entity(&mut self, slot: u16) -> Option<&mut Entity<'g>> {
        self.entities.get_mut(usize::from(slot))?.as_mut()
    }

    fn current_entity(&mut self) -> Option<&mut Entity<'g>> {
        self.current.and_then(|slot| self.entity(slot))
    }

    /// Removes an entity that no longer runs, waits or is capped.
    fn remove(&mut self, slot: u16) -> Option<Entity<'g>> {
        let entity = self.entities.get_mut(usize::from(slot))?.take()?;
        entity.group.remove_runnable();
        Some(entity)
    }

    /// The virtual time of an entity whose partition may continue. If it has used up its cap, moves
    /// it to the capped entities and returns `None`.
    fn cap(&mut self, slot: u16, now: u64) -> Option<u64> {
        let entity = self.entity(slot)?;
        let vruntime = entity.vruntime;
        let Some(resume) = entity.group.resumes_at(now) else {
            return Some(vruntime);
        };
        self.capped.set(slot, resume);
        if self.current == Some(slot) {
            self.current = None;
        }
        None
    }

    /// Enqueues the virtual CPUs whose partition has budget again.
    fn resume_capped(&mut self, now: u64) {
        while let Some(slot) = self.capped.pop_expired(now) {
            self.adrift |= self.is_idle();
            let credit = self.entity(slot).map_or(0, |entity| wake_credit(entity.group));
            self.wait_with(slot, credit);
        }
    }

    /// Makes an entity wait, at most `credit` virtual nanoseconds before the queue, and not far
    /// behind it. Returns whether the current entity must yield soon.
    fn wait_with(&mut self, slot: u16, credit: u64) -> bool {
        let (floor, current) = (self.floor, self.current_entity().map(|e| e.vruntime));
        let Some(entity) = self.entity(slot) else {
            return false;
        };
        let oldest = floor.wrapping_sub(credit);
        let latest = floor.wrapping_add(entity.group.virtual_time(2 * SLICE));
        if before(entity.vruntime, oldest) {
            entity.vruntime = oldest;
        } else if before(latest, entity.vruntime) {
            entity.vruntime = latest;
        }
        let vruntime = entity.vruntime;
        let enough = vruntime.wrapping_add(WAKE_GRANULARITY);
        self.waiting.set(slot, vruntime);
        let preempts = current.is_none_or(|current| before(enough, current));
        self.preempt |= preempts;
        // An entity that is at least as entitled does not wait for a whole slice.
        let soon = current.is_some_and(|current| !before(current, vruntime));
        if soon {
            self.slice_end = self.slice_end.min(self.charged.saturating_add(WAKE_GRANULARITY));
        }
        preempts || soon
    }

    /// Makes `next` current. If `previous` is a virtual time, the old current entity waits at it.
    fn replace_current(&mut self, next: Option<u16>, previous: Option<u64>) {
        if let (Some(slot), Some(vruntime)) = (self.current, previous) {
            self.waiting.set(slot, vruntime);
        }
        self.current = next;
        if let Some(slot) = next {
            self.waiting.cancel(slot);
        }
    }

    /// Raises the queue's virtual time to the least of all entities that run or wait.
    fn raise_floor(&mut self) {
        let current = self.current_entity().map(|e| e.vruntime);
        let waiting = self.waiting.next().map(|(key, _)| key);
        let least = match (current, waiting) {
            (Some(a), Some(b)) => Some(if before(b, a) { b } else { a }),
            (a, b) => a.or(b),
        };
        if let Some(least) = least.filter(|least| before(self.floor, *least)) {
            self.floor = least;
        }
    }
}
