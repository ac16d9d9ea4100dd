//! An endpoint between a simulated client and simulated disks, beside a model of the sectors.

use super::*;
use crate::{Pin, Unreached};
use block_ring::{Index, REQUEST_WORDS, RingSize};
use extents::Extent;
use proptest::prelude::*;
use pv_abi::xen::block::{DISCARD, FLUSH, INDIRECT, READ, STATUS_OK, WRITE, WRITE_BARRIER};
use rate::{Bucket, Limit};
use std::cell::RefCell;
use std::collections::BTreeMap;
use virtio::drive::{Medium, Request, Unsubmitted};
use virtio::queue::Segment;

/// Sectors of each of the two disks, and of the endpoint.
const DISK: u64 = 200;
const SECTORS: u64 = 150;

const EXTENTS: [Extent; 3] = [
    Extent { device: 0, start: 10, sectors: 60 },
    Extent { device: 1, start: 100, sectors: 50 },
    Extent { device: 0, start: 150, sectors: 40 },
];

fn layout() -> Layout<'static> {
    Layout::new(&EXTENTS, |_| Some(DISK)).expect("inside of the disks")
}

fn features() -> Features {
    Features { sectors: SECTORS, read_only: false, discard: true, indirect_segments: 64 }
}

/// A ring and a journal's page.
struct Memory {
    indices: RefCell<[u32; 4]>,
    slots: RefCell<Vec<[u64; REQUEST_WORDS]>>,
    page: RefCell<Vec<u64>>,
}

impl Memory {
    fn new() -> Self {
        Self {
            indices: RefCell::new([0, 1, 0, 1]),
            slots: RefCell::new(vec![[0; REQUEST_WORDS]; 32]),
            page: RefCell::new(vec![0; 512]),
        }
    }

    fn parts(&self) -> Parts<'_, Self, Self> {
        let ring = Ring::new(self, RingSize::of_order(0).expect("one page"));
        Parts { page: self, ring, layout: layout(), features: features() }
    }

    /// Sends a request, if the ring has room.
    fn send(&self, words: [u64; REQUEST_WORDS]) -> bool {
        let mut indices = self.indices.borrow_mut();
        if indices[0].wrapping_sub(indices[2]) == 32 {
            return false;
        }
        self.slots.borrow_mut()[indices[0] as usize % 32] = words;
        indices[0] = indices[0].wrapping_add(1);
        true
    }
}

impl RingMemory for Memory {
    fn load_index(&self, index: Index) -> u32 {
        self.indices.borrow()[index as usize]
    }
    fn store_index(&self, index: Index, value: u32) {
        self.indices.borrow_mut()[index as usize] = value;
    }
    fn load_word(&self, slot: u32, word: usize) -> u64 {
        self.slots.borrow()[slot as usize][word]
    }
    fn store_word(&self, slot: u32, word: usize, value: u64) {
        self.slots.borrow_mut()[slot as usize][word] = value;
    }
    fn fence(&self) {}
}

impl JournalPage for Memory {
    fn load(&self, word: usize) -> u64 {
        self.page.borrow()[word]
    }
    fn store(&self, word: usize, value: u64) {
        self.page.borrow_mut()[word] = value;
    }
}

/// Grants from this number on do not exist.
const NO_GRANTS: u32 = 1000;

/// A client: its pins, the words of its pages of segments, and the data that it read.
#[derive(Default)]
struct Guest {
    pins: BTreeMap<u32, u32>,
    /// Maximum number of pins; 0 if there is none.
    most: usize,
    next: u32,
    pages: BTreeMap<u32, Vec<u64>>,
    /// How often no page can be copied.
    busy: u32,
    events: u32,
}

