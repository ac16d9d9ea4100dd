//! Scrubbing free memory when nobody's turn comes, so that who asks for memory does not wait for it.
//!
//! The monitor knows which free frames are clean. Here is known where to look: what was free when the
//! host started, and what was given back since.
//!
//! Rule: it is idle time that is spent, and what it takes is booked to whoever made the partition that
//! had the memory.
//! Where another wanted the CPU during a piece, scrubbing rests for several times as long as the piece
//! took: so it takes a ninth of one CPU from others at most, and `SERVICE%` shows whose that is.

use partition_runtime::{hypercall, lead, time};

use super::{Host, waited};

/// Frames scrubbed between two looks at the events.
const PIECE: u64 = 256;
/// Nanoseconds of a wait for the CPU that nobody else needs to be there for.
const SWITCH: u64 = 50_000;
/// Pieces that scrubbing rests for after one that others waited for.
const REST: u64 = 8;

impl Host {
    /// Scrubs a piece of free memory; returns whether there was one, and time for it.
    pub(super) fn scrub(&mut self) -> bool {
        let begin = time::now();
        if self.pressed.is_some_and(|until| begin < until) {
            return false;
        }
        self.pressed = None;
        let Some((range, payer)) = self.engine.next_unscrubbed(PIECE) else {
            return false;
        };
        self.begin_turn();
        // Frames that the monitor did not take back are tried again by the engine.
        let _ = lead::activate_pages(range.first, range.frames);
        self.end_turn();
        let others = waited().saturating_sub(self.waited);
        let spent = time::now().saturating_sub(begin).saturating_sub(others);
        self.services.budget.spend(payer, spent, false);
        hypercall::yield_now();
        if waited().saturating_sub(self.waited) > SWITCH {
            let now = time::now();
            self.pressed = Some(now.saturating_add(now.saturating_sub(begin) * REST));
        }
        true
    }
}
