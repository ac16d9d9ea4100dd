//! A front end that does as little as it can, so that a benchmark counts its back end.
//!
//! All pages are granted and all requests are made beforehand. A request that is sent again only gets
//! another sector. Sectors jump over the whole disk, so no two requests in flight are neighbours, and
//! a back end that merges neighbours has none to merge.

use crate::ring::{SLOTS, Slot};
use crate::{Fault, Machine, Page, Ring};
use alloc::vec::Vec;
use core::ops::Range;
use core::sync::atomic::Ordering;
use pv_abi::xen::block::{
    INDIRECT, INDIRECT_PAGES_MAX, IndirectRequest, PAGE_SECTORS, READ, Request, SEGMENTS_MAX,
    STATUS_OK, Segment, WRITE,
};

/// Maximum number of segments of a request, as Linux has it: 128 KiB.
const SEGMENTS: usize = 32;

/// Operations of one kind, so many in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// Whether they write.
    pub write: bool,
    /// Bytes of an operation: whole pages, and whole requests of 128 KiB if there are more of them.
    pub bytes: usize,
    /// Operations in flight.
    pub depth: usize,
}

const fn load(write: bool, kibibytes: usize, depth: usize) -> Load {
    Load { write, bytes: kibibytes << 10, depth }
}

/// The loads that benchmarks measure, in the order in which a guest makes them.
pub const LOADS: [Load; 8] = [
    load(false, 4, 1),
    load(true, 4, 1),
    load(false, 4, 32),
    load(true, 4, 32),
    load(false, 64, 1),
    load(true, 64, 1),
    load(false, 1024, 1),
    load(true, 1024, 1),
];

impl Load {
    /// Number of operations, if `count` are made of one page.
    #[must_use]
    pub const fn operations(&self, count: u64) -> u64 {
        let operations = match self.bytes {
            0x10_0000.. => count / 16,
            0x1_0000..0x10_0000 => count / 4,
            _ => count,
        };
        if operations == 0 { 1 } else { operations }
    }

    /// Pages of a request, and requests of an operation.
    const fn parts(&self) -> (usize, usize) {
        let pages = self.bytes / pv_abi::PAGE_SIZE;
        let most = if pages > SEGMENTS { SEGMENTS } else { pages };
        (most, pages / most)
    }
}

/// A front end with its pages, which are granted once: a back end may keep them mapped.
#[derive(Debug)]
pub struct Lean {
    ring: Ring,
    sectors: u64,
    /// The first page, and the grant of each. The first pages have lists of segments, one for each
    /// id.
    first: usize,
    grants: Vec<u32>,
    /// The request with each id.
    slots: Vec<Slot>,
    /// Ids that wait for nothing.
    free: Vec<usize>,
    /// Requests of an operation, and sectors of a request.
    requests: usize,
    step: u64,
    /// Requests that fit on the disk, and the number of the next.
    places: u64,
    next: u64,
}

impl Lean {
    /// Grants pages, more than [`SLOTS`], for transfers with a disk of so many sectors.
    pub fn new(machine: &impl Machine, ring: Ring, sectors: u64, pages: Range<usize>) -> Self {
        let first = pages.start;
        let grants = pages.map(|page| machine.grant(page, true)).collect();
        let (slots, free) = (Vec::new(), Vec::new());
        let (requests, step, places, next) = (1, 1, 1, 0);
        Self { ring, sectors, first, grants, slots, free, requests, step, places, next }
    }

