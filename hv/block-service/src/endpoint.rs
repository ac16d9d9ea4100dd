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

/// The reason why an endpoint cannot be served as it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// The ring is broken. The caller detaches the client with this cause.
    Ring(Broken),
    /// A request that no front end may make, and that must not be answered with an error. The caller
    /// detaches the client with this cause.
    Request(Refusal),
    /// A flush has failed too often, so data that the client wrote may not be durable. Flushes are
    /// not answered any more; other requests are. Reported once.
    Flush,
}

/// The parts of an endpoint that its caller owns.
#[derive(Debug)]
pub struct Parts<'p, P, M: RingMemory> {
    /// The journal's page.
    pub page: &'p P,
    /// The ring.
    pub ring: Ring<'p, M>,
    /// The sectors that the client reaches.
    pub layout: Layout<'p>,
    /// The features that the client was offered. The number of sectors is that of the layout.
    pub features: Features,
}

impl<P, M: RingMemory> Parts<'_, P, M> {
    /// The features that the client was offered, as far as requests of this size can be served.
    fn offered(&self) -> Features {
        let most = u16::try_from(SEGMENTS_OFFERED).unwrap_or(u16::MAX);
        let indirect_segments = self.features.indirect_segments.min(most);
        Features { sectors: self.layout.sectors(), indirect_segments, ..self.features }
    }
}

/// A client's ring that is being served.
#[derive(Debug)]
pub struct Endpoint {
    number: u32,
    journal: Journal,
    limiter: Limiter,
    /// The request of each entry.
    works: Vec<Work>,
    /// Entries that have begun: bits.
    begun: u32,
    /// Entries that have passed the limits and have not begun.
    admitted: u32,
    /// Entries of which the disks have not got all.
    waiting: u32,
    /// Entries whose requests are done and not answered.
    done: u32,
    /// Flushes that are never answered.
    given_up: u32,
    /// Whether a flush was given up.
    is_unsafe: bool,
    /// Whether a request waits for room in the table of pins.
    starved: bool,
}

/// The reason why requests that were taken do not begin.
enum Hindrance {
    /// The limits, until this time.
    Limit(u64),
    /// The table of pins is full.
    NoRoom,
}

impl Endpoint {
    /// An endpoint whose journal has started or was settled. What is taken is issued again. `number`
    /// is that of its pieces' tags.
    #[must_use]
    pub fn new(number: u32, journal: Journal, limiter: Limiter) -> Self {
        Self {
            number,
            journal,
            limiter,
            works: (0..ENTRIES).map(|_| Work::idle()).collect(),
            begun: 0,
            admitted: 0,
            waiting: 0,
            done: 0,
            given_up: 0,
            is_unsafe: false,
            starved: false,
        }
    }

