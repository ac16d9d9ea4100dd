//! I/O channels: orders to the I/O partitions, and their reports.
//!
//! Rule: the pages belong to the I/O partition, which makes the channel anew when it starts. The
//! ultravisor keeps what it has ordered and no state of the ring, so a channel that makes no sense
//! costs the I/O partition its messages and nobody else anything.

use alloc::collections::{BTreeSet, VecDeque};
use alloc::vec::Vec;
use core::mem::take;

use channel::ends::{Bell, ChannelError, End};
use channel::ring::{Endpoint, RingError, Side, ask_anew};
use control::io::{Order, PROTOCOL, Report};
use partition_runtime::events::Port;
use partition_runtime::grants::Mapping;
use partition_runtime::{heap, log};
use pv_abi::uv::devices::DeviceFunction;
use zerocopy::IntoBytes;

/// Reports read per event.
const REPORTS: usize = 16;
/// Reports of a partition that are all logged.
const LOGGED: u32 = 512;
/// If the heap has no free block of this many bytes, reports stay unread.
const ROOM: usize = 1 << 18;

/// What was ordered of an I/O partition.
#[derive(Debug, Default)]
struct Orders {
    /// Whether the partition has reported that it runs.
    ready: bool,
    /// Orders that the ring had no room for.
    waiting: VecDeque<Order>,
    /// The functions that it was ordered to drive since it runs.
    functions: BTreeSet<u32>,
    /// Reports so far.
    reports: u32,
}

/// The ultravisor's end of an I/O channel.
#[derive(Debug)]
pub struct IoPartition {
    /// The I/O partition.
    pub partition: u32,
    /// The channel's pages.
    pub ring: Mapping,
    /// The event of the channel.
    pub port: Port,
    orders: Orders,
    /// Reports that were read and that nobody has taken.
    heard: Vec<Report>,
    /// Errors of this channel so far.
    errors: u32,
}

impl IoPartition {
    /// A channel whose pages the partition will make.
    #[must_use]
    pub fn new(partition: u32, ring: Mapping, port: Port) -> Self {
        let (orders, heard) = (Orders::default(), Vec::new());
        Self { partition, ring, port, orders, heard, errors: 0 }
    }

    /// Orders it to drive these functions and no others, once it runs.
    pub fn order_functions<'f>(
        &mut self,
        functions: impl Iterator<Item = (u32, &'f DeviceFunction)> + Clone,
    ) {
        if !self.orders.ready {
            return;
        }
        let owned: BTreeSet<u32> = functions.clone().map(|(index, _)| index).collect();
        let orders = &mut self.orders;
        let leave = orders.functions.difference(&owned).map(|index| Order::Leave { index: *index });
        orders.waiting.extend(leave);
        for (index, function) in functions.filter(|(index, _)| !orders.functions.contains(index)) {
            let record = function.as_bytes().to_vec();
            orders.waiting.push_back(Order::Function { index, record });
        }
        orders.functions = owned;
        self.send_waiting();
    }

    /// Gives it an order about an endpoint, once it runs.
    pub fn order(&mut self, order: Order) {
        if self.orders.ready {
            self.orders.waiting.push_back(order);
            self.send_waiting();
        }
    }

    /// Takes the reports that were read; at most [`REPORTS`] for each call of [`Self::serve`].
    pub fn take_reports(&mut self) -> Vec<Report> {
        take(&mut self.heard)
    }

    fn send_waiting(&mut self) {
        let waiting = &mut self.orders.waiting;
        let sent = open(&self.ring, self.port).and_then(|mut end| send(&mut end, waiting));
        self.check(sent);
    }

    /// Reads reports and sends orders that wait. Returns whether more reports may be left.
    pub fn serve(&mut self) -> bool {
        let served = self.exchange();
        self.check(served).unwrap_or(false)
    }

    fn exchange(&mut self) -> Result<bool, ChannelError> {
        let mut end = open(&self.ring, self.port)?;
        for _ in 0..REPORTS {
            if !heap::has_room(ROOM) {
                return Ok(false);
            }
            match end.receive()? {
                Some(report) => {
                    self.orders.take_note(self.partition, &report);
                    self.heard.push(report);
                }
                None => {
                    if self.orders.ready {
                        send(&mut end, &mut self.orders.waiting)?;
                    }
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// Counts and logs an error, and asks the partition to make the channel anew.
    fn check<T>(&mut self, done: Result<T, ChannelError>) -> Option<T> {
        let error = match done {
            Ok(value) => return Some(value),
            Err(ChannelError::Ring(RingError::NotReady | RingError::Full)) => return None,
            Err(error) => error,
        };
        self.errors = self.errors.saturating_add(1);
        if self.errors.is_power_of_two() {
            log!("I/O channel of partition {}: error {}: {error}", self.partition, self.errors);
        }
        ask_anew(self.ring.words());
        self.port.ring();
        None
    }
}

/// The end of the channel in these pages, at the indices in its header.
fn open(ring: &Mapping, port: Port) -> Result<End<'_, Port>, ChannelError> {
    Ok(End::new(Endpoint::open(ring.words(), Side::Server)?, port))
}

/// Sends the orders that wait, as far as the ring has room.
fn send(end: &mut End<'_, Port>, waiting: &mut VecDeque<Order>) -> Result<(), ChannelError> {
    while let Some(order) = waiting.front() {
        end.send(order)?;
        waiting.pop_front();
    }
    Ok(())
}

impl Orders {
    /// Notes a report. The first reports are logged, then ever fewer: a partition that reports without
    /// end must not fill the log.
    fn take_note(&mut self, partition: u32, report: &Report) {
        self.reports = self.reports.saturating_add(1);
        let is_logged = self.reports <= LOGGED || self.reports.is_power_of_two();
        match report {
            Report::Ready { protocol: PROTOCOL, restarts } => {
                self.ready = true;
                // What was ordered before was ordered of an earlier run.
                self.functions.clear();
                self.waiting.clear();
                if is_logged {
                    log!("I/O partition {partition} runs, restart {restarts}");
                }
            }
            _ if !is_logged => {}
            Report::Ready { protocol, .. } => log!(
                "I/O partition {partition} speaks protocol {protocol}, not {PROTOCOL}: install the \
                 module io of this version"
            ),
            report => log!("I/O partition {partition}: {report:?}"),
        }
    }
}
