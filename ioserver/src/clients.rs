//! Clients: attaches their rings, serves them from disks, and detaches them.
//!
//! ```text
//! attach -> map rings and journals, bind ports -> start or settle journals -> Serving
//! Serving   -- a mistake of the client --> Stopped: told, waits for the detach
//!           -- detach ------------------> Detaching: takes nothing more, finishes -> Detached
//!           -- its function leaves -----> Leaving: drops all but the journal, for a successor
//! any       -- a reset is not confirmed -> held: nothing is answered, and no pin is dropped of what
//!              that function had in flight, so a detach does not end
//! ```
//!
//! # Rules
//! 1. An attach that fails leaves nothing.
//! 2. A pin is dropped, and a ring unmapped, only when no disk has a piece of it.
//! 3. A piece that a disk has not ended fails only after the disk's reset is confirmed.
//! 4. Nothing is allocated for a request. The rings of all clients together are at most [`RINGS`],
//!    and an attach is refused where the heap lacks room.
//! 5. Pins leave the map records for all these rings free. A request without room for its pins waits.

use crate::machine::Machine;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use block_ring::{Features, RingSize};
use block_service::{Client, Disks, Parts, Pin, SEGMENTS_OFFERED, Tag, Trouble, Unreached};
use control::io::{self, Attach, EndpointReport, Report};
use extents::{Extent, OwnLayout};
use journal::{Detaching, Found, Journal};
use partition_runtime::events::Port;
use partition_runtime::log;
use pv_abi::uv::channel::JOURNAL_PAGES;
use pv_abi::uv::database::ULTRAVISOR;
use pv_abi::xen::block::RING_ORDER_MAX;
use rate::Limiter;
use virtio::drive::Outcome;

/// Maximum number of rings of all clients: as many as the ultravisor has journal pages.
pub const RINGS: usize = JOURNAL_PAGES as usize;
/// Map records that the monitor keeps for a partition: those of pages that it maps or pins.
const RECORDS: usize = 3584;
/// Map records that stay free of pins: those of [`RINGS`] rings of the largest size with their
/// journals. An attach finds room, whatever clients do.
const RESERVE: usize = RINGS * ((1 << RING_ORDER_MAX) + 1);
/// Maximum number of pins of all clients.
const PINS: usize = RECORDS - RESERVE;
/// Bytes of the heap that a ring takes at most.
const RING_BYTES: usize = 48 << 10;
/// Bytes of the heap that stay free for orders and reports.
const ROOM: usize = 512 << 10;
/// Maximum number of rings that are served in a round of the event loop: a client may make as many
/// requests that are refused as its rings have slots, and orders must not wait for all of them.
const ROUND: usize = 8;
/// Nanoseconds after which a request without room is tried again, whatever ends meanwhile.
const RETRY: u64 = 1_000_000;

/// What became of a function that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It was broken, and its reset is confirmed: its pieces fail.
    Failed,
    /// Another I/O partition gets it, and its reset is confirmed: that partition answers the
    /// requests that are unanswered.
    Left,
    /// Its reset is not confirmed: it may still reach pages of clients.
    Unknown,
}

/// The clients of an I/O partition.
pub struct Clients<M: Machine> {
    /// The monitor.
    pub machine: M,
    endpoints: BTreeMap<u32, Endpoint>,
    /// The rings by their places, which are the numbers in tags.
    rings: Vec<Option<Ring<M::Pages>>>,
    /// The place of the ring of each port.
    ports: BTreeMap<Port, usize>,
    /// Bits: the places of rings that are to be served.
    due: u64,
    /// Bits: the places of rings that are served at a time of their own, and of rings that wait for
    /// room. A round costs nothing for the others.
    timed: u64,
    starved: u64,
    /// The place at which a round begins: after pieces have ended, behind that of the ring which was
    /// first the last time. So the first to get the room in a queue is another ring each time.
    first: u32,
    /// Whether a piece has ended.
    has_ended: bool,
    /// Whether a piece has ended, or a pin was dropped.
    has_room: bool,
    pins: Pins,
    reports: Vec<Report>,
    /// Functions that failed, with the reasons.
    failures: Vec<Report>,
    /// Functions for another I/O partition. Each is reported as left once no ring is on it.
    left: Vec<u32>,
}

