//! The requests in flight, and the answers that they must get.

use crate::fault::Fault;
use crate::machine::{Machine, PAGE_WORDS};
use crate::model::{Known, Model};
use crate::nodes::Offer;
use crate::plan::{Plan, Planned, What};
use crate::pool::Pool;
use crate::ring::{Ring, SLOTS, Slot};
use crate::sector::SECTOR_WORDS;
use alloc::vec::Vec;
use core::ops::Range;
use core::sync::atomic::Ordering;
use pv_abi::xen::block::{
    DISCARD, DiscardRequest, FLUSH, INDIRECT, INDIRECT_PAGES_MAX, IndirectRequest, READ, Request,
    SEGMENTS_MAX, STATUS_OK, Segment, WRITE,
};

/// How long a request may wait for its answer, in nanoseconds.
pub const PATIENCE: u64 = 30_000_000_000;
/// A silence that is longer than this is reported, in nanoseconds.
pub const STALL: u64 = 50_000_000;
/// Stalls and flushes that are kept for [`Front::take_stalls`] and [`Front::take_flushes`].
const STALLS_KEPT: usize = 64;

/// When the random requests end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goal {
    /// The run ends after this number of requests.
    Requests(u64),
    /// The run ends at this system time, in nanoseconds.
    Time(u64),
}

/// Counts of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Answered requests.
    pub requests: u64,
    /// Answered reads.
    pub reads: u64,
    /// Answered writes.
    pub writes: u64,
    /// Answered flushes.
    pub flushes: u64,
    /// Answered discards.
    pub discards: u64,
    /// The longest time, in nanoseconds, in which a ring with requests in flight had no answer.
    pub longest_stall: u64,
}

/// A flush that was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flushed {
    /// Requests up to this number had been answered when it was made.
    pub covers: u32,
    /// Requests up to this number had been made when it was answered.
    pub made: u32,
}

/// The next thing that the caller of [`Front::step`] has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Call again at once.
    Again,
    /// Call again after an event, or after a second.
    Wait,
    /// Everything was done, and was right.
    Done,
}

/// A page of a request.
#[derive(Clone, Copy, Debug)]
struct Part {
    page: usize,
    segment: Segment,
    /// The place of its first sector.
    place: usize,
}

impl Part {
    fn sectors(&self) -> Range<usize> {
        self.segment.first_sect.into()..usize::from(self.segment.last_sect) + 1
    }

    fn words(&self) -> Range<usize> {
        let sectors = self.sectors();
        sectors.start * SECTOR_WORDS..sectors.end * SECTOR_WORDS
    }
}

/// A request in flight.
#[derive(Debug)]
struct Flight {
    what: What,
    places: Range<usize>,
    parts: Vec<Part>,
    /// The page with the segments.
    list: Option<usize>,
    /// The number of the request, from 1.
    number: u32,
    /// Requests up to this number had been answered when it was made.
    covers: u32,
    since: u64,
}

impl Flight {
    const fn operation(&self) -> u8 {
        match self.what {
            What::Read => READ,
            What::Write => WRITE,
            What::Flush => FLUSH,
            What::Discard => DISCARD,
        }
    }
}

#[derive(Debug)]
struct Queue {
    ring: Ring,
    /// The requests in flight, by id.
    flights: Vec<Option<Flight>>,
    /// Ids that nothing has; the last one is used next.
    ids: Vec<usize>,
    /// The time of the last answer, or of the first request after nothing was in flight.
    heard: u64,
}

impl Queue {
    /// Whether a ring has room for another request, if at most `depth` may be in flight.
    fn has_room(&self, depth: u32) -> bool {
        let busy = self.flights.len() - self.ids.len();
        busy < depth as usize && self.ring.in_flight() < SLOTS
    }
}

/// A front end at work.
#[derive(Debug)]
pub struct Front {
    offer: Offer,
    goal: Goal,
    depth: u32,
    depth_now: u32,
    plan: Plan,
    model: Model,
    pool: Pool,
    queues: Vec<Queue>,
    counts: Counts,
    issued: u32,
    stalls: Vec<(usize, u64)>,
    flushes: Vec<Flushed>,
}

