//! Carries transactions out: reply cache, log, database, monitor, in that order.
//!
//! Rule: the record is in the log before the first word of the database changes, and a request that
//! was answered is never carried out again.

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::mem::take;

use control::command::{
    Answer, Code, MAX_OPERATIONS, Operation, Outcome, Range, Refusal, Reply, Target, Transaction,
};
use pv_abi::uv::channel::MAX_PAYLOAD;
use pv_abi::uv::database::{ULTRAVISOR, kind};
use pv_abi::uv::devices::DeviceFunction;
use resource_db::{Database, OwnedRange, Owner, WriteError};
use serde::Serialize;

use crate::Settled;
use crate::carry::Stopped;
use crate::change::Change;
use crate::describe::{describe, target_of};
use crate::index::Index;
use crate::log::{Log, Record};
use crate::operations::{self, Caller};
use crate::pending::{self, Pending, assigned};
use crate::plan::Plan;
use crate::reap::Dying;
use crate::refusal::{from_write, name_of, refusal};
use crate::refused::Refused;
use crate::under_way::{Begun, Next, Progress, UnderWay, Whose};
use crate::unscrubbed::Unscrubbed;
use crate::{Action, Monitor};

/// Replies that the engine keeps for each client.
const KEPT_REPLIES: usize = 32;

/// Maximum number of bytes of all sentences about a plan; and the minimum for each.
const PLANNED_BYTES: usize = 20 * 1024;
const SENTENCE_BYTES: usize = 64;

/// Bytes of a record beside its changes, outcomes and texts.
const RECORD_BYTES: usize = 256;
/// Maximum number of bytes of a text in a record: a thousand characters.
const TEXT_BYTES: usize = 4000;
/// Maximum number of bytes of the outcomes in an answer.
const ANSWER_BYTES: usize = MAX_PAYLOAD - 1024;

/// The limits of the machine.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Number of physical CPUs.
    pub cpus: u32,
    /// Maximum number of ranges for the memory of all partitions; each takes some 40 bytes of the
    /// heap.
    pub ranges: u32,
    /// Whether guests may not run, because the CPU lets them read all memory.
    pub meltdown: bool,
    /// The PCI functions, as the monitor knows them, by index.
    pub functions: &'static [DeviceFunction],
}

impl Limits {
    /// Maximum number of ranges for the memory of one partition.
    pub(crate) const fn ranges_of_partition(&self) -> usize {
        self.ranges as usize / 8
    }
}

/// A reply that is kept, so that a retry gets it again.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) id: u64,
    sum: u32,
    reply: Reply,
}

/// The transaction engine; nothing else changes the database.
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
    /// The work to do next, before any other may begin.
    pub(crate) queue: VecDeque<Next>,
    /// Free memory that the monitor may have to scrub.
    pub(crate) unscrubbed: Unscrubbed,
    /// The partition that pays for the present writes.
    pub(crate) payer: u32,
    /// Actions that the monitor refused to take back.
    pub(crate) refused: Refused,
    /// Entries of the channel table written since [`Self::take_channels_changed`].
    pub(crate) channels_changed: BTreeSet<u32>,
    /// Descriptors written since [`Self::take_partitions_changed`].
    pub(crate) partitions_changed: BTreeSet<u32>,
}

/// The client of a request, its time, and its id.
#[derive(Clone, Copy)]
pub(crate) struct Origin {
    pub(crate) who: u32,
    pub(crate) time: u64,
    pub(crate) request: u64,
    /// Checksum of the request's body; 0 if no client made the request.
    pub(crate) sum: u32,
}

impl Origin {
    /// The origin of a request whose checksum is not known yet, or of the ultravisor's own work.
    pub(crate) const fn new(who: u32, time: u64, request: u64) -> Self {
        Self { who, time, request, sum: 0 }
    }
}

impl<'a> Engine<'a> {
    /// Takes over a newly filled database, and writes the log's first record.
    ///
    /// # Errors
    /// The database's error, if it refuses the log.
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