/// The pins of all clients.
struct Pins {
    held: usize,
    most: usize,
    /// The rings that found no room, by their ports, the first at the front: it gets the next room. A
    /// ring that frees pins would take them again before another one sees them.
    waiting: VecDeque<Port>,
}

/// What a client's rings have in common.
struct Endpoint {
    incarnation: u64,
    client: u16,
    features: Features,
    layout: OwnLayout,
    phase: Phase,
}

impl Endpoint {
    /// Returns whether it has sectors on a function.
    fn touches(&self, function: u32) -> bool {
        self.layout.layout().extents().iter().any(|extent| extent.device == function)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Phase {
    Serving,
    /// A ring was stopped, for this reason.
    Stopped(String),
    Detaching,
    Leaving,
}

/// A client's ring.
struct Ring<P> {
    endpoint: u32,
    pages: P,
    journal: P,
    size: RingSize,
    port: Port,
    service: block_service::Endpoint,
    /// The journal's phase, once the detach has begun.
    detaching: Option<Detaching>,
    /// Whether requests of it can still be answered.
    answers: bool,
    /// Whether nothing of it is left to do before its pins are dropped.
    is_done: bool,
    /// The time at which it is to be looked at without an event.
    again: Option<u64>,
}

/// A client as its ring sees it.
struct Reach<'m, M> {
    machine: &'m mut M,
    all: &'m mut Pins,
    client: u16,
    port: Port,
}

impl<M: Machine> Client for Reach<'_, M> {
    fn pin(
        &mut self,
        grants: &[u32],
        disk_writes: bool,
        pins: &mut Vec<Pin>,
    ) -> Result<(), Unreached> {
        let held = self.all.held + grants.len();
        let kept = match self.all.waiting.front() {
            Some(port) if *port != self.port => SEGMENTS_OFFERED,
            _ => 0,
        };
        if held + kept > self.all.most {
            if !self.all.waiting.contains(&self.port) {
                self.all.waiting.push_back(self.port);
            }
            return Err(Unreached::NoRoom);
        }
        self.all.waiting.retain(|port| *port != self.port);
        self.machine.pin(self.client, grants, disk_writes, pins)?;
        self.all.held = held;
        Ok(())
    }
    fn unpin(&mut self, pins: &[Pin]) {
        self.all.held = self.all.held.saturating_sub(pins.len());
        self.machine.unpin(pins);
    }
    fn copy(&mut self, grant: u32, to: &mut [u64]) -> Result<(), Unreached> {
        self.machine.copy(self.client, grant, to)
    }
    fn notify(&mut self) {
        self.machine.notify(self.port);
    }
}

/// Pages and port of a ring that is being attached.
struct Prepared<P> {
    pages: P,
    journal: P,
    size: RingSize,
    port: Port,
}

impl<M: Machine> Clients<M> {
    /// Makes a value without clients.
    #[must_use]
    pub fn new(machine: M) -> Self {
        Self {
            machine,
            endpoints: BTreeMap::new(),
            rings: (0..RINGS).map(|_| None).collect(),
            ports: BTreeMap::new(),
            due: 0,
            timed: 0,
            starved: 0,
            first: 0,
            has_ended: false,
            has_room: false,
            pins: Pins { held: 0, most: PINS, waiting: VecDeque::with_capacity(RINGS) },
            reports: Vec::new(),
            failures: Vec::new(),
            left: Vec::new(),
        }
    }

