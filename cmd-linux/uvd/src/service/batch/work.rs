//! A batch under way.

use std::rc::Rc;

use control::command::{Answer, Body, Operation, Outcome};
use definition::Definition;
use pv_abi::PAGE_SIZE;
use uvd_protocol::Failure;

use super::disks::Names;
use super::operations::{creations, finals, transaction};
use super::{Batch, checks, connect, files};
use crate::builder::Parts;
use crate::context::Context;
use crate::context::refusal::unexpected;
use crate::loader::Kernel;
use crate::log;
use crate::service::{Reporter, session};
use crate::state::Staged;

/// How a batch failed.
pub enum End {
    /// Nothing of the batch is done.
    Undone(Failure),
    /// Either all of the batch is done, or nothing; which of them is not known.
    Unknown(Failure),
}

impl From<Failure> for End {
    fn from(failure: Failure) -> Self {
        Self::Undone(failure)
    }
}

/// A batch under way.
pub struct Work<'a> {
    pub context: &'a Rc<Context>,
    pub batch: &'a Batch,
    pub reporter: &'a Reporter,
    /// The functions that the disks may name.
    pub names: Names,
    /// The operations that change the disks of existing partitions.
    pub disks: Vec<Operation>,
    /// Ids of the requests that are pending, or may be.
    pub pending: Vec<u64>,
    pub numbers: Vec<u32>,
}

impl Work<'_> {
    /// Creates the partitions as pending, and builds them.
    pub async fn prepare(&mut self, kernels: &[Kernel]) -> Result<(), End> {
        if self.batch.creates.is_empty() {
            return Ok(());
        }
        let definitions: Vec<&Definition> =
            self.batch.creates.iter().map(|one| &one.definition).collect();
        let pieces = creations(&definitions, &self.names)?;
        checks::allocate(self.context, &definitions).await?;
        for definition in &definitions {
            self.reporter.tell(&definition.name, "allocating", 0, 0);
        }
        let mut planned_at = self.batch.planned_at;
        for operations in pieces {
            let body = transaction(&self.batch.reason, planned_at, true, operations);
            let id = self.context.requests.make_id();
            self.pending.push(id);
            self.context.fault.step();
            self.context.fault.step_when_sent();
            let replied = self.context.requests.ask_as(id, Body::Transaction(body)).await?;
            let Answer::Applied(outcomes) = replied.answer else {
                return Err(unexpected("a transaction").into());
            };
            self.numbers.extend(outcomes.into_iter().filter_map(created));
            // The next transaction is planned at this version, so that no change of others comes
            // between.
            planned_at = planned_at.map(|_| replied.version);
        }
        if self.numbers.len() != definitions.len() {
            return Err(unexpected("the partitions it created").into());
        }
        for (at, definition) in definitions.into_iter().enumerate() {
            self.build(self.numbers[at], definition, Kernel::clone(&kernels[at])).await?;
        }
        Ok(())
    }

    async fn build(&self, number: u32, what: &Definition, kernel: Kernel) -> Result<(), Failure> {
        let initrd = files::initrd(what)?;
        let of = kernel.len() + initrd.as_ref().map_or(0, |(_, bytes)| *bytes);
        let parts = Parts {
            partition: number,
            kernel,
            initrd,
            command_line: what.command_line.clone(),
            memory_target: what.memory / PAGE_SIZE as u64,
        };
        let tell = |done: u64| self.reporter.tell(&what.name, "building", done.min(of), of);
        tell(0);
        let built = self.context.builder.build(&parts, tell).await?;
        connect(self.context, &what.name, number, built.console_port);
        Ok(())
    }

    /// Commits the final transaction.
    pub async fn finish(&self) -> Result<(), End> {
        let operations = finals(self.batch, &self.pending, &self.numbers, &self.disks);
        let edits = self.batch.edits.clone();
        if operations.is_empty() {
            self.context.state.borrow_mut().edit(&edits);
            return Ok(());
        }
        for row in &self.batch.destroys {
            self.context.consoles.borrow_mut().disconnect(&row.name);
        }
        for creation in &self.batch.creates {
            self.reporter.tell(&creation.definition.name, "starting", 0, 0);
        }
        // The pending changes were planned already, and the build itself raised the version.
        let planned_at = self.batch.planned_at.filter(|_| self.pending.is_empty());
        let body = transaction(&self.batch.reason, planned_at, false, operations);
        let (boot, since) =
            (self.context.state.borrow().boot(), self.context.database.replica.borrow().next());
        let staged = Staged { boot, request: self.context.requests.make_id(), since, edits };
        if !staged.edits.is_empty() {
            self.context.state.borrow_mut().stage(&staged);
        }
        self.context.fault.step();
        self.context.fault.step_when_sent();
        let replied = self.context.requests.ask_as(staged.request, Body::Transaction(body)).await;
        self.context.fault.step();
        let done = match replied {
            Ok(_) => Ok(()),
            Err(Failure::Refused(refusal)) => Err(Failure::Refused(refusal)),
            // If there is no answer, the log says whether it was committed.
            Err(failure) => match session::is_committed(self.context, &staged).await {
                Ok(true) => Ok(()),
                Ok(false) => Err(failure),
                Err(_) => return Err(End::Unknown(failure)),
            },
        };
        if !staged.edits.is_empty() {
            self.context.state.borrow_mut().settle(&staged, done.is_ok());
        }
        // This comes before anybody looks, because the partition may have ended already.
        for creation in self.batch.creates.iter().filter(|_| done.is_ok()) {
            let name = &creation.definition.name;
            self.context.state.borrow_mut().change(name, |record| record.last_end = None);
        }
        if let Err(failure) = session::follow(self.context).await {
            log(&format!("what was done is read from the log later: {failure}"));
        }
        self.context.state.borrow_mut().store();
        self.context.fault.step();
        done.map_err(End::Undone)
    }

    /// Rolls the batch back: removes pending partitions, and reconnects the consoles that were
    /// disconnected.
    pub async fn roll_back(&self) {
        for creation in &self.batch.creates {
            self.context.consoles.borrow_mut().disconnect(&creation.definition.name);
        }
        let requests = self.pending.clone();
        if !requests.is_empty()
            && let Err(failure) = self.context.requests.ask(Body::RollBack { requests }).await
        {
            log(&format!("what is pending could not be given up: {failure}"));
        }
        for row in &self.batch.destroys {
            connect(self.context, &row.name, row.number, row.console_port);
        }
    }
}

fn created(outcome: Outcome) -> Option<u32> {
    match outcome {
        Outcome::Partition(number) => Some(number),
        _ => None,
    }
}
