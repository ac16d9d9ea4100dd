//! The run queue of a physical CPU: the runnable virtual CPU with the least virtual time runs.
//!
//! Rules:
//! * The one that runs is *current* and not in the queue. It is charged by
//!   [`RunQueue::account`], which every other operation with a time does first.
//! * A slice lasts [`SLICE`]; at its end the current one yields to any with less virtual time.
//! * A virtual CPU that slept is placed at most [`WAKE_CREDIT`] before the queue's virtual time,
//!   so that sleep cannot be saved up, and preempts the current one when it is ahead of it by
//!   [`WAKE_GRANULARITY`].
//! * The queue's virtual time (`floor`) never runs backwards, and nobody is enqueued before
//!   `floor - WAKE_CREDIT`: all that wait get their turn.

use crate::entity::{Entity, Home, before};

/// Nanoseconds a virtual CPU runs before it yields to an equal.
pub const SLICE: u64 = 4_000_000;
/// Virtual nanoseconds that a sleeper may be ahead of the queue when it wakes.
pub const WAKE_CREDIT: u64 = 2_000_000;
/// Virtual nanoseconds by which a waking virtual CPU must be ahead to preempt at once.
pub const WAKE_GRANULARITY: u64 = 500_000;

/// The queue has no room for another virtual CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// The run queue of one physical CPU, with room for `N` waiting virtual CPUs.
#[derive(Clone, Debug)]
pub struct RunQueue<const N: usize> {
    cpu: u16,
    /// Virtual time of the queue: the least of all, made monotonic.
    floor: u64,
    current: Option<Entity>,
    /// When the current one was last charged.
    charged: u64,
    /// When its slice ends.
    slice_end: u64,
    /// Set by an enqueue that preempts the current one.
    preempt: bool,
    waiting: [Option<Entity>; N],
    len: usize,
}

impl<const N: usize> RunQueue<N> {
    /// An empty queue for physical CPU `cpu`.
    #[must_use]
    pub const fn new(cpu: u16) -> Self {
        Self {
            cpu,
            floor: 0,
            current: None,
            charged: 0,
            slice_end: 0,
            preempt: false,
            waiting: [None; N],
            len: 0,
        }
    }

    /// Slot of the virtual CPU that runs.
    #[must_use]
    pub fn current(&self) -> Option<u16> {
        self.current.map(|e| e.slot)
    }

    /// How many wait.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether none waits.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many run or wait.
    #[must_use]
    pub fn load(&self) -> usize {
        self.len + usize::from(self.current.is_some())
    }

    /// Makes a virtual CPU wait for its turn. Returns whether this CPU should choose anew, since
    /// the newcomer preempts what runs or nothing runs.
    ///
    /// # Errors
    /// [`Full`] when `N` wait already; nothing changed.
    pub fn enqueue(&mut self, mut entity: Entity, now: u64) -> Result<bool, Full> {
        self.account(now);
        entity.vruntime = self.placement(&entity);
        entity.home = Home::Queue(self.cpu);
        self.insert(entity)?;
        let preempts = match &self.current {
            None => true,
            Some(current) => {
                before(entity.vruntime.wrapping_add(WAKE_GRANULARITY), current.vruntime)
            }
        };
        self.preempt |= preempts;
        Ok(preempts)
    }

    /// Takes a waiting virtual CPU out, for instance because its partition stops.
    pub fn dequeue(&mut self, slot: u16) -> Option<Entity> {
        let place = self.waiting_place(slot)?;
        self.remove(place)
    }

    /// Charges the current virtual CPU up to `now`.
    pub fn account(&mut self, now: u64) {
        let elapsed = now.saturating_sub(self.charged);
        self.charged = self.charged.max(now);
        if let Some(current) = &mut self.current {
            current.charge(elapsed);
        }
        self.raise_floor();
    }

    /// Chooses who runs from `now`. The current one, if it did not leave by
    /// [`Self::block_current`], competes with those that wait. `None`: the CPU is idle.
    pub fn pick_next(&mut self, now: u64) -> Option<u16> {
        self.account(now);
        self.preempt = false;
        let best = self.best_place();
        let keep = match (&self.current, best.and_then(|p| self.waiting_at(p))) {
            (Some(current), Some(other)) => !before(other.vruntime, current.vruntime),
            (Some(_), None) => true,
            (None, _) => false,
        };
        if !keep
            && let Some(next) = best.and_then(|place| self.remove(place))
            && let Some(previous) = self.current.replace(next)
        {
            // A place was freed just now, so there is room.
            let _ = self.insert(previous);
        }
        self.slice_end = now.saturating_add(SLICE);
        self.raise_floor();
        self.current()
    }

