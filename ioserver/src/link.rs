//! The I/O channel: orders in, reports out.
//!
//! Reports that have no room in the ring wait here. Their number is bounded, since each report
//! answers an order, and orders are read only once all reports are sent.

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
}

impl Link {
    /// Makes the channel anew in the pages that the start block names, and reports `ready`.
    ///
    /// # Errors
    /// The pages hold no channel.
    pub fn open(ready: Report) -> Result<Self, ChannelError> {
        let mut link = Self { end: make()?, ready, waiting: VecDeque::new() };
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

    /// The next order, once all reports are sent.
    pub fn order(&mut self) -> Option<Order> {
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
