//! Replies that are kept, so that a retry gets the same reply again.
//!
//! Rule: a request that was answered is not carried out again. A retry is the same request: its id
//! and its body.

use alloc::collections::{BTreeMap, VecDeque};

use control::command::Reply;
use serde::Serialize;

use crate::engine::Origin;

/// Replies that are kept for each client.
const MOST_KEPT: usize = 32;

#[derive(Debug)]
struct Kept {
    id: u64,
    /// Checksum of the request's body.
    sum: u32,
    reply: Reply,
}

/// The kept replies, by client, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Replies(BTreeMap<u32, VecDeque<Kept>>);

impl Replies {
    /// Returns the kept reply if the request is a retry. For a new request, the error has its
    /// origin with the checksum.
    pub(crate) fn find(&self, origin: Origin, body: &impl Serialize) -> Result<Reply, Origin> {
        let sum = postcard::to_allocvec(body).map_or(0, |bytes| crc32fast::hash(&bytes));
        let mut kept = self.0.get(&origin.who).into_iter().flatten();
        let kept = kept.find(|kept| kept.id == origin.request && kept.sum == sum);
        kept.map(|kept| kept.reply.clone()).ok_or(Origin { sum, ..origin })
    }

    /// Keeps the reply to a client's request, for retries.
    pub(crate) fn keep(&mut self, who: u32, sum: u32, reply: Reply) {
        let kept = self.0.entry(who).or_default();
        kept.retain(|kept| kept.id != reply.id);
        if kept.len() >= MOST_KEPT {
            kept.pop_front();
        }
        kept.push_back(Kept { id: reply.id, sum, reply });
    }

    /// Drops the replies to requests that were rolled back: a retry must not learn that they were
    /// applied.
    pub(crate) fn forget(&mut self, who: u32, rolled_back: &[u64]) {
        if let Some(kept) = self.0.get_mut(&who) {
            kept.retain(|kept| !rolled_back.contains(&kept.id));
        }
    }

    /// Drops all replies to a client that failed.
    pub(crate) fn forget_client(&mut self, who: u32) {
        self.0.remove(&who);
    }
}
