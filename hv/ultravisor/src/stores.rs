//! Store rings: the bytes between a kernel's xenbus and the store.
//!
//! Rule: a client is notified when one of our indices moved, and only then.

use alloc::vec;

use partition_runtime::events::{self, Port};
use partition_runtime::grants::Mapping;
use partition_runtime::log;
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

/// Times that one event may fill or empty the ring.
const ROUNDS: usize = 16;

/// A store ring that is served.
#[derive(Debug)]
pub struct StoreClient {
    /// Whose it is.
    pub partition: u32,
    /// The ring's page.
    pub ring: Mapping,
    /// The event of the ring.
    pub port: Port,
    /// It broke the protocol and is not listened to any more.
    pub broken: bool,
}

impl StoreClient {
    /// Tells the client what this server can do.
    pub fn announce(&self) {
        self.set(core::mem::offset_of!(StoreRing, server_features), FEATURE_ERROR);
    }

    fn set(&self, at: usize, value: u32) {
        if let Some(word) = self.ring.words().get(at / 4) {
            word.store(value, core::sync::atomic::Ordering::Release);
        }
    }

    /// Does the requests that are in the ring, a bounded number; returns whether more may be there.
    pub fn serve(&mut self, store: &mut Store) -> bool {
        if self.broken {
            return false;
        }
        let error = match self.exchange(store) {
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

    /// Moves bytes; returns whether any moved, and whether more may.
    fn exchange(&mut self, store: &mut Store) -> Result<(bool, bool), u32> {
        let index = |Broken| ERROR_RINGIDX;
        let words = self.ring.words();
        let mut piece = vec![0; RING_BYTES];
        for round in 0..ROUNDS {
            let count = REQUESTS.peek(words, &mut piece).map_err(index)?;
            let bytes = piece.get(..count).unwrap_or_default();
            let taken = store.feed(self.partition, bytes).map_err(|_| ERROR_PROTO)?;
            REQUESTS.consume(words, taken);
            let sent = REPLIES.push(words, store.output(self.partition)).map_err(index)?;
            store.sent(self.partition, sent);
            if taken == 0 && sent == 0 {
                return Ok((round > 0, false));
            }
        }
        Ok((true, true))
    }
}