    /// Takes the reports to be sent, in their order. Reports of endpoints come before *Failed*,
    /// after which the ultravisor may take them for reports of an earlier server. The caller calls
    /// [`Self::serve`] first.
    pub fn take_reports(&mut self) -> Vec<Report> {
        if self.reports.is_empty() && self.failures.is_empty() && self.left.is_empty() {
            return Vec::new();
        }
        let mut reports = core::mem::take(&mut self.reports);
        reports.append(&mut self.failures);
        let endpoints = &self.endpoints;
        let is_used = |function: u32| endpoints.values().any(|there| there.touches(function));
        let left = self.left.extract_if(.., |function| !is_used(*function));
        reports.extend(left.map(|index| Report::Left { index }));
        reports
    }

    /// Reports that a function failed.
    pub fn function_failed(&mut self, index: u32, reason: String) {
        log!("function {index}: {reason}");
        self.failures.push(Report::Failed { index, reason });
    }

    /// Reports that a function is left to another I/O partition, once all rings on it are.
    pub fn function_left(&mut self, index: u32) {
        if !self.left.contains(&index) {
            self.left.push(index);
        }
    }

    fn report(&mut self, endpoint: u32, incarnation: u64, report: EndpointReport) {
        match &report {
            EndpointReport::Refused { reason }
            | EndpointReport::Broken { reason }
            | EndpointReport::MediumFailed { reason } => log!("endpoint {endpoint}: {reason}"),
            _ => {}
        }
        self.reports.push(Report::Endpoint { endpoint, incarnation, report });
    }

    /// Notes an event of a port. Returns `false` if it is no client's.
    pub fn event(&mut self, port: Port) -> bool {
        let place = self.ports.get(&port);
        place.inspect(|&&place| self.due |= 1 << place).is_some()
    }

    /// Attaches a client. An attach that is repeated is reported again.
    pub fn attach(&mut self, attach: &Attach, disks: &impl Disks) {
        let (endpoint, incarnation) = (attach.endpoint, attach.incarnation);
        let report = match self.endpoints.get(&endpoint) {
            Some(there) if there.incarnation != incarnation => Err(format!(
                "its rings of incarnation {} are still attached; detach those",
                there.incarnation
            )),
            Some(there) => match &there.phase {
                Phase::Serving => Ok(None),
                Phase::Stopped(reason) => {
                    let reason = reason.clone();
                    self.report(endpoint, incarnation, EndpointReport::Attached);
                    self.report(endpoint, incarnation, EndpointReport::Broken { reason });
                    return;
                }
                // The report of its end answers.
                Phase::Detaching => return,
                Phase::Leaving => {
                    Err("its rings are still being left to another I/O partition; attach it again"
                        .into())
                }
            },
            None => self.try_attach(attach, disks),
        };
        match report {
            Ok(trouble) => {
                self.report(endpoint, incarnation, EndpointReport::Attached);
                if let Some(trouble) = trouble {
                    self.stop(endpoint, trouble);
                }
            }
            Err(reason) => self.report(endpoint, incarnation, EndpointReport::Refused { reason }),
        }
    }

    /// Returns the reason why the endpoint is to be stopped at once, if there is one.
    fn try_attach(
        &mut self,
        attach: &Attach,
        disks: &impl Disks,
    ) -> Result<Option<String>, String> {
        let layout = layout_of(&attach.extents, disks)?;
        let free = self.rings.iter().filter(|ring| ring.is_none()).count();
        if attach.rings.is_empty() || attach.rings.len() > free {
            let asked = attach.rings.len();
            return Err(format!("{asked} rings, and {free} of {RINGS} are free; detach a disk"));
        }
        if !self.machine.has_room(attach.rings.len() * RING_BYTES + ROOM) {
            return Err("the heap has no room for its rings; detach a disk".into());
        }
        let mut prepared = Vec::with_capacity(attach.rings.len());
        let made = attach.rings.iter().try_for_each(|ring| {
            prepared.push(self.prepare(attach.client, ring)?);
            Ok(())
        });
        let journals = made.and_then(|()| {
            prepared.iter().map(|ring| open_journal(ring, attach.incarnation)).collect()
        });
        let journals: Vec<(Journal, Option<String>)> = match journals {
            Ok(journals) => journals,
            Err(reason) => {
                prepared.into_iter().for_each(|ring| self.give_up(ring));
                return Err(reason);
            }
        };
        let features = Features {
            sectors: layout.layout().sectors(),
            read_only: attach.read_only,
            discard: attach.discard,
            indirect_segments: attach.indirect_segments,
        };
        let endpoint = Endpoint {
            incarnation: attach.incarnation,
            client: attach.client,
            features,
            layout,
            phase: Phase::Serving,
        };
        self.endpoints.insert(attach.endpoint, endpoint);
        let mut trouble = None;
        for (ring, (journal, broken)) in prepared.into_iter().zip(journals) {
            self.add(attach.endpoint, ring, journal, broken.is_none());
            trouble = trouble.or(broken);
        }
        Ok(trouble)
    }

