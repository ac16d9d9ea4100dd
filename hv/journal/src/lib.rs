//! The journal of a block ring: a record, outside of the server, of the requests that a server has
//! taken and not answered.
//!
//! A response overwrites a request in the ring, so after the death of a server the ring alone says
//! neither which requests are unanswered, nor what they asked for. The journal is a page beside the
//! ring. It belongs to the service, is mapped where the ring is served, and moves with the ring. A
//! server may die between any two stores. Its successor, which may die too, then gives each request
//! exactly one answer, and never issues a request again that was answered.
//!
//! # The page
//! ```text
//! word
//!   0        magic
//!   1        version:32 | slots of the ring:32
//!   2        LIFE     incarnation of the endpoint:62 | phase:2
//!   3        STATE    taken, a bit for each entry:32 | requests consumed:32
//!   4        PUBLISH  base:32 | count:32     count 0: base is the true rsp_prod
//!  16 ..  31 lines    32 of 32 bits {entry:16, status:16}: answers that are being published
//!  32 ..  63 seals    32 of 64 bits {index in the ring:32, checksum:32}
//!  64 .. 511 entries  32 of 112 bytes, requests as they were fetched
//! ```
//! An entry is a place of the journal's own. The ring's index is no key, since index r and r + size
//! can be unanswered together; nor is the request's id, which a client chooses. A ring of any size
//! has at most 32 requests taken at a time.
//!
//! # The protocol
//! * *Take* ([`Journal::take`]): requests into free entries, each with a seal, then one store of
//!   STATE for all. They are issued from the entries, never from the ring.
//! * *Answer* ([`Journal::answer`]), after the device is done and the pins are dropped: lines,
//!   PUBLISH = (base, n), responses into the slots, `rsp_prod`, STATE with the bits cleared,
//!   PUBLISH = (base + n, 0). Then an event, if one is owed. An entry is used again only after the
//!   last store.
//! * *Settle* ([`settle`]), by the successor: if PUBLISH has a count, `rsp_prod` in the ring says
//!   whether the client has seen the answers. At `base` it has not, and the successor writes them
//!   from the lines and goes on as *answer* does; at `base + count` the successor only clears. Any
//!   other value is the client's doing, and the client is detached.
//! * *Detach* ([`Journal::detach`]): phase *detaching*; pins and device are drained; phase *free*.
//!   A successor that finds *detaching* discards all requests that were taken and continues the
//!   detach.
//!
//! Before it settles, a successor has reset the device, has seen the reset confirmed, and has
//! dropped the device's pins: a late transfer into a page that its client uses again is corruption,
//! and no journal can undo it.
//!
//! # What the model checker showed
//! `tests/model` ends servers between any two stores, with the stores of this code. It forbids each
//! reordering of the stores above but one: PUBLISH may come after the responses in the slots.
//!
//! # Why incarnation and phase are one word
//! As two words, a server that dies between the two stores of
//! an attach leaves the old bits under the new incarnation, and its successor holds a ring that
//! nobody broke.
//!
//! # Damage
//! The page may be damaged by the very fault that ended the server. STATE must have as many bits as
//! requests are consumed and unanswered, lines must name entries that are taken, and an entry must
//! have its checksum, which covers entry, incarnation and index. If anything does not fit, the ring is
//! *held* ([`Held`]): nothing is answered and nothing is issued, since any guess could lose data.
//! The way out is to detach the client ([`abandon`]).
#![cfg_attr(not(test), warn(clippy::cast_possible_truncation))]
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

mod answer;
mod page;
mod settle;

pub use answer::{Answer, Published, Unanswerable};
pub use page::{ENTRIES, JournalPage, WORDS, words};
pub use settle::{Found, Held, abandon, settle};

use block_ring::{Broken, Cursor, RawRequest, Ring, RingMemory};
use page::{Life, Phase, State};

/// A server's place in a journal. The page and the ring are parameters of each call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Journal {
    incarnation: u64,
    cursor: Cursor,
    taken: u32,
}

/// A journal whose client is going. Nothing is taken, answered or issued again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[must_use = "an endpoint attaches again only after the detach is finished"]
pub struct Detaching {
    incarnation: u64,
}