    /// Prepares the requests of a load. Requests in flight share pages if there are too few.
    ///
    /// # Panics
    /// If the requests do not fit in the ring, or none on the disk, or if there are too few pages.
    pub fn prepare(&mut self, machine: &impl Machine, load: &Load) {
        let (segments, requests) = load.parts();
        let count = load.depth * requests;
        let (lists, data) = self.grants.split_at(SLOTS as usize);
        assert!(count <= SLOTS as usize && !data.is_empty(), "{load:?} with {} pages", data.len());
        let mut next = data.iter().cycle();
        let last_sect = PAGE_SECTORS - 1;
        let segment = |gref: &u32| Segment { gref: *gref, last_sect, ..Segment::default() };
        let slots = lists.iter().take(count).enumerate().map(|(id, list)| {
            let segments: Vec<Segment> = next.by_ref().take(segments).map(segment).collect();
            write_list(machine.page(self.first + id), &segments);
            slot(load, id as u64, &segments, *list)
        });
        self.slots = slots.collect();
        self.free = (0..count).rev().collect();
        self.step = (segments * usize::from(PAGE_SECTORS)) as u64;
        (self.requests, self.places, self.next) = (requests, self.sectors / self.step, 0);
        assert!(self.places > 0, "{} sectors", self.sectors);
    }

    /// Makes so many operations. Calls `wait` when it waits for an event of the back end; it may
    /// return early.
    ///
    /// # Errors
    /// The first answer that is not as it must be.
    pub fn run(
        &mut self,
        machine: &impl Machine,
        operations: u64,
        mut wait: impl FnMut(),
    ) -> Result<(), Fault> {
        let mut left = operations;
        loop {
            while left > 0 && self.free.len() >= self.requests {
                (0..self.requests).for_each(|_| self.send(machine));
                left -= 1;
            }
            self.ring.publish(machine);
            if self.take(machine)? {
                continue;
            }
            if self.ring.in_flight() == 0 {
                return Ok(());
            }
            self.ring.ask_for_event(machine);
            if self.ring.produced(machine) == self.ring.taken() {
                wait();
            }
        }
    }

    fn send(&mut self, machine: &impl Machine) {
        let Some(id) = self.free.pop() else { return };
        // A step that is prime to all numbers but its multiples reaches every place.
        let sector = self.next * 7919 % self.places * self.step;
        self.next += 1;
        let slot = &mut self.slots[id];
        (slot[4], slot[5]) = (sector as u32, (sector >> 32) as u32);
        self.ring.write(machine, slot);
    }

    /// Takes all answers. Returns whether there were any.
    fn take(&mut self, machine: &impl Machine) -> Result<bool, Fault> {
        let (produced, taken) = (self.ring.produced(machine), self.ring.taken());
        let (ring, in_flight) = (self.ring.number, self.ring.in_flight());
        if produced.wrapping_sub(taken) > in_flight {
            return Err(Fault::Answers { ring, produced, taken, in_flight });
        }
        while self.ring.taken() != produced {
            let answer = self.ring.take(machine);
            let (id, operation, status) = (answer.id, answer.operation, answer.status);
            if id >= self.slots.len() as u64 {
                return Err(Fault::NoSuchId { ring, id });
            }
            if status != STATUS_OK {
                return Err(Fault::Status { ring, operation, sector: 0, status });
            }
            self.free.push(id as usize);
        }
        Ok(produced != taken)
    }
}

/// Writes a list of segments into its page.
fn write_list(page: &Page, segments: &[Segment]) {
    for (pair, segment) in page.chunks_exact(2).zip(segments) {
        let words: [u32; 2] = zerocopy::transmute!(*segment);
        pair.iter().zip(words).for_each(|(to, word)| to.store(word, Ordering::Release));
    }
}

/// The request of an id; the sector is still to be set. `list` is the grant of the list of segments.
fn slot(load: &Load, id: u64, segments: &[Segment], list: u32) -> Slot {
    let operation = if load.write { WRITE } else { READ };
    let mut all = [Segment::default(); SEGMENTS_MAX];
    if let Some(some) = all.get_mut(..segments.len()) {
        some.copy_from_slice(segments);
        let nr_segments = segments.len() as u8;
        let request = Request { operation, nr_segments, id, segments: all, ..Request::default() };
        return zerocopy::transmute!(request);
    }
    let mut indirect_grefs = [0; INDIRECT_PAGES_MAX];
    indirect_grefs[0] = list;
    crate::front::indirect_slot(&IndirectRequest {
        operation: INDIRECT,
        indirect_op: operation,
        nr_segments: segments.len() as u16,
        id,
        indirect_grefs,
        ..IndirectRequest::default()
    })
}