    /// The database, for reading.
    #[must_use]
    pub const fn database(&self) -> &Database<'a> {
        &self.database
    }

    /// The log's records, oldest first, and the number of the next record.
    #[must_use]
    pub fn records(&self) -> (Vec<Record>, u64) {
        (self.records_from(0).collect(), self.log_end())
    }

    /// The entries of the channel table written since the last call; the first call returns all
    /// entries in use.
    pub fn take_channels_changed(&mut self) -> BTreeSet<u32> {
        take(&mut self.channels_changed)
    }

    /// The partitions whose descriptors were written since the last call.
    pub fn take_partitions_changed(&mut self) -> BTreeSet<u32> {
        take(&mut self.partitions_changed)
    }

    /// Returns whether the index agrees with the database.
    #[must_use]
    pub fn index_agrees(&self) -> bool {
        Index::of(&self.database) == self.index
    }

    /// The oldest number that the log keeps, and the number of the next record.
    #[must_use]
    pub fn log_bounds(&self) -> (u64, u64) {
        (self.log.bounds().0, self.log_end())
    }

    /// The log's records from number `from` on, oldest first. Each is read when the iterator
    /// reaches it.
    pub fn records_from(&self, from: u64) -> impl DoubleEndedIterator<Item = Record> + '_ {
        let end = self.log_end();
        self.log.records_from(&self.database, from).filter(move |record| record.sequence < end)
    }

    /// Carries out a transaction of partition `who`, or answers a retry of it, in as many turns as
    /// needed.
    pub fn execute(
        &mut self,
        monitor: &mut dyn Monitor,
        who: u32,
        time: u64,
        request: u64,
        transaction: &Transaction,
    ) -> Reply {
        self.run_to_its_end(monitor, time, |engine, monitor| {
            engine.begin(monitor, who, time, request, transaction)
        })
    }

    /// Begins work, again where it must begin again, and runs it to its end. Returns its reply.
    pub(crate) fn run_to_its_end(
        &mut self,
        monitor: &mut dyn Monitor,
        time: u64,
        begin: impl Fn(&mut Self, &mut dyn Monitor) -> Begun,
    ) -> Reply {
        loop {
            let mut reply = match begin(self, monitor) {
                Begun::Answered(reply) => Some(reply),
                Begun::UnderWay | Begun::Later => None,
            };
            while self.is_busy() {
                let ended = self.proceed(monitor, time);
                reply = reply.or(ended.map(|(_, reply)| reply));
            }
            if let Some(reply) = reply {
                return reply;
            }
        }
    }

    /// Begins to carry out a transaction of partition `who`, for one turn of the loop, or answers a
    /// retry of it. No other work may be under way.
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

    /// Answers what a transaction would do, and changes nothing.
    #[must_use]
    pub fn dry_run(&self, who: u32, request: u64, transaction: &Transaction) -> Reply {
        let origin = Origin::new(who, 0, request);
        let planned = self.plan(origin, transaction);
        let result = planned.map(|Planned { what, .. }| Answer::Planned { what: shortened(what) });
        Reply { id: request, version: self.database.contents(), result }
    }

    /// The kept reply, if this is a retry; else the request's origin with its checksum.
    fn kept(&self, origin: Origin, body: &impl Serialize) -> Result<Reply, Origin> {
        let sum = postcard::to_allocvec(body).map_or(0, |bytes| crc32fast::hash(&bytes));
        let mut kept = self.clients.get(&origin.who).into_iter().flatten();
        let kept = kept.find(|kept| kept.id == origin.request && kept.sum == sum);
        kept.map(|kept| kept.reply.clone()).ok_or(Origin { sum, ..origin })
    }

    /// Begins a request, or answers a retry with the kept reply.
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

    /// Makes the reply to a finished request, and keeps it for retries.
    pub(crate) fn reply_to(&mut self, origin: Origin, result: Result<Answer, Refusal>) -> Reply {
        let Origin { who, request: id, sum, .. } = origin;
        let reply = Reply { id, version: self.database.contents(), result };
        self.keep(who, sum, reply.clone());
        reply
    }

    /// Keeps the reply to a client's request, for retries.
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
        // These refusals may pass once a dying partition has released its memory, name, number,
        // virtual CPUs or functions.
        let codes = [
            Code::NoMemory,
            Code::TooLarge,
            Code::NameTaken,
            Code::NumberTaken,
            Code::NoVcpus,
            Code::DeviceTaken,
        ];
        let lacks = |refusal: &Refusal| codes.contains(&refusal.code);
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

    /// Carries out a plan: writes the record and the database, lets the monitor act, and then does
    /// the part that cannot be refused.
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

    /// Logs how an applied transaction ended, together with the pending ones that it completed, and
    /// increments the version of the database. If the ultravisor ends in between, recovery
    /// increments it.
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
            let functions = self.limits.functions;
            what.push(describe(operation, &named, functions, plan.outcomes.last()));
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

    /// Checks that the record fits the log, and that the answer fits a frame of a channel.
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
                Code::TooLarge,
                "transaction",
                field,
                format!("it would take {bytes} bytes, at most {most} can be"),
                "split it into several transactions",
            )),
        }
    }

    /// The name of the partition of an operation, if it has a name.
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
            Code::NotAllowed,
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
                Code::TooLarge,
                "transaction",
                "operations",
                format!("more than {MAX_OPERATIONS} were sent"),
                format!("send at most {MAX_OPERATIONS}"),
            ));
        }
        Ok(())
    }

    /// The refusal of a plan that was made against version `planned`; it lists what has changed
    /// since.
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
            Code::StalePlan,
            "database",
            "version",
            format!("planned against {planned}, it is now {version}; since then: {changed}"),
            "plan again; `uvtool log` shows what changed",
        )
    }

    /// A record without changes that concerns no partition.
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
        let functions = self.limits.functions;
        let of =
            operations().map(|(i, op)| describe(op, &self.named(&plan, op, i), functions, None));
        let what = of.collect::<Vec<_>>().join("; ");
        let targets = operations().filter_map(|(i, op)| plan.number(target_of(op, i)?).ok());
        let mut partitions: Vec<u32> = targets.collect();
        partitions.sort_unstable();
        partitions.dedup();
        let reason = format!("{}: {}: {}", why.object, why.field, why.reason);
        let mut record = self.new_record(origin, Settled::Refused, &what, &reason);
        record.partitions = partitions;
        // A refusal that does not fit the log is still answered.
        let _ = self.log.record(&mut self.database, record, false);
    }
}

/// Shortens the sentences of a plan, in number and length, to fit a frame of a channel. If some are
/// left out, the last says how many.
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

/// Maximum number of bytes of an outcome in an answer.
fn outcome_bytes(outcome: &Outcome) -> usize {
    /// Maximum number of bytes of a number of 32 bits, or of a number of frames, in postcard.
    const NUMBER: usize = 5;
    1 + match outcome {
        Outcome::Memory(ranges) => NUMBER + ranges.len() * 2 * NUMBER,
        Outcome::Channel { .. } => 2 * NUMBER,
        Outcome::Partition(_) => NUMBER,
        Outcome::Done => 0,
    }
}

/// The result of a plan.
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
