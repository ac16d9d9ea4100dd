//! Plans a whole transaction, and checks it before anything is written.
//!
//! Rule: a plan changes nothing. Its record fits the log, and its answer fits a frame of a channel.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use control::command::{Code, MAX_OPERATIONS, Operation, Outcome, Refusal, Target, Transaction};
use pv_abi::uv::channel::MAX_PAYLOAD;
use pv_abi::uv::database::kind;

use crate::Action;
use crate::Settled;
use crate::change::Change;
use crate::describe::{describe, target_of};
use crate::engine::{Engine, Origin};
use crate::log::Record;
use crate::operations::{self, Caller};
use crate::plan::Plan;
use crate::refusal::{name_of, refusal};

/// Maximum number of bytes of all sentences about a plan; and the minimum for each.
const PLANNED_BYTES: usize = 20 * 1024;
const SENTENCE_BYTES: usize = 64;

/// Bytes of a record beside its changes, outcomes and texts.
const RECORD_BYTES: usize = 256;
/// Maximum number of bytes of a text in a record: a thousand characters.
const TEXT_BYTES: usize = 4000;
/// Maximum number of bytes of the outcomes in an answer.
const ANSWER_BYTES: usize = MAX_PAYLOAD - 1024;

/// The result of a plan.
pub(crate) struct Planned {
    pub(crate) changes: Vec<Change>,
    pub(crate) actions: Vec<Action>,
    /// A sentence for each operation.
    pub(crate) what: Vec<String>,
    /// The partitions that its operations name.
    pub(crate) about: Vec<u32>,
    pub(crate) outcomes: Vec<Outcome>,
    pub(crate) created: Vec<u32>,
    pub(crate) completed: Vec<u64>,
    pub(crate) destroyed: Vec<u32>,
}

impl Engine<'_> {
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
            if let Operation::MoveDevice { function, .. } = operation {
                about.extend(plan.device(*function));
            }
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
                format!("the record would have {bytes} bytes, and at most {most} are possible"),
                "split it into several transactions",
            )),
        }
    }

    /// Logs a transaction that was refused, with a sentence about its operations.
    pub(crate) fn log_refused(&mut self, origin: Origin, transaction: &Transaction, why: &Refusal) {
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
            (Err(_), Target::CreatedBy(operation)) => {
                format!("the partition that operation {operation} creates")
            }
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
            format!(
                "planned at version {planned}, and the database is now at {version}; since then: \
                {changed}"
            ),
            "plan again; `uvtool log` shows what changed",
        )
    }
}

/// Shortens the sentences of a plan, in number and length, to fit a frame of a channel. If some are
/// left out, the last says how many.
pub(crate) fn shortened(mut what: Vec<String>) -> Vec<String> {
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
