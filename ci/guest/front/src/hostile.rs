//! The attacks of a hostile front end: invalid requests, invalid indices, and nodes with rubbish in
//! them.

use crate::front::indirect_slot;
use crate::machine::Machine;
use crate::ring::{Ring, SLOTS, Slot};
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::sync::atomic::Ordering;
use fuzz_programs::Random;
use pv_abi::xen::block::{
    FLUSH, INDIRECT, INDIRECT_PAGES_MAX, IndirectRequest, READ, Request, SEGMENTS_MAX, Segment,
    WRITE,
};
use pv_abi::xen::xenbus::{CLOSED, CLOSING, CONNECTED, INITIALISED, INITIALISING};

/// One attack on a back end. After it, the front end closes, connects again, and must be served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attack {
    /// An index of the ring has this value: `req_prod`, `req_event`, `rsp_prod`, `rsp_event`.
    Index {
        /// The number of the index.
        index: usize,
        /// The number that is added to the index.
        add: u32,
    },
    /// Invalid requests.
    Requests(Vec<Broken>),
    /// A good request whose slot is overwritten while the back end may read it, as often as this
    /// number says.
    Scribble(u32),
    /// The grants of requests in flight are cleared.
    Revoke,
    /// The front end shows this state with requests in flight.
    Leave(u32),
    /// The front end shows these states, and waits for nothing.
    Storm(Vec<u32>),
    /// Rubbish among the nodes of the next offer.
    Rubbish(Rubbish),
}

/// A node of the front end with an invalid value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rubbish {
    /// The node, below the front end's directory.
    pub node: &'static str,
    /// The value of the node.
    pub value: String,
}

/// An invalid request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Broken {
    /// The operation of this number, which does not exist or is not offered.
    Operation(u8),
    /// Sectors that the disk does not have.
    Sector {
        /// The first sector.
        sector: u64,
        /// Whether the request is indirect.
        indirect: bool,
        /// READ or WRITE.
        operation: u8,
    },
    /// A reference without a grant, to a grant for another partition, or to a grant that does not
    /// allow this use.
    Grant {
        /// The grant.
        grant: u32,
        /// READ or WRITE.
        operation: u8,
    },
    /// A read into a page that is granted for reading only.
    ReadOnly,
    /// A number of segments that a request cannot have.
    Segments(u8),
    /// A segment that is not within its page, or that ends before it begins.
    Segment(u8, u8),
    /// A flush with segments.
    Flush(u8),
    /// An indirect request whose page of segments lists that page itself as each segment.
    Itself {
        /// Number of segments.
        count: u16,
        /// The inner operation.
        inner: u8,
    },
    /// An indirect request whose pages are these grants.
    Lists([u32; INDIRECT_PAGES_MAX], u16),
    /// A slot of random words.
    Words(Slot),
}

impl Attack {
    /// A random attack on a disk of this size, with grants that the back end has no right to use.
    #[must_use]
    pub fn random(random: &mut Random, sectors: u64, foreign: &[u32]) -> Self {
        match random.below(12) {
            0 => {
                let add = random.of(&[SLOTS + 1, 1 << 31, u32::MAX, 0_u32.wrapping_sub(SLOTS), 77]);
                Self::Index { index: random.below(4) as usize, add }
            }
            1 => Self::Scribble(1 + random.below(64) as u32),
            2 => Self::Revoke,
            3 => {
                let states = [INITIALISING, INITIALISED, CLOSING, CLOSED, 0, 7, u32::MAX];
                Self::Leave(random.of(&states))
            }
            4 => {
                let states = [INITIALISING, INITIALISED, CONNECTED, CLOSING, CLOSED, 2, 99];
                Self::Storm((0..1 + random.below(40)).map(|_| random.of(&states)).collect())
            }
            5 | 6 => Self::Rubbish(Rubbish::random(random)),
            _ => {
                let count = 1 + random.below(SLOTS.into());
                Self::Requests(
                    (0..count).map(|_| Broken::random(random, sectors, foreign)).collect(),
                )
            }
        }
    }
}

impl Rubbish {
    fn random(random: &mut Random) -> Self {
        let node = random.of(&[
            "ring-ref",
            "event-channel",
            "protocol",
            "multi-queue-num-queues",
            "ring-page-order",
            "queue-0/ring-ref",
            "feature-persistent",
            "state",
        ]);
        let long = "9".repeat(1 + random.below(2000) as usize);
        let texts =
            ["", "0", "-1", "4294967295", "4294967296", "0x8", "x86_32-abi", "a\u{7f}b", " 8"];
        let value = match random.below(4) {
            0 => long,
            1 => random.number().to_string(),
            _ => random.of(&texts).into(),
        };
        Self { node, value }
    }
}

