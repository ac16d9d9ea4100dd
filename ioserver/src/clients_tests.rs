//! Clients on a simulated monitor, with simulated disks.

use super::*;
use crate::function::{Stopped, tests::region};
use crate::held::Held;
use block_ring::{Index, REQUEST_WORDS, RingMemory};
use journal::{JournalPage, words};
use pv_abi::xen::block::{FLUSH, READ, STATUS_ERROR, STATUS_OK, WRITE};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use virtio::drive::{Medium, Request, Unsubmitted};
use virtio::queue::Segment;

/// The domid of the client, and its ports, ring pages and journals (of the ultravisor) by ring.
const CLIENT: u16 = 16;
const FIRST_PAGE: u32 = 100;
const FIRST_JOURNAL: u32 = 200;
/// Grants of data pages: those below exist.
const NO_GRANTS: u32 = 1000;
/// Sectors of each disk, of which the client's endpoint has the first half.
const DISK: u64 = 400;
const SECTORS: u64 = 200;

/// A page that is a ring or a journal.
#[derive(Clone)]
struct Page {
    indices: Rc<Cell<[u32; 4]>>,
    words: Rc<RefCell<Vec<u64>>>,
}

impl Page {
    fn new() -> Self {
        let words = Rc::new(RefCell::new(vec![0; 512]));
        Self { indices: Rc::new(Cell::new([0, 1, 0, 1])), words }
    }

    fn index(&self, index: Index) -> u32 {
        self.indices.get()[index as usize]
    }

    /// Sends a request.
    fn send(&self, operation: u8, id: u64, sector: u64, grants: &[u32]) {
        let produced = self.index(Index::RequestsProduced);
        let first = produced as usize % 32 * REQUEST_WORDS;
        let mut words = self.words.borrow_mut();
        words[first] = u64::from(operation) | (grants.len() as u64) << 8;
        (words[first + 1], words[first + 2]) = (id, sector);
        for (to, grant) in words[first + 3..].iter_mut().zip(grants) {
            *to = u64::from(*grant) | 7 << 40;
        }
        let mut indices = self.indices.get();
        indices[0] += 1;
        self.indices.set(indices);
    }

    /// All answers: id and status.
    fn answers(&self) -> Vec<(u64, i16)> {
        let words = self.words.borrow();
        let of = |at: u32| {
            let first = at as usize % 32 * REQUEST_WORDS;
            (words[first], (words[first + 1] >> 16) as i16)
        };
        (0..self.index(Index::ResponsesProduced)).map(of).collect()
    }
}

impl RingMemory for Page {
    fn load_index(&self, index: Index) -> u32 {
        self.index(index)
    }
    fn store_index(&self, index: Index, value: u32) {
        let mut indices = self.indices.get();
        indices[index as usize] = value;
        self.indices.set(indices);
    }
    fn load_word(&self, slot: u32, word: usize) -> u64 {
        self.words.borrow()[slot as usize * REQUEST_WORDS + word]
    }
    fn store_word(&self, slot: u32, word: usize, value: u64) {
        self.words.borrow_mut()[slot as usize * REQUEST_WORDS + word] = value;
    }
    fn fence(&self) {}
}

impl JournalPage for Page {
    fn load(&self, word: usize) -> u64 {
        self.words.borrow()[word]
    }
    fn store(&self, word: usize, value: u64) {
        self.words.borrow_mut()[word] = value;
    }
}

/// What clients and ultravisor grant and allocate; it outlives servers.
struct World {
    pages: BTreeMap<(u16, u32), Page>,
    ports: BTreeSet<u32>,
}

impl World {
    fn new(rings: u32) -> Rc<Self> {
        let ring = |at| ((CLIENT, FIRST_PAGE + at), Page::new());
        let journal = |at| ((1, FIRST_JOURNAL + at), Page::new());
        let pages = (0..rings).map(ring).chain((0..rings).map(journal)).collect();
        Rc::new(Self { pages, ports: (0..rings).collect() })
    }

    fn ring(&self, at: u32) -> &Page {
        &self.pages[&(CLIENT, FIRST_PAGE + at)]
    }

    fn journal(&self, at: u32) -> &Page {
        &self.pages[&(1, FIRST_JOURNAL + at)]
    }
}

