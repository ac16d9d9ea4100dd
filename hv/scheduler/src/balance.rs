//! Moves between run queues, so that partitions get their shares of all CPUs together.
//!
//! A queue's *position* is its virtual time plus an offset, which makes all queues comparable: an
//! entity that moves keeps its position. Queues with fewer or lighter entities run ahead. A queue
//! with waiting entities gives the most entitled of them to a CPU that is ahead by [`MOVE_LEAD`] at
//! that entity's weight; there the entity runs first until it has caught up. So a partition that
//! may use several CPUs stays within about that time of its share, and no CPU idles while entities
//! wait.
//!
//! If affinity keeps entities from moving, positions drift apart. The difference decays slowly:
//! each pair of queues that meets closes it by 1 / [`FORGET`] every [`BALANCE`]. So a debt that
//! cannot be paid outlives its cause by seconds at most.

use crate::{
    entity::{Entity, Home},
    group::CpuMask,
    run_queue::RunQueue,
};

/// Nanoseconds between two moves away from a CPU.
pub const BALANCE: u64 = 10_000_000;
/// The lead of another CPU that makes an entity move there: nanoseconds at the entity's weight, but
/// at most this many virtual nanoseconds.
pub const MOVE_LEAD: u64 = 10_000_000;
/// Nanoseconds at its weight that a moved entity may be ahead of its new queue.
pub(crate) const MOVE_CREDIT: u64 = 16 * MOVE_LEAD;
/// The divisor by which differences of positions decay; see the module.
const FORGET: i64 = 128;

/// The lead of an idle CPU.
const IDLE: i64 = i64::MAX;

/// How far the CPUs `0..CPUS` are ahead of one CPU among them.
#[derive(Clone, Debug)]
pub struct Leads<const CPUS: usize> {
    lead: [i64; CPUS],
    known: CpuMask,
    /// The first lead noted for a CPU that is not idle.
    first: i64,
}

impl<const CPUS: usize> Default for Leads<CPUS> {
    fn default() -> Self {
        Self { lead: [0; CPUS], known: CpuMask([0; 4]), first: IDLE }
    }
}

impl<const CPUS: usize> Leads<CPUS> {
    /// Notes the lead of a CPU, as returned by [`RunQueue::lead`].
    pub fn note(&mut self, cpu: u32, lead: i64) {
        let word = self.known.0.get_mut(cpu as usize / 64);
        if let (Some(place), Some(word)) = (self.lead.get_mut(cpu as usize), word) {
            *place = lead;
            *word |= 1 << (cpu % 64);
        }
        if self.first == IDLE {
            self.first = lead;
        }
    }

    /// The CPU furthest ahead of `shift` that `entity` may move to, if it is far enough ahead.
    fn best(&self, entity: &Entity<'_>, shift: i64) -> Option<u32> {
        let allowed = entity.group.allowed();
        let known = CpuMask(core::array::from_fn(|n| {
            allowed.0.get(n).zip(self.known.0.get(n)).map_or(0, |(a, b)| a & b)
        }));
        if known.0 == [0; 4] {
            return None;
        }
        let cpus = (0u32..).zip(&self.lead).filter(|(cpu, _)| known.contains(*cpu));
        let (cpu, lead) = cpus.max_by_key(|(_, lead)| **lead)?;
        let enough = entity.group.virtual_time(MOVE_LEAD).min(MOVE_LEAD);
        let ahead = *lead == IDLE || u64::try_from(lead.wrapping_sub(shift)).ok()? > enough;
        ahead.then_some(cpu)
    }
}

impl<'g, const N: usize> RunQueue<'g, N> {
    /// If a move is due, at most once each [`BALANCE`], returns the position to pass to the other
    /// queues' [`Self::lead`].
    pub fn balance_from(&mut self, now: u64) -> Option<u64> {
        if self.waiting.is_empty() || now < self.balance_at {
            return None;
        }
        self.account(now);
        self.balance_at = now.saturating_add(BALANCE);
        Some(self.position())
    }

    fn position(&self) -> u64 {
        self.floor.wrapping_add(self.offset)
    }

    /// How far this queue is ahead of a `position` of another queue.
    pub fn lead(&mut self, position: u64, now: u64) -> i64 {
        self.account(now);
        if self.is_idle() {
            return IDLE;
        }
        if self.adrift {
            self.offset = position.wrapping_sub(self.floor);
            self.adrift = false;
        }
        let lead = self.position().wrapping_sub(position).cast_signed();
        if now >= self.adjusted.saturating_add(BALANCE) {
            self.adjusted = now;
            self.offset = self.offset.wrapping_sub((lead / FORGET).cast_unsigned());
        }
        lead
    }

    /// Removes the most entitled waiting entity that has a better CPU to go to. Returns it with
    /// that CPU. The caller enqueues the entity there.
    pub fn give<const CPUS: usize>(&mut self, leads: &Leads<CPUS>) -> Option<(Entity<'g>, u32)> {
        // A queue that was idle takes the position of the first other one.
        let shift = if self.adrift && leads.first != IDLE { leads.first } else { 0 };
        self.offset = self.offset.wrapping_add(shift.cast_unsigned());
        self.adrift = false;
        let (slot, cpu) = self.waiting.iter().find_map(|slot| {
            let entity = self.entities.get(usize::from(slot))?.as_ref()?;
            Some((slot, leads.best(entity, shift)?))
        })?;
        Some((self.send_off(slot)?, cpu))
    }

    /// Removes the most entitled waiting entity that may run on `cpu`, which is idle and enqueues
    /// it.
    pub fn steal(&mut self, cpu: u32) -> Option<Entity<'g>> {
        let slot = self.waiting.iter().find(|slot| {
            let entity = self.entities.get(usize::from(*slot)).and_then(Option::as_ref);
            entity.is_some_and(|e| e.group.allows(cpu))
        })?;
        self.send_off(slot)
    }

    fn send_off(&mut self, slot: u16) -> Option<Entity<'g>> {
        self.waiting.cancel(slot);
        let mut entity = self.entities.get_mut(usize::from(slot))?.take()?;
        entity.vruntime = entity.vruntime.wrapping_add(self.offset);
        entity.home = Home::Moving { adrift: self.adrift };
        Some(entity)
    }
}