impl Client for Guest {
    fn pin(&mut self, grants: &[u32], _: bool, pins: &mut Vec<Pin>) -> Result<(), Unreached> {
        if grants.iter().any(|grant| *grant >= NO_GRANTS) {
            return Err(Unreached::NoGrant);
        }
        if self.most != 0 && self.pins.len() + grants.len() > self.most {
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
        for pin in pins {
            assert_eq!(self.pins.remove(&pin.handle), Some((pin.address >> 12) as u32));
        }
    }
    fn copy(&mut self, grant: u32, to: &mut [u64]) -> Result<(), Unreached> {
        if self.busy > 0 {
            self.busy -= 1;
            return Err(Unreached::NoRoom);
        }
        let page = self.pages.get(&grant).ok_or(Unreached::NoGrant)?;
        to.copy_from_slice(&page[..to.len()]);
        Ok(())
    }
    fn notify(&mut self) {
        self.events += 1;
    }
}

type Piece = (u32, Request, Vec<Segment>, Tag);

/// Two disks with a byte for each sector, and memory with a byte for each sector.
struct Machine {
    contents: [Vec<u8>; 2],
    memory: BTreeMap<u64, u8>,
    flying: Vec<Piece>,
    room: usize,
    medium: Medium,
}

impl Machine {
    fn new(room: usize, segments: usize, segment_bytes: u32) -> Self {
        let medium = Medium {
            sectors: DISK,
            block_bytes: 512,
            read_only: false,
            write_cache: true,
            discard_sectors: 7,
            discard_part: 4,
            segments,
            segment_bytes,
        };
        let contents = [0, 100].map(|first| (0..DISK).map(|at| first + at as u8 / 2).collect());
        Self { contents, memory: BTreeMap::new(), flying: Vec::new(), room, medium }
    }

    /// Carries out a piece, and returns its entry.
    fn complete(&mut self, at: usize) -> u32 {
        let (disk, request, segments, tag) = self.flying.remove(at);
        let sectors = segments.iter().flat_map(|segment| {
            (0..u64::from(segment.bytes) / 512).map(|at| segment.address + at * 512)
        });
        let contents = &mut self.contents[disk as usize];
        match request {
            Request::Read(start) => sectors.zip(start..).for_each(|(address, sector)| {
                self.memory.insert(address, contents[sector as usize]);
            }),
            Request::Write(start) => sectors.zip(start..).for_each(|(address, sector)| {
                contents[sector as usize] = self.memory.get(&address).copied().unwrap_or(0);
            }),
            Request::Flush => {}
            Request::Discard(start, count) => {
                contents[start as usize..][..count as usize].fill(0);
            }
        }
        tag.entry
    }

