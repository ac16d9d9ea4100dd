//! Carrying transactions out: cache, log, database, monitor, in that order.
//!
//! Rule: the record is in the log before the first word of the database changes, and a request
//! that was answered is not carried out again.

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::mem::take;

use pv_abi::uv::channel::MAX_PAYLOAD;
use pv_abi::uv::command::{
    Answer, MAX_OPERATIONS, Operation, Outcome, Range, Refusal, Reply, Target, Transaction,
};
use pv_abi::uv::database::{ULTRAVISOR, kind};
use resource_db::{Database, OwnedRange, Owner, WriteError};
use serde::Serialize;

use crate::carry::Stopped;
use crate::change::Change;
use crate::describe::{describe, target_of};
use crate::index::Index;
use crate::log::{Log, Record, Settled};
use crate::operations::{self, Caller};
use crate::pending::{self, Pending, assigned};
use crate::plan::Plan;
use crate::reap::Dying;
use crate::refusal::{from_write, name_of, refusal};
use crate::refused::Refused;
use crate::under_way::{Begun, Next, Progress, UnderWay, Whose};
use crate::unscrubbed::Unscrubbed;
use crate::{Action, Monitor};

/// Replies that are kept for each client.
const KEPT_REPLIES: usize = 32;

/// Bytes of the sentences about a plan, and of each at least.
const PLANNED_BYTES: usize = 20 * 1024;
const SENTENCE_BYTES: usize = 64;

/// Bytes of a record beside changes, outcomes and texts.
const RECORD_BYTES: usize = 256;
/// Bytes of a text in a record: a thousand characters.
const TEXT_BYTES: usize = 4000;
/// Bytes of the outcomes in an answer.
const ANSWER_BYTES: usize = MAX_PAYLOAD - 1024;

/// What the machine allows.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Physical CPUs.
    pub cpus: u32,
    /// Ranges that the memory of all partitions may lie in; each takes some 40 bytes of the heap.
    pub ranges: u32,
    /// Guests may not run: the CPU lets them read all memory.
    pub meltdown: bool,
}

impl Limits {
    /// Ranges that the memory of one partition may lie in.
    pub(crate) const fn ranges_of_partition(&self) -> usize {
        self.ranges as usize / 8
    }
}

/// A reply that a retry gets again.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) id: u64,
    sum: u32,
    reply: Reply,
}

/// The transaction engine: the only one that changes the database.
#[derive(Debug)]
pub struct Engine<'a> {
    pub(crate) database: Database<'a>,
    pub(crate) index: Index,
    pub(crate) log: Log,
    pub(crate) limits: Limits,
    pub(crate) clients: BTreeMap<u32, VecDeque<Kept>>,
    pub(crate) pending: Vec<Pending>,
    pub(crate) dying: Vec<Dying>,
    pub(crate) under_way: Option<UnderWay>,
    /// What is done next, before anything is begun.
    pub(crate) queue: VecDeque<Next>,
    /// Free memory that the monitor may have to scrub.
    pub(crate) unscrubbed: Unscrubbed,
    /// Who pays for what is written now.
    pub(crate) payer: u32,
    /// What the monitor refused to take back.
    pub(crate) refused: Refused,
    /// Entries of the channel table written since [`Self::take_channels_changed`].
    pub(crate) channels_changed: BTreeSet<u32>,
    /// Descriptors written since [`Self::take_partitions_changed`].
    pub(crate) partitions_changed: BTreeSet<u32>,
}

/// Who asked, when, under which id.
#[derive(Clone, Copy)]
pub(crate) struct Origin {
    pub(crate) who: u32,
    pub(crate) time: u64,
    pub(crate) request: u64,
    /// Checksum of the request's body; 0 where nobody asked.
    pub(crate) sum: u32,
}

