//! When a partition stops by itself: what it left pending is rolled back, and why is written down.
//!
//! Rule: nothing that the monitor did by itself goes unrecorded, and no half-built partition
//! outlives the one that was building it.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use pv_abi::uv::calls::{MonitorEvent, cause};
use pv_abi::uv::command::{Answer, Reply};
use pv_abi::uv::database::{MONITOR, asked, state};

use crate::carry::Stopped;
use crate::engine::{Engine, Origin};
use crate::log::Settled;
use crate::pending::Pending;
use crate::plan::Plan;
use crate::refusal::label;
use crate::{Action, Monitor, operations};

impl Engine<'_> {
    /// Begins a session of a client anew: what it left pending in earlier ones is rolled back.
    pub fn open(&mut self, monitor: &mut dyn Monitor, who: u32, time: u64, request: u64) -> Reply {
        let origin = Origin::new(who, time, request);
        self.once(origin, &"open", |engine| {
            engine.check_caller(who)?;
            let rolled_back = engine.roll_back_all(monitor, who, time, "its session ended");
            engine.forget_replies(who, &rolled_back);
            engine.reap(monitor, time);
            Ok(Answer::Opened { rolled_back })
        })
    }

    /// Rolls back what a client left pending under these ids, and leaves the rest pending.
    pub fn roll_back_requests(
        &mut self,
        monitor: &mut dyn Monitor,
        (who, time): (u32, u64),
        request: u64,
        wanted: &[u64],
    ) -> Reply {
        let origin = Origin::new(who, time, request);
        self.once(origin, &("roll back", wanted), |engine| {
            engine.check_caller(who)?;
            let is_wanted = |pending: &Pending| wanted.contains(&pending.request);
            let requests = engine.roll_back_those(monitor, (who, time), "given up", is_wanted);
            engine.forget_replies(who, &requests);
            engine.reap(monitor, time);
            Ok(Answer::RolledBack { requests })
        })
    }

    /// Drops the replies to requests that were rolled back: a retry must not be told that they
    /// were applied.
    fn forget_replies(&mut self, who: u32, rolled_back: &[u64]) {
        if let Some(kept) = self.clients.get_mut(&who) {
            kept.retain(|kept| !rolled_back.contains(&kept.id));
        }
    }

    /// Rolls back what partition `who` left pending, since it failed: what it created is
    /// destroyed, what it assigned is released. Returns how many transactions that were.
    pub fn client_failed(&mut self, monitor: &mut dyn Monitor, who: u32, time: u64) -> usize {
        self.clients.remove(&who);
        let rolled_back = self.roll_back_all(monitor, who, time, "it failed").len();
        self.reap(monitor, time);
        rolled_back
    }

    /// Rolls back what `who` left pending, newest first; what cannot be given back yet is tried
    /// again later. Returns the requests.
    pub(crate) fn roll_back_all(
        &mut self,
        monitor: &mut dyn Monitor,
        who: u32,
        time: u64,
        why: &str,
    ) -> Vec<u64> {
        self.roll_back_those(monitor, (who, time), why, |_| true)
    }

    /// Rolls back those that are wanted of what `who` left pending, newest first.
    fn roll_back_those(
        &mut self,
        monitor: &mut dyn Monitor,
        (who, time): (u32, u64),
        why: &str,
        wanted: impl Fn(&Pending) -> bool,
    ) -> Vec<u64> {
        let (mut mine, others) =
            core::mem::take(&mut self.pending).into_iter().partition::<Vec<_>, _>(|pending| {
                pending.who == who && pending.orphaned.is_none() && wanted(pending)
            });
        self.pending = others;
        let mut done = Vec::new();
        while let Some(pending) = mine.pop() {
            done.push(pending.request);
            self.roll_back_one(monitor, pending, time, why);
        }
        done
    }

    /// Tries again what could not be rolled back when its owner went.
    pub(crate) fn roll_back_orphans(&mut self, monitor: &mut dyn Monitor, time: u64) {
        let (orphans, others) = core::mem::take(&mut self.pending)
            .into_iter()
            .partition::<Vec<_>, _>(|pending| pending.orphaned.is_some());
        self.pending = others;
        for pending in orphans {
            match pending.orphaned.flatten() {
                Some(frame) if monitor.in_use(frame) => self.pending.push(pending),
                _ => self.roll_back_one(monitor, pending, time, "its memory was still in use"),
            }
        }
    }

    fn roll_back_one(
        &mut self,
        monitor: &mut dyn Monitor,
        mut pending: Pending,
        time: u64,
        why: &str,
    ) {
        let origin = Origin::new(pending.who, time, pending.request);
        match self.roll_back(monitor, origin, &pending, why) {
            Ok(()) => {
                let (sequences, to) = ([pending.sequence], Settled::RolledBack);
                let _ = self.log.settle(&mut self.database, &sequences, to, why);
            }
            Err(stopped) => {
                pending.orphaned = Some(stopped.frame);
                // Partitions it created go in any case, memory that it assigned when it can.
                if !pending.created.is_empty() && !pending.assigned.is_empty() {
                    let assigned = core::mem::take(&mut pending.assigned);
                    if self.roll_back(monitor, origin, &pending, why).is_ok() {
                        pending.created.clear();
                    }
                    pending.assigned = assigned;
                }
                self.pending.push(pending);
            }
        }
    }

    fn roll_back(
        &mut self,
        monitor: &mut dyn Monitor,
        origin: Origin,
        pending: &Pending,
        why: &str,
    ) -> Result<(), Stopped> {
        let mut plan = Plan::new(&self.database, &self.index);
        for &number in &pending.created {
            let target = plan.descriptor(number);
            // A number may be another partition's by now.
            if let Some(mut target) = target.filter(|one| one.created_at <= pending.version) {
                if target.state == state::RUNNING {
                    plan.actions.push(Action::Stop(number));
                }
                target.state = state::DYING;
                operations::destroy(&mut plan, target)?;
            }
        }
        for &(number, range) in &pending.assigned {
            operations::release_assigned(&mut plan, number, range, pending.version);
        }
        let (changes, actions, destroyed) = (plan.changes(), plan.actions, plan.destroyed);
        let what = format!("roll back request {}", pending.request);
        let mut record = self.new_record(origin, Settled::Begun, &what, why);
        record.partitions = pending.created.clone();
        record.partitions.extend(pending.assigned.iter().map(|(number, _)| *number));
        record.partitions.dedup();
        record.changes = changes;
        self.carry_out_own(monitor, record, &actions)?;
        for number in destroyed {
            self.bury(number, origin.time);
        }
        Ok(())
    }

    /// Writes down what the monitor did to a partition by itself: state and cause in its
    /// descriptor, a record in the log, and the rollback of what the partition left pending. An
    /// event that is written down and told again changes nothing.
    pub fn monitor_did(&mut self, monitor: &mut dyn Monitor, event: &MonitorEvent) {
        let mut plan = Plan::new(&self.database, &self.index);
        let Some(mut target) = plan.descriptor(event.partition) else {
            return;
        };
        // An event of a partition that had this number before, or of one that is given up.
        if matches!(target.state, state::BUILDING | state::DYING) {
            return;
        }
        let told = (event.cause, event.detail, event.address);
        let stopped = matches!(target.state, state::SHUTDOWN | state::CRASHED);
        if stopped && told == (target.cause, target.cause_detail, target.cause_address) {
            self.client_failed(monitor, event.partition, event.time);
            return;
        }
        let asked = event.cause == cause::SHUTDOWN && event.detail != SHUTDOWN_CRASH;
        target.state = if asked { state::SHUTDOWN } else { state::CRASHED };
        (target.cause, target.cause_detail) = (event.cause, event.detail);
        (target.cause_address, target.asked) = (event.address, asked::NOTHING);
        let what = format!("{}: {}", label(&target), describe_cause(event));
        plan.set_descriptor(target);
        let changes = plan.changes();
        let origin = Origin::new(MONITOR, event.time, 0);
        let mut record = self.new_record(origin, Settled::Begun, &what, "");
        (record.partitions, record.changes) = ([event.partition].into(), changes);
        let changes = record.changes.clone();
        let sequence = self.log.record(&mut self.database, record, false);
        for change in &changes {
            let _ = self.write(change, true);
        }
        if let Ok(sequence) = sequence {
            let _ = self.settle(&[sequence], Settled::Monitor);
        }
        self.client_failed(monitor, event.partition, event.time);
    }
}

