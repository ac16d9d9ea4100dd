//! When a partition stops by itself, its pending transactions are rolled back, and the cause is
//! logged.
//!
//! Rule: every act of the monitor by itself is recorded, and no half-built partition outlives its
//! builder.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use control::command::{Answer, Refusal, Reply};
use pv_abi::uv::calls::{MonitorEvent, cause};
use pv_abi::uv::database::{MONITOR, asked, kind, state};

use crate::Settled;
use crate::carry::Stopped;
use crate::change::Change;
use crate::engine::{Engine, Origin};
use crate::pending::Pending;
use crate::plan::Plan;
use crate::refusal::{from_write, label};
use crate::under_way::{Begun, Next, UnderWay, Whose};
use crate::{Action, Monitor, operations};

/// The rollback of a transaction that was left pending.
#[derive(Debug)]
pub(crate) struct RollBack {
    pending: Pending,
    time: u64,
    why: String,
    /// Only the partitions that the transaction created are removed now, since memory that it
    /// assigned is still in use.
    created_alone: bool,
    /// The partitions that the rollback destroys.
    destroyed: Vec<u32>,
}

impl RollBack {
    fn queued(pending: Pending, time: u64, why: &str) -> Next {
        let (why, created_alone, destroyed) = (why.into(), false, Vec::new());
        Next::RollBack(Box::new(Self { pending, time, why, created_alone, destroyed }))
    }

    /// The client whose transaction is rolled back.
    pub(crate) const fn who(&self) -> u32 {
        self.pending.who
    }
}