    /// The current virtual CPU blocks or leaves. The caller keeps the entity.
    pub fn block_current(&mut self, now: u64) -> Option<Entity> {
        self.account(now);
        self.current.take()
    }

    /// The current virtual CPU gives way once: everything that waits goes before it.
    pub fn yield_current(&mut self, now: u64) {
        self.account(now);
        let last = self.iter().map(|e| e.vruntime).reduce(|a, b| if before(a, b) { b } else { a });
        if let (Some(current), Some(last)) = (&mut self.current, last) {
            if before(current.vruntime, last.wrapping_add(1)) {
                current.vruntime = last.wrapping_add(1);
            }
            self.preempt = true;
        }
    }

    /// Whether this CPU should choose anew now.
    pub fn should_preempt(&mut self, now: u64) -> bool {
        self.account(now);
        if self.current.is_none() {
            return self.len > 0;
        }
        self.preempt || (self.len > 0 && now >= self.slice_end)
    }

    /// When the slice of the current one ends; `None` while nobody competes with it.
    #[must_use]
    pub fn slice_end(&self) -> Option<u64> {
        (self.len > 0 && self.current.is_some()).then_some(self.slice_end)
    }

    /// Gives the waiting virtual CPU that would run last and may run on `cpu` to that CPU, which
    /// enqueues it.
    pub fn steal(&mut self, cpu: u16) -> Option<Entity> {
        let mut found: Option<(usize, u64)> = None;
        for (place, entity) in self.iter().enumerate() {
            let later = found.is_none_or(|(_, v)| before(v, entity.vruntime));
            if later && entity.affinity.contains(cpu) {
                found = Some((place, entity.vruntime));
            }
        }
        let mut entity = self.remove(found?.0)?;
        entity.vruntime = entity.vruntime.wrapping_sub(self.floor);
        entity.home = Home::Moving;
        Some(entity)
    }

    /// Changes weight and affinity of a virtual CPU that runs or waits here. Returns whether it
    /// was found.
    pub fn change(&mut self, slot: u16, now: u64, change: impl FnOnce(&mut Entity)) -> bool {
        self.account(now);
        let place = self.waiting_place(slot);
        let found = match (&mut self.current, place) {
            (Some(current), _) if current.slot == slot => Some(current),
            (_, Some(place)) => self.waiting.get_mut(place).and_then(Option::as_mut),
            _ => None,
        };
        found.map(change).is_some()
    }

    /// Virtual time at which an arriving entity starts.
    fn placement(&self, entity: &Entity) -> u64 {
        let oldest = self.floor.wrapping_sub(WAKE_CREDIT);
        let wanted = match entity.home {
            Home::Queue(cpu) if cpu == self.cpu => entity.vruntime,
            Home::Moving => self.floor.wrapping_add(entity.vruntime),
            Home::Queue(_) | Home::New => self.floor,
        };
        if before(wanted, oldest) { oldest } else { wanted }
    }

    /// Moves the queue's virtual time up to the least of all that run or wait.
    fn raise_floor(&mut self) {
        let least = (self.iter().chain(&self.current))
            .map(|e| e.vruntime)
            .reduce(|a, b| if before(b, a) { b } else { a });
        if let Some(least) = least
            && before(self.floor, least)
        {
            self.floor = least;
        }
    }

    fn iter(&self) -> impl Iterator<Item = &Entity> {
        self.waiting.iter().take(self.len).flatten()
    }

    fn waiting_at(&self, place: usize) -> Option<&Entity> {
        self.waiting.get(place)?.as_ref()
    }

    fn waiting_place(&self, slot: u16) -> Option<usize> {
        self.iter().position(|e| e.slot == slot)
    }

    fn best_place(&self) -> Option<usize> {
        let mut best: Option<(usize, u64)> = None;
        for (place, entity) in self.iter().enumerate() {
            if best.is_none_or(|(_, v)| before(entity.vruntime, v)) {
                best = Some((place, entity.vruntime));
            }
        }
        best.map(|(place, _)| place)
    }

    fn insert(&mut self, entity: Entity) -> Result<(), Full> {
        *self.waiting.get_mut(self.len).ok_or(Full)? = Some(entity);
        self.len += 1;
        Ok(())
    }

    /// Takes out the entity at `place` and keeps the rest in the order of arrival, so that among
    /// equals the one that waits longest is first.
    fn remove(&mut self, place: usize) -> Option<Entity> {
        let taken = self.waiting.get_mut(place)?.take()?;
        if let Some(tail) = self.waiting.get_mut(place..self.len) {
            tail.rotate_left(1);
            self.len -= 1;
        }
        Some(taken)
    }
}