/// `SHUTDOWN_crash` of the public `sched.h`.
const SHUTDOWN_CRASH: u32 = 3;

/// The cause of a stop in words.
fn describe_cause(event: &MonitorEvent) -> String {
    let (vcpu, address) = (event.vcpu, event.address);
    match (event.cause, event.detail) {
        (cause::SHUTDOWN, 0) => "powered off".to_string(),
        (cause::SHUTDOWN, 1) => "asked to be rebooted".to_string(),
        (cause::SHUTDOWN, 2) => "suspended".to_string(),
        (cause::SHUTDOWN, SHUTDOWN_CRASH) => "said that it crashed".to_string(),
        (cause::SHUTDOWN, reason) => format!("shut down with reason {reason}"),
        (cause::UNHANDLED_TRAP, vector) => {
            format!("trap {vector} without a handler, vCPU {vcpu} at {address:#x}")
        }
        (cause::BAD_FRAME, _) => format!("unusable stack or frame, vCPU {vcpu} at {address:#x}"),
        (cause::BAD_PAGE_TABLE, detail) => format!("page tables refused ({detail:#x})"),
        (cause::PAGE_TABLE, detail) => format!("page-table state ({detail:#x})"),
        (cause::STOPPED, _) => "stopped by the ultravisor".to_string(),
        (other, detail) => format!("stopped: cause {other}, detail {detail:#x}"),
    }
}