    /// Maps the pages of a ring and binds its port. If one fails, does nothing.
    fn prepare(&mut self, client: u16, ring: &io::Ring) -> Result<Prepared<M::Pages>, String> {
        let count = ring.pages.len();
        let order = count.checked_ilog2().filter(|_| count.is_power_of_two());
        let size = order.and_then(RingSize::of_order);
        let size = size.ok_or_else(|| format!("a ring of {count} pages"))?;
        let pages = self.machine.map(client, &ring.pages)?;
        let ultravisor = u16::try_from(ULTRAVISOR).unwrap_or(u16::MAX);
        let journal = match self.machine.map(ultravisor, &[ring.journal]) {
            Ok(journal) => journal,
            Err(reason) => {
                self.machine.unmap(pages);
                return Err(format!("its journal: {reason}"));
            }
        };
        match self.machine.bind(client, ring.port) {
            Ok(port) => Ok(Prepared { pages, journal, size, port }),
            Err(reason) => {
                self.machine.unmap(journal);
                self.machine.unmap(pages);
                Err(reason)
            }
        }
    }

    fn give_up(&mut self, ring: Prepared<M::Pages>) {
        self.machine.close(ring.port);
        self.machine.unmap(ring.journal);
        self.machine.unmap(ring.pages);
    }

    /// Serves a ring from now on. Raises the event that a predecessor may owe.
    fn add(&mut self, endpoint: u32, ring: Prepared<M::Pages>, journal: Journal, answers: bool) {
        let Some(place) = self.rings.iter().position(Option::is_none) else { return };
        let number = u32::try_from(place).unwrap_or(u32::MAX);
        let Prepared { pages, journal: page, size, port } = ring;
        let produced = journal.cursor().produced;
        if answers && block_ring::Ring::new(&pages, size).event_owed_at_attach(produced) {
            self.machine.notify(port);
        }
        self.ports.insert(port, place);
        // What the client sent while nobody was bound raised no event.
        self.due |= 1 << place;
        self.rings[place] = Some(Ring {
            endpoint,
            pages,
            journal: page,
            size,
            port,
            service: block_service::Endpoint::new(number, journal, Limiter::default()),
            detaching: None,
            answers,
            is_done: false,
            again: None,
        });
    }

    /// Stops serving a client that has made a mistake, and reports it.
    fn stop(&mut self, endpoint: u32, reason: String) {
        let Some(there) = self.endpoints.get_mut(&endpoint) else { return };
        if there.phase == Phase::Serving {
            there.phase = Phase::Stopped(reason.clone());
            let incarnation = there.incarnation;
            self.report(endpoint, incarnation, EndpointReport::Broken { reason });
        }
    }