/// A server's part of the monitor.
struct Fake {
    world: Rc<World>,
    mapped: usize,
    bound: BTreeSet<u32>,
    pins: BTreeMap<u32, u32>,
    most: usize,
    next: u32,
    events: u32,
}

impl Fake {
    fn is_empty(&self) -> bool {
        self.mapped == 0 && self.bound.is_empty() && self.pins.is_empty()
    }
}

impl Machine for Fake {
    type Pages = Page;

    fn map(&mut self, domain: u16, references: &[u32]) -> Result<Page, String> {
        let page = self.world.pages.get(&(domain, references[0])).ok_or("no such grant")?;
        self.mapped += 1;
        Ok(page.clone())
    }
    fn unmap(&mut self, _: Page) {
        self.mapped -= 1;
    }
    fn bind(&mut self, _: u16, port: u32) -> Result<Port, String> {
        let is_there = self.world.ports.contains(&port) && self.bound.insert(port);
        if is_there { Ok(Port(port)) } else { Err("no such port".into()) }
    }
    fn close(&mut self, port: Port) {
        assert!(self.bound.remove(&port.0));
    }
    fn notify(&mut self, port: Port) {
        assert!(self.bound.contains(&port.0));
        self.events += 1;
    }
    fn pin(
        &mut self,
        domain: u16,
        grants: &[u32],
        _: bool,
        pins: &mut Vec<Pin>,
    ) -> Result<(), Unreached> {
        assert_eq!(domain, CLIENT);
        if grants.iter().any(|grant| *grant >= NO_GRANTS) {
            return Err(Unreached::NoGrant);
        }
        if self.pins.len() + grants.len() > self.most {
            return Err(Unreached::NoRoom);
        }
        for &grant in grants {
            self.next += 1;
            self.pins.insert(self.next, grant);
            pins.push(Pin { address: u64::from(grant) << 12, handle: self.next });
        }
        Ok(())
    }
    fn unpin(&mut self, pins: &[Pin]) {
        assert!(pins.iter().all(|pin| self.pins.remove(&pin.handle).is_some()));
    }
    fn copy(&mut self, _: u16, _: u32, _: &mut [u64]) -> Result<(), Unreached> {
        Err(Unreached::NoGrant)
    }
    fn has_room(&self, _: usize) -> bool {
        true
    }
}

/// Disks, each with a queue of two pieces.
#[derive(Default)]
struct Queues {
    driven: BTreeMap<u32, VecDeque<(Request, Tag)>>,
}

impl Queues {
    fn of(functions: &[u32]) -> Self {
        Self { driven: functions.iter().map(|one| (*one, VecDeque::new())).collect() }
    }
}

impl Disks for Queues {
    fn medium(&self, disk: u32) -> Option<Medium> {
        let medium = Medium {
            sectors: DISK,
            block_bytes: 512,
            write_cache: true,
            segments: 32,
            segment_bytes: u32::MAX,
            ..Medium::default()
        };
        self.driven.contains_key(&disk).then_some(medium)
    }
    fn submit(
        &mut self,
        disk: u32,
        request: Request,
        _: &[Segment],
        tag: Tag,
    ) -> Result<(), Unsubmitted> {
        let queue = self.driven.get_mut(&disk).ok_or(Unsubmitted::Refused)?;
        if queue.len() == 2 {
            return Err(Unsubmitted::Full);
        }
        queue.push_back((request, tag));
        Ok(())
    }
}

/// A server with its disks.
struct Server {
    clients: Clients<Fake>,
    disks: Queues,
}

impl Server {
    fn new(world: &Rc<World>, functions: &[u32]) -> Self {
        let (world, bound, pins) = (world.clone(), BTreeSet::new(), BTreeMap::new());
        let fake = Fake { world, mapped: 0, bound, pins, most: 100, next: 0, events: 0 };
        Self { clients: Clients::new(fake), disks: Queues::of(functions) }
    }

    fn attach(&mut self, attach: &Attach) -> Vec<EndpointReport> {
        self.clients.attach(attach, &self.disks);
        self.reports()
    }

    /// An event of a ring.
    fn event(&mut self, ring: u32) {
        assert!(self.clients.event(Port(ring)));
        self.serve();
    }

    /// Serves until nothing is left to do at once.
    fn serve(&mut self) {
        while self.clients.serve(&mut self.disks, 0) == Some(0) {}
    }