impl Engine<'_> {
    /// Opens a new session of a client, in as many turns as needed.
    pub fn open(&mut self, monitor: &mut dyn Monitor, who: u32, time: u64, request: u64) -> Reply {
        self.run_to_its_end(monitor, time, |engine, monitor| {
            engine.begin_open(monitor, who, time, request)
        })
    }

    /// Begins to open a new session of a client: rolls back, turn by turn, the transactions that
    /// the client left pending in earlier sessions.
    pub fn begin_open(
        &mut self,
        monitor: &mut dyn Monitor,
        who: u32,
        time: u64,
        request: u64,
    ) -> Begun {
        let origin = Origin::new(who, time, request);
        self.begin_once(origin, &"open", |engine, origin| {
            if let Err(refusal) = engine.check_caller(who) {
                return Err(refusal).into();
            }
            let rolled_back = engine.queue_those((who, time), "its session ended", |_| true);
            engine.replies.forget(who, &rolled_back);
            engine.queue.push_back(Next::Answer(origin, Answer::Opened { rolled_back }));
            engine.follow_queue(monitor, time).into()
        })
    }

    /// Rolls back a client's pending transactions with these ids, in as many turns as needed, and
    /// leaves the others pending.
    pub fn roll_back_requests(
        &mut self,
        monitor: &mut dyn Monitor,
        (who, time): (u32, u64),
        request: u64,
        wanted: &[u64],
    ) -> Reply {
        self.run_to_its_end(monitor, time, |engine, monitor| {
            engine.begin_roll_back_requests(monitor, (who, time), request, wanted)
        })
    }

    /// Begins to roll back a client's pending transactions with these ids, and leaves the others
    /// pending.
    pub fn begin_roll_back_requests(
        &mut self,
        monitor: &mut dyn Monitor,
        (who, time): (u32, u64),
        request: u64,
        wanted: &[u64],
    ) -> Begun {
        let origin = Origin::new(who, time, request);
        self.begin_once(origin, &("roll back", wanted), |engine, origin| {
            if let Err(refusal) = engine.check_caller(who) {
                return Err(refusal).into();
            }
            let is_wanted = |pending: &Pending| wanted.contains(&pending.request);
            let requests = engine.queue_those((who, time), "given up", is_wanted);
            engine.replies.forget(who, &requests);
            engine.queue.push_back(Next::Answer(origin, Answer::RolledBack { requests }));
            engine.follow_queue(monitor, time).into()
        })
    }

    /// Begins to roll back the pending transactions of partition `who`, which failed: destroys the
    /// partitions that they created and releases the memory that they assigned. No other work may
    /// be under way. Returns the number of these transactions.
    pub fn client_failed(&mut self, monitor: &mut dyn Monitor, who: u32, time: u64) -> usize {
        self.replies.forget_client(who);
        let rolled_back = self.queue_those((who, time), "it failed", |_| true).len();
        self.follow_queue(monitor, time);
        self.reap(monitor, time);
        rolled_back
    }

    /// Queues the rollback of those pending transactions of `who` that are `wanted`, newest first.
    /// Memory that cannot be released yet is tried again later. Returns their request ids.
    fn queue_those(
        &mut self,
        (who, time): (u32, u64),
        why: &str,
        wanted: impl Fn(&Pending) -> bool,
    ) -> Vec<u64> {
        let (mine, others) =
            core::mem::take(&mut self.pending).into_iter().partition::<Vec<_>, _>(|pending| {
                pending.who == who && pending.orphaned.is_none() && wanted(pending)
            });
        self.pending = others;
        let requests = mine.iter().rev().map(|pending| pending.request).collect();
        let queued = mine.into_iter().rev().map(|pending| RollBack::queued(pending, time, why));
        self.queue.extend(queued);
        requests
    }

    /// Queues the rollback of all pending transactions, since the ultravisor restarted. Returns
    /// their number.
    pub(crate) fn queue_all(&mut self, pending: Vec<Pending>, time: u64) -> usize {
        let all = pending.len();
        let why = "the ultravisor restarted";
        let queued = pending.into_iter().rev().map(|pending| RollBack::queued(pending, time, why));
        self.queue.extend(queued);
        all
    }

    /// Tries again the rollbacks that were not possible when their owner ended.
    pub(crate) fn roll_back_orphans(&mut self, monitor: &mut dyn Monitor, time: u64) {
        let (orphans, others) = core::mem::take(&mut self.pending)
            .into_iter()
            .partition::<Vec<_>, _>(|pending| pending.orphaned.is_some());
        self.pending = others;
        for pending in orphans {
            match pending.orphaned.flatten() {
                Some(frame) if monitor.in_use(frame) => self.pending.push(pending),
                _ => {
                    let why = "its memory was still in use";
                    self.queue.push_back(RollBack::queued(pending, time, why));
                }
            }
        }
        self.follow_queue(monitor, time);
    }

    /// Writes a rollback into log and database, or reports why that is impossible.
    pub(crate) fn begin_roll_back(
        &mut self,
        mut back: Box<RollBack>,
    ) -> Result<UnderWay, (Box<RollBack>, Stopped)> {
        let (changes, actions, destroyed) = match self.plan_roll_back(&back) {
            Ok(planned) => planned,
            Err(refusal) => return Err((back, refusal.into())),
        };
        back.destroyed = destroyed;
        let RollBack { pending, why, time, .. } = &*back;
        let origin = Origin::new(pending.who, *time, pending.request);
        let what = format!("roll back request {}", pending.request);
        let mut record = self.new_record(origin, Settled::Begun, &what, why);
        record.partitions = pending.created.clone();
        record.partitions.extend(pending.assigned.iter().map(|(number, _)| *number));
        record.partitions.dedup();
        record.changes.clone_from(&changes);
        let sequence = match self.log.record(&mut self.database, record, false) {
            Ok(sequence) => sequence,
            Err(error) => return Err((back, from_write(error).into())),
        };
        if let Err(stopped) = self.write_all(&changes, origin.who) {
            self.settle_refused(sequence, &stopped.refusal);
            return Err((back, stopped));
        }
        Ok(UnderWay::new(sequence, Whose::RollBack(back), changes, actions))
    }

    /// Returns the changes and actions of a rollback, and the partitions to give up after it.
    #[expect(clippy::type_complexity, reason = "three lists, taken apart at once")]
    fn plan_roll_back(
        &self,
        back: &RollBack,
    ) -> Result<(Vec<Change>, Vec<Action>, Vec<u32>), Refusal> {
        let pending = &back.pending;
        let mut plan = Plan::new(&self.database, &self.index);
        for &number in &pending.created {
            let target = plan.descriptor(number);
            // The number may belong to another partition by now.
            if let Some(mut target) = target.filter(|one| one.created_at <= pending.version) {
                if target.state == state::RUNNING {
                    plan.actions.push(Action::Stop(number));
                }
                target.state = state::DYING;
                operations::destroy(&mut plan, target)?;
            }
        }
        for &(number, range) in pending.assigned.iter().filter(|_| !back.created_alone) {
            operations::release_assigned(&mut plan, number, range, pending.version);
        }
        Ok((plan.changes(), plan.actions, plan.destroyed))
    }

    /// Handles the end of a rollback, with its result. Partitions that the transaction created are
    /// removed in any case, and memory that it assigned once that is possible.
    pub(crate) fn rolled_back(&mut self, back: RollBack, result: Result<(), Stopped>) {
        let RollBack { mut pending, time, why, created_alone, destroyed } = back;
        match result {
            Ok(()) => {
                destroyed.into_iter().for_each(|number| self.bury(number, time));
                if created_alone {
                    pending.created.clear();
                    return self.pending.push(pending);
                }
                let (sequences, to) = ([pending.sequence], Settled::RolledBack);
                let _ = self.log.settle(&mut self.database, &sequences, to, &why);
            }
            Err(_) if created_alone => self.pending.push(pending),
            Err(stopped) => {
                pending.orphaned = Some(stopped.frame);
                if pending.created.is_empty() || pending.assigned.is_empty() {
                    return self.pending.push(pending);
                }
                let (created_alone, destroyed) = (true, Vec::new());
                let back = RollBack { pending, time, why, created_alone, destroyed };
                self.queue.push_front(Next::RollBack(Box::new(back)));
            }
        }
    }

    /// Records an act of the monitor by itself: the state and cause in the partition's descriptor,
    /// and a record in the log. Begins to roll back the partition's pending transactions, which may
    /// take more turns. An event that is reported again after it was recorded changes nothing. No
    /// other work may be under way.
    pub fn monitor_did(&mut self, monitor: &mut dyn Monitor, event: &MonitorEvent) {
        let mut plan = Plan::new(&self.database, &self.index);
        let Some(mut target) = plan.descriptor(event.partition) else {
            return;
        };
        // The event concerns an earlier partition with this number, or one that is being given up.
        if matches!(target.state, state::BUILDING | state::DYING) {
            return;
        }
        let told = (event.cause, event.detail, event.address);
        let stopped = matches!(target.state, state::SHUTDOWN | state::CRASHED);
        if stopped && told == (target.cause, target.cause_detail, target.cause_address) {
            self.client_failed(monitor, event.partition, event.time);
            return;
        }
        let is_server = target.kind == kind::IO;
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
        if is_server {
            self.queue.push_back(Next::Dead(event.partition));
        }
        self.client_failed(monitor, event.partition, event.time);
    }
}

/// `SHUTDOWN_crash` of the public `sched.h`.
const SHUTDOWN_CRASH: u32 = 3;

/// The cause of a stop as text.
pub(crate) fn describe_cause(event: &MonitorEvent) -> String {
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
        (cause::PAGE_TABLE, detail) => format!("page-table state ({detail:#x})"),
        (cause::STOPPED, _) => "stopped by the ultravisor".to_string(),
        (cause::SILENT, milliseconds) => format!("hung: silent for {milliseconds} ms"),
        (other, detail) => format!("stopped: cause {other}, detail {detail:#x}"),
    }
}