    /// Lets a client reach more sectors. If these cannot be served, the client reaches the sectors
    /// of before, and the report says so.
    pub fn resize(
        &mut self,
        (endpoint, incarnation): (u32, u64),
        extents: &[io::Extent],
        disks: &impl Disks,
    ) {
        let here = self.endpoints.get_mut(&endpoint);
        let Some(there) = here.filter(|there| there.incarnation == incarnation) else { return };
        let grown = layout_of(extents, disks).and_then(|grown| {
            extents::check_growth(&there.layout.layout(), &grown.layout())
                .map_err(|refused| format!("{refused:?}"))?;
            Ok(grown)
        });
        match grown {
            Ok(grown) => there.layout = grown,
            Err(reason) => log!("endpoint {endpoint}: it does not grow: {reason}"),
        }
        let sectors = there.layout.layout().sectors();
        there.features.sectors = sectors;
        self.report(endpoint, incarnation, EndpointReport::Resized { sectors });
    }

    /// Begins to detach a client; reports at once if nothing of it is attached.
    pub fn detach(&mut self, endpoint: u32, incarnation: u64) {
        let here = self.endpoints.get_mut(&endpoint);
        let Some(there) = here.filter(|there| there.incarnation == incarnation) else {
            self.report(endpoint, incarnation, EndpointReport::Detached);
            return;
        };
        there.phase = Phase::Detaching;
        for (place, ring) in rings_of(&mut self.rings, endpoint) {
            self.due |= 1 << place;
            let begin = || ring.service.journal().detach(&ring.journal);
            ring.detaching.get_or_insert_with(begin);
        }
    }

    /// Notes the end of a piece.
    pub fn ended(&mut self, tag: Tag, outcome: Outcome) {
        let place = tag.endpoint as usize;
        if let Some(ring) = self.rings.get_mut(place).and_then(Option::as_mut) {
            ring.service.ended(tag.entry, outcome);
            self.due |= 1 << place;
            self.has_ended = true;
            self.has_room = true;
        }
    }

    /// Notes that a function is no longer driven. `pieces` are the pieces that it had. If the
    /// function may still end them, `pieces` is empty, and they stay in flight for ever.
    pub fn function_ended(&mut self, function: u32, end: End, pieces: impl Iterator<Item = Tag>) {
        let touched = self.endpoints.iter().filter(|(_, there)| there.touches(function));
        let touched: Vec<u32> = touched.map(|(endpoint, _)| *endpoint).collect();
        for endpoint in touched.into_iter().filter(|_| end != End::Failed) {
            for (place, ring) in rings_of(&mut self.rings, endpoint) {
                ring.answers = false;
                self.due |= 1 << place;
            }
            if end == End::Unknown {
                let reason = format!(
                    "function {function} does not confirm its reset, and may still reach pages of \
                     the client: the rings are held"
                );
                self.stop(endpoint, reason);
            } else if let Some(there) = self.endpoints.get_mut(&endpoint)
                && there.phase != Phase::Detaching
            {
                there.phase = Phase::Leaving;
            }
        }
        pieces.for_each(|tag| self.ended(tag, Outcome::Failed));
    }

    /// Serves all rings that have an event, a piece that ended, or whose time has come. Returns the
    /// time of the next call without an event.
    pub fn serve(&mut self, disks: &mut impl Disks, now: u64) -> Option<u64> {
        let mut due = core::mem::take(&mut self.due);
        if core::mem::take(&mut self.has_room) {
            due |= self.starved;
        }
        due |= places(self.timed)
            .filter(|place| self.again(*place).is_some_and(|again| again <= now))
            .fold(0, |all, place| all | 1 << place);
        if !self.pins.waiting.is_empty() {
            let mut waiting = core::mem::take(&mut self.pins.waiting);
            waiting.retain(|port| self.waits_for_room(*port));
            self.pins.waiting = waiting;
        }
        let first = self.first;
        due = due.rotate_right(first);
        if core::mem::take(&mut self.has_ended) && due != 0 {
            self.first = (first + due.trailing_zeros() + 1) % u64::BITS;
        }
        for _ in 0..ROUND {
            if due == 0 {
                break;
            }
            let place = (first + due.trailing_zeros()) % u64::BITS;
            due &= due - 1;
            self.serve_ring(place as usize, disks, now);
        }
        if due != 0 {
            // The next round begins with those that were not served.
            self.first = (first + due.trailing_zeros()) % u64::BITS;
            self.due |= due.rotate_left(first);
        }
        // Room may have been made after the ring that waits for it was served.
        if self.due != 0 || self.has_room && self.starved != 0 {
            Some(now)
        } else {
            places(self.timed).filter_map(|place| self.again(place)).min()
        }
    }