impl Front {
    /// A front end on rings that were just connected, with the machine's pages for data and the
    /// number of requests that may be in flight on each ring.
    #[must_use]
    pub fn new(
        machine: &impl Machine,
        offer: Offer,
        model: Model,
        seed: u64,
        rings: &[Ring],
        pages: Range<usize>,
        (depth, goal): (u32, Goal),
    ) -> Self {
        let depth = depth.clamp(1, SLOTS);
        let queue = |ring: &Ring| Queue {
            ring: *ring,
            flights: (0..depth).map(|_| None).collect(),
            ids: (0..depth as usize).rev().collect(),
            heard: 0,
        };
        Self {
            offer,
            goal,
            depth,
            depth_now: depth,
            plan: Plan::new(seed),
            model,
            pool: Pool::new(machine, pages),
            queues: rings.iter().map(queue).collect(),
            counts: Counts::default(),
            issued: 0,
            stalls: Vec::new(),
            flushes: Vec::new(),
        }
    }

    /// The counts since the run began.
    #[must_use]
    pub const fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Number of requests in flight.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        let all = self.queues.iter().map(|queue| queue.flights.iter().flatten().count());
        all.sum::<usize>() as u32
    }

    /// Whether a ring has answers that were not taken.
    #[must_use]
    pub fn has_more_answers(&self, machine: &impl Machine, ring: usize) -> bool {
        let ring = self.queues.get(ring).map(|queue| &queue.ring);
        ring.is_some_and(|ring| ring.produced(machine) != ring.taken())
    }

    /// The stalls longer than [`STALL`] since they were taken: the ring and the nanoseconds.
    pub fn take_stalls(&mut self) -> Vec<(usize, u64)> {
        core::mem::take(&mut self.stalls)
    }

    /// The flushes that were answered since they were taken.
    pub fn take_flushes(&mut self) -> Vec<Flushed> {
        core::mem::take(&mut self.flushes)
    }

    /// The highest number such that all requests up to it were answered.
    fn answered(&self) -> u32 {
        let in_flight = self.queues.iter().flat_map(|queue| queue.flights.iter().flatten());
        in_flight.map(|flight| flight.number - 1).min().unwrap_or(self.issued)
    }

    /// Takes the answers that there are, and issues requests.
    ///
    /// # Errors
    /// What the back end did wrong. The front end is of no use any more.
    pub fn step(&mut self, machine: &impl Machine) -> Result<Step, Fault> {
        let mut some = false;
        for index in 0..self.queues.len() {
            some |= self.take_answers(machine, index)?;
        }
        some |= self.issue_all(machine)?;
        if self.plan.is_done(&self.model) && self.in_flight() == 0 {
            self.pool.check_all(machine)?;
            return Ok(Step::Done);
        }
        if some {
            return Ok(Step::Again);
        }
        for queue in &self.queues {
            queue.ring.ask_for_event(machine);
            if queue.ring.produced(machine) != queue.ring.taken() {
                return Ok(Step::Again);
            }
        }
        self.check_patience(machine.now())?;
        Ok(Step::Wait)
    }

    fn check_patience(&self, now: u64) -> Result<(), Fault> {
        for queue in &self.queues {
            for flight in queue.flights.iter().flatten() {
                let waited = now.saturating_sub(flight.since);
                if waited > PATIENCE {
                    let (ring, operation) = (queue.ring.number, flight.operation());
                    let sector = self.model.sector(flight.places.start);
                    return Err(Fault::Silent { ring, operation, sector, waited });
                }
            }
        }
        Ok(())
    }

    fn issue_all(&mut self, machine: &impl Machine) -> Result<bool, Fault> {
        let mut some = false;
        for index in 0..self.queues.len() {
            if self.plan.once_in(32) {
                self.depth_now = self.plan.one_to(self.depth);
            }
            while self.queues[index].has_room(self.depth_now) {
                let reached = match self.goal {
                    Goal::Requests(count) => u64::from(self.issued) >= count,
                    Goal::Time(end) => machine.now() >= end,
                };
                if self.plan.mixes() && reached {
                    self.plan.verify();
                }
                let pages = self.pool.spare();
                let Some(planned) = self.plan.next(&self.offer, &mut self.model, pages) else {
                    break;
                };
                self.issue(machine, index, planned)?;
                some = true;
            }
            self.queues[index].ring.publish(machine);
        }
        Ok(some)
    }

    /// Puts a request into a ring.
    fn issue(
        &mut self,
        machine: &impl Machine,
        index: usize,
        planned: Planned,
    ) -> Result<(), Fault> {
        let Planned { what, indirect, places, segments } = planned;
        let covers = if what == What::Flush { self.answered() } else { 0 };
        self.issued += 1;
        let mut parts = Vec::with_capacity(segments.len());
        let mut place = places.start;
        for (first_sect, last_sect) in segments {
            let Some(page) = self.pool.take(machine)? else { break };
            let gref = machine.grant(page, what == What::Read);
            let segment = Segment { gref, first_sect, last_sect, reserved: 0 };
            let part = Part { page, segment, place };
            if what == What::Write {
                self.fill(machine, &part);
            }
            place += part.sectors().len();
            parts.push(part);
        }
        let list = if indirect { self.pool.take(machine)? } else { None };
        let number = self.issued;
        let flight = Flight { what, places, parts, list, number, covers, since: machine.now() };
        let queue = &mut self.queues[index];
        if queue.ring.in_flight() == 0 {
            queue.heard = flight.since;
        }
        let id = queue.ids.pop().unwrap_or_default();
        let slot = slot_of(machine, &flight, id as u64, self.model.sector(flight.places.start));
        queue.ring.write(machine, &slot);
        queue.flights[id] = Some(flight);
        Ok(())
    }

    /// Fills a page with the data that a part of the next request writes.
    fn fill(&self, machine: &impl Machine, part: &Part) {
        let page = machine.page(part.page);
        for (sector, place) in part.sectors().zip(part.place..) {
            let words = self.model.contents(place, self.issued);
            for (to, word) in page[sector * SECTOR_WORDS..].iter().zip(words) {
                to.store(word, Ordering::Relaxed);
            }
        }
    }

    /// Takes the answers in a ring. Returns whether there were any.
    fn take_answers(&mut self, machine: &impl Machine, index: usize) -> Result<bool, Fault> {
        let queue = &mut self.queues[index];
        let (ring, produced) = (queue.ring.number, queue.ring.produced(machine));
        let (taken, in_flight) = (queue.ring.taken(), queue.ring.in_flight());
        let count = produced.wrapping_sub(taken);
        if count > in_flight {
            return Err(Fault::Answers { ring, produced, taken, in_flight });
        }
        if count == 0 {
            return Ok(false);
        }
        let now = machine.now();
        let silence = now.saturating_sub(queue.heard);
        queue.heard = now;
        self.counts.longest_stall = self.counts.longest_stall.max(silence);
        if silence > STALL && self.stalls.len() < STALLS_KEPT {
            self.stalls.push((ring, silence));
        }
        for _ in 0..count {
            self.take_answer(machine, index)?;
        }
        Ok(true)
    }

    fn take_answer(&mut self, machine: &impl Machine, index: usize) -> Result<(), Fault> {
        let queue = &mut self.queues[index];
        let ring = queue.ring.number;
        let answer = queue.ring.take(machine);
        let id = answer.id;
        let place = usize::try_from(id).ok().and_then(|id| queue.flights.get_mut(id));
        let flight = place.ok_or(Fault::NoSuchId { ring, id })?;
        let flight = flight.take().ok_or(Fault::NotWaiting { ring, id })?;
        queue.ids.push(id as usize);
        let asked = flight.operation();
        if answer.operation != asked {
            return Err(Fault::Operation { ring, id, asked, answered: answer.operation });
        }
        if answer.status != STATUS_OK {
            let sector = self.model.sector(flight.places.start);
            let (operation, status) = (asked, answer.status);
            return Err(Fault::Status { ring, operation, sector, status });
        }
        self.check(machine, ring, &flight)?;
        self.model.put(flight.places.clone());
        match flight.what {
            What::Write => self.model.set(flight.places, Known::Write(flight.number)),
            What::Discard => self.model.set(flight.places, Known::Undefined),
            What::Flush if self.flushes.len() < STALLS_KEPT => {
                self.flushes.push(Flushed { covers: flight.covers, made: self.issued });
            }
            What::Read | What::Flush => {}
        }
        self.counts.requests += 1;
        *match flight.what {
            What::Read => &mut self.counts.reads,
            What::Write => &mut self.counts.writes,
            What::Flush => &mut self.counts.flushes,
            What::Discard => &mut self.counts.discards,
        } += 1;
        Ok(())
    }

    /// Checks the pages of an answered request, and returns them to the pool.
    fn check(&mut self, machine: &impl Machine, ring: usize, flight: &Flight) -> Result<(), Fault> {
        let operation = flight.operation();
        let pages = flight.parts.iter().map(|part| part.page).chain(flight.list);
        for page in pages.clone() {
            if machine.in_use(page) || !machine.revoke(page) {
                return Err(Fault::InUse { ring, operation, page });
            }
        }
        for part in &flight.parts {
            let (page, own) = (part.page, part.words());
            for words in [0..own.start, own.end..PAGE_WORDS] {
                if let Some((word, _)) = self.pool.changed(machine, page, words) {
                    return Err(Fault::Beside { operation, page, word });
                }
            }
            for (sector, place) in part.sectors().zip(part.place..) {
                self.check_sector(machine, flight, page, sector, place)?;
            }
        }
        if let Some(page) = flight.list
            && let Some(word) = changed_list(machine, page, &flight.parts)
        {
            return Err(Fault::Beside { operation, page, word });
        }
        pages.for_each(|page| self.pool.put(machine, page));
        Ok(())
    }

    fn check_sector(
        &mut self,
        machine: &impl Machine,
        flight: &Flight,
        page: usize,
        sector: usize,
        place: usize,
    ) -> Result<(), Fault> {
        let words = &machine.page(page)[sector * SECTOR_WORDS..];
        let found = core::array::from_fn(|word| words[word].load(Ordering::Relaxed));
        if flight.what == What::Read {
            return self.model.check(place, &found);
        }
        let written = self.model.contents(place, flight.number);
        match found.iter().zip(&written).position(|(found, written)| found != written) {
            None => Ok(()),
            Some(word) => {
                let (operation, word) = (flight.operation(), sector * SECTOR_WORDS + word);
                Err(Fault::Beside { operation, page, word })
            }
        }
    }
}

