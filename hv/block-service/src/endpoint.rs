//! One client's ring.

use crate::work::{SEGMENTS_OFFERED, Stop, Work};
use crate::{Client, Disks};
use alloc::vec::Vec;
use block_ring::{Broken, Features, Refusal, Ring, RingMemory};
use extents::Layout;
use journal::{Answer, ENTRIES, Journal, JournalPage};
use pv_abi::xen::block::STATUS_ERROR;
use rate::Limiter;
use virtio::drive::{Outcome, SECTOR_BYTES};

/// Names a piece: the endpoint and the entry of its journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tag {
    /// The endpoint.
    pub endpoint: u32,
    /// The entry.
    pub entry: u32,
}

/// Why an endpoint cannot be served any longer. The caller detaches the client with this cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// The ring is broken.
    Ring(Broken),
    /// A request that no front end may make, and that must not be answered with an error.
    Request(Refusal),
    /// A flush has failed too often: what the client wrote may not be durable.
    Flush,
}

/// The parts of an endpoint that live outside of it.
#[derive(Debug)]
pub struct Parts<'p, P, M: RingMemory> {
    /// The journal's page.
    pub page: &'p P,
    /// The ring.
    pub ring: Ring<'p, M>,
}

/// A client's ring that is being served.
#[derive(Debug)]
pub struct Endpoint<'e> {
    number: u32,
    journal: Journal,
    layout: Layout<'e>,
    features: Features,
    limiter: Limiter,
    /// The request of each entry.
    works: Vec<Work>,
    /// Entries that have begun: bits.
    begun: u32,
    /// Entries of which the disks have not got all.
    waiting: u32,
}

impl<'e> Endpoint<'e> {
    /// An endpoint whose journal has started or was settled. What is taken is issued again.
    #[must_use]
    pub fn new(
        number: u32,
        journal: Journal,
        layout: Layout<'e>,
        features: Features,
        limiter: Limiter,
    ) -> Self {
        let offered = u16::try_from(SEGMENTS_OFFERED).unwrap_or(u16::MAX);
        let indirect_segments = features.indirect_segments.min(offered);
        let features = Features { indirect_segments, ..features };
        let works = (0..ENTRIES).map(|_| Work::idle()).collect();
        Self { number, journal, layout, features, limiter, works, begun: 0, waiting: 0 }
    }

    /// Takes requests from the ring, as far as entries and limits allow, and gives the disks what
    /// they take. Returns the time at which it is to be called again without an event, if it left
    /// something. The caller calls it after an event of the client, and after [`Endpoint::ended`].
    ///
    /// # Errors
    /// See [`Trouble`].
    pub fn serve<P: JournalPage, M: RingMemory>(
        &mut self,
        parts: &Parts<'_, P, M>,
        client: &mut impl Client,
        disks: &mut impl Disks,
        now: u64,
    ) -> Result<Option<u64>, Trouble> {
        for entry in bits(self.waiting) {
            self.submit(entry, disks);
        }
        self.answer(parts, client, disks)?;
        // A client that sends faster than this serves gets another turn.
        for _ in 0..parts.ring.size().slots() {
            if self.journal.taken() & !self.begun == 0 && !self.take(parts)? {
                return Ok(None);
            }
            for entry in bits(self.journal.taken() & !self.begun) {
                if let Err(ready) = self.admit(parts, entry, now) {
                    return Ok(Some(ready));
                }
                self.begin(parts, entry, client, disks)?;
            }
            self.answer(parts, client, disks)?;
            if self.begun.count_ones() == ENTRIES {
                // The next completion makes room.
                return Ok(None);
            }
        }
        Ok(Some(now))
    }

    /// Notes the end of a piece, and answers what is done.
    ///
    /// # Errors
    /// See [`Trouble`].
    pub fn ended<P: JournalPage, M: RingMemory>(
        &mut self,
        parts: &Parts<'_, P, M>,
        (entry, outcome): (u32, Outcome),
        client: &mut impl Client,
        disks: &mut impl Disks,
    ) -> Result<(), Trouble> {
        if self.begun & bit(entry) != 0
            && let Some(work) = self.works.get_mut(entry as usize)
        {
            work.ended(outcome);
        }
        self.answer(parts, client, disks)
    }

    /// Number of pieces and requests that keep pages of the client: 0 once nothing of it is in use.
    #[must_use]
    pub const fn in_use(&self) -> u32 {
        self.begun.count_ones()
    }

    /// The journal, to detach the client.
    #[must_use]
    pub const fn journal(&self) -> Journal {
        self.journal
    }

    /// Drops all pins of a client that is going, after the disks have ended its pieces or were
    /// reset.
    pub fn drop_all(&mut self, client: &mut impl Client) {
        for work in &mut self.works {
            work.unpin(client);
        }
        (self.begun, self.waiting) = (0, 0);
    }