    /// The time at which the ring at a place is to be looked at without an event.
    fn again(&self, place: usize) -> Option<u64> {
        self.rings.get(place)?.as_ref()?.again
    }

    /// Whether the ring of a port will ask for room again.
    fn waits_for_room(&self, port: Port) -> bool {
        let ring = self.ports.get(&port).and_then(|place| self.rings.get(*place)?.as_ref());
        ring.filter(|ring| ring.answers && ring.service.waits_for_room()).is_some_and(|ring| {
            let there = self.endpoints.get(&ring.endpoint);
            there.is_some_and(|there| matches!(there.phase, Phase::Serving | Phase::Detaching))
        })
    }

    fn serve_ring(&mut self, place: usize, disks: &mut impl Disks, now: u64) {
        let Some(Some(ring)) = self.rings.get_mut(place) else { return };
        let endpoint = ring.endpoint;
        let Some(there) = self.endpoints.get(&endpoint) else { return };
        let incarnation = there.incarnation;
        let is_going = matches!(there.phase, Phase::Detaching | Phase::Leaving);
        let before = ring.service.in_use();
        let served = ring.step(there, (&mut self.machine, &mut self.pins), disks, now);
        self.has_room |= ring.service.in_use() < before;
        set(&mut self.timed, place, ring.again.is_some());
        set(&mut self.starved, place, ring.service.waits_for_room());
        match served {
            Ok(()) => {}
            Err(Trouble::Flush) => {
                // The rest is served on.
                self.due |= 1 << place;
                let reason = String::from(
                    "a flush has failed 3 times: what the client wrote may not be durable",
                );
                self.report(endpoint, incarnation, EndpointReport::MediumFailed { reason });
            }
            Err(trouble) => {
                ring.answers = false;
                self.due |= 1 << place;
                self.stop(endpoint, format!("its ring: {trouble:?}"));
            }
        }
        if is_going {
            self.end_if_done(endpoint);
        }
    }

    /// Ends an endpoint that is going, once all its rings are done.
    fn end_if_done(&mut self, endpoint: u32) {
        let Some(there) = self.endpoints.get(&endpoint) else { return };
        let is_left = rings_of(&mut self.rings, endpoint).any(|(_, ring)| !ring.is_done);
        if is_left {
            return;
        }
        for (place, slot) in self.rings.iter_mut().enumerate() {
            if let Some(ring) = slot.take_if(|ring| ring.endpoint == endpoint) {
                set(&mut self.timed, place, false);
                set(&mut self.starved, place, false);
                self.ports.remove(&ring.port);
                ring.end(there.client, (&mut self.machine, &mut self.pins));
            }
        }
        self.has_room = true;
        let (is_detached, incarnation) = (there.phase == Phase::Detaching, there.incarnation);
        self.endpoints.remove(&endpoint);
        if is_detached {
            self.report(endpoint, incarnation, EndpointReport::Detached);
        }
    }
}