impl Origin {
    /// The origin of a request whose checksum is not known yet, or of what nobody asked for.
    pub(crate) const fn new(who: u32, time: u64, request: u64) -> Self {
        Self { who, time, request, sum: 0 }
    }
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
        let mut engine = Self::over(database, log, limits);
        let origin = Origin::new(ULTRAVISOR, time, 0);
        let record = engine.new_record(origin, Settled::Committed, what, "first start");
        engine.log.record(&mut engine.database, record, false)?;
        Ok(engine)
    }

    pub(crate) fn over(database: Database<'a>, log: Log, limits: Limits) -> Self {
        let index = Index::of(&database);
        let mut unscrubbed = Unscrubbed::default();
        for OwnedRange { first, frames, .. } in index.of_owner(Owner::FREE) {
            unscrubbed.add(Range { first, frames }, ULTRAVISOR);
        }
        Self {
            channels_changed: index.channels.keys().copied().collect(),
            partitions_changed: BTreeSet::new(),
            index,
            database,
            log,
            limits,
            clients: BTreeMap::new(),
            pending: Vec::new(),
            dying: Vec::new(),
            under_way: None,
            queue: VecDeque::new(),
            unscrubbed,
            payer: ULTRAVISOR,
            refused: Refused::default(),
        }
    }

    /// The database, to read.
    #[must_use]
    pub const fn database(&self) -> &Database<'a> {
        &self.database
    }

    /// The log's records, oldest first, and the number the next one gets.
    #[must_use]
    pub fn records(&self) -> (Vec<Record>, u64) {
        (self.records_from(0).collect(), self.log_end())
    }

    /// The entries of the channel table that were written since the last call; all in use at the
    /// first.
    pub fn take_channels_changed(&mut self) -> BTreeSet<u32> {
        take(&mut self.channels_changed)
    }

    /// The partitions whose descriptors were written since the last call.
    pub fn take_partitions_changed(&mut self) -> BTreeSet<u32> {
        take(&mut self.partitions_changed)
    }

    /// Whether what is kept beside the database is what the database says.
    #[must_use]
    pub fn index_agrees(&self) -> bool {
        Index::of(&self.database) == self.index
    }

    /// The oldest number that the log keeps, and the number its next record gets.
    #[must_use]
    pub fn log_bounds(&self) -> (u64, u64) {
        (self.log.bounds().0, self.log_end())
    }

    /// The log's records from this number on, oldest first; read as they are taken.
    pub fn records_from(&self, from: u64) -> impl DoubleEndedIterator<Item = Record> + '_ {
        let end = self.log_end();
        self.log.records_from(&self.database, from).filter(move |record| record.sequence < end)
    }

    /// Carries out a transaction of partition `who`, or answers a retry of it, however many turns
    /// that takes.
    pub fn execute(
        &mut self,
        monitor: &mut dyn Monitor,
        who: u32,
        time: u64,
        request: u64,
        transaction: &Transaction,
    ) -> Reply {
        loop {
            let begun = self.begin(monitor, who, time, request, transaction);
            if let Some(reply) = self.run_to_its_end(monitor, time, begun) {
                return reply;
            }
        }
    }

    /// The reply to what was begun; `None`: it is to be begun again.
    pub(crate) fn run_to_its_end(
        &mut self,
        monitor: &mut dyn Monitor,
        time: u64,
        begun: Begun,
    ) -> Option<Reply> {
        let mut reply = match begun {
            Begun::Answered(reply) => Some(reply),
            Begun::UnderWay | Begun::Later => None,
        };
        while self.is_busy() {
            let ended = self.proceed(monitor, time);
            reply = reply.or(ended.map(|(_, reply)| reply));
        }
        reply
    }

    /// Begins to carry out a transaction of partition `who`, for a turn of the loop, or answers a
    /// retry of it. Nothing may be under way.
    pub fn begin(
        &mut self,
        monitor: &mut dyn Monitor,
        who: u32,
        time: u64,
        request: u64,
        transaction: &Transaction,
    ) -> Begun {
        let origin = Origin::new(who, time, request);
        self.begin_once(origin, transaction, |engine, origin| {
            engine.attempt(monitor, origin, transaction)
        })
    }

    /// What a transaction would do; changes nothing.
    #[must_use]
    pub fn dry_run(&self, who: u32, request: u64, transaction: &Transaction) -> Reply {
        let origin = Origin::new(who, 0, request);
        let planned = self.plan(origin, transaction);
        let result = planned.map(|Planned { what, .. }| Answer::Planned { what: shortened(what) });
        Reply { id: request, version: self.database.contents(), result }
    }

    /// The reply that a request had, where this is a retry; else its origin, with its checksum.
    fn kept(&self, origin: Origin, body: &impl Serialize) -> Result<Reply, Origin> {
        let sum = postcard::to_allocvec(body).map_or(0, |bytes| crc32fast::hash(&bytes));
        let mut kept = self.clients.get(&origin.who).into_iter().flatten();
        let kept = kept.find(|kept| kept.id == origin.request && kept.sum == sum);
        kept.map(|kept| kept.reply.clone()).ok_or(Origin { sum, ..origin })
    }

    /// Begins a request, or gives a retry the reply that it had.
    pub(crate) fn begin_once(
        &mut self,
        origin: Origin,
        body: &impl Serialize,
        act: impl FnOnce(&mut Self, Origin) -> Progress,
    ) -> Begun {
        let origin = match self.kept(origin, body) {
            Ok(reply) => return Begun::Answered(reply),
            Err(origin) => origin,
        };
        match act(self, origin) {
            Progress::Ended(result) => Begun::Answered(self.reply_to(origin, result)),
            Progress::UnderWay => Begun::UnderWay,
            Progress::Later => Begun::Later,
        }
    }

    /// The reply to a request that has ended, kept for retries.
    pub(crate) fn reply_to(&mut self, origin: Origin, result: Result<Answer, Refusal>) -> Reply {
        let Origin { who, request: id, sum, .. } = origin;
        let reply = Reply { id, version: self.database.contents(), result };
        self.keep(who, sum, reply.clone());
        reply
    }

    /// Keeps the reply to a client's request, for retries of the request.
    pub(crate) fn keep(&mut self, who: u32, sum: u32, reply: Reply) {
        let kept = self.clients.entry(who).or_default();
        kept.retain(|kept| kept.id != reply.id);
        if kept.len() >= KEPT_REPLIES {
            kept.pop_front();
        }
        kept.push_back(Kept { id: reply.id, sum, reply });
    }

    fn attempt(
        &mut self,
        monitor: &mut dyn Monitor,
        origin: Origin,
        transaction: &Transaction,
    ) -> Progress {
        let mut planned = self.plan(origin, transaction);
        // What is being given back is free for who needs it: memory, names, numbers, virtual CPUs.
        let codes = ["no-memory", "too-large", "name-taken", "number-taken", "no-vcpus"];
        let lacks = |refusal: &Refusal| codes.contains(&refusal.code.as_str());
        while planned.as_ref().is_err_and(lacks) && self.reap_on(monitor, origin.time) {
            if self.is_busy() || monitor.turn_over() {
                return Progress::Later;
            }
            planned = self.plan(origin, transaction);
        }
        match planned {
            Ok(planned) => self.commit(monitor, origin, planned, transaction),
            Err(refusal) => {
                self.log_refused(origin, transaction, &refusal);
                Err(refusal).into()
            }
        }
    }

    /// Carries out what was planned: record, database, monitor, and then what cannot be refused.
    pub(crate) fn commit(
        &mut self,
        monitor: &mut dyn Monitor,
        origin: Origin,
        mut planned: Planned,
        transaction: &Transaction,
    ) -> Progress {
        let what = planned.what.join("; ");
        let mut begun = self.new_record(origin, Settled::Begun, &what, &transaction.reason);
        begun.partitions = take(&mut planned.about);
        begun.outcomes.clone_from(&planned.outcomes);
        let changes = take(&mut planned.changes);
        begun.changes.clone_from(&changes);
        let sequence = match self.log.record(&mut self.database, begun, transaction.pending) {
            Ok(sequence) => sequence,
            Err(WriteError::Full(_)) if transaction.pending => {
                return Err(pending::no_room(origin.who)).into();
            }
            Err(error) => return Err(from_write(error)).into(),
        };
        if let Err(Stopped { refusal, .. }) = self.write_all(&changes, origin.who) {
            self.settle_refused(sequence, &refusal);
            return Err(refusal).into();
        }
        let assigned = || assigned(transaction, &planned.outcomes, &planned.created);
        let pending = transaction.pending.then(assigned);
        let actions = take(&mut planned.actions);
        let whose = Whose::Request { origin, planned, pending };
        let work = UnderWay::new(sequence, whose, changes, actions);
        self.run(monitor, work, origin.time).into()
    }

    /// Writes down how a transaction that was applied ended, with the pending ones that it
    /// completed, and counts it. Should the ultravisor end in between, recovery counts it.
    pub(crate) fn settle(&mut self, sequences: &[u64], settled: Settled) -> Result<(), WriteError> {
        self.log.settle(&mut self.database, sequences, settled, "")?;
        let version = self.database.contents().saturating_add(1);
        self.database.set_contents(version)
    }

    pub(crate) fn plan(
        &self,
        origin: Origin,
        transaction: &Transaction,
    ) -> Result<Planned, Refusal> {
        self.check_caller(origin.who)?;
        self.check_transaction(transaction)?;
        let mut plan = Plan::new(&self.database, &self.index);
        let caller = Caller { number: origin.who, limits: &self.limits };
        let mut what = Vec::new();
        let mut about = Vec::new();
        for (index, operation) in (0u32..).zip(&transaction.operations) {
            let named = self.named(&plan, operation, index);
            operations::plan(&mut plan, caller, index, operation)
                .and_then(|()| self.check_completed(origin.who, &plan.completed))
                .and_then(|()| self.check_released(origin.who, &plan, operation))
                .map_err(|refusal| Refusal { operation: Some(index), ..refusal })?;
            what.push(describe(operation, &named, plan.outcomes.last()));
            let target = target_of(operation, index).and_then(|target| plan.number(target).ok());
            about.extend(target);
        }
        plan.check_room(&self.limits)?;
        self.check_pending(origin.who, transaction, &plan)?;
        about.sort_unstable();
        about.dedup();
        let changes = plan.changes();
        let texts = what.iter().map(|what| what.len() + 2).sum::<usize>().min(TEXT_BYTES)
            + transaction.reason.len().min(TEXT_BYTES);
        let numbers = about.len().saturating_add(plan.completed.len()).saturating_mul(10);
        self.check_sizes(&changes, &plan.outcomes, texts.saturating_add(numbers))?;
        Ok(Planned {
            changes,
            what,
            about,
            created: plan.created.values().copied().collect(),
            actions: plan.actions,
            outcomes: plan.outcomes,
            completed: plan.completed,
            destroyed: plan.destroyed,
        })
    }

    /// Whether the record fits the log, and the answer a frame of a channel.
    fn check_sizes(
        &self,
        changes: &[Change],
        outcomes: &[Outcome],
        beside: usize,
    ) -> Result<(), Refusal> {
        let answer: usize = outcomes.iter().map(outcome_bytes).sum();
        let record = changes.iter().map(Change::bytes).sum::<usize>();
        let record =
            record.saturating_add(answer).saturating_add(beside).saturating_add(RECORD_BYTES);
        let sizes = [(answer, ANSWER_BYTES, "answer"), (record, self.log.most(), "record")];
        match sizes.into_iter().find(|(bytes, most, _)| bytes > most) {
            None => Ok(()),
            Some((bytes, most, field)) => Err(refusal(
                "too-large",
                "transaction",
                field,
                format!("it would take {bytes} bytes, at most {most} can be"),
                "split it into several transactions",
            )),
        }
    }

    /// What the partition of an operation is called: its name, where it has one.
    fn named(&self, plan: &Plan, operation: &Operation, index: u32) -> String {
        let Some(target) = target_of(operation, index) else {
            return String::new();
        };
        match (plan.number(target), target) {
            (Ok(number), _) => match plan.descriptor(number) {
                Some(descriptor) => format!("\"{}\" ({number})", name_of(&descriptor)),
                None => format!("{number}"),
            },
            (Err(_), Target::CreatedBy(operation)) => format!("the one of operation {operation}"),
            (Err(_), Target::Number(number)) => format!("{number}"),
        }
    }

    pub(crate) fn check_caller(&self, who: u32) -> Result<(), Refusal> {
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
                format!("more than {MAX_OPERATIONS} were sent"),
                format!("send at most {MAX_OPERATIONS}"),
            ));
        }
        Ok(())
    }

    /// The refusal of a plan made against version `planned`: with what changed since.
    fn stale(&self, planned: u64, version: u64) -> Refusal {
        let since = self.records_from(0).rev().take_while(|r| r.version > planned);
        let mut changed: Vec<String> = since
            .filter(Record::is_applied)
            .map(|r| format!("{}: {}", r.version, r.what))
            .take(8)
            .collect();
        changed.reverse();
        let changed = changed.join("; ");
        refusal(
            "stale-plan",
            "database",
            "version",
            format!("planned against {planned}, it is now {version}; since then: {changed}"),
            "plan again; `uvtool log` shows what changed",
        )
    }

    /// A record without changes, about no partition.
    pub(crate) fn new_record(
        &self,
        origin: Origin,
        settled: Settled,
        what: &str,
        reason: &str,
    ) -> Record {
        let version = self.database.contents();
        let version = if settled == Settled::Begun { version.saturating_add(1) } else { version };
        let Origin { who, time, request, sum } = origin;
        let cut = |text: &str| text.chars().take(1000).collect::<String>();
        let (what, reason) = (cut(what), cut(reason));
        let (partitions, changes) = (Vec::new(), Vec::new());
        Record {
            sequence: 0,
            time,
            who,
            request,
            version,
            settled,
            what,
            reason,
            partitions,
            changes,
            sum,
            outcomes: Vec::new(),
        }
    }

    fn log_refused(&mut self, origin: Origin, transaction: &Transaction, why: &Refusal) {
        let plan = Plan::new(&self.database, &self.index);
        let operations = || (0u32..).zip(&transaction.operations).take(16);
        let of = operations().map(|(i, op)| describe(op, &self.named(&plan, op, i), None));
        let what = of.collect::<Vec<_>>().join("; ");
        let targets = operations().filter_map(|(i, op)| plan.number(target_of(op, i)?).ok());
        let mut partitions: Vec<u32> = targets.collect();
        partitions.sort_unstable();
        partitions.dedup();
        let reason = format!("{}: {}: {}", why.object, why.field, why.reason);
        let mut record = self.new_record(origin, Settled::Refused, &what, &reason);
        record.partitions = partitions;
        // A refusal that does not fit the log is answered all the same.
        let _ = self.log.record(&mut self.database, record, false);
    }
}

