//! Scrubs free memory when no port waits, so that a client that asks for memory does not wait for
//! the scrubbing.
//!
//! The monitor knows which free frames are clean. This module knows where to look: the frames that
//! were free when the host started, and those released since.
//!
//! Rule: scrubbing uses idle time, and its cost is charged to the client that made the partition
//! that had the memory. If another partition wanted the CPU during a piece, scrubbing rests for several
//! times as long as the piece took. So it takes at most a ninth of one CPU from others, and `SERVICE%`
//! shows on whose behalf.

use partition_runtime::{hypercall, lead, time};

use super::{Host, waited};

/// Frames scrubbed between two checks for events.
const PIECE: u64 = 256;
/// Nanoseconds of waiting for the CPU that occur even if no other partition wants it.
const SWITCH: u64 = 50_000;
/// How long scrubbing rests after a piece that others waited for, in times of that piece.
const REST: u64 = 8;

impl Host {
    /// Scrubs a piece of free memory. Returns whether there was one, and time for it.
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
        // The engine tries again the frames that the monitor did not take back.
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
