//! Carrying transactions out: cache, log, database, monitor, in that order.
//!
//! Rule: the record is in the log before the first word of the database changes, and what a
//! monitor refused is undone, in reverse, before anybody is answered.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use pv_abi::uv::command::{Answer, Operation, Range, Refusal, Reply, Transaction};
use pv_abi::uv::database::{ULTRAVISOR, kind};
use resource_db::{Database, WriteError};

use crate::change::Change;
use crate::log::{Log, Record, Settled};
use crate::operations::{self, Caller};
use crate::plan::Plan;
use crate::refusal::{from_monitor, from_write, refusal};
use crate::{Action, Monitor};

/// Replies that are kept for each client.
const KEPT_REPLIES: usize = 32;
/// Operations of a transaction at most.
const MAX_OPERATIONS: usize = 256;

/// What the machine allows.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Physical CPUs.
    pub cpus: u32,
}

/// A reply that a retry gets again.
#[derive(Debug)]
pub(crate) struct Kept {
    id: u64,
    sum: u32,
    reply: Reply,
}

/// A transaction that is undone when its owner fails.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) who: u32,
    pub(crate) request: u64,
    pub(crate) sequence: u64,
    /// Partitions it created.
    pub(crate) created: Vec<u32>,
    /// Memory it assigned to partitions that it did not create.
    pub(crate) assigned: Vec<(u32, Range)>,
}

/// The transaction engine: the only one that changes the database.
#[derive(Debug)]
pub struct Engine<'a> {
    pub(crate) database: Database<'a>,
    pub(crate) log: Log,
    limits: Limits,
    pub(crate) clients: BTreeMap<u32, VecDeque<Kept>>,
    pub(crate) pending: Vec<Pending>,
}

/// Who asked, when, under which id.
#[derive(Clone, Copy)]
pub(crate) struct Origin {
    pub(crate) who: u32,
    pub(crate) time: u64,
    pub(crate) request: u64,
}

impl<'a> Engine<'a> {
    /// Takes a database that was just filled; writes the log's first record.
    ///
    /// # Errors
    /// What the database refuses the log with.
    pub fn genesis(
        mut database: Database<'a>,
        limits: Limits,
        time: u64,
        what: &str,
    ) -> Result<Self, WriteError> {
        let log = Log::create(&mut database)?;
        database.set_contents(1)?;
        let (clients, pending) = (BTreeMap::new(), Vec::new());
        let mut engine = Self { database, log, limits, clients, pending };
        let origin = Origin { who: ULTRAVISOR, time, request: 0 };
        let record = engine.new_record(origin, Settled::Committed, what, "first start", Vec::new());
        engine.log.record(&mut engine.database, record)?;
        Ok(engine)
    }

    /// Takes over a database and its log: what was begun and not settled is undone, then
    /// everything that was undone is activated. Returns how many transactions that were.
    ///
    /// # Errors
    /// What the database refuses with.
    pub fn recover(
        mut database: Database<'a>,
        limits: Limits,
        monitor: &mut dyn Monitor,
    ) -> Result<(Self, usize), WriteError> {
        let log = Log::open(&mut database)?;
        let (clients, pending) = (BTreeMap::new(), Vec::new());
        let mut engine = Self { database, log, limits, clients, pending };
        let records = engine.log.records(&engine.database);
        let begun = records.into_iter().filter(|record| record.settled == Settled::Begun);
        let mut undone = 0;
        for record in begun.collect::<Vec<_>>().into_iter().rev() {
            engine.undo(&record.changes, record.changes.len());
            for action in record.changes.iter().rev().map(action_of) {
                let _ = monitor.perform(action);
            }
            let why = "the ultravisor restarted before it was done";
            engine.log.settle(&mut engine.database, record.sequence, Settled::RolledBack, why)?;
            undone += 1;
        }
        Ok((engine, undone))
    }