/// The sentences of a plan, as many and as much of each as a frame of a channel holds; the last of too
/// many says how many more there are.
fn shortened(mut what: Vec<String>) -> Vec<String> {
    const MOST: usize = PLANNED_BYTES / SENTENCE_BYTES;
    if what.len() > MOST {
        let more = what.len() - (MOST - 1);
        what.truncate(MOST - 1);
        what.push(format!("and {more} operations more"));
    }
    let most = PLANNED_BYTES / what.len().max(1);
    what.iter_mut().for_each(|what| what.truncate(what.floor_char_boundary(most)));
    what
}

/// Bytes of an outcome in an answer, at most.
fn outcome_bytes(outcome: &Outcome) -> usize {
    /// A number of 32 bits and a number of frames, as postcard has them.
    const NUMBER: usize = 5;
    1 + match outcome {
        Outcome::Memory(ranges) => NUMBER + ranges.len() * 2 * NUMBER,
        Outcome::Channel { .. } => 2 * NUMBER,
        Outcome::Partition(_) => NUMBER,
        Outcome::Done => 0,
    }
}

/// What a plan comes to.
pub(crate) struct Planned {
    changes: Vec<Change>,
    actions: Vec<Action>,
    /// A sentence for each operation.
    pub(crate) what: Vec<String>,
    /// The partitions that its operations name.
    about: Vec<u32>,
    pub(crate) outcomes: Vec<Outcome>,
    pub(crate) created: Vec<u32>,
    pub(crate) completed: Vec<u64>,
    pub(crate) destroyed: Vec<u32>,
}
