//! Reads what the I/O partitions report, and gives up those that hang ([`crate::watch`]).
//!
//! Rule: a partition is judged only after the reports in its ring were read, and only while it is
//! *running* both in the database and in the monitor.

use partition_runtime::events::Port;
use partition_runtime::{lead, log, time};
use pv_abi::uv::calls::PartitionUsage;
use pv_abi::uv::database::state;
use transaction::Hung;

use super::Host;
use crate::watch::{Silence, TICK};

/// How often a ring is read before its partition is judged: enough for all that a ring holds.
const ROUNDS: usize = 64;

impl Host {
    /// Reads reports of an I/O partition, and does what follows from them. Returns whether more may
    /// be left.
    pub(super) fn hear_io(&mut self, port: Port) -> bool {
        let Some(io) = self.services.io.get_mut(&port) else {
            return false;
        };
        let more = io.serve();
        if !io.has_heard() {
            // An answer to a ping, or an event alone.
            return more;
        }
        self.services.order_functions(&self.engine.database().reader());
        let left = self.services.handle_reports(port, self.engine.database());
        for (function, owner, left) in left {
            self.engine.left(function, owner, left);
        }
        self.free_disks();
        // The report may be about a reset that a partition, which is being given up, waits for.
        if self.engine.expect_reset(time::now()) {
            self.try_again();
        }
        more
    }

    /// Sets when the watchdog ticks next: never while there is no I/O partition.
    pub(super) fn set_watch(&mut self) {
        let is_on = self.services.io_silence > 0 && !self.services.io.is_empty();
        self.watch = match is_on {
            true => self.watch.or_else(|| Some(time::now().saturating_add(TICK))),
            false => None,
        };
    }

    /// Runs a tick of the watchdog, if it is time.
    pub(super) fn watch_io(&mut self) {
        let now = time::now();
        if self.watch.is_none_or(|due| now < due) {
            return;
        }
        self.watch = None;
        for port in self.services.io.keys().copied().collect::<alloc::vec::Vec<_>>() {
            // Whoever fills the ring faster than this is read next in its own turn.
            if (0..ROUNDS).all(|_| self.hear_io(port)) {
                self.queue(port);
            }
            if let Some((number, silence)) = self.judge(port, now) {
                self.give_up_hung(number, silence, now);
            }
        }
    }

    /// Returns the number of the I/O partition at a port, and how long it was silent, if it hangs.
    fn judge(&mut self, port: Port, now: u64) -> Option<(u32, Silence)> {
        let limit = self.services.io_silence;
        let io = self.services.io.get_mut(&port)?;
        let number = io.partition;
        let descriptor = self.engine.database().reader().descriptor(number);
        let is_running = descriptor.is_ok_and(|descriptor| descriptor.state == state::RUNNING);
        // A start or a stop may be under way, and an end may not be recorded yet.
        let is_on = |usage: &PartitionUsage| is_running && usage.state == state::RUNNING;
        let usage = lead::usage(number).ok().filter(is_on);
        let waited = usage.as_ref().map_or(0, |usage| usage.wait_time);
        let silence = io.tick(usage.is_some(), waited, (now, limit))?;
        Some((number, silence))
    }

    fn give_up_hung(&mut self, number: u32, silence: Silence, now: u64) {
        let Silence { since, milliseconds } = silence;
        let (engine, mut lead) = self.lead();
        if engine.give_up_hung(&mut lead, Hung { number, since, milliseconds }, now) {
            log!("partition {number} hangs: {silence}");
            self.follow_database();
        }
    }
}
