//! The event loop of an I/O partition.

use crate::link::Link;
use alloc::string::String;
use channel::ends::ChannelError;
use control::io::{Order, PROTOCOL, Report};
use partition_runtime::StartBlock;
use partition_runtime::events::Events;

/// All that an I/O partition has.
pub struct Server {
    link: Link,
    events: Events,
}

impl Server {
    /// Opens the channel and reports that the partition runs.
    ///
    /// # Errors
    /// The channel cannot be made.
    pub fn new(start: &StartBlock) -> Result<Self, ChannelError> {
        let mut link = Link::open()?;
        link.report(Report::Ready { protocol: PROTOCOL, restarts: start.restarts });
        Ok(Self { link, events: Events::new() })
    }

    /// Serves for ever. No event is missed: the ring is read again before each wait.
    pub fn serve(&mut self) -> ! {
        loop {
            while let Some(order) = self.link.order() {
                self.obey(order);
            }
            let _ = self.events.wait();
        }
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Function { index, .. } => {
                let reason = String::from("this version has no driver for the function");
                self.link.report(Report::Failed { index, reason });
            }
            Order::Leave { .. } => {}
            Order::Attach(attach) => {
                let cause = Some(String::from("this version serves no clients"));
                self.link.report(Report::Detached { endpoint: attach.endpoint, cause });
            }
            Order::Detach { endpoint } => {
                self.link.report(Report::Detached { endpoint, cause: None });
            }
        }
    }
}