    fn sector(&self, sector: u64) -> u8 {
        let piece = layout().translate(sector, 1).unwrap().next().unwrap().extent;
        self.contents[piece.device as usize][piece.start as usize]
    }
}

impl Disks for Machine {
    fn medium(&self, disk: u32) -> Option<Medium> {
        (disk < 2).then_some(self.medium)
    }
    fn submit(
        &mut self,
        disk: u32,
        request: Request,
        segments: &[Segment],
        tag: Tag,
    ) -> Result<(), Unsubmitted> {
        if self.flying.len() >= self.room {
            return Err(Unsubmitted::Full);
        }
        assert!(segments.len() <= self.medium.segments);
        assert!(segments.iter().all(|one| (1..=self.medium.segment_bytes).contains(&one.bytes)));
        self.flying.push((disk, request, segments.to_vec(), tag));
        Ok(())
    }
}

fn segment_word((gref, first, last): (u32, u8, u8)) -> u64 {
    u64::from(gref) | u64::from(first) << 32 | u64::from(last) << 40
}

/// A read or a write.
fn transfer(operation: u8, id: u64, sector: u64, segments: &[(u32, u8, u8)]) -> [u64; 14] {
    let mut words = [0; 14];
    words[0] = u64::from(operation) | (segments.len() as u64) << 8;
    (words[1], words[2]) = (id, sector);
    words[3..3 + segments.len()].iter_mut().zip(segments).for_each(|(to, from)| {
        *to = segment_word(*from);
    });
    words
}

fn endpoint(memory: &Memory, limiter: Limiter) -> Endpoint {
    let journal = Journal::start(memory, &memory.parts().ring, 1).expect("a fresh page");
    Endpoint::new(3, journal, limiter)
}

/// The answers from index `from` on: id and status.
fn answers(memory: &Memory, from: u32) -> Vec<(u64, i16)> {
    let slots = memory.slots.borrow();
    let of = |index: u32| {
        let words = slots[index as usize % 32];
        (words[0], (words[1] >> 16) as i16)
    };
    (from..memory.indices.borrow()[2]).map(of).collect()
}

#[test]
fn a_request_over_three_extents_is_answered_once_after_its_last_piece() {
    let memory = Memory::new();
    let (mut guest, mut machine) = (Guest::default(), Machine::new(64, 64, u32::MAX));
    let mut endpoint = endpoint(&memory, Limiter::default());
    let segments: Vec<_> = (0..8).map(|gref| (gref, 0, 7)).collect();
    memory.send(transfer(READ, 9, 55, &segments));
    let parts = memory.parts();
    assert_eq!(endpoint.serve(&parts, &mut guest, &mut machine, 0), Ok(None));
    assert_eq!((machine.flying.len(), guest.pins.len(), endpoint.in_use()), (3, 8, 1));
    for left in (0..3).rev() {
        assert!(answers(&memory, 0).is_empty());
        endpoint.ended(machine.complete(left), Outcome::Done);
        endpoint.serve(&parts, &mut guest, &mut machine, 0).expect("no trouble");
    }
    assert_eq!(answers(&memory, 0), [(9, STATUS_OK)]);
    assert_eq!((guest.pins.len(), guest.events, endpoint.in_use()), (0, 1, 0));
    for at in 0..64 {
        let read = machine.memory[&(at / 8 * 4096 + at % 8 * 512)];
        assert_eq!(read, machine.sector(55 + at), "sector {at}");
    }
}

#[test]
fn mistakes_are_answered_and_nothing_stays_pinned() {
    let memory = Memory::new();
    let (mut guest, mut machine) = (Guest::default(), Machine::new(64, 64, u32::MAX));
    let mut endpoint = endpoint(&memory, Limiter::default());
    for (id, words) in (0..).zip([
        transfer(READ, 0, SECTORS, &[(1, 0, 0)]),
        transfer(READ, 1, 0, &[(1, 0, 7), (NO_GRANTS, 0, 7)]),
        transfer(READ, 2, 0, &[(1, 5, 4)]),
        transfer(WRITE_BARRIER, 3, 0, &[(1, 0, 7)]),
        {
            // An indirect request whose page is not granted.
            let mut words = [0; 14];
            (words[0], words[1]) = (u64::from(INDIRECT) | 4 << 16, 4);
            words
        },
    ]) {
        assert!(memory.send(words), "{id}");
    }
    let served = endpoint.serve(&memory.parts(), &mut guest, &mut machine, 0);
    assert_eq!(served, Ok(None));
    assert_eq!(answers(&memory, 0), [(0, -1), (1, -1), (2, -1), (3, -2), (4, -1)]);
    assert!(guest.pins.is_empty() && machine.flying.is_empty());
    memory.send(transfer(FLUSH, 9, 0, &[(1, 0, 7)]));
    let served = endpoint.serve(&memory.parts(), &mut guest, &mut machine, 0);
    assert_eq!(served, Err(Trouble::Request(Refusal::FlushWithData)));
}

#[test]
fn a_flush_goes_to_each_disk_once_and_is_never_answered_with_an_error() {
    let memory = Memory::new();
    let (mut guest, mut machine) = (Guest::default(), Machine::new(64, 64, u32::MAX));
    let mut endpoint = endpoint(&memory, Limiter::default());
    memory.send(transfer(FLUSH, 7, 0, &[]));
    let parts = memory.parts();
    endpoint.serve(&parts, &mut guest, &mut machine, 0).expect("no trouble");
    let mut end = |machine: &mut Machine, outcome| {
        endpoint.ended(machine.complete(0), outcome);
        endpoint.serve(&parts, &mut guest, machine, 0)
    };
    for _ in 0..2 {
        assert_eq!(machine.flying.iter().map(|piece| piece.0).collect::<Vec<_>>(), [0, 1]);
        end(&mut machine, Outcome::Failed).expect("it is tried again");
        end(&mut machine, Outcome::Done).expect("it is tried again");
        assert!(answers(&memory, 0).is_empty());
    }
    end(&mut machine, Outcome::Done).expect("one is left");
    assert_eq!(end(&mut machine, Outcome::Failed), Err(Trouble::Flush));
    // Another flush cannot make up for it; the rest is served.
    memory.send(transfer(FLUSH, 8, 0, &[]));
    memory.send(transfer(READ, 9, 0, &[(1, 0, 0)]));
    endpoint.serve(&parts, &mut guest, &mut machine, 0).expect("told once");
    assert_eq!(machine.flying.len(), 1);
    endpoint.ended(machine.complete(0), Outcome::Done);
    endpoint.serve(&parts, &mut guest, &mut machine, 0).expect("told once");
    assert_eq!(answers(&memory, 0), [(9, STATUS_OK)]);
    assert_eq!(endpoint.finish(&parts, &mut guest, &mut machine), Ok(true));
}

#[test]
fn a_discard_is_cut_between_the_parts_of_a_disk() {
    let memory = Memory::new();
    let (mut guest, mut machine) = (Guest::default(), Machine::new(64, 64, u32::MAX));
    let mut endpoint = endpoint(&memory, Limiter::default());
    let discard = |sector: u64, sectors: u64| {
        let mut words = transfer(DISCARD, 5, sector, &[]);
        words[3] = sectors;
        words
    };
    // Sectors 13 to 32 of the first disk, in parts of 4 and at most 7 at a time.
    memory.send(discard(3, 20));
    let parts = memory.parts();
    endpoint.serve(&parts, &mut guest, &mut machine, 0).expect("no trouble");
    let pieces: Vec<_> = machine.flying.iter().map(|piece| piece.1).collect();
    let expected = [(13, 7), (20, 4), (24, 4), (28, 5)];
    assert_eq!(pieces, expected.map(|(start, count)| Request::Discard(start, count)));
    for _ in expected {
        endpoint.ended(machine.complete(0), Outcome::Done);
    }
    // What a disk does not have, now or ever, is answered such that the client asks no more.
    memory.send(discard(3, 4));
    endpoint.serve(&parts, &mut guest, &mut machine, 0).expect("no trouble");
    endpoint.ended(machine.complete(0), Outcome::Unsupported);
    machine.medium.discard_sectors = 0;
    memory.send(discard(3, 4));
    endpoint.serve(&parts, &mut guest, &mut machine, 0).expect("no trouble");
    assert!(machine.flying.is_empty());
    assert_eq!(answers(&memory, 0), [(5, STATUS_OK), (5, -2), (5, -2)]);
}

#[test]
fn a_flush_in_flight_ends_though_its_endpoint_grows() {
    // The grown layout may also have its extents cut otherwise.
    let more = Extent { device: 1, start: 160, sectors: 10 };
    let [first, second, third] = EXTENTS;
    let grown = [
        vec![first, second, third, more],
        vec![first, second, Extent { sectors: 45, ..third }],
        vec![
            Extent { sectors: 20, ..first },
            Extent { start: 30, sectors: 40, ..first },
            second,
            third,
            more,
        ],
    ];
    for (extents, room) in grown.iter().flat_map(|one| [(one, 1), (one, 64)]) {
        let memory = Memory::new();
        let (mut guest, mut machine) = (Guest::default(), Machine::new(room, 64, u32::MAX));
        let mut endpoint = endpoint(&memory, Limiter::default());
        memory.send(transfer(FLUSH, 7, 0, &[]));
        endpoint.serve(&memory.parts(), &mut guest, &mut machine, 0).expect("no trouble");
        let layout = Layout::new(extents, |_| Some(DISK)).expect("inside of the disks");
        let features = Features { sectors: layout.sectors(), ..features() };
        let parts = Parts { layout, features, ..memory.parts() };
        let mut flushed = Vec::new();
        while let Some(piece) = machine.flying.first() {
            flushed.push(piece.0);
            endpoint.ended(machine.complete(0), Outcome::Done);
            endpoint.serve(&parts, &mut guest, &mut machine, 0).expect("no trouble");
        }
        assert_eq!((flushed, answers(&memory, 0)), (vec![0, 1], vec![(7, STATUS_OK)]));
    }
}

#[test]
fn a_request_without_room_for_its_pins_waits_and_is_charged_once() {
    let memory = Memory::new();
    let (mut guest, mut machine) = (Guest::default(), Machine::new(64, 64, u32::MAX));
    guest.most = 3;
    let limit = Limit { per_second: 1, burst: 2 };
    let operations = Some(Bucket::new(limit, 0));
    let mut endpoint = endpoint(&memory, Limiter { bytes: None, operations });
    let parts = memory.parts();
    for id in 0..2 {
        memory.send(transfer(WRITE, id, 0, &[(1, 0, 0), (2, 0, 0)]));
    }
    for _ in 0..5 {
        assert_eq!(endpoint.serve(&parts, &mut guest, &mut machine, 0), Ok(None));
        assert!(endpoint.waits_for_room() && machine.flying.len() == 1);
    }
    endpoint.ended(machine.complete(0), Outcome::Done);
    assert_eq!(endpoint.serve(&parts, &mut guest, &mut machine, 0), Ok(None));
    assert!(!endpoint.waits_for_room());
    endpoint.ended(machine.complete(0), Outcome::Done);
    assert_eq!(endpoint.serve(&parts, &mut guest, &mut machine, 0), Ok(None));
    assert_eq!(answers(&memory, 0), [(0, STATUS_OK), (1, STATUS_OK)]);
    assert!(guest.pins.is_empty());
}

#[test]
fn an_indirect_request_whose_page_is_busy_waits() {
    let memory = Memory::new();
    let (mut guest, mut machine) = (Guest::default(), Machine::new(64, 64, u32::MAX));
    let mut endpoint = endpoint(&memory, Limiter::default());
    guest.busy = 2;
    guest.pages.insert(5, vec![segment_word((1, 0, 7)); 512]);
    let mut words = [0; 14];
    (words[0], words[1]) = (u64::from(INDIRECT) | u64::from(READ) << 8 | 1 << 16, 4);
    words[3] = 5 << 32;
    for _ in 0..4 {
        if memory.indices.borrow()[0] == 0 {
            memory.send(words);
        }
        let waits = guest.busy > 0;
        let served = endpoint.serve(&memory.parts(), &mut guest, &mut machine, 0);
        assert_eq!((served, endpoint.waits_for_room()), (Ok(None), waits));
        assert_eq!(answers(&memory, 0), []);
    }
    assert_eq!(machine.flying.len(), 1);
}

#[test]
fn finishing_ends_what_is_taken_and_takes_nothing() {
    let memory = Memory::new();
    let (mut guest, mut machine) = (Guest::default(), Machine::new(64, 64, u32::MAX));
    let limit = Limit { per_second: 1, burst: 1 };
    let operations = Some(Bucket::new(limit, 0));
    let mut endpoint = endpoint(&memory, Limiter { bytes: None, operations });
    let parts = memory.parts();
    for id in 0..2 {
        memory.send(transfer(READ, id, 0, &[(1, 0, 0)]));
    }
    endpoint.serve(&parts, &mut guest, &mut machine, 0).expect("no trouble");
    assert_eq!(machine.flying.len(), 1, "the other one is held back");
    memory.send(transfer(READ, 2, 0, &[(1, 0, 0)]));
    assert_eq!(endpoint.finish(&parts, &mut guest, &mut machine), Ok(false));
    assert_eq!(machine.flying.len(), 2, "both that are taken");
    for _ in 0..2 {
        assert!(endpoint.in_flight() > 0);
        endpoint.ended(machine.complete(0), Outcome::Done);
    }
    assert_eq!(endpoint.finish(&parts, &mut guest, &mut machine), Ok(true));
    assert_eq!(answers(&memory, 0), [(0, STATUS_OK), (1, STATUS_OK)]);
    assert!(guest.pins.is_empty() && machine.flying.is_empty());
}

#[test]
fn a_disk_without_cache_needs_no_flush() {
    let memory = Memory::new();
    let (mut guest, mut machine) = (Guest::default(), Machine::new(64, 64, u32::MAX));
    machine.medium.write_cache = false;
    let mut endpoint = endpoint(&memory, Limiter::default());
    memory.send(transfer(FLUSH, 7, 0, &[]));
    endpoint.serve(&memory.parts(), &mut guest, &mut machine, 0).expect("no trouble");
    assert_eq!(answers(&memory, 0), [(7, STATUS_OK)]);
}

#[test]
fn limits_hold_requests_back_until_their_time() {
    let memory = Memory::new();
    let (mut guest, mut machine) = (Guest::default(), Machine::new(64, 64, u32::MAX));
    let limit = Limit { per_second: 1, burst: 1 };
    let operations = Some(Bucket::new(limit, 0));
    let mut endpoint = endpoint(&memory, Limiter { bytes: None, operations });
    for id in 0..3 {
        memory.send(transfer(READ, id, 0, &[(1, 0, 0)]));
    }
    let mut now = 0;
    for flying in 1..=3 {
        let again = endpoint.serve(&memory.parts(), &mut guest, &mut machine, now).expect("fine");
        assert_eq!((machine.flying.len(), again.is_some()), (flying, flying < 3));
        now = again.unwrap_or(0);
    }
}

#[derive(Clone, Debug)]
enum Ask {
    Transfer { write: bool, indirect: bool, sector: u64, segments: Vec<(u8, u8)> },
    Flush,
    Discard { sector: u64, sectors: u64 },
}

fn ask() -> impl Strategy<Value = Ask> {
    let segment = (0_u8..8, 0_u8..8).prop_map(|(a, b)| (a.min(b), a.max(b)));
    let segments = prop::collection::vec(segment, 1..11);
    let transfer = (any::<bool>(), any::<bool>(), 0..SECTORS + 5, segments);
    prop_oneof![
        6 => transfer.prop_map(|(write, indirect, sector, segments)| {
            Ask::Transfer { write, indirect, sector, segments }
        }),
        1 => Just(Ask::Flush),
        1 => (0..SECTORS, 1..40_u64).prop_map(|(sector, sectors)| Ask::Discard { sector, sectors }),
    ]
}

proptest! {
    /// Requests, one after the other, change the sectors as they do in a model, no matter how many
    /// segments the disks accept at a time, and in which order pieces end. Each request is answered
    /// once.
    #[test]
    fn sectors_are_as_in_a_model(
        asks in prop::collection::vec(ask(), 1..30),
        room in 1_usize..6,
        limits in (1_usize..40, 1_u32..9),
        order in prop::collection::vec(any::<prop::sample::Index>(), 600),
    ) {
        let (memory, mut guest) = (Memory::new(), Guest::default());
        let mut machine = Machine::new(room, limits.0, limits.1 * 512);
        let mut endpoint = endpoint(&memory, Limiter::default());
        let mut model: Vec<u8> = (0..SECTORS).map(|at| machine.sector(at)).collect();
        let mut order = order.into_iter();
        for (id, ask) in (0_u64..).zip(asks) {
            let (words, good) = match &ask {
                Ask::Flush => (transfer(FLUSH, id, 0, &[]), true),
                Ask::Discard { sector, sectors } => {
                    let mut words = transfer(DISCARD, id, *sector, &[]);
                    words[3] = *sectors;
                    (words, sector + sectors <= SECTORS)
                }
                Ask::Transfer { write, indirect, sector, segments } => {
                    let grants: Vec<_> =
                        (1..).zip(segments).map(|(gref, (a, b))| (gref, *a, *b)).collect();
                    let count: u64 = segments.iter().map(|(a, b)| u64::from(b - a) + 1).sum();
                    let operation = if *write { WRITE } else { READ };
                    let mut words = transfer(operation, id, *sector, &grants);
                    if *indirect {
                        let inner = u64::from(operation) << 8;
                        words = [0; 14];
                        words[0] = u64::from(INDIRECT) | inner | (grants.len() as u64) << 16;
                        (words[1], words[2]) = (id, *sector);
                        // The handle, and the first grant with segments.
                        words[3] = 500 << 32;
                        let mut page: Vec<u64> = grants.iter().copied().map(segment_word).collect();
                        page.resize(512, 0);
                        guest.pages.insert(500, page);
                    }
                    (words, sector + count <= SECTORS)
                }
            };
            let before = memory.indices.borrow()[2];
            prop_assert!(memory.send(words));
            // What a write writes.
            let fresh = (id % 250) as u8 + 1;
            if let Ask::Transfer { write: true, segments, .. } = &ask {
                for (gref, (first, last)) in (1_u64..).zip(segments) {
                    for sector in *first..=*last {
                        machine.memory.insert(gref * 4096 + u64::from(sector) * 512, fresh);
                    }
                }
            }
            prop_assert_eq!(endpoint.serve(&memory.parts(), &mut guest, &mut machine, 0), Ok(None));
            while !machine.flying.is_empty() {
                prop_assert!(answers(&memory, before).is_empty());
                let at = order.next().map_or(0, |at| at.index(machine.flying.len()));
                endpoint.ended(machine.complete(at), Outcome::Done);
                endpoint.serve(&memory.parts(), &mut guest, &mut machine, 0).expect("fine");
            }
            let status = if good { STATUS_OK } else { STATUS_ERROR };
            prop_assert_eq!(answers(&memory, before), vec![(id, status)], "{:?}", ask);
            prop_assert!(guest.pins.is_empty());
            if !good {
                continue;
            }
            match ask {
                Ask::Flush => {}
                Ask::Discard { sector, sectors } => {
                    model[sector as usize..][..sectors as usize].fill(0);
                }
                Ask::Transfer { write, sector, segments, .. } => {
                    let mut at = sector as usize;
                    for (gref, (first, last)) in (1_u64..).zip(segments) {
                        for place in first..=last {
                            let address = gref * 4096 + u64::from(place) * 512;
                            if write {
                                model[at] = fresh;
                            } else {
                                prop_assert_eq!(machine.memory[&address], model[at]);
                            }
                            at += 1;
                        }
                    }
                }
            }
            let now: Vec<u8> = (0..SECTORS).map(|at| machine.sector(at)).collect();
            prop_assert_eq!(&now, &model);
        }
    }

    /// Whatever is in the ring, every entry that was pinned is answered, or the client is detached.
    #[test]
    fn wild_requests_leave_nothing_pinned(
        requests in prop::collection::vec(prop::array::uniform14(any::<u64>()), 1..33),
        small in any::<bool>(),
    ) {
        let (memory, mut guest) = (Memory::new(), Guest::default());
        let mut machine = Machine::new(8, 64, u32::MAX);
        let mut endpoint = endpoint(&memory, Limiter::default());
        for mut words in requests {
            if small {
                words[0] &= 0x0f07;
                words[2] %= SECTORS;
                words[3..].iter_mut().for_each(|word| *word &= 0x0707_0000_03ff);
            }
            memory.send(words);
        }
        let mut served = endpoint.serve(&memory.parts(), &mut guest, &mut machine, 0).map(drop);
        while served.is_ok() && !machine.flying.is_empty() {
            endpoint.ended(machine.complete(0), Outcome::Done);
            served = endpoint.serve(&memory.parts(), &mut guest, &mut machine, 0).map(drop);
        }
        if served.is_ok() {
            prop_assert!(guest.pins.is_empty());
            let indices = memory.indices.borrow();
            prop_assert_eq!(indices[0], indices[2], "each request is answered");
        }
        endpoint.drop_all(&mut guest);
        prop_assert!(guest.pins.is_empty());
    }
}