/// Why a journal is not started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NotStarted {
    /// The page still serves an incarnation, or its detach is not finished.
    InUse {
        /// The incarnation.
        incarnation: u64,
    },
    /// The incarnation is not above the last one, or needs more than 62 bits.
    Incarnation {
        /// The last incarnation of the page.
        last: u64,
    },
}

impl Journal {
    /// Starts the journal of an endpoint's next incarnation, at a ring that nobody has served. The
    /// page is zero, or has ended an earlier incarnation.
    ///
    /// # Errors
    /// The page is in use, or the incarnation is not a later one.
    pub fn start(
        page: &impl JournalPage,
        ring: &Ring<'_, impl RingMemory>,
        incarnation: u64,
    ) -> Result<Self, NotStarted> {
        let life = Life::load(page);
        let is_fresh = life.phase == Phase::Fresh && !page::has_header(page);
        if life.phase != Phase::Free && !is_fresh {
            return Err(NotStarted::InUse { incarnation: life.incarnation });
        }
        if incarnation <= life.incarnation || incarnation > Life::INCARNATION_MAX {
            return Err(NotStarted::Incarnation { last: life.incarnation });
        }
        let produced = ring.responses_in_ring();
        let journal =
            Self { incarnation, cursor: Cursor { consumed: produced, produced }, taken: 0 };
        // From here on a page whose LIFE is zero has lost it.
        Life { incarnation: life.incarnation, phase: Phase::Free }.store(page);
        journal.state().store(page);
        page::Publish { base: produced, count: 0 }.store(page);
        page::store_header(page, ring.size());
        Life { incarnation, phase: Phase::Serving }.store(page);
        Ok(journal)
    }

    /// Takes at most `most` requests from the ring, as far as entries are free. Returns the entries
    /// that it took, one bit each.
    ///
    /// # Errors
    /// The ring is broken; nothing is taken. The caller detaches the client.
    pub fn take(
        &mut self,
        page: &impl JournalPage,
        ring: &Ring<'_, impl RingMemory>,
        most: u32,
    ) -> Result<u32, Broken> {
        let pending = self.cursor.pending(ring)?;
        let count = pending.min(most).min(self.taken.count_zeros());
        let mut new = 0u32;
        for _ in 0..count {
            let entry = (self.taken | new).trailing_ones();
            let index = self.cursor.consumed;
            page::store_entry(page, entry, &ring.fetch(index), self.incarnation, index);
            new |= 1 << entry;
            self.cursor.consumed = index.wrapping_add(1);
        }
        if new != 0 {
            self.taken |= new;
            self.state().store(page);
        }
        Ok(new)
    }

    /// The request of an entry that is taken.
    #[must_use]
    pub fn request(&self, page: &impl JournalPage, entry: u32) -> Option<RawRequest> {
        let is_taken = entry < ENTRIES && self.taken & 1 << entry != 0;
        is_taken.then(|| page::load_entry(page, entry))
    }

    /// The entries that are taken and not answered, one bit each.
    #[must_use]
    pub const fn taken(&self) -> u32 {
        self.taken
    }

    /// The server's indices in the ring.
    #[must_use]
    pub const fn cursor(&self) -> Cursor {
        self.cursor
    }

    /// The incarnation of the endpoint.
    #[must_use]
    pub const fn incarnation(&self) -> u64 {
        self.incarnation
    }

    /// Begins to detach the client. From now on a successor discards the requests that are taken.
    pub fn detach(self, page: &impl JournalPage) -> Detaching {
        Life { incarnation: self.incarnation, phase: Phase::Detaching }.store(page);
        Detaching { incarnation: self.incarnation }
    }

    const fn state(&self) -> State {
        State { taken: self.taken, consumed: self.cursor.consumed }
    }
}

impl Detaching {
    /// Ends the detach. The caller has drained or reset the device, has dropped the pins, and has
    /// unmapped the ring. From now on the next incarnation can start.
    pub fn finish(self, page: &impl JournalPage) {
        Life { incarnation: self.incarnation, phase: Phase::Free }.store(page);
    }

    /// The incarnation that ends.
    #[must_use]
    pub const fn incarnation(&self) -> u64 {
        self.incarnation
    }
}