    /// A disk ends its next piece.
    fn complete(&mut self, disk: u32, outcome: Outcome) {
        let next = self.disks.driven.get_mut(&disk).and_then(VecDeque::pop_front);
        self.clients.ended(next.expect("a piece in flight").1, outcome);
        self.serve();
    }

    /// A function is driven no more.
    fn end(&mut self, disk: u32, end: End) {
        let mut pieces = self.disks.driven.remove(&disk).unwrap_or_default();
        if end == End::Unknown {
            pieces.clear();
        }
        self.clients.function_ended(disk, end, pieces.into_iter().map(|(_, tag)| tag));
        self.serve();
    }

    fn detach(&mut self, incarnation: u64) {
        self.clients.detach(7, incarnation);
        self.serve();
    }

    fn reports(&mut self) -> Vec<EndpointReport> {
        let reports = self.clients.take_reports().into_iter();
        let body = |report| match report {
            Report::Endpoint { endpoint: 7, report, .. } => report,
            other => panic!("{other:?}"),
        };
        reports.map(body).collect()
    }

    fn machine(&self) -> &Fake {
        &self.clients.machine
    }
}

/// An attach of endpoint 7 on functions 3 and 4.
fn attach(rings: u32) -> Attach {
    let ring =
        |at| io::Ring { pages: vec![FIRST_PAGE + at], port: at, journal: FIRST_JOURNAL + at };
    let extent = |function| io::Extent { function, start: 0, sectors: SECTORS / 2 };
    Attach {
        endpoint: 7,
        incarnation: 1,
        client: CLIENT,
        rings: (0..rings).map(ring).collect(),
        read_only: false,
        discard: false,
        indirect_segments: 32,
        extents: vec![extent(3), extent(4)],
    }
}

fn attached(rings: u32) -> (Rc<World>, Server) {
    let world = World::new(rings);
    let mut server = Server::new(&world, &[3, 4]);
    assert_eq!(server.attach(&attach(rings)), [EndpointReport::Attached]);
    server.serve();
    (world, server)
}

#[test]
fn a_client_with_two_rings_is_served_and_detached() {
    let (world, mut server) = attached(2);
    assert_eq!(server.attach(&attach(2)), [EndpointReport::Attached], "told again");
    world.ring(0).send(READ, 5, 0, &[1, 2]);
    world.ring(1).send(WRITE, 6, SECTORS - 8, &[3]);
    (0..2).for_each(|ring| server.event(ring));
    assert_eq!(server.machine().pins.len(), 3);
    server.complete(3, Outcome::Done);
    server.complete(4, Outcome::Done);
    assert_eq!(world.ring(0).answers(), [(5, STATUS_OK)]);
    assert_eq!(world.ring(1).answers(), [(6, STATUS_OK)]);
    assert_eq!((server.machine().pins.len(), server.machine().events), (0, 2));
    server.detach(1);
    assert_eq!(server.reports(), [EndpointReport::Detached]);
    assert!(server.machine().is_empty() && !server.clients.event(Port(0)));
    server.detach(1);
    assert_eq!(server.reports(), [EndpointReport::Detached], "nothing is attached");
    // The next incarnation finds the journals free.
    assert_eq!(server.attach(&Attach { incarnation: 2, ..attach(2) }), [EndpointReport::Attached]);
}

#[test]
fn requests_from_before_the_attach_need_no_event() {
    let world = World::new(1);
    world.ring(0).send(READ, 5, 0, &[1]);
    let mut server = Server::new(&world, &[3, 4]);
    server.attach(&attach(1));
    server.serve();
    assert_eq!(server.disks.driven[&3].len(), 1);
}

