//! The command channel to the ultravisor: transactions and queries, with their answers checked.

use crate::failure::Failure;
use alloc::boxed::Box;
use alloc::string::ToString;
use alloc::vec::Vec;
use partition_runtime::StartBlock;
use partition_runtime::channel::{ChannelError, Client};
use partition_runtime::events::{Events, Port};
use partition_runtime::partition::command_pages;
use partition_runtime::ring::{Endpoint, Side};
use pv_abi::uv::command::{
    Answer, Body, MapRow, Operation, Outcome, PartitionRow, Query, ResourcesAnswer, Transaction,
};

/// Our end of the command channel.
const PORT: Port = Port(1);

/// The command channel.
pub struct Link {
    client: Client<'static, Port>,
    events: Events,
    pending: Vec<u64>,
}

impl Link {
    /// Opens the channel in the pages that the monitor set aside, or makes it there.
    ///
    /// # Errors
    /// [`Failure::Channel`].
    pub fn open(start: &StartBlock) -> Result<Self, Failure> {
        let pages = command_pages();
        if pages.is_empty() {
            return Err(Failure::Channel(None));
        }
        let ring = Endpoint::open(pages, Side::Client)
            .or_else(|_| Endpoint::create(pages, Side::Client))
            .map_err(|error| Failure::Channel(Some(ChannelError::Ring(error))))?;
        // Ids of an earlier run must not come again: the ultravisor would repeat its answers.
        let first_id = u64::from(start.restarts) << 32 | 1;
        let client = Client::new(ring, PORT, first_id);
        Ok(Self { client, events: Events::new(), pending: Vec::new() })
    }

    /// Waits for an event.
    pub fn wait(&mut self) {
        let _ = self.events.wait();
    }

    fn call(&mut self, what: &'static str, body: Body) -> Result<(u64, Answer), Failure> {
        let events = &mut self.events;
        let reply = self
            .client
            .call(body, || {
                let _ = events.wait();
            })
            .map_err(|error| Failure::Channel(Some(error)))?;
        match reply.result {
            Ok(answer) => Ok((reply.id, answer)),
            Err(refusal) => Err(Failure::Refused(what, Box::new(refusal))),
        }
    }

    /// Sends a transaction that is left pending: the ultravisor rolls it back when this partition
    /// fails before [`Link::finish`]. Returns an outcome for each operation.
    ///
    /// # Errors
    /// [`Failure`] with `what` for the log.
    pub fn prepare(
        &mut self,
        what: &'static str,
        operations: Vec<Operation>,
    ) -> Result<Vec<Outcome>, Failure> {
        let (id, outcomes) = self.transact(what, true, operations)?;
        self.pending.push(id);
        Ok(outcomes)
    }

    /// Sends a transaction that completes all that is pending.
    ///
    /// # Errors
    /// [`Failure`] with `what` for the log.
    pub fn finish(
        &mut self,
        what: &'static str,
        mut operations: Vec<Operation>,
    ) -> Result<(), Failure> {
        let complete = self.pending.drain(..).map(|request| Operation::Complete { request });
        operations.extend(complete);
        self.transact(what, false, operations).map(drop)
    }

    fn transact(
        &mut self,
        what: &'static str,
        pending: bool,
        operations: Vec<Operation>,
    ) -> Result<(u64, Vec<Outcome>), Failure> {
        let count = operations.len();
        let reason = what.to_string();
        let transaction = Transaction { planned_at: None, pending, reason, operations };
        match self.call(what, Body::Transaction(transaction))? {
            (id, Answer::Applied(outcomes)) if outcomes.len() == count => Ok((id, outcomes)),
            _ => Err(Failure::Answer(what)),
        }
    }

    /// What the machine has.
    ///
    /// # Errors
    /// See [`Failure`].
    pub fn resources(&mut self) -> Result<ResourcesAnswer, Failure> {
        const WHAT: &str = "reading the resources";
        match self.call(WHAT, Body::Query(Query::Resources))? {
            (_, Answer::Resources(answer)) => Ok(answer),
            _ => Err(Failure::Answer(WHAT)),
        }
    }

    /// The partition of this number, if there is one.
    ///
    /// # Errors
    /// See [`Failure`].
    pub fn partition(&mut self, number: u32) -> Result<Option<PartitionRow>, Failure> {
        const WHAT: &str = "reading the partitions";
        let after = number.saturating_sub(1);
        match self.call(WHAT, Body::Query(Query::Partitions { after }))? {
            (_, Answer::Partitions { rows, .. }) => {
                Ok(rows.into_iter().find(|row| row.number == number))
            }
            _ => Err(Failure::Answer(WHAT)),
        }
    }

    /// The first range of RAM that a partition has in the page map.
    ///
    /// # Errors
    /// See [`Failure`].
    pub fn first_range(&mut self, owner: u32) -> Result<Option<MapRow>, Failure> {
        const WHAT: &str = "reading the page map";
        const MOST: u32 = 256;
        let mut first = 0;
        loop {
            let rows = match self.call(WHAT, Body::Query(Query::PageMap { first, most: MOST }))? {
                (_, Answer::PageMap(rows)) => rows,
                _ => return Err(Failure::Answer(WHAT)),
            };
            let Some(last) = rows.last() else {
                return Ok(None);
            };
            let next = last.first.saturating_add(last.frames);
            if let Some(row) = rows.into_iter().find(|row| row.owner == owner && !row.io) {
                return Ok(Some(row));
            }
            if next <= first {
                return Err(Failure::Answer(WHAT));
            }
            first = next;
        }
    }
}
