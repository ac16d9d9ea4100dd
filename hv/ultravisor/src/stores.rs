//! Store rings: the bytes between a kernel's xenbus and the store.
//!
//! Rule: a client is notified exactly when one of our indices has moved.

use partition_runtime::events::{self, Port};
use partition_runtime::grants::Mapping;
use partition_runtime::{heap, log, time};
use pv_abi::xen::store::{ERROR_PROTO, ERROR_RINGIDX, FEATURE_ERROR, RING_BYTES, StoreRing};
use store::Store;

use crate::pipe::{Broken, Pipe};

const REQUESTS: Pipe = Pipe {
    buffer: core::mem::offset_of!(StoreRing, req),
    size: RING_BYTES as u32,
    produced: core::mem::offset_of!(StoreRing, req_prod),
    consumed: core::mem::offset_of!(StoreRing, req_cons),
};
const REPLIES: Pipe = Pipe {
    buffer: core::mem::offset_of!(StoreRing, rsp),
    size: RING_BYTES as u32,
    produced: core::mem::offset_of!(StoreRing, rsp_prod),
    consumed: core::mem::offset_of!(StoreRing, rsp_cons),
};

/// Requests handled per event.
const REQUESTS_AT_ONCE: usize = 16;
/// If the heap has no free block of this many bytes, the store accepts no new data from clients.
/// The store's ledger refuses long before that, unless something else uses up the heap.
const ROOM: usize = 1 << 20;

/// The server's end of a store ring.
#[derive(Debug)]
pub struct StoreClient {
    /// The partition that the ring belongs to.
    pub partition: u32,
    /// The ring's page.
    pub ring: Mapping,
    /// The event of the ring.
    pub port: Port,
    /// Whether the client broke the protocol; its requests are no longer read then.
    pub broken: bool,
}

impl StoreClient {
    /// Announces this server's features to the client.
    pub fn announce(&self) {
        self.set(core::mem::offset_of!(StoreRing, server_features), FEATURE_ERROR);
    }

    fn set(&self, at: usize, value: u32) {
        if let Some(word) = self.ring.words().get(at / 4) {
            word.store(value, core::sync::atomic::Ordering::Release);
        }
    }

    /// Handles requests in the ring until time `until`: at least one, and a bounded number. Returns
    /// whether more may be left.
    pub fn serve(&mut self, store: &mut Store, until: u64) -> bool {
        let done = if self.broken { return false } else { self.exchange(store, until) };
        self.end(done)
    }

    /// Writes pending replies and events into the ring, as far as there is room.
    pub fn deliver(&mut self, store: &mut Store) {
        if !self.broken {
            let done = self.reply(store).map(|sent| (sent > 0, false));
            self.end(done);
        }
    }

    /// Notifies the client if bytes moved. Ends the conversation if an error occurred.
    fn end(&mut self, done: Result<(bool, bool), u32>) -> bool {
        let error = match done {
            Ok((moved, more)) => {
                if moved {
                    let _ = events::send(self.port);
                }
                return more;
            }
            Err(error) => error,
        };
        log!("store of partition {}: protocol broken ({error}), not served now", self.partition);
        self.broken = true;
        self.set(core::mem::offset_of!(StoreRing, error), error);
        let _ = events::send(self.port);
        false
    }

    /// Writes replies and events into the ring. Returns the number of bytes.
    fn reply(&self, store: &mut Store) -> Result<usize, u32> {
        let output = store.output(self.partition);
        let sent = REPLIES.push(self.ring.words(), output).map_err(|Broken| ERROR_RINGIDX)?;
        store.sent(self.partition, sent);
        Ok(sent)
    }

    /// Moves bytes in both directions. Returns whether any moved, and whether more may follow.
    fn exchange(&self, store: &mut Store, until: u64) -> Result<(bool, bool), u32> {
        let words = self.ring.words();
        let mut piece = [0; RING_BYTES];
        let (mut moved, mut served) = (false, 0);
        store.set_tight(!heap::has_room(ROOM));
        while served < REQUESTS_AT_ONCE && (served == 0 || time::now() < until) {
            let sent = self.reply(store)?;
            let count = REQUESTS.peek(words, &mut piece).map_err(|Broken| ERROR_RINGIDX)?;
            let bytes = piece.get(..count).unwrap_or_default();
            let fed = store.step(self.partition, bytes).map_err(|_| ERROR_PROTO)?;
            REQUESTS.consume(words, fed.taken);
            served += usize::from(fed.served);
            moved |= sent > 0 || fed.taken > 0;
            if sent == 0 && fed.taken == 0 && !fed.served {
                return Ok((moved, false));
            }
        }
        Ok((true, true))
    }
}