#[test]
fn an_attach_that_fails_leaves_nothing() {
    let world = World::new(2);
    let mut server = Server::new(&world, &[3, 4]);
    let mut wrong = Vec::new();
    let mut add = |change: fn(&mut Attach)| {
        let mut one = attach(2);
        change(&mut one);
        wrong.push(one);
    };
    add(|one| one.rings.clear());
    add(|one| one.rings[1].pages[0] = 7);
    add(|one| one.rings[1].journal = 7);
    add(|one| one.rings[1].port = 0);
    add(|one| one.rings[1].pages.extend([1, 2]));
    add(|one| one.rings = vec![one.rings[0].clone(); RINGS + 1]);
    add(|one| one.extents[1].function = 9);
    add(|one| one.extents[1].sectors = DISK + 1);
    add(|one| one.extents.clear());
    for one in wrong {
        let reports = server.attach(&one);
        assert!(matches!(reports[..], [EndpointReport::Refused { .. }]), "{one:?}: {reports:?}");
        assert!(server.machine().is_empty(), "{one:?}");
        server.serve();
    }
    world.journal(1).store(words::MAGIC, 1);
    let reports = server.attach(&attach(2));
    assert!(matches!(reports[..], [EndpointReport::Refused { .. }]), "{reports:?}");
    assert!(server.machine().is_empty());
    // None of them is in the way.
    world.journal(1).store(words::MAGIC, 0);
    assert_eq!(server.attach(&attach(2)), [EndpointReport::Attached]);
    let other = server.attach(&Attach { incarnation: 2, ..attach(2) });
    assert!(matches!(other[..], [EndpointReport::Refused { .. }]), "{other:?}");
}

#[test]
fn a_successor_issues_again_what_its_predecessor_has_not_answered() {
    let (world, mut dead) = attached(1);
    for id in 0..3 {
        world.ring(0).send(READ, id, 0, &[1]);
    }
    dead.event(0);
    dead.complete(3, Outcome::Done);
    assert_eq!(world.ring(0).answers(), [(0, STATUS_OK)]);
    drop(dead);
    // The client has seen the answer, and waits for the next event, which nobody will raise for what
    // it sends now.
    world.ring(0).store_index(Index::ResponseEvent, 2);
    world.ring(0).send(READ, 3, 0, &[1]);
    let mut server = Server::new(&world, &[3, 4]);
    assert_eq!(server.attach(&attach(1)), [EndpointReport::Attached]);
    assert_eq!(server.machine().events, 0, "none is owed");
    server.serve();
    for _ in 0..3 {
        server.complete(3, Outcome::Done);
    }
    let mut answers = world.ring(0).answers();
    answers.sort_unstable();
    assert_eq!(answers, [0, 1, 2, 3].map(|id| (id, STATUS_OK)));
    assert_eq!(server.machine().events, 1);
}

#[test]
fn a_successor_raises_the_event_that_is_owed() {
    let (world, mut dead) = attached(1);
    world.ring(0).send(READ, 0, 0, &[1]);
    dead.event(0);
    dead.complete(3, Outcome::Done);
    drop(dead);
    let mut server = Server::new(&world, &[3, 4]);
    server.attach(&attach(1));
    assert_eq!(server.machine().events, 1);
}

#[test]
fn a_detach_finishes_what_was_taken() {
    let (world, mut server) = attached(1);
    for id in 0..3 {
        world.ring(0).send(WRITE, id, 0, &[1]);
    }
    server.event(0);
    world.ring(0).send(WRITE, 3, 0, &[1]);
    server.detach(1);
    for left in (0..3).rev() {
        assert_eq!(server.reports(), []);
        assert!(!server.machine().pins.is_empty());
        server.complete(3, Outcome::Done);
        assert_eq!(server.disks.driven[&3].len(), left.min(2));
    }
    assert_eq!(server.reports(), [EndpointReport::Detached]);
    assert_eq!(world.ring(0).answers(), [0, 1, 2].map(|id| (id, STATUS_OK)));
    assert!(server.machine().is_empty());
}

#[test]
fn a_function_that_leaves_leaves_its_requests_to_the_successor() {
    let (world, mut server) = attached(1);
    world.ring(0).send(WRITE, 0, SECTORS / 2 - 4, &[1]);
    server.event(0);
    server.end(3, End::Left);
    server.clients.function_left(3);
    assert!(!server.machine().pins.is_empty(), "the other function has a piece");
    assert_eq!(server.clients.take_reports(), [], "a ring is there still");
    server.complete(4, Outcome::Done);
    assert!(server.machine().is_empty());
    assert_eq!(server.clients.take_reports(), [Report::Left { index: 3 }]);
    assert_eq!(world.ring(0).answers(), []);
    let mut successor = Server::new(&world, &[3, 4]);
    successor.attach(&attach(1));
    successor.serve();
    successor.complete(3, Outcome::Done);
    successor.complete(4, Outcome::Done);
    assert_eq!(world.ring(0).answers(), [(0, STATUS_OK)]);
}