/// The words of a segment in a list.
const fn segment_words(segment: &Segment) -> [u32; 2] {
    [segment.gref, segment.first_sect as u32 | (segment.last_sect as u32) << 8]
}

/// The first word of a list of segments that differs from the word that was written.
fn changed_list(machine: &impl Machine, page: usize, parts: &[Part]) -> Option<usize> {
    let written = parts.iter().flat_map(|part| segment_words(&part.segment));
    let found = machine.page(page).iter();
    found.zip(written).position(|(found, written)| found.load(Ordering::Relaxed) != written)
}

/// Makes the slot of a request. An indirect request's list of segments is written into the
/// request's page.
fn slot_of(machine: &impl Machine, flight: &Flight, id: u64, sector_number: u64) -> Slot {
    if let Some(page) = flight.list {
        let words = flight.parts.iter().flat_map(|part| segment_words(&part.segment));
        for (place, word) in machine.page(page).iter().zip(words) {
            place.store(word, Ordering::Relaxed);
        }
        let mut indirect_grefs = [0; INDIRECT_PAGES_MAX];
        indirect_grefs[0] = machine.grant(page, false);
        return indirect_slot(&IndirectRequest {
            operation: INDIRECT,
            indirect_op: flight.operation(),
            nr_segments: flight.parts.len() as u16,
            id,
            sector_number,
            indirect_grefs,
            ..IndirectRequest::default()
        });
    }
    if flight.what == What::Discard {
        let nr_sectors = flight.places.len() as u64;
        return discard_slot(&DiscardRequest {
            operation: DISCARD,
            id,
            sector_number,
            nr_sectors,
            ..DiscardRequest::default()
        });
    }
    let mut segments = [Segment::default(); SEGMENTS_MAX];
    for (place, part) in segments.iter_mut().zip(&flight.parts) {
        *place = part.segment;
    }
    let (operation, nr_segments) = (flight.operation(), flight.parts.len() as u8);
    let sector_number = if flight.what == What::Flush { 0 } else { sector_number };
    zerocopy::transmute!(Request {
        operation,
        nr_segments,
        id,
        sector_number,
        segments,
        ..Request::default()
    })
}

/// The slot of an indirect request.
pub fn indirect_slot(request: &IndirectRequest) -> Slot {
    let words: [u32; 16] = zerocopy::transmute!(*request);
    let mut slot = Slot::default();
    slot[..words.len()].copy_from_slice(&words);
    slot
}

fn discard_slot(request: &DiscardRequest) -> Slot {
    let words: [u32; 8] = zerocopy::transmute!(*request);
    let mut slot = Slot::default();
    slot[..words.len()].copy_from_slice(&words);
    slot
}
