//! Which request comes next.

use crate::model::Model;
use crate::nodes::Offer;
use alloc::vec::Vec;
use core::ops::Range;
use fuzz_programs::Random;
use pv_abi::xen::block::{PAGE_SECTORS, SEGMENTS_MAX};

/// Maximum number of segments of an indirect request.
const INDIRECT_MOST: usize = 32;
const SECTORS: usize = PAGE_SECTORS as usize;

/// The operation of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    Read,
    Write,
    Flush,
    Discard,
}

/// A request to come. Its places are taken in the model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    pub what: What,
    pub indirect: bool,
    pub places: Range<usize>,
    /// First and last sector of each segment's page.
    pub segments: Vec<(u8, u8)>,
}

/// The part of the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Every place is written, or read if that is all that is allowed; the next place.
    Fill(usize),
    Mix,
    /// Every place is read.
    Verify(usize),
}

/// The source of requests: all places in order, then random requests, then all places again.
#[derive(Debug)]
pub struct Plan {
    random: Random,
    phase: Phase,
}

impl Plan {
    pub const fn new(seed: u64) -> Self {
        Self { random: Random::new(seed), phase: Phase::Fill(0) }
    }

    /// Whether requests are random now, for as long as the caller likes.
    pub fn mixes(&self) -> bool {
        self.phase == Phase::Mix
    }

    /// Ends the random requests.
    pub fn verify(&mut self) {
        self.phase = Phase::Verify(0);
    }

    /// Whether the plan has no further request.
    pub fn is_done(&self, model: &Model) -> bool {
        self.phase == Phase::Verify(model.places())
    }

    /// A random number from 1 to `most`.
    pub fn one_to(&mut self, most: u32) -> u32 {
        self.random.below(most.into()) as u32 + 1
    }

    pub fn once_in(&mut self, times: u64) -> bool {
        self.random.once_in(times)
    }

    /// The next request, if one is possible now with `pages` free pages.
    pub fn next(&mut self, offer: &Offer, model: &mut Model, pages: usize) -> Option<Planned> {
        match self.phase {
            Phase::Fill(place) => {
                let what = if offer.read_only { What::Read } else { What::Write };
                let (planned, next) = sweep(what, place, offer, model, pages)?;
                self.phase = if next < model.places() { Phase::Fill(next) } else { Phase::Mix };
                Some(planned)
            }
            Phase::Verify(place) => {
                let (planned, next) = sweep(What::Read, place, offer, model, pages)?;
                self.phase = Phase::Verify(next);
                Some(planned)
            }
            Phase::Mix => {
                const TRIES: usize = 6;
                (0..TRIES).find_map(|_| self.any(offer, model, pages))
            }
        }
    }

    /// A random request, if no request in flight conflicts with it.
    fn any(&mut self, offer: &Offer, model: &mut Model, pages: usize) -> Option<Planned> {
        let can_write = !offer.read_only;
        let what = match self.random.below(32) {
            0 if offer.flush && can_write => What::Flush,
            1 if can_write && offer.discard.is_some() => What::Discard,
            odd if odd % 2 == 1 && can_write => What::Write,
            _ => What::Read,
        };
        let (indirect, segments) = match what {
            What::Flush => {
                let (indirect, places, segments) = (false, 0..0, Vec::new());
                return Some(Planned { what, indirect, places, segments });
            }
            What::Discard => (false, Vec::new()),
            _ => self.segments(offer),
        };
        if segments.len() + usize::from(indirect) > pages {
            return None;
        }
        let (granule, length) = match what {
            What::Discard => {
                let granule = offer.discard?;
                (granule, granule * self.one_to(8) as usize)
            }
            _ => (offer.granule, segments.iter().map(count).sum()),
        };
        let places = self.place(granule, length, model)?;
        model.take(places.clone(), what != What::Read).then_some(())?;
        Some(Planned { what, indirect, places, segments })
    }

    /// Places for a request, all on one side of the middle.
    fn place(&mut self, granule: usize, length: usize, model: &Model) -> Option<Range<usize>> {
        let middle = model.middle();
        let side = if self.random.once_in(2) { 0..middle } else { middle..model.places() };
        let room = side.len().checked_sub(length)? / granule;
        let begin = side.start + granule * self.random.below(room as u64 + 1) as usize;
        Some(begin..begin + length)
    }

    /// Segments of whole and of broken pages.
    fn segments(&mut self, offer: &Offer) -> (bool, Vec<(u8, u8)>) {
        let indirect = offer.indirect > 0 && self.random.once_in(3);
        let most = if indirect { offer.indirect.min(INDIRECT_MOST) } else { SEGMENTS_MAX };
        let count = if self.random.once_in(4) { 1 } else { self.one_to(most as u32) };
        let whole = self.random.once_in(2);
        let granules = (SECTORS / offer.granule) as u64;
        let mut one = || {
            if whole || self.random.once_in(3) {
                return (0, PAGE_SECTORS - 1);
            }
            let first = self.random.below(granules);
            let last = first + self.random.below(granules - first);
            let granule = offer.granule as u64;
            ((first * granule) as u8, ((last + 1) * granule - 1) as u8)
        };
        (indirect, (0..count).map(|_| one()).collect())
    }
}

/// Number of sectors of a segment.
fn count(segment: &(u8, u8)) -> usize {
    usize::from(segment.1 - segment.0) + 1
}

/// The request of a sweep that begins at a place, and the place after it.
fn sweep(
    what: What,
    place: usize,
    offer: &Offer,
    model: &mut Model,
    pages: usize,
) -> Option<(Planned, usize)> {
    let end = if place < model.middle() { model.middle() } else { model.places() };
    let indirect = offer.indirect > SEGMENTS_MAX;
    let most = if indirect { offer.indirect.min(INDIRECT_MOST) } else { SEGMENTS_MAX };
    let next = end.min(place + most * SECTORS);
    if next == place || most + usize::from(indirect) > pages {
        return None;
    }
    model.take(place..next, what != What::Read).then_some(())?;
    let mut segments = alloc::vec![(0, PAGE_SECTORS - 1); (next - place).div_ceil(SECTORS)];
    if let (rest @ 1.., Some(last)) = ((next - place) % SECTORS, segments.last_mut()) {
        last.1 = rest as u8 - 1;
    }
    Some((Planned { what, indirect, places: place..next, segments }, next))
}