#[test]
fn a_function_that_does_not_confirm_its_reset_holds_its_rings() {
    let (world, mut server) = attached(1);
    world.ring(0).send(WRITE, 0, 0, &[1]);
    server.event(0);
    server.end(3, End::Unknown);
    assert!(matches!(server.reports()[..], [EndpointReport::Broken { .. }]));
    server.detach(1);
    world.ring(0).send(WRITE, 1, SECTORS / 2, &[1]);
    server.event(0);
    assert_eq!((server.reports(), world.ring(0).answers()), (vec![], vec![]));
    assert_eq!((server.machine().pins.len(), server.disks.driven[&4].len()), (1, 0));
}

#[test]
fn rings_are_held_until_a_later_reset_is_confirmed() {
    let (world, mut server) = attached(1);
    world.ring(0).send(WRITE, 0, 0, &[1]);
    server.event(0);
    let pieces = server.disks.driven[&3].iter().map(|(_, tag)| *tag).collect();
    let (mut held, mut region) = (Held::default(), region());
    let mut chunks: Vec<_> = core::iter::from_fn(|| region.take_chunk()).collect();
    held.keep(3, Stopped { chunk: chunks.remove(5), pieces });
    server.end(3, End::Unknown);
    assert!(matches!(server.reports()[..], [EndpointReport::Broken { .. }]));
    server.detach(1);
    held.settle(4, &mut region, &mut server.clients);
    server.serve();
    assert_eq!((server.reports(), server.machine().pins.len()), (vec![], 1));
    assert!(region.take_chunk().is_none());
    held.settle(3, &mut region, &mut server.clients);
    server.serve();
    assert_eq!(server.reports(), [EndpointReport::Detached]);
    assert!(server.machine().is_empty() && region.take_chunk().is_some());
    assert_eq!(world.ring(0).answers(), [], "the client was told that it is broken");
}

#[test]
fn a_ring_that_had_nothing_in_flight_is_detached_whatever_its_function_does() {
    let (world, mut server) = attached(1);
    server.end(3, End::Unknown);
    assert!(matches!(server.reports()[..], [EndpointReport::Broken { .. }]));
    world.ring(0).send(WRITE, 0, SECTORS / 2, &[1]);
    server.event(0);
    assert!(server.disks.driven[&4].is_empty());
    server.detach(1);
    assert_eq!(server.reports(), [EndpointReport::Detached]);
    assert!(server.machine().is_empty());
}

#[test]
fn requests_of_a_broken_function_fail_and_its_flushes_wait() {
    let (world, mut server) = attached(1);
    world.ring(0).send(WRITE, 0, 0, &[1]);
    world.ring(0).send(FLUSH, 1, 0, &[]);
    server.event(0);
    server.end(3, End::Failed);
    assert_eq!(world.ring(0).answers(), [(0, STATUS_ERROR)]);
    // The flush is in flight at the other function, too.
    server.complete(4, Outcome::Done);
    while !server.disks.driven[&4].is_empty() {
        server.complete(4, Outcome::Done);
    }
    assert!(matches!(server.reports()[..], [EndpointReport::MediumFailed { .. }]));
    world.ring(0).send(READ, 2, SECTORS / 2, &[1]);
    world.ring(0).send(READ, 3, 0, &[1]);
    server.event(0);
    server.complete(4, Outcome::Done);
    let answers = world.ring(0).answers();
    assert_eq!(answers, [(0, STATUS_ERROR), (3, STATUS_ERROR), (2, STATUS_OK)]);
    server.detach(1);
    assert_eq!(server.reports(), [EndpointReport::Detached]);
    assert!(server.machine().is_empty());
}

#[test]
fn what_a_failure_does_to_endpoints_is_told_before_the_failure() {
    for end in [End::Failed, End::Unknown] {
        let (world, mut server) = attached(1);
        server.disks.driven.remove(&4);
        world.ring(0).send(FLUSH, 1, 0, &[]);
        server.event(0);
        let pieces = server.disks.driven.remove(&3).unwrap_or_default();
        let pieces = pieces.into_iter().filter(|_| end == End::Failed).map(|(_, tag)| tag);
        // In the order of the event loop.
        server.clients.function_ended(3, end, pieces);
        server.clients.function_failed(3, "broken".into());
        server.serve();
        let reports = server.clients.take_reports();
        assert!(
            matches!(reports[..], [Report::Endpoint { .. }, Report::Failed { index: 3, .. }]),
            "{end:?}: {reports:?}"
        );
        assert!(server.clients.take_reports().is_empty());
    }
}

