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
    waiting: VecDeque<Report>,
}

impl Link {
    /// Makes the channel anew in the pages that the start block names.
    ///
    /// # Errors
    /// The pages hold no channel.
    pub fn open() -> Result<Self, ChannelError> {
        Ok(Self { end: make()?, waiting: VecDeque::new() })
    }

    /// Sends a report, or keeps it until the ring has room.
    pub fn report(&mut self, report: Report) {
        self.waiting.push_back(report);
        self.flush();
    }

    /// Sends the reports that wait, as far as the ring has room.
    fn flush(&mut self) {
        while let Some(report) = self.waiting.front() {
            match self.end.send(report) {
                Ok(()) => drop(self.waiting.pop_front()),
                Err(ChannelError::Ring(RingError::Full)) => return,
                Err(error) => return self.renew(error),
            }
        }
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

    /// Makes the channel anew after an error. The reports that wait are kept.
    fn renew(&mut self, error: ChannelError) {
        log!("the I/O channel is made anew: {error}");
        match make() {
            Ok(end) => self.end = end,
            Err(error) => log!("the I/O channel: {error}"),
        }
    }
}

fn make() -> Result<End<'static, Port>, ChannelError> {
    let ring = Endpoint::create(partition::command_pages(), Side::Client)?;
    Ok(End::new(ring, PORT))
}
