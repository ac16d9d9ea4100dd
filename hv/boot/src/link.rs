//! The command channel to the ultravisor: sends transactions and queries, and checks the answers.

use crate::failure::Failure;
use alloc::boxed::Box;
use alloc::string::ToString;
use alloc::vec::Vec;
use builder::Extent;
use channel::ends::{ChannelError, Client};
use channel::ring::{Endpoint, Side};
use control::command::{
    Answer, Body, DeviceRow, Operation, Outcome, Query, ResourcesAnswer, Transaction,
};
use partition_runtime::events::{Events, Port};
use partition_runtime::partition::command_pages;
use partition_runtime::{StartBlock, log};
use pv_abi::uv::channel::{FIRST_CLIENT_PORT, NO_ID};
use pv_abi::uv::database::{DESCRIPTOR_MAGIC, PartitionDescriptor};
use zerocopy::{FromZeros, IntoBytes};

/// Maximum number of ranges of one partition's memory.
const MAX_RANGES: usize = 16 * 1024;
/// The port at our end of the command channel.
const PORT: Port = Port(FIRST_CLIENT_PORT);

/// The command channel.
pub struct Link {
    client: Client<'static, Port>,
    events: Events,
    pending: Vec<u64>,
    /// Whether the ultravisor sent a reply without a request.
    is_told: bool,
}

impl Link {
    /// Opens the channel in the pages that the monitor reserved, or makes it there.
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
        // Ids of an earlier run must not be reused: the ultravisor would repeat its answers.
        let first_id = u64::from(start.restarts) << 32 | 1;
        let client = Client::new(ring, PORT, first_id);
        Ok(Self { client, events: Events::new(), pending: Vec::new(), is_told: false })
    }

    /// Returns whether the ultravisor told since the last call that an I/O partition has ended, or
    /// is gone: by a reply to no request.
    pub fn is_told(&mut self) -> bool {
        while let Ok(Some(reply)) = self.client.poll() {
            self.is_told |= reply.id == NO_ID;
        }
        core::mem::take(&mut self.is_told)
    }

    /// Waits for an event.
    pub fn wait(&mut self) {
        let _ = self.events.wait();
    }

    fn call(&mut self, what: &'static str, body: Body) -> Result<(u64, Answer), Failure> {
        let channel = |error| Failure::Channel(Some(error));
        let id = self.client.send(body).map_err(channel)?;
        let reply = loop {
            match self.client.poll().map_err(channel)? {
                Some(reply) if reply.id == id => break reply,
                Some(reply) => self.is_told |= reply.id == NO_ID,
                None => drop(self.events.wait()),
            }
        };
        match reply.result {
            Ok(answer) => Ok((reply.id, answer)),
            Err(refusal) => Err(Failure::Refused(what, Box::new(refusal))),
        }
    }

    /// Sends a transaction that stays pending: the ultravisor rolls it back if this partition fails
    /// before [`Link::finish`]. Returns one outcome for each operation.
    ///
    /// # Errors
    /// [`Failure`], with `what` for the log.
    pub fn prepare(
        &mut self,
        what: &'static str,
        operations: Vec<Operation>,
    ) -> Result<Vec<Outcome>, Failure> {
        let (id, outcomes) = self.transact(what, true, operations)?;
        self.pending.push(id);
        Ok(outcomes)
    }

    /// Sends a transaction that completes all pending ones. If it fails, they stay pending, so that
    /// [`Link::abandon`] can roll them back.
    ///
    /// # Errors
    /// [`Failure`], with `what` for the log.
    pub fn finish(
        &mut self,
        what: &'static str,
        mut operations: Vec<Operation>,
    ) -> Result<(), Failure> {
        let pending = self.pending.iter();
        operations.extend(pending.map(|&request| Operation::Complete { request }));
        self.transact(what, false, operations)?;
        self.pending.clear();
        Ok(())
    }

    /// Rolls back all pending transactions. What cannot be rolled back now goes when this partition
    /// ends.
    pub fn abandon(&mut self) {
        let requests: Vec<u64> = self.pending.drain(..).collect();
        if !requests.is_empty() {
            let undone = self.call("rolling back", Body::RollBack { requests });
            undone.map_or_else(|failure| log!("{failure}"), drop);
        }
    }

    /// Sends a transaction that takes effect at once. Returns one outcome for each operation.
    ///
    /// # Errors
    /// [`Failure`], with `what` for the log.
    pub fn apply(
        &mut self,
        what: &'static str,
        operations: Vec<Operation>,
    ) -> Result<Vec<Outcome>, Failure> {
        self.transact(what, false, operations).map(|(_, outcomes)| outcomes)
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

    /// The resources of the machine.
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

    /// The PCI functions of the machine, by index.
    ///
    /// # Errors
    /// See [`Failure`].
    pub fn devices(&mut self) -> Result<Vec<DeviceRow>, Failure> {
        const WHAT: &str = "reading the PCI functions";
        let mut all = Vec::new();
        loop {
            let first = u32::try_from(all.len()).unwrap_or(u32::MAX);
            match self.call(WHAT, Body::Query(Query::Devices { first }))? {
                (_, Answer::Devices { rows, more }) if !(more && rows.is_empty()) => {
                    all.extend(rows);
                    if !more {
                        return Ok(all);
                    }
                }
                _ => return Err(Failure::Answer(WHAT)),
            }
        }
    }

    /// A partition's descriptor, if there is such a partition.
    ///
    /// # Errors
    /// See [`Failure`].
    pub fn descriptor(&mut self, number: u32) -> Result<Option<Box<PartitionDescriptor>>, Failure> {
        const WHAT: &str = "reading a partition's descriptor";
        let query = Query::Arena { first: number, most: 1 };
        let pages = match self.call(WHAT, Body::Query(query))? {
            (_, Answer::Arena { first, contents, .. }) if first == number => contents,
            _ => return Err(Failure::Answer(WHAT)),
        };
        let Some(bytes) = pages.first() else {
            return Ok(None);
        };
        let mut descriptor = Box::new(PartitionDescriptor::new_zeroed());
        match descriptor.as_mut_bytes().get_mut(..bytes.len()) {
            Some(place) => place.copy_from_slice(bytes),
            None => return Err(Failure::Answer(WHAT)),
        }
        let there = descriptor.magic == DESCRIPTOR_MAGIC && descriptor.number == number;
        Ok(there.then_some(descriptor))
    }

    /// The partition's ranges of RAM in the page map.
    ///
    /// # Errors
    /// See [`Failure`]; [`Failure::Scattered`] if there are too many.
    pub fn ranges(&mut self, owner: u32) -> Result<Vec<Extent>, Failure> {
        const WHAT: &str = "reading the page map";
        const MOST: u32 = 1024;
        let (mut first, mut ranges) = (0, Vec::new());
        loop {
            let query = Query::Memory { partition: owner, first, most: MOST };
            let rows = match self.call(WHAT, Body::Query(query))? {
                (_, Answer::PageMap(rows)) => rows,
                _ => return Err(Failure::Answer(WHAT)),
            };
            let Some(last) = rows.last() else {
                return Ok(ranges);
            };
            let next = last.first.saturating_add(last.frames);
            if next <= first {
                return Err(Failure::Answer(WHAT));
            }
            first = next;
            ranges.extend(rows.iter().map(|row| Extent { first: row.first, frames: row.frames }));
            if ranges.len() > MAX_RANGES {
                return Err(Failure::Scattered(MAX_RANGES));
            }
        }
    }
}