#[test]
fn a_broken_ring_is_told_once_and_waits_for_the_detach() {
    let (world, mut server) = attached(2);
    world.ring(1).send(READ, 0, 0, &[1]);
    server.event(1);
    world.ring(0).store_index(Index::RequestsProduced, 33);
    server.event(0);
    server.event(0);
    assert!(matches!(server.reports()[..], [EndpointReport::Broken { .. }]));
    world.ring(1).send(READ, 1, 0, &[1]);
    server.event(1);
    assert_eq!(server.disks.driven[&3].len(), 1, "nothing more is taken");
    server.detach(1);
    assert_eq!(server.reports(), []);
    server.complete(3, Outcome::Done);
    assert_eq!(server.reports(), [EndpointReport::Detached]);
    assert!(server.machine().is_empty());
}

#[test]
fn a_client_reaches_what_it_was_resized_to() {
    let (world, mut server) = attached(1);
    let mut extents = attach(1).extents;
    extents.push(io::Extent { function: 3, start: SECTORS, sectors: 8 });
    server.clients.resize((7, 1), &extents, &server.disks);
    assert_eq!(server.reports(), [EndpointReport::Resized { sectors: SECTORS + 8 }]);
    server.clients.resize((7, 1), &extents[..1], &server.disks);
    assert_eq!(server.reports(), [EndpointReport::Resized { sectors: SECTORS + 8 }], "no less");
    world.ring(0).send(READ, 0, SECTORS, &[1]);
    world.ring(0).send(READ, 1, SECTORS + 1, &[1]);
    server.event(0);
    assert_eq!(server.disks.driven[&3], [(Request::Read(SECTORS), Tag { endpoint: 0, entry: 0 })]);
    assert_eq!(world.ring(0).answers(), [(1, STATUS_ERROR)]);
}

#[test]
fn room_that_a_ring_makes_is_used_by_another() {
    let (world, mut server) = attached(2);
    server.clients.machine.most = 3;
    for ring in 0..2 {
        world.ring(ring).send(READ, 0, 0, &[1, 2]);
        server.event(ring);
    }
    assert_eq!(server.machine().pins.len(), 2);
    assert_eq!(server.clients.serve(&mut server.disks, 0), Some(RETRY), "whatever ends");
    server.complete(3, Outcome::Done);
    assert_eq!(server.machine().pins.len(), 2);
    server.complete(3, Outcome::Done);
    for ring in 0..2 {
        assert_eq!(world.ring(ring).answers(), [(0, STATUS_OK)]);
    }
}

#[test]
fn pins_leave_room_for_the_rings_of_others() {
    let (world, mut server) = attached(2);
    server.clients.pins.most = 3;
    for ring in 0..2 {
        world.ring(ring).send(READ, 0, 0, &[1, 2]);
        server.event(ring);
    }
    assert_eq!((server.machine().pins.len(), server.clients.pins.held), (2, 2));
    for ring in 0..2 {
        assert_eq!(world.ring(ring).answers(), []);
        server.complete(3, Outcome::Done);
        assert_eq!(world.ring(ring).answers(), [(0, STATUS_OK)]);
    }
    assert_eq!(server.clients.pins.held, 0);
    // Pins that fail are not counted, and those of a client that goes are dropped.
    world.ring(0).send(READ, 1, 0, &[NO_GRANTS]);
    world.ring(0).send(READ, 2, 0, &[1]);
    server.event(0);
    assert_eq!(server.clients.pins.held, 1);
    server.end(3, End::Left);
    server.end(4, End::Left);
    assert!(server.machine().is_empty() && server.clients.pins.held == 0);
    // The largest rings of all clients with their journals fit beside all pins.
    assert_eq!(PINS + RINGS * 17, RECORDS);
}

#[test]
fn room_in_a_queue_that_a_ring_makes_is_used_by_another() {
    let (world, mut server) = attached(2);
    for ring in 0..2 {
        world.ring(ring).send(READ, 0, 0, &[1]);
        world.ring(ring).send(READ, 1, 0, &[1]);
        server.event(ring);
    }
    assert_eq!(server.disks.driven[&3].len(), 2);
    for _ in 0..4 {
        server.complete(3, Outcome::Done);
    }
    for ring in 0..2 {
        assert_eq!(world.ring(ring).answers(), [(0, STATUS_OK), (1, STATUS_OK)]);
    }
}

