//! Pending transactions of clients: they are applied, and undone if the client fails.
//!
//! Rule: the pending transactions of a client are bounded. All of them can be undone by destroying
//! the partitions that they created and releasing the memory that they assigned.

use alloc::format;
use alloc::vec::Vec;

use control::command::{
    Code, MAX_PENDING, Operation, Outcome, Range, Refusal, Target, Transaction,
};
use resource_db::Owner;

use crate::change::Change;
use crate::engine::Engine;
use crate::log::Record;
use crate::plan::Plan;
use crate::refusal::refusal;

/// A transaction that is undone when its owner fails.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) who: u32,
    pub(crate) request: u64,
    pub(crate) sequence: u64,
    /// Version of the database after it.
    pub(crate) version: u64,
    /// Partitions it created.
    pub(crate) created: Vec<u32>,
    /// Memory it assigned to partitions that it did not create.
    pub(crate) assigned: Vec<(u32, Range)>,
    /// Set if the client no longer exists; the inner value is the frame for which the rollback
    /// waits, if there is one.
    pub(crate) orphaned: Option<Option<u64>>,
}

impl Pending {
    /// The pending transaction in a record of the log.
    pub(crate) fn of(record: &Record) -> Self {
        let mut pending = Self {
            who: record.who,
            request: record.request,
            sequence: record.sequence,
            version: record.version,
            created: Vec::new(),
            assigned: Vec::new(),
            orphaned: None,
        };
        for change in &record.changes {
            if let Change::Descriptor { number, before, .. } = change
                && before.is_empty()
            {
                pending.created.push(*number);
            }
        }
        for change in &record.changes {
            if let Change::Pages { first, frames, after, .. } = change
                && let owner = Owner::from_entry(*after)
                && !pending.created.contains(&owner.number)
            {
                let range = Range { first: *first, frames: *frames };
                pending.assigned.push((owner.number, range));
            }
        }
        pending
    }
}

impl Engine<'_> {
    /// Checks that a transaction may be left pending.
    pub(crate) fn check_pending(
        &self,
        who: u32,
        transaction: &Transaction,
        plan: &Plan,
    ) -> Result<(), Refusal> {
        if !transaction.pending {
            return Ok(());
        }
        if transaction.operations.is_empty() {
            return Err(refusal(
                Code::Empty,
                "transaction",
                "operations",
                "a pending transaction needs at least one, and this one has none",
                "send the operations that may have to be rolled back, or send the transaction \
                without `pending`",
            ));
        }
        let mine = || self.pending.iter().filter(|pending| pending.who == who);
        if mine().count() >= MAX_PENDING {
            return Err(refusal(
                Code::TooManyPending,
                format!("partition {who}"),
                "pending transactions",
                format!("it has {MAX_PENDING}, the most a client may have"),
                "complete some of them, or open the session anew, which rolls them back",
            ));
        }
        let created = |number: u32| {
            plan.created.values().any(|created| *created == number)
                || mine().any(|pending| pending.created.contains(&number))
        };
        for (index, operation) in (0u32..).zip(&transaction.operations) {
            let goes_with_its_partition = match operation {
                Operation::CreatePartition { .. } | Operation::AssignMemory { .. } => continue,
                Operation::CreateChannel { partition, .. }
                | Operation::SetStart { partition, .. }
                | Operation::AttachDisk { partition, .. } => {
                    plan.number(*partition).is_ok_and(created)
                }
                _ => false,
            };
            if !goes_with_its_partition {
                return Err(Refusal {
                    operation: Some(index),
                    ..refusal(
                        Code::NotUndoable,
                        "transaction",
                        "pending",
                        "this operation cannot be rolled back later",
                        "put it in a transaction that is not pending",
                    )
                });
            }
        }
        Ok(())
    }

    /// Checks that no pending transaction assigned any of the memory that an operation releases:
    /// its rollback could not distinguish that memory from the same memory, assigned again.
    pub(crate) fn check_released(
        &self,
        who: u32,
        plan: &Plan,
        operation: &Operation,
    ) -> Result<(), Refusal> {
        let Operation::ReleaseMemory { partition, ranges } = operation else {
            return Ok(());
        };
        let number = plan.number(*partition)?;
        let end = |range: &Range| range.first.saturating_add(range.frames);
        let released = |range: &Range| {
            ranges.iter().any(|one| one.first < end(range) && range.first < end(one))
        };
        let open = |pending: &&Pending| {
            let completed = pending.who == who && plan.completed.contains(&pending.request);
            let mut assigned = pending.assigned.iter();
            !completed && assigned.any(|(of, range)| *of == number && released(range))
        };
        match self.pending.iter().find(open) {
            None => Ok(()),
            Some(pending) => Err(refusal(
                Code::Pending,
                format!("request {} of partition {}", pending.request, pending.who),
                "frames",
                "the request assigned some of these frames, and is not completed",
                "release them when it is completed; a new session of its client rolls it back",
            )),
        }
    }

    pub(crate) fn check_completed(&self, who: u32, completed: &[u64]) -> Result<(), Refusal> {
        match completed.iter().find(|id| self.pending_of(who, **id).is_none()) {
            None => Ok(()),
            Some(id) => Err(refusal(
                Code::NotPending,
                format!("request {id}"),
                "request",
                "the caller has no pending transaction of this id",
                "name a request that was left pending and was not rolled back",
            )),
        }
    }

    fn pending_of(&self, who: u32, request: u64) -> Option<&Pending> {
        self.pending.iter().find(|pending| pending.who == who && pending.request == request)
    }

    /// Sequence numbers of the records of a client's pending requests.
    pub(crate) fn records_of(&self, who: u32, requests: &[u64]) -> Vec<u64> {
        let pending = requests.iter().filter_map(|id| self.pending_of(who, *id));
        pending.map(|pending| pending.sequence).collect()
    }

    /// Removes from the pending requests of a client those that a transaction completed.
    pub(crate) fn complete(&mut self, who: u32, completed: &[u64]) {
        self.pending.retain(|pending| pending.who != who || !completed.contains(&pending.request));
    }
}

/// The refusal of a pending transaction whose record does not fit the log's room for open records.
pub(crate) fn no_room(who: u32) -> Refusal {
    refusal(
        Code::TooManyPending,
        format!("partition {who}"),
        "pending transactions",
        "the records of all pending transactions may take a quarter of the log, and this one does \
        not fit",
        "complete pending transactions first, or send a transaction of fewer operations",
    )
}

/// Memory that a transaction assigned to partitions it did not create.
pub(crate) fn assigned(
    transaction: &Transaction,
    outcomes: &[Outcome],
    created: &[u32],
) -> Vec<(u32, Range)> {
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