    /// Takes requests from the ring; if there are none, asks for an event and looks again. Returns
    /// whether there were any.
    fn take<P: JournalPage, M: RingMemory>(
        &mut self,
        parts: &Parts<'_, P, M>,
    ) -> Result<bool, Trouble> {
        let mut take = || {
            let taken = self.journal.take(parts.page, &parts.ring, ENTRIES);
            taken.map(|entries| entries != 0).map_err(Trouble::Ring)
        };
        if take()? {
            return Ok(true);
        }
        parts.ring.ask_for_event(self.journal.cursor().consumed);
        let taken = self.journal.take(parts.page, &parts.ring, ENTRIES);
        taken.map(|entries| entries != 0).map_err(Trouble::Ring)
    }

    /// Lets a request pass the limits.
    fn admit<P: JournalPage, M: RingMemory>(
        &mut self,
        parts: &Parts<'_, P, M>,
        entry: u32,
        now: u64,
    ) -> Result<(), u64> {
        let raw = self.journal.request(parts.page, entry);
        let checked = raw.and_then(|raw| block_ring::decode(&raw, &self.features).ok());
        let sectors = match checked.map(|checked| checked.kind) {
            Some(block_ring::Kind::Transfer(transfer)) => u64::from(transfer.sectors),
            // Its segments are not read yet: charged as full pages.
            Some(block_ring::Kind::Indirect(indirect)) => u64::from(indirect.segments) * 8,
            _ => 0,
        };
        self.limiter.admit(sectors * u64::from(SECTOR_BYTES), now)
    }

    fn begin<P: JournalPage, M: RingMemory>(
        &mut self,
        parts: &Parts<'_, P, M>,
        entry: u32,
        client: &mut impl Client,
        disks: &mut impl Disks,
    ) -> Result<(), Trouble> {
        let raw = self.journal.request(parts.page, entry);
        let (Some(raw), Some(work)) = (raw, self.works.get_mut(entry as usize)) else {
            return Ok(());
        };
        match work.begin(&raw, &self.features, client) {
            Ok(()) => {
                self.begun |= bit(entry);
                self.submit(entry, disks);
                Ok(())
            }
            Err(stop) => {
                let status = match stop {
                    Stop::Refused(refusal) => refusal.status().ok_or(Trouble::Request(refusal))?,
                    Stop::Grant => STATUS_ERROR,
                };
                self.publish(parts, &[Answer { entry, status }], client);
                Ok(())
            }
        }
    }

    fn submit(&mut self, entry: u32, disks: &mut impl Disks) {
        let tag = Tag { endpoint: self.number, entry };
        if let Some(work) = self.works.get_mut(entry as usize) {
            let all = work.submit(&self.layout, disks, tag);
            self.waiting = self.waiting & !bit(entry) | if all { 0 } else { bit(entry) };
        }
    }

    /// Answers all requests that are done.
    fn answer<P: JournalPage, M: RingMemory>(
        &mut self,
        parts: &Parts<'_, P, M>,
        client: &mut impl Client,
        disks: &mut impl Disks,
    ) -> Result<(), Trouble> {
        let mut answers = [Answer { entry: 0, status: 0 }; ENTRIES as usize];
        let mut count = 0;
        for entry in bits(self.begun) {
            let Some(work) = self.works.get_mut(entry as usize) else { continue };
            // A flush that the disks do not need is done at once.
            while work.is_done(&self.layout) {
                match work.flush_again() {
                    Some(true) => return Err(Trouble::Flush),
                    Some(false) => {
                        let tag = Tag { endpoint: self.number, entry };
                        if !work.submit(&self.layout, disks, tag) {
                            self.waiting |= bit(entry);
                        }
                    }
                    None => {
                        work.unpin(client);
                        answers[count] = Answer { entry, status: work.status() };
                        count += 1;
                        (self.begun, self.waiting) =
                            (self.begun & !bit(entry), self.waiting & !bit(entry));
                        break;
                    }
                }
            }
        }
        if count > 0 {
            self.publish(parts, &answers[..count], client);
        }
        Ok(())
    }

    fn publish<P: JournalPage, M: RingMemory>(
        &mut self,
        parts: &Parts<'_, P, M>,
        answers: &[Answer],
        client: &mut impl Client,
    ) {
        // Every entry is taken, and no flush has an error here.
        if let Ok(published) = self.journal.answer(parts.page, &parts.ring, answers)
            && parts.ring.event_owed(published.before, published.produced)
        {
            client.notify();
        }
    }
}

const fn bit(entry: u32) -> u32 {
    1 << (entry % ENTRIES)
}

/// The numbers of the bits that are set.
fn bits(mut word: u32) -> impl Iterator<Item = u32> {
    core::iter::from_fn(move || {
        let next = (word != 0).then(|| word.trailing_zeros())?;
        word &= word - 1;
        Some(next)
    })
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