    /// The database, to read.
    #[must_use]
    pub const fn database(&self) -> &Database<'a> {
        &self.database
    }

    /// The log's records, oldest first, and the number the next one gets.
    #[must_use]
    pub fn records(&self) -> (Vec<Record>, u64) {
        (self.log.records(&self.database), self.log.next)
    }

    /// Carries out a transaction of partition `who`, or answers a retry of it.
    pub fn execute(
        &mut self,
        monitor: &mut dyn Monitor,
        who: u32,
        time: u64,
        request: u64,
        transaction: &Transaction,
    ) -> Reply {
        let sum = postcard::to_allocvec(transaction).map_or(0, |bytes| crc32fast::hash(&bytes));
        let kept = self.clients.entry(who).or_default();
        if let Some(kept) = kept.iter().find(|kept| kept.id == request && kept.sum == sum) {
            return kept.reply.clone();
        }
        let origin = Origin { who, time, request };
        let result = self.attempt(monitor, origin, transaction);
        let reply = Reply { id: request, version: self.database.contents(), result };
        let kept = self.clients.entry(who).or_default();
        kept.retain(|kept| kept.id != request);
        if kept.len() >= KEPT_REPLIES {
            kept.pop_front();
        }
        kept.push_back(Kept { id: request, sum, reply: reply.clone() });
        reply
    }

    fn attempt(
        &mut self,
        monitor: &mut dyn Monitor,
        origin: Origin,
        transaction: &Transaction,
    ) -> Result<Answer, Refusal> {
        let plan = match self.plan(origin, transaction) {
            Ok(plan) => plan,
            Err(refusal) => {
                self.log_refused(origin, transaction, &refusal);
                return Err(refusal);
            }
        };
        let Planned { changes, actions, what, outcomes, created, completed } = plan;
        let begun = self.new_record(origin, Settled::Begun, &what, &transaction.reason, changes);
        let changes = begun.changes.clone();
        let sequence = self.log.record(&mut self.database, begun).map_err(from_write)?;
        self.carry_out(monitor, &changes, &actions, &created).inspect_err(|refusal| {
            let why = format!("{}: {}", refusal.field, refusal.reason);
            let _ = self.log.settle(&mut self.database, sequence, Settled::Refused, &why);
        })?;
        let settled = if transaction.pending { Settled::Pending } else { Settled::Committed };
        let version = self.database.contents().saturating_add(1);
        self.database.set_contents(version).map_err(from_write)?;
        self.log.settle(&mut self.database, sequence, settled, "").map_err(from_write)?;
        self.complete(origin.who, &completed);
        if transaction.pending {
            let assigned = assigned(transaction, &outcomes, &created);
            let (who, request) = (origin.who, origin.request);
            self.pending.push(Pending { who, request, sequence, created, assigned });
        }
        Ok(Answer::Applied(outcomes))
    }

    fn plan(&self, origin: Origin, transaction: &Transaction) -> Result<Planned, Refusal> {
        self.check_caller(origin.who)?;
        self.check_transaction(transaction)?;
        let mut plan = Plan::new(&self.database);
        let caller = Caller { number: origin.who, limits: &self.limits };
        for (index, operation) in (0u32..).zip(&transaction.operations) {
            operations::plan(&mut plan, caller, index, operation)
                .and_then(|()| self.check_completed(origin.who, &plan.completed))
                .map_err(|refusal| Refusal { operation: Some(index), ..refusal })?;
        }
        let pairs = transaction.operations.iter().enumerate();
        let what: Vec<String> = pairs
            .map(|(i, operation)| operations::describe(operation, plan.outcomes.get(i)))
            .collect();
        Ok(Planned {
            changes: plan.changes(),
            what: what.join("; "),
            created: plan.created.values().copied().collect(),
            actions: plan.actions,
            outcomes: plan.outcomes,
            completed: plan.completed,
        })
    }

    fn check_caller(&self, who: u32) -> Result<(), Refusal> {
        let descriptor = self.database.reader().descriptor(who);
        let allowed = |of| matches!(of, kind::BOOT | kind::COMMAND);
        if descriptor.is_ok_and(|descriptor| allowed(descriptor.kind)) {
            return Ok(());
        }
        Err(refusal(
            "not-allowed",
            format!("partition {who}"),
            "kind",
            "only the boot partition and the command partition send transactions",
            "ask the command partition to do it",
        ))
    }

    fn check_transaction(&self, transaction: &Transaction) -> Result<(), Refusal> {
        let version = self.database.contents();
        if let Some(planned) = transaction.planned_at.filter(|&planned| planned != version) {
            return Err(self.stale(planned, version));
        }
        if transaction.operations.len() > MAX_OPERATIONS {
            return Err(refusal(
                "too-large",
                "transaction",
                "operations",
                format!("{} were sent", transaction.operations.len()),
                format!("send at most {MAX_OPERATIONS}"),
            ));
        }
        let lasting = transaction.operations.iter().position(|operation| {
            !matches!(
                operation,
                Operation::CreatePartition { .. }
                    | Operation::AssignMemory { .. }
                    | Operation::CreateChannel { .. }
                    | Operation::SetStart { .. }
            )
        });
        match lasting.filter(|_| transaction.pending) {
            None => Ok(()),
            Some(index) => Err(Refusal {
                operation: u32::try_from(index).ok(),
                ..refusal(
                    "not-undoable",
                    "transaction",
                    "pending",
                    "this operation cannot be rolled back later",
                    "put it in a transaction that is not pending",
                )
            }),
        }
    }

    /// The refusal of a plan made against version `planned`: with what changed since.
    fn stale(&self, planned: u64, version: u64) -> Refusal {
        let records = self.log.records(&self.database);
        let since = records.iter().filter(|r| r.version > planned && r.version <= version);
        let changed: Vec<String> = since
            .filter(|r| {
                matches!(r.settled, Settled::Committed | Settled::Pending | Settled::Monitor)
            })
            .map(|r| format!("{}: {}", r.version, r.what))
            .collect();
        let from = changed.len().saturating_sub(8);
        let changed = changed.get(from..).unwrap_or_default().join("; ");
        refusal(
            "stale-plan",
            "database",
            "version",
            format!("planned against {planned}, it is now {version}; since then: {changed}"),
            "read again what the plan depends on and send a new transaction",
        )
    }

    fn check_completed(&self, who: u32, completed: &[u64]) -> Result<(), Refusal> {
        let pending = |id: &u64| self.pending.iter().any(|p| p.who == who && p.request == *id);
        match completed.iter().find(|id| !pending(id)) {
            None => Ok(()),
            Some(id) => Err(refusal(
                "not-pending",
                format!("request {id}"),
                "request",
                "the caller has no pending transaction of this id",
                "name a request that was left pending and was not rolled back",
            )),
        }
    }

    fn complete(&mut self, who: u32, completed: &[u64]) {
        for &id in completed {
            let done = |p: &Pending| p.who == who && p.request == id;
            if let Some(at) = self.pending.iter().position(done) {
                let pending = self.pending.swap_remove(at);
                let to = Settled::Committed;
                let _ = self.log.settle(&mut self.database, pending.sequence, to, "");
            }
        }
    }

    pub(crate) fn new_record(
        &self,
        origin: Origin,
        settled: Settled,
        what: &str,
        reason: &str,
        changes: Vec<Change>,
    ) -> Record {
        let version = self.database.contents();
        let version = if settled == Settled::Begun { version.saturating_add(1) } else { version };
        let Origin { who, time, request } = origin;
        let cut = |text: &str| text.chars().take(1000).collect::<String>();
        let (what, reason) = (cut(what), cut(reason));
        Record { sequence: 0, time, who, request, version, settled, what, reason, changes }
    }

    fn log_refused(&mut self, origin: Origin, transaction: &Transaction, why: &Refusal) {
        let of = transaction.operations.iter().map(|op| operations::describe(op, None));
        let what = of.take(16).collect::<Vec<_>>().join("; ");
        let reason = format!("{}: {}: {}", why.object, why.field, why.reason);
        let record = self.new_record(origin, Settled::Refused, &what, &reason, Vec::new());
        // A refusal that does not fit the log is answered all the same.
        let _ = self.log.record(&mut self.database, record);
    }

    /// Applies changes and has them activated; undoes both where one is refused.
    pub(crate) fn carry_out(
        &mut self,
        monitor: &mut dyn Monitor,
        changes: &[Change],
        actions: &[Action],
        created: &[u32],
    ) -> Result<(), Refusal> {
        for (done, change) in changes.iter().enumerate() {
            if let Err(error) = change.apply(&mut self.database) {
                self.undo(changes, done);
                return Err(from_write(error));
            }
        }
        for (done, &action) in actions.iter().enumerate() {
            if let Err(errno) = monitor.perform(action) {
                let performed = actions.get(..=done).unwrap_or_default();
                self.take_back(monitor, changes, performed, created);
                return Err(from_monitor(action, errno));
            }
        }
        Ok(())
    }

    fn undo(&mut self, changes: &[Change], done: usize) {
        for change in changes.iter().take(done).rev() {
            // Undoing needs no more arena pages than there were, so it is not refused.
            let _ = change.undo(&mut self.database);
        }
    }

    /// Makes database and monitor what they were before the actions, the last of which was
    /// refused.
    fn take_back(
        &mut self,
        monitor: &mut dyn Monitor,
        changes: &[Change],
        actions: &[Action],
        created: &[u32],
    ) {
        let performed = actions.split_last().map_or(&[][..], |(_, performed)| performed);
        for &action in performed.iter().rev() {
            match action {
                Action::Start(number) => drop(monitor.perform(Action::Stop(number))),
                Action::Partition(number) if created.contains(&number) => {
                    let _ = monitor.perform(Action::Destroy(number));
                }
                _ => {}
            }
        }
        self.undo(changes, changes.len());
        // Memory first, then who lives in it, then what connects them.
        let mut again: Vec<Action> = actions.iter().rev().copied().collect();
        again.sort_by_key(|action| match action {
            Action::Pages { .. } => 0,
            Action::Partition(_) => 1,
            _ => 2,
        });
        for action in again {
            match action {
                Action::Stop(number) => drop(monitor.perform(Action::Start(number))),
                Action::Start(_) | Action::Destroy(_) => {}
                _ => drop(monitor.perform(action)),
            }
        }
    }
}

/// What a plan comes to.
struct Planned {
    changes: Vec<Change>,
    actions: Vec<Action>,
    what: String,
    outcomes: Vec<pv_abi::uv::command::Outcome>,
    created: Vec<u32>,
    completed: Vec<u64>,
}

/// What makes the monitor look at a change again.
fn action_of(change: &Change) -> Action {
    match change {
        Change::Descriptor { number, .. } => Action::Partition(*number),
        Change::Pages { first, frames, .. } => Action::Pages { first: *first, frames: *frames },
        Change::Channel { index, .. } => Action::Channel(*index),
    }
}

/// Memory that a transaction assigned to partitions it did not create.
fn assigned(
    transaction: &Transaction,
    outcomes: &[pv_abi::uv::command::Outcome],
    created: &[u32],
) -> Vec<(u32, Range)> {
    use pv_abi::uv::command::{Outcome, Target};
    let mut all = Vec::new();
    for (operation, outcome) in transaction.operations.iter().zip(outcomes) {
        if let (
            Operation::AssignMemory { partition: Target::Number(number), .. },
            Outcome::Memory(ranges),
        ) = (operation, outcome)
            && !created.contains(number)
        {
            all.extend(ranges.iter().map(|range| (*number, *range)));
        }
    }
    all
}
