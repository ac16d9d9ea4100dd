//! The I/O channel: orders in, reports out.
//!
//! Reports that have no room in the ring wait here. Their number is bounded, since each report
//! answers an order, and orders are read only once all reports are sent.
//!
//! The ultravisor gives up an I/O partition that answers no ping. So whatever waits for a device calls
//! [`Link::answer_pings`] again and again, which reads ahead: pings are answered at once, and other
//! orders are kept in their order. The event loop itself answers by [`Link::order`], once in each
//! round, so a round is bounded by what its rings and queues hold.

use alloc::collections::VecDeque;
use channel::ends::{ChannelError, End};
use channel::ring::{Endpoint, RingError, Side};
use control::io::{Order, Report};
use partition_runtime::events::Port;
use partition_runtime::{log, partition};
use pv_abi::uv::channel::FIRST_CLIENT_PORT;

/// The port at our end of the channel.
pub const PORT: Port = Port(FIRST_CLIENT_PORT);

/// Our end of the channel.
pub struct Link {
    end: End<'static, Port>,
    /// The first report on a new channel: it makes the ultravisor repeat its orders.
    ready: Report,
    waiting: VecDeque<Report>,
    /// Orders that were read and not carried out; at most [`AHEAD`].
    ahead: VecDeque<Order>,
}

/// Maximum number of orders that are read ahead: more than two for each function and each of the
/// rings that a partition serves, which is all that the ultravisor sends before it is answered.
const AHEAD: usize = 256;

impl Link {
    /// Makes the channel anew in the pages that the start block names, and reports `ready`.
    ///
    /// # Errors
    /// The pages hold no channel.
    pub fn open(ready: Report) -> Result<Self, ChannelError> {
        let mut link =
            Self { end: make()?, ready, waiting: VecDeque::new(), ahead: VecDeque::new() };
        link.report(link.ready.clone());
        Ok(link)
    }

    /// Sends a report, or keeps it until the ring has room.
    pub fn report(&mut self, report: Report) {
        self.waiting.push_back(report);
        self.flush();
    }

    /// Sends the reports that wait, as far as the ring has room. If the channel makes no sense, makes
    /// it anew and sends them there.
    fn flush(&mut self) {
        if let Err(error) = self.send() {
            self.renew(error);
        }
    }

    fn send(&mut self) -> Result<(), ChannelError> {
        while let Some(report) = self.waiting.front() {
            match self.end.send(report) {
                Ok(()) => drop(self.waiting.pop_front()),
                Err(ChannelError::Ring(RingError::Full)) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Takes the next order, once all reports are sent. Answers pings, and returns none of them.
    pub fn order(&mut self) -> Option<Order> {
        if let Some(order) = self.ahead.pop_front() {
            return Some(order);
        }
        while let Some(order) = self.receive() {
            match order {
                Order::Ping { number } => self.report(Report::Alive { number }),
                order => return Some(order),
            }
        }
        None
    }

    /// Answers the pings that came, while something else goes on. Orders stay for [`Self::order`].
    pub fn answer_pings(&mut self) {
        while self.ahead.len() < AHEAD
            && let Some(order) = self.receive()
        {
            match order {
                Order::Ping { number } => self.report(Report::Alive { number }),
                order => self.ahead.push_back(order),
            }
        }
    }

    /// Takes the next order from the ring, once all reports are sent.
    fn receive(&mut self) -> Option<Order> {
        self.flush();
        if !self.waiting.is_empty() {
            return None;
        }
        match self.end.receive() {
            Ok(order) => order,
            Err(error) => {
                self.renew(error);
                None
            }
        }
    }

    /// Makes the channel anew after an error, and sends the reports that wait behind *ready*. Orders
    /// and reports in the old rings are lost; the ultravisor repeats its orders.
    fn renew(&mut self, error: ChannelError) {
        log!("the I/O channel is made anew: {error}");
        let made = make().and_then(|end| {
            self.end = end;
            self.ahead.clear();
            self.waiting.retain(|report| *report != self.ready);
            self.waiting.push_front(self.ready.clone());
            self.send()
        });
        if let Err(error) = made {
            log!("the I/O channel: {error}");
        }
    }
}

fn make() -> Result<End<'static, Port>, ChannelError> {
    let ring = Endpoint::create(partition::command_pages(), Side::Client)?;
    Ok(End::new(ring, PORT))
}
