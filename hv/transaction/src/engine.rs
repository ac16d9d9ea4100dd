//! Carries transactions out: reply cache, log, database, monitor, in that order.
//!
//! Rule: the record is in the log before the first word of the database changes, and a request that
//! was answered is never carried out again.

use alloc::collections::{BTreeSet, VecDeque};
use alloc::string::String;
use alloc::vec::Vec;
use core::mem::take;

use control::command::{Answer, Code, Range, Refusal, Reply, Transaction};
use pv_abi::uv::database::ULTRAVISOR;
use pv_abi::uv::devices::DeviceFunction;
use resource_db::{Database, OwnedRange, Owner, WriteError};
use serde::Serialize;

use crate::Monitor;
use crate::Settled;
use crate::carry::Stopped;
use crate::index::Index;
use crate::log::{Log, Record};
use crate::pending::{self, Pending, assigned};
use crate::planning::{Planned, shortened};
use crate::reap::Dying;
use crate::refusal::from_write;
use crate::refused::Refused;
use crate::replies::Replies;
use crate::under_way::{Begun, Next, Progress, UnderWay, Whose};
use crate::unscrubbed::Unscrubbed;

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
    /// Whether a disk may be a GPT partition, which the I/O partitions would have to find and
    /// serve.
    pub gpt: bool,
    /// The PCI functions, as the monitor knows them, by index.
    pub functions: &'static [DeviceFunction],
}

impl Limits {
    /// Maximum number of ranges for the memory of one partition.
    pub(crate) const fn ranges_of_partition(&self) -> usize {
        self.ranges as usize / 8
    }
}

/// Entries of the database that were written since the caller asked last.
#[derive(Debug, Default)]
pub(crate) struct Written {
    /// Entries of the channel table ([`Engine::take_channels_changed`]).
    pub(crate) channels: BTreeSet<u32>,
    /// Descriptors, by number ([`Engine::take_partitions_changed`]).
    pub(crate) partitions: BTreeSet<u32>,
    /// Entries of the endpoint table ([`Engine::take_endpoints_changed`]).
    pub(crate) endpoints: BTreeSet<u32>,
    /// See [`Engine::take_server_ended`].
    pub(crate) server_ended: bool,
}

/// The transaction engine; nothing else changes the database.
#[derive(Debug)]
pub struct Engine<'a> {
    pub(crate) database: Database<'a>,
    pub(crate) index: Index,
    pub(crate) log: Log,
    pub(crate) limits: Limits,
    /// Replies that are kept for retries.
    pub(crate) replies: Replies,
    pub(crate) pending: Vec<Pending>,
    pub(crate) dying: Vec<Dying>,
    /// I/O partitions that died, and that the log had no room yet to give up.
    pub(crate) dead: Vec<u32>,
    /// Lines for the host's log ([`Engine::take_news`]).
    pub(crate) news: Vec<String>,
    pub(crate) under_way: Option<UnderWay>,
    /// The work to do next, before any other may begin.
    pub(crate) queue: VecDeque<Next>,
    /// Free memory that the monitor may have to scrub.
    pub(crate) unscrubbed: Unscrubbed,
    /// The partition that pays for the present writes.
    pub(crate) payer: u32,
    /// Actions that the monitor refused to take back.
    pub(crate) refused: Refused,
    /// Entries written since the caller asked last.
    pub(crate) written: Written,
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
            written: Written {
                channels: index.channels.keys().copied().collect(),
                endpoints: index.disks_from(0).collect(),
                ..Written::default()
            },
            index,
            database,
            log,
            limits,
            replies: Replies::default(),
            pending: Vec::new(),
            dying: Vec::new(),
            dead: Vec::new(),
            news: Vec::new(),
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

    /// Returns the entries of the channel table that were written since the last call. The first
    /// call returns all entries in use.
    pub fn take_channels_changed(&mut self) -> BTreeSet<u32> {
        take(&mut self.written.channels)
    }

    /// Returns the partitions whose descriptors were written since the last call.
    pub fn take_partitions_changed(&mut self) -> BTreeSet<u32> {
        take(&mut self.written.partitions)
    }

    /// Returns the entries of the endpoint table that were written since the last call. The first
    /// call returns all entries in use. A write of a request under way may still be taken back.
    pub fn take_endpoints_changed(&mut self) -> BTreeSet<u32> {
        take(&mut self.written.endpoints)
    }

    /// Returns whether since the last call an I/O partition that ended has lost its functions, or is
    /// gone.
    pub fn take_server_ended(&mut self) -> bool {
        take(&mut self.written.server_ended)
    }

    /// Returns the lines about takeovers since the last call, for the host's log.
    pub fn take_news(&mut self) -> Vec<String> {
        take(&mut self.news)
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

    /// Begins work, begins it again where it has to wait for memory, and runs it to its end.
    /// Returns its reply.
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

    /// Begins a transaction of partition `who`, or answers a retry of it. Carries the transaction
    /// out until the turn of the caller's loop is over ([`Monitor::turn_over`]); [`Self::proceed`]
    /// continues in the next turn. No other work may be under way.
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

    /// Answers which changes a transaction would make, and changes nothing.
    #[must_use]
    pub fn dry_run(&self, who: u32, request: u64, transaction: &Transaction) -> Reply {
        let origin = Origin::new(who, 0, request);
        let planned = self.plan(origin, transaction);
        let result = planned.map(|Planned { what, .. }| Answer::Planned { what: shortened(what) });
        Reply { id: request, version: self.database.contents(), result }
    }

    /// Begins a request, or answers a retry with the kept reply.
    pub(crate) fn begin_once(
        &mut self,
        origin: Origin,
        body: &impl Serialize,
        act: impl FnOnce(&mut Self, Origin) -> Progress,
    ) -> Begun {
        let origin = match self.replies.find(origin, body) {
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
        self.replies.keep(who, sum, reply.clone());
        reply
    }

    fn attempt(
        &mut self,
        monitor: &mut dyn Monitor,
        origin: Origin,
        transaction: &Transaction,
    ) -> Progress {
        let mut planned = self.plan(origin, transaction);
        // These refusals may pass once a dying partition has released its memory, name, number,
        // virtual CPUs, functions or disks, or once a disk that is detaching is gone.
        let codes = [
            Code::NoMemory,
            Code::TooLarge,
            Code::NameTaken,
            Code::NumberTaken,
            Code::NoVcpus,
            Code::DeviceTaken,
            Code::NoEndpoint,
            Code::Busy,
        ];
        let lacks = |refusal: &Refusal| codes.contains(&refusal.code);
        while planned.as_ref().is_err_and(lacks)
            && (self.reap_on(monitor, origin.time) || self.free_detached_on(monitor, origin.time))
        {
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

    /// Logs the outcome of an applied transaction, together with the pending ones that it
    /// completed, and increments the version of the database. If the ultravisor ends in between,
    /// recovery increments the version.
    pub(crate) fn settle(&mut self, sequences: &[u64], settled: Settled) -> Result<(), WriteError> {
        self.log.settle(&mut self.database, sequences, settled, "")?;
        let version = self.database.contents().saturating_add(1);
        self.database.set_contents(version)
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
}
