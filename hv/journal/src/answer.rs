//! Answers: from the device's completion to the client.

use block_ring::{Ring, RingMemory};
use pv_abi::xen::block::STATUS_OK;

use crate::Journal;
use crate::page::{self, ENTRIES, JournalPage, Line, Publish};

/// The answer to a request that is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Answer {
    /// The entry of the request.
    pub entry: u32,
    /// A `STATUS_` constant of the block protocol.
    pub status: i16,
}

/// Answers that were published.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[must_use = "the client may wait for an event"]
pub struct Published {
    /// `rsp_prod` before these answers.
    pub before: u32,
    /// `rsp_prod` after these answers.
    pub produced: u32,
}

/// Why answers are not published. Nothing was stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Unanswerable {
    /// No answers, or more than [`ENTRIES`].
    Count,
    /// The entry is not taken, or has two answers.
    NotTaken {
        /// The entry.
        entry: u32,
    },
    /// A flush with an error. A guest that sees it stops flushing and reports success. The server
    /// tries again, or on another path, or detaches the client.
    FailedFlush {
        /// The entry.
        entry: u32,
    },
}

impl Journal {
    /// Publishes answers, in the order given. The device is done with each request and its pins
    /// are dropped: a client that sees the answer may use the pages at once.
    ///
    /// # Errors
    /// An answer is not possible; none is published.
    pub fn answer(
        &mut self,
        page: &impl JournalPage,
        ring: &Ring<'_, impl RingMemory>,
        answers: &[Answer],
    ) -> Result<Published, Unanswerable> {
        let count = u32::try_from(answers.len()).map_err(|_| Unanswerable::Count)?;
        if count == 0 || count > ENTRIES {
            return Err(Unanswerable::Count);
        }
        let cleared = self.check(page, answers)?;
        for (pair, two) in answers.chunks(2).enumerate() {
            let line = |answer: &Answer| Line {
                // An entry is less than 32.
                entry: u16::try_from(answer.entry).unwrap_or(u16::MAX),
                status: answer.status,
            };
            let odd = two.get(1).map(line).unwrap_or_default();
            Line::store_pair(page, pair, line(&two[0]), odd);
        }
        Publish { base: self.cursor.produced, count }.store(page);
        self.write_responses(page, ring, count);
        let before = self.cursor.produced;
        self.publish(page, ring, cleared, count, true);
        Ok(Published { before, produced: self.cursor.produced })
    }

    /// The entries that the answers clear, or why the answers are not possible.
    fn check(&self, page: &impl JournalPage, answers: &[Answer]) -> Result<u32, Unanswerable> {
        let mut cleared = 0u32;
        for &Answer { entry, status } in answers {
            let is_taken = entry < ENTRIES && self.taken & 1 << entry != 0;
            if !is_taken || cleared & 1 << entry != 0 {
                return Err(Unanswerable::NotTaken { entry });
            }
            if status != STATUS_OK && page::load_head(page, entry).is_flush() {
                return Err(Unanswerable::FailedFlush { entry });
            }
            cleared |= 1 << entry;
        }
        Ok(cleared)
    }

    /// Writes the responses of the lines into the ring.
    pub(crate) fn write_responses(
        &self,
        page: &impl JournalPage,
        ring: &Ring<'_, impl RingMemory>,
        count: u32,
    ) {
        for at in 0..count {
            let line = Line::load(page, at as usize);
            let request = page::load_head(page, u32::from(line.entry));
            let index = self.cursor.produced.wrapping_add(at);
            ring.write_response(index, &request.response(line.status));
        }
    }

    /// The stores from `rsp_prod` on. Unless `to_client`, the client has seen the answers already.
    pub(crate) fn publish(
        &mut self,
        page: &impl JournalPage,
        ring: &Ring<'_, impl RingMemory>,
        cleared: u32,
        count: u32,
        to_client: bool,
    ) {
        self.cursor.produced = self.cursor.produced.wrapping_add(count);
        if to_client {
            ring.publish(self.cursor.produced);
        }
        self.taken &= !cleared;
        self.state().store(page);
        Publish { base: self.cursor.produced, count: 0 }.store(page);
    }
}