    /// Answers the requests that are done, takes requests from the ring, as far as entries and
    /// limits allow, and gives the disks their pieces, as far as the disks have room. If work is
    /// left, returns the time at which the caller has to call again without an event. The caller
    /// calls this after an event of the client, after [`Endpoint::ended`], and after the end of any
    /// endpoint's piece while this endpoint [waits for room](Endpoint::waits_for_room).
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
        self.go_on(parts, client, disks)?;
        // A client that sends faster than this serves gets another turn.
        for _ in 0..parts.ring.size().slots() {
            if self.journal.taken() & !self.begun == 0 && !self.take(parts)? {
                return Ok(None);
            }
            match self.begin_taken(parts, client, disks, now)? {
                Some(Hindrance::Limit(ready)) => return Ok(Some(ready)),
                Some(Hindrance::NoRoom) => return Ok(None),
                None => {}
            }
            self.answer(parts, client, disks)?;
            if self.begun.count_ones() == ENTRIES {
                // The next completion makes room.
                return Ok(None);
            }
        }
        Ok(Some(now))
    }

    /// Continues with the requests that were taken, and takes no more. Returns whether all requests
    /// that can be answered are answered, and nothing is in flight. The caller calls this when it
    /// calls [`Endpoint::serve`], and at the time `now` that a limit asks for.
    ///
    /// # Errors
    /// See [`Trouble`].
    pub fn finish<P: JournalPage, M: RingMemory>(
        &mut self,
        parts: &Parts<'_, P, M>,
        client: &mut impl Client,
        disks: &mut impl Disks,
    ) -> Result<bool, Trouble> {
        self.go_on(parts, client, disks)?;
        // What the limits hold back passes: it is not more than a journal's page.
        self.admitted = self.journal.taken();
        self.begin_taken(parts, client, disks, u64::MAX)?;
        self.answer(parts, client, disks)?;
        Ok(self.journal.taken() & !self.given_up == 0 && self.in_flight() == 0)
    }

    /// Notes the end of a piece. The caller serves the endpoint afterwards.
    pub fn ended(&mut self, entry: u32, outcome: Outcome) {
        if self.begun & bit(entry) != 0
            && let Some(work) = self.works.get_mut(entry as usize)
        {
            work.ended(outcome);
            self.done |= if work.is_done() { bit(entry) } else { 0 };
        }
    }

    /// Whether something waits for room in a queue or in the table of pins, which the end of any
    /// endpoint's piece can make.
    #[must_use]
    pub const fn waits_for_room(&self) -> bool {
        self.starved || self.waiting != 0
    }

    /// Number of requests that have begun and are not answered.
    #[must_use]
    pub const fn in_use(&self) -> u32 {
        self.begun.count_ones()
    }

    /// Number of pieces in flight: while there are any, disks reach pages of the client.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.works.iter().map(Work::flying).sum()
    }

    /// The journal, to detach the client.
    #[must_use]
    pub const fn journal(&self) -> Journal {
        self.journal
    }

    /// Drops all pins of a client that is detached, after the disks have ended its pieces or were
    /// reset.
    pub fn drop_all(&mut self, client: &mut impl Client) {
        for work in &mut self.works {
            work.unpin(client);
        }
        (self.begun, self.waiting, self.done, self.starved) = (0, 0, 0, false);
    }

    /// Gives the disks the pieces for which they had no room, and answers the requests that are
    /// done.
    fn go_on<P: JournalPage, M: RingMemory>(
        &mut self,
        parts: &Parts<'_, P, M>,
        client: &mut impl Client,
        disks: &mut impl Disks,
    ) -> Result<(), Trouble> {
        for entry in bits(self.waiting) {
            self.submit(parts, entry, disks);
        }
        self.answer(parts, client, disks)
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

    /// Begins the requests that were taken, up to the first that has to wait.
    fn begin_taken<P: JournalPage, M: RingMemory>(
        &mut self,
        parts: &Parts<'_, P, M>,
        client: &mut impl Client,
        disks: &mut impl Disks,
        now: u64,
    ) -> Result<Option<Hindrance>, Trouble> {
        self.starved = false;
        for entry in bits(self.journal.taken() & !self.begun) {
            if self.admitted & bit(entry) == 0
                && let Err(ready) = self.admit(parts, entry, now)
            {
                return Ok(Some(Hindrance::Limit(ready)));
            }
            // A request that waits for room is not charged twice.
            self.admitted |= bit(entry);
            if !self.begin(parts, entry, client, disks)? {
                self.starved = true;
                return Ok(Some(Hindrance::NoRoom));
            }
            self.admitted &= !bit(entry);
        }
        Ok(None)
    }

    /// Lets a request pass the limits.
    fn admit<P: JournalPage, M: RingMemory>(
        &mut self,
        parts: &Parts<'_, P, M>,
        entry: u32,
        now: u64,
    ) -> Result<(), u64> {
        if self.limiter == Limiter::default() {
            return Ok(());
        }
        let raw = self.journal.request(parts.page, entry);
        let checked = raw.and_then(|raw| block_ring::decode(&raw, &parts.offered()).ok());
        let sectors = match checked.map(|checked| checked.kind) {
            Some(block_ring::Kind::Transfer(transfer)) => u64::from(transfer.sectors),
            // Its segments are not read yet: charged as full pages.
            Some(block_ring::Kind::Indirect(indirect)) => u64::from(indirect.segments) * 8,
            _ => 0,
        };
        self.limiter.admit(sectors * u64::from(SECTOR_BYTES), now)
    }

    /// Begins a request. Returns `false` if there is no room for its pins.
    fn begin<P: JournalPage, M: RingMemory>(
        &mut self,
        parts: &Parts<'_, P, M>,
        entry: u32,
        client: &mut impl Client,
        disks: &mut impl Disks,
    ) -> Result<bool, Trouble> {
        let raw = self.journal.request(parts.page, entry);
        let (Some(raw), Some(work)) = (raw, self.works.get_mut(entry as usize)) else {
            return Ok(true);
        };
        let status = match work.begin(&raw, &parts.offered(), client) {
            Ok(()) => {
                self.begun |= bit(entry);
                if self.is_unsafe && work.is_flush() {
                    self.given_up |= bit(entry);
                } else {
                    self.submit(parts, entry, disks);
                }
                return Ok(true);
            }
            Err(Stop::NoRoom) => return Ok(false),
            Err(Stop::Refused(refusal)) => refusal.status().ok_or(Trouble::Request(refusal))?,
            Err(Stop::Grant) => STATUS_ERROR,
        };
        self.publish(parts, &[Answer { entry, status }], client);
        Ok(true)
    }

    fn submit<P: JournalPage, M: RingMemory>(
        &mut self,
        parts: &Parts<'_, P, M>,
        entry: u32,
        disks: &mut impl Disks,
    ) {
        let tag = Tag { endpoint: self.number, entry };
        if let Some(work) = self.works.get_mut(entry as usize) {
            let all = work.submit(&parts.layout, disks, tag);
            self.waiting = self.waiting & !bit(entry) | if all { 0 } else { bit(entry) };
            // A flush that the disks do not need is done at once.
            self.done |= if work.is_done() { bit(entry) } else { 0 };
        }
    }

    /// Answers all requests that are done.
    fn answer<P: JournalPage, M: RingMemory>(
        &mut self,
        parts: &Parts<'_, P, M>,
        client: &mut impl Client,
        disks: &mut impl Disks,
    ) -> Result<(), Trouble> {
        if self.done == 0 {
            return Ok(());
        }
        let mut answers = [Answer { entry: 0, status: 0 }; ENTRIES as usize];
        let mut count = 0;
        let was_unsafe = self.is_unsafe;
        for entry in bits(core::mem::take(&mut self.done) & self.begun & !self.given_up) {
            let Some(work) = self.works.get_mut(entry as usize) else { continue };
            while work.is_done() {
                let is_void = self.is_unsafe && work.is_flush();
                match if is_void { Some(true) } else { work.flush_again() } {
                    Some(true) => {
                        self.is_unsafe = true;
                        self.given_up |= bit(entry);
                        break;
                    }
                    Some(false) => {
                        let tag = Tag { endpoint: self.number, entry };
                        if !work.submit(&parts.layout, disks, tag) {
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
        if self.is_unsafe && !was_unsafe { Err(Trouble::Flush) } else { Ok(()) }
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