impl Broken {
    fn random(random: &mut Random, sectors: u64, foreign: &[u32]) -> Self {
        let operation = random.of(&[READ, WRITE]);
        match random.below(10) {
            0 => Self::Operation(random.bits() as u8),
            1 => {
                let far = [sectors, sectors - 1, u64::MAX, u64::MAX - 7, 1 << 63, sectors + 1];
                let (sector, indirect) = (random.of(&far), random.once_in(2));
                Self::Sector { sector, indirect, operation }
            }
            2 => {
                let grant = match random.below(2) {
                    0 if !foreign.is_empty() => random.of(foreign),
                    _ => random.number() as u32,
                };
                Self::Grant { grant, operation }
            }
            3 => Self::ReadOnly,
            4 => Self::Segments(random.of(&[0, 12, 13, 32, 127, 128, 255])),
            5 => {
                let (first, last) =
                    random.of(&[(7, 0), (0, 8), (8, 8), (255, 255), (0, 255), (1, 0)]);
                Self::Segment(first, last)
            }
            6 => Self::Flush(random.of(&[1, 11, 12, 255])),
            7 => {
                let count = random.of(&[0, 1, 32, 33, 256, 257, 512, 513, 4096, 4097, u16::MAX]);
                let inner = random.of(&[READ, WRITE, FLUSH, INDIRECT, 5, 99, 255]);
                Self::Itself { count, inner }
            }
            8 => {
                let one = |random: &mut Random| match foreign {
                    [] => random.number() as u32,
                    some => random.of(some),
                };
                let grants = core::array::from_fn(|_| one(random));
                Self::Lists(grants, random.of(&[1, 32, 512, 513, 4096]))
            }
            _ => Self::Words(core::array::from_fn(|_| random.number() as u32)),
        }
    }

    /// Puts the request into a ring, with a page of the machine that nothing else uses. The page
    /// gets a new grant.
    pub fn write(&self, machine: &impl Machine, ring: &mut Ring, page: usize) {
        let writable = !matches!(self, Self::ReadOnly);
        let gref = machine.grant(page, writable);
        ring.write(machine, &self.slot(machine, page, gref, u64::from(ring.written() % SLOTS)));
    }

    fn slot(&self, machine: &impl Machine, page: usize, gref: u32, id: u64) -> Slot {
        let whole = Segment { gref, first_sect: 0, last_sect: 7, reserved: 0 };
        let plain = |operation, nr_segments, sector_number, segment| -> Slot {
            let segments = [segment; SEGMENTS_MAX];
            zerocopy::transmute!(Request {
                operation,
                nr_segments,
                id,
                sector_number,
                segments,
                ..Request::default()
            })
        };
        let lists = |indirect_grefs, nr_segments, indirect_op, sector_number| {
            indirect_slot(&IndirectRequest {
                operation: INDIRECT,
                indirect_op,
                nr_segments,
                id,
                sector_number,
                indirect_grefs,
                ..IndirectRequest::default()
            })
        };
        match *self {
            Self::Operation(operation) => plain(operation, 1, 0, whole),
            Self::Sector { sector, indirect: false, operation } => {
                plain(operation, 1, sector, whole)
            }
            Self::Sector { sector, indirect: true, operation } => {
                list_itself(machine, page, gref);
                lists([gref; INDIRECT_PAGES_MAX], 1, operation, sector)
            }
            Self::Grant { grant, operation } => {
                plain(operation, 1, 0, Segment { gref: grant, ..whole })
            }
            Self::ReadOnly => plain(READ, 1, 0, whole),
            Self::Segments(count) => plain(READ, count, 0, whole),
            Self::Segment(first_sect, last_sect) => {
                plain(READ, 1, 0, Segment { first_sect, last_sect, ..whole })
            }
            Self::Flush(count) => plain(FLUSH, count, 0, whole),
            Self::Itself { count, inner } => {
                list_itself(machine, page, gref);
                lists([gref; INDIRECT_PAGES_MAX], count, inner, 0)
            }
            Self::Lists(grants, count) => lists(grants, count, READ, 0),
            Self::Words(words) => words,
        }
    }
}

/// Fills a page with a list of segments, each of which is that page.
fn list_itself(machine: &impl Machine, page: usize, gref: u32) {
    for pair in machine.page(page).chunks(2) {
        if let [grant, sectors] = pair {
            grant.store(gref, Ordering::Relaxed);
            sectors.store(7 << 8, Ordering::Relaxed);
        }
    }
}
