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

use crate::watch::{Silence, Verdict, Watch};

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
    /// The functions that it was ordered to leave to another partition since it runs.
    leaving: BTreeSet<u32>,
    /// Reports so far, without the answers to pings.
    reports: u32,
    /// Whether it speaks another protocol: it is not watched then, since it knows no pings.
    is_foreign: bool,
    watch: Watch,
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

    /// Orders it to drive these functions and no others, once it runs. Those of `leaving` are still
    /// its own, and it has to tell when it has let go of them.
    pub fn order_functions<'f>(
        &mut self,
        functions: impl Iterator<Item = (u32, &'f DeviceFunction)> + Clone,
        leaving: BTreeSet<u32>,
    ) {
        if !self.orders.ready {
            return;
        }
        let owned: BTreeSet<u32> = functions.clone().map(|(index, _)| index).collect();
        let orders = &mut self.orders;
        let mut leave: BTreeSet<u32> = orders.functions.difference(&owned).copied().collect();
        leave.extend(leaving.difference(&orders.leaving));
        leave.into_iter().for_each(|index| queue(&mut orders.waiting, Order::Leave { index }));
        for (index, function) in functions.filter(|(index, _)| !orders.functions.contains(index)) {
            let record = function.as_bytes().to_vec();
            queue(&mut orders.waiting, Order::Function { index, record });
        }
        (orders.functions, orders.leaving) = (owned, leaving);
        self.send_waiting();
    }

    /// Gives it an order about an endpoint, once it runs.
    pub fn order(&mut self, order: Order) {
        if self.orders.ready {
            queue(&mut self.orders.waiting, order);
            self.send_waiting();
        }
    }

    /// Takes the reports that were read; at most [`REPORTS`] for each call of [`Self::serve`].
    pub fn take_reports(&mut self) -> Vec<Report> {
        take(&mut self.heard)
    }

    /// Returns whether reports were read that nobody has taken.
    pub const fn has_heard(&self) -> bool {
        !self.heard.is_empty()
    }

    /// Counts a tick of the watchdog, at which the partition is to run or not; see [`Watch`]. The
    /// caller has read the partition's reports. Returns how long a partition that hangs was silent.
    pub fn tick(
        &mut self,
        is_running: bool,
        waited: u64,
        (now, limit): (u64, u32),
    ) -> Option<Silence> {
        // Without room, what it reports stays unread.
        if !is_running || self.orders.is_foreign || !heap::has_room(ROOM) {
            self.orders.watch.rest();
            return None;
        }
        match self.orders.watch.tick(now, waited, limit) {
            Verdict::Hung(silence) => return Some(silence),
            Verdict::Ask(number) if self.orders.ready => self.order(Order::Ping { number }),
            // It has not said that it runs, and gets the next ping.
            Verdict::Ask(_) => self.orders.watch.lost(),
            Verdict::Wait => {}
        }
        None
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
                Some(Report::Alive { number }) => self.orders.watch.alive(number),
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

/// Opens the ultravisor's end of the channel in these pages, at the indices in its header.
fn open(ring: &Mapping, port: Port) -> Result<End<'_, Port>, ChannelError> {
    Ok(End::new(Endpoint::open(ring.words(), Side::Server)?, port))
}

/// Adds an order to those that wait, without those that it makes void: at most two wait for each
/// endpoint and each function, however long the partition reads none.
fn queue(waiting: &mut VecDeque<Order>, order: Order) {
    waiting.retain(|earlier| !is_void(earlier, &order));
    waiting.push_back(order);
}

/// Returns whether an order that was not sent has no use before a later one. The grown endpoint of a
/// resize needs the attach, and a function that comes back must be left first.
fn is_void(earlier: &Order, later: &Order) -> bool {
    let endpoint = |order: &Order| match order {
        Order::Attach(attach) => Some(attach.endpoint),
        Order::Resize { endpoint, .. } | Order::Detach { endpoint, .. } => Some(*endpoint),
        Order::Function { .. } | Order::Leave { .. } | Order::Ping { .. } => None,
    };
    let function = |order: &Order| match order {
        Order::Function { index, .. } | Order::Leave { index } => Some(*index),
        _ => None,
    };
    match later {
        Order::Attach(_) | Order::Detach { .. } => endpoint(earlier) == endpoint(later),
        Order::Resize { .. } => {
            matches!(earlier, Order::Resize { .. }) && endpoint(earlier) == endpoint(later)
        }
        Order::Leave { .. } => function(earlier) == function(later),
        Order::Function { .. } => {
            matches!(earlier, Order::Function { .. }) && function(earlier) == function(later)
        }
        Order::Ping { .. } => matches!(earlier, Order::Ping { .. }),
    }
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
        if let Report::Ready { protocol, .. } = report {
            self.is_foreign = *protocol != PROTOCOL;
        }
        match report {
            Report::Ready { protocol: PROTOCOL, restarts } => {
                self.ready = true;
                // What was ordered before was ordered of an earlier run.
                self.functions.clear();
                self.leaving.clear();
                self.waiting.clear();
                self.watch.lost();
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

#[cfg(test)]
mod tests {
    use super::*;
    use control::io::Attach;

    fn attach(endpoint: u32, incarnation: u64) -> Order {
        Order::Attach(Attach {
            endpoint,
            incarnation,
            client: 16,
            rings: Vec::new(),
            read_only: false,
            discard: false,
            indirect_segments: 0,
            extents: Vec::new(),
        })
    }

    fn left(orders: &[Order]) -> Vec<Order> {
        let mut waiting = VecDeque::new();
        orders.iter().for_each(|order| queue(&mut waiting, order.clone()));
        waiting.into()
    }

    #[test]
    fn of_one_endpoint_or_function_at_most_two_orders_wait() {
        let resize = |endpoint| Order::Resize { endpoint, incarnation: 1, extents: Vec::new() };
        let detach = |endpoint| Order::Detach { endpoint, incarnation: 1 };
        let function = |index| Order::Function { index, record: Vec::new() };
        let leave = |index| Order::Leave { index };
        let (many, other) = (|order: Order| vec![order; 100], attach(2, 1));
        assert_eq!(left(&many(attach(1, 1))), [attach(1, 1)]);
        assert_eq!(left(&[attach(1, 1), other.clone(), detach(1)]), [other.clone(), detach(1)]);
        assert_eq!(left(&[detach(1), other.clone(), attach(1, 2)]), [other, attach(1, 2)]);
        let grown = [attach(1, 1), resize(1), resize(2), resize(1)];
        assert_eq!(left(&grown), [attach(1, 1), resize(2), resize(1)]);
        let moved = [function(1), leave(1), function(1), leave(1), function(1), leave(2)];
        assert_eq!(left(&moved), [leave(1), function(1), leave(2)]);
        assert_eq!(left(&[function(1), attach(1, 1), detach(1)]), [function(1), detach(1)]);
        let ping = |number| Order::Ping { number };
        assert_eq!(left(&[ping(1), detach(1), ping(2)]), [detach(1), ping(2)]);
    }
}
