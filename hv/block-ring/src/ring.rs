//! The ring in shared memory, and the back end's place in it.

use pv_abi::xen::block::{RING_HEADER_BYTES, RING_ORDER_MAX, Response, SLOT_BYTES};

use crate::RawRequest;

/// Words of 64 bits in a slot.
pub const REQUEST_WORDS: usize = SLOT_BYTES / 8;

/// An index word of the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Index {
    /// Requests that the front end produced.
    RequestsProduced,
    /// The index at which the back end wants an event.
    RequestEvent,
    /// Responses that the back end produced.
    ResponsesProduced,
    /// The index at which the front end wants an event.
    ResponseEvent,
}

/// The memory of a ring, which the front end writes at the same time.
pub trait RingMemory {
    /// Loads an index; an acquire.
    fn load_index(&self, index: Index) -> u32;
    /// Stores an index; a release.
    fn store_index(&self, index: Index, value: u32);
    /// Loads a word of a slot once. `slot` is less than the ring's size, `word` less than
    /// [`REQUEST_WORDS`].
    fn load_word(&self, slot: u32, word: usize) -> u64;
    /// Loads each word of a slot once.
    fn load_slot(&self, slot: u32) -> [u64; REQUEST_WORDS] {
        core::array::from_fn(|word| self.load_word(slot, word))
    }
    /// Stores a word of a slot.
    fn store_word(&self, slot: u32, word: usize, value: u64);
    /// Orders every store before it ahead of every load after it.
    fn fence(&self);
}

/// Number of slots of a ring: a power of two, 1 to 512.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RingSize(u32);

impl RingSize {
    /// The largest ring: [`RING_ORDER_MAX`] pages as log2.
    pub const MAX: u32 = 512;

    /// The size of a ring of 2^`order` pages; `None` if the order is above [`RING_ORDER_MAX`].
    #[must_use]
    pub const fn of_order(order: u32) -> Option<Self> {
        if order > RING_ORDER_MAX {
            return None;
        }
        // As many slots as fit behind the header, rounded down to a power of two (`io/ring.h`).
        Some(Self(32 << order))
    }

    /// A size in slots; `None` unless it is a power of two of at most [`RingSize::MAX`].
    #[must_use]
    pub const fn of_slots(slots: u32) -> Option<Self> {
        if slots.is_power_of_two() && slots <= Self::MAX { Some(Self(slots)) } else { None }
    }

    /// Number of slots.
    #[must_use]
    pub const fn slots(self) -> u32 {
        self.0
    }

    /// The slot of an index.
    #[must_use]
    pub const fn slot(self, index: u32) -> u32 {
        index & (self.0 - 1)
    }
}

const _: () = {
    let mut order = 0;
    while order <= RING_ORDER_MAX {
        let slots = (((1usize << order) << 12) - RING_HEADER_BYTES) / SLOT_BYTES;
        assert!(32 << order <= slots && slots < 64 << order);
        order += 1;
    }
};

/// The reason why a ring cannot be served any longer. The client is detached, with this as the
/// cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Broken {
    /// `req_prod` covers more requests than the ring has free slots.
    TooManyRequests {
        /// The front end's `req_prod`.
        produced: u32,
        /// Requests that the back end consumed.
        consumed: u32,
    },
    /// `req_prod` went back behind requests that the back end consumed.
    RequestsWithdrawn {
        /// The front end's `req_prod`.
        produced: u32,
        /// Requests that the back end consumed.
        consumed: u32,
    },
    /// `rsp_prod` in the ring has a value that the back end never stored.
    ResponsesMoved {
        /// `rsp_prod` in the ring.
        found: u32,
        /// The value that the back end stored last.
        stored: u32,
    },
}

/// A ring in shared memory.
#[derive(Debug)]
pub struct Ring<'m, M: RingMemory> {
    memory: &'m M,
    size: RingSize,
}

impl<'m, M: RingMemory> Ring<'m, M> {
    /// A ring of `size` slots in `memory`.
    pub const fn new(memory: &'m M, size: RingSize) -> Self {
        Self { memory, size }
    }

    /// Number of slots.
    #[must_use]
    pub const fn size(&self) -> RingSize {
        self.size
    }

    /// Fetches the request at an index, each word once.
    #[must_use]
    pub fn fetch(&self, index: u32) -> RawRequest {
        RawRequest(self.memory.load_slot(self.size.slot(index)))
    }

    /// Writes a response into the slot of an index. The front end sees it after
    /// [`Ring::publish`].
    pub fn write_response(&self, index: u32, response: &Response) {
        let slot = self.size.slot(index);
        let words: [u64; 2] = zerocopy::transmute!(*response);
        self.memory.store_word(slot, 0, words[0]);
        self.memory.store_word(slot, 1, words[1]);
    }

    /// The front end sees the responses below `produced`.
    pub fn publish(&self, produced: u32) {
        self.memory.store_index(Index::ResponsesProduced, produced);
    }

    /// `rsp_prod` as it stands in the ring, where the front end can write it. Only a server that
    /// attaches to the ring reads it.
    #[must_use]
    pub fn responses_in_ring(&self) -> u32 {
        self.memory.load_index(Index::ResponsesProduced)
    }

    /// Says whether the front end waits for an event for the responses from `before` up to
    /// `produced`, which were just published.
    #[must_use]
    pub fn event_owed(&self, before: u32, produced: u32) -> bool {
        self.memory.fence();
        let event = self.memory.load_index(Index::ResponseEvent);
        produced.wrapping_sub(event) < produced.wrapping_sub(before)
    }

    /// Says whether the front end may wait for an event that the last server did not send. A front
    /// end sets `rsp_event` to one above what it has consumed, so it waits only if `produced` has
    /// reached that.
    #[must_use]
    pub fn event_owed_at_attach(&self, produced: u32) -> bool {
        self.memory.fence();
        let event = self.memory.load_index(Index::ResponseEvent);
        // The distance is a signed number of 32 bits: not negative.
        produced.wrapping_sub(event) < 1 << 31
    }

    /// Asks the front end for an event with the next request after `consumed`. The caller must look
    /// at the ring again afterwards, because the front end sends no event for a request that it
    /// published before it saw this.
    pub fn ask_for_event(&self, consumed: u32) {
        self.memory.store_index(Index::RequestEvent, consumed.wrapping_add(1));
        self.memory.fence();
    }
}

/// The back end's own indices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cursor {
    /// Requests consumed.
    pub consumed: u32,
    /// Responses produced.
    pub produced: u32,
}

impl Cursor {
    /// Requests that were consumed and not answered.
    #[must_use]
    pub const fn outstanding(self) -> u32 {
        self.consumed.wrapping_sub(self.produced)
    }

    /// Number of requests in the ring that were not consumed.
    ///
    /// # Errors
    /// The front end's index cannot be: the ring is broken.
    pub fn pending<M: RingMemory>(self, ring: &Ring<'_, M>) -> Result<u32, Broken> {
        let produced = ring.memory.load_index(Index::RequestsProduced);
        let ahead = produced.wrapping_sub(self.produced);
        let consumed = self.consumed;
        if ahead > ring.size.slots() {
            // An index that went back a little shows as a number far ahead.
            return Err(if consumed.wrapping_sub(produced) < 1 << 31 && consumed != produced {
                Broken::RequestsWithdrawn { produced, consumed }
            } else {
                Broken::TooManyRequests { produced, consumed }
            });
        }
        match ahead.checked_sub(self.outstanding()) {
            Some(pending) => Ok(pending),
            None => Err(Broken::RequestsWithdrawn { produced, consumed }),
        }
    }
}