/// Two rings with 8 reads each on one function, of which 8 are done: the answers of each ring.
fn answers_of_two_busy_rings(pins: usize) -> [usize; 2] {
    let (world, mut server) = attached(2);
    server.clients.pins.most = pins;
    for id in 0..8 {
        (0..2).for_each(|ring| world.ring(ring).send(READ, id, 0, &[1]));
    }
    (0..2).for_each(|ring| server.event(ring));
    (0..8).for_each(|_| server.complete(3, Outcome::Done));
    [0, 1].map(|ring| world.ring(ring).answers().len())
}

#[test]
fn rings_get_the_room_that_is_made_in_turn() {
    // Room for pins, and room in the queue.
    for pins in [1, PINS] {
        let answers = answers_of_two_busy_rings(pins);
        assert!(answers.iter().all(|count| *count >= 3), "{pins}: {answers:?}");
    }
}

#[test]
fn a_ring_that_goes_gives_up_its_turn() {
    let (world, mut server) = attached(2);
    server.clients.pins.most = 1;
    for ring in 0..2 {
        world.ring(ring).send(READ, 0, 0, &[1]);
        server.event(ring);
    }
    assert_eq!(server.clients.pins.waiting, [Port(1)]);
    server.end(3, End::Unknown);
    assert!(server.clients.pins.waiting.is_empty());
}

#[test]
fn a_repeated_attach_is_answered_whatever_became_of_the_endpoint() {
    let (world, mut server) = attached(1);
    world.ring(0).send(READ, 0, 0, &[1]);
    server.event(0);
    world.ring(0).store_index(Index::RequestsProduced, 34);
    server.event(0);
    let told = server.reports();
    assert!(matches!(told[..], [EndpointReport::Broken { .. }]));
    let again = server.attach(&attach(1));
    assert_eq!(again, [EndpointReport::Attached, told[0].clone()]);
    server.detach(1);
    assert_eq!(server.attach(&attach(1)), [], "the end of the detach answers");
    server.complete(3, Outcome::Done);
    assert_eq!(server.reports(), [EndpointReport::Detached]);

    let (world, mut server) = attached(1);
    world.ring(0).send(READ, 0, SECTORS / 2, &[1]);
    server.event(0);
    server.end(3, End::Left);
    let leaving = server.attach(&attach(1));
    assert!(matches!(leaving[..], [EndpointReport::Refused { .. }]), "{leaving:?}");
}

#[test]
fn a_ring_that_answers_nothing_is_not_looked_at_again_and_again() {
    let (world, mut server) = attached(2);
    server.clients.machine.most = 1;
    for ring in 0..2 {
        world.ring(ring).send(READ, 0, 0, &[1]);
        server.event(ring);
    }
    server.end(3, End::Unknown);
    server.detach(1);
    assert_eq!(server.clients.serve(&mut server.disks, 0), None);
}

#[test]
fn orders_wait_for_a_few_rings_at_most_and_each_ring_has_its_turn() {
    const RINGS: u32 = ROUND as u32 + 3;
    let (world, mut server) = attached(RINGS);
    let refused = |server: &mut Server, ring| {
        world.ring(ring).send(READ, 5, 0, &[NO_GRANTS]);
        assert!(server.clients.event(Port(ring)));
    };
    let answered =
        || -> Vec<usize> { (0..RINGS).map(|ring| world.ring(ring).answers().len()).collect() };
    (0..RINGS).for_each(|ring| refused(&mut server, ring));
    assert_eq!(server.clients.serve(&mut server.disks, 0), Some(0));
    let first = answered();
    assert_eq!(first.iter().sum::<usize>(), ROUND);
    // Those that were served ask again, and come behind those that were not.
    let again = || (0..RINGS).zip(&first).filter(|(_, count)| **count == 1);
    again().for_each(|(ring, _)| refused(&mut server, ring));
    assert_eq!(server.clients.serve(&mut server.disks, 0), Some(0));
    assert!(answered().iter().all(|count| *count > 0), "{:?}", answered());
    server.serve();
    assert_eq!(answered(), first.iter().map(|count| count + 1).collect::<Vec<_>>());
}