impl<P: block_ring::RingMemory + journal::JournalPage> Ring<P> {
    /// Does what the endpoint's phase asks for.
    fn step<M: Machine<Pages = P>>(
        &mut self,
        there: &Endpoint,
        (machine, all): (&mut M, &mut Pins),
        disks: &mut impl Disks,
        now: u64,
    ) -> Result<(), Trouble> {
        self.again = None;
        let parts = Parts {
            page: &self.journal,
            ring: block_ring::Ring::new(&self.pages, self.size),
            layout: there.layout.layout(),
            features: there.features,
        };
        let mut client = Reach { machine, all, client: there.client, port: self.port };
        match there.phase {
            Phase::Serving if self.answers => {
                self.again = self.service.serve(&parts, &mut client, disks, now)?;
            }
            Phase::Detaching if self.answers => {
                self.is_done = self.service.finish(&parts, &mut client, disks)?;
            }
            Phase::Detaching | Phase::Leaving => self.is_done = self.service.in_flight() == 0,
            Phase::Serving | Phase::Stopped(_) => return Ok(()),
        }
        if self.answers && self.service.waits_for_room() {
            let retry = now.saturating_add(RETRY);
            self.again = Some(self.again.map_or(retry, |again| again.min(retry)));
        }
        Ok(())
    }

    /// Drops all that is held of the client. The journal ends if the client is detached.
    fn end<M: Machine<Pages = P>>(mut self, client: u16, (machine, all): (&mut M, &mut Pins)) {
        self.service.drop_all(&mut Reach { machine, all, client, port: self.port });
        machine.close(self.port);
        machine.unmap(self.pages);
        if let Some(detaching) = self.detaching {
            detaching.finish(&self.journal);
        }
        machine.unmap(self.journal);
    }
}

/// Sets or clears the bit of a place.
fn set(bits: &mut u64, place: usize, value: bool) {
    *bits = *bits & !(1 << place) | u64::from(value) << place;
}

/// The places of the bits that are set.
fn places(mut bits: u64) -> impl Iterator<Item = usize> {
    core::iter::from_fn(move || {
        let place = (bits != 0).then(|| bits.trailing_zeros())?;
        bits &= bits - 1;
        Some(place as usize)
    })
}

/// The rings of an endpoint, with their places.
fn rings_of<P>(
    rings: &mut [Option<Ring<P>>],
    endpoint: u32,
) -> impl Iterator<Item = (usize, &mut Ring<P>)> {
    let there = rings.iter_mut().enumerate();
    there.filter_map(move |(place, ring)| {
        let ring = ring.as_mut().filter(|ring| ring.endpoint == endpoint)?;
        Some((place, ring))
    })
}

/// Makes the layout of extents. If it cannot be served, the error says why, for people.
fn layout_of(extents: &[io::Extent], disks: &impl Disks) -> Result<OwnLayout, String> {
    let own = |extent: &io::Extent| Extent {
        device: extent.function,
        start: extent.start,
        sectors: extent.sectors,
    };
    let sectors = |function| disks.medium(function).map(|medium| medium.sectors);
    let refused = |refused| format!("its extents cannot be served: {refused:?}");
    OwnLayout::new(extents.iter().map(own).collect(), sectors).map_err(refused)
}

/// Starts the journal of a fresh page, or settles that of a dead server. Returns with it the reason
/// why the client is to be detached, if there is one.
fn open_journal<P: block_ring::RingMemory + journal::JournalPage>(
    ring: &Prepared<P>,
    incarnation: u64,
) -> Result<(Journal, Option<String>), String> {
    let there = block_ring::Ring::new(&ring.pages, ring.size);
    match journal::settle(&ring.journal, &there, incarnation) {
        Ok(Found::Vacant) => Journal::start(&ring.journal, &there, incarnation)
            .map(|journal| (journal, None))
            .map_err(|refused| format!("its journal: {refused:?}")),
        Ok(Found::Serving(journal)) => Ok((journal, None)),
        Ok(Found::Broken(broken, journal)) => Ok((journal, Some(format!("its ring: {broken:?}")))),
        Ok(Found::Detaching(_)) => Err("its detach has begun; finish that".to_string()),
        Err(held) => {
            Err(format!("its journal is damaged, so the ring is held: {held:?}; detach the disk"))
        }
    }
}

#[cfg(test)]
#[path = "clients_tests.rs"]
mod tests;
