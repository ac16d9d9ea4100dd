//! The event loop of an I/O partition.
//!
//! Rule: every event makes the loop look at all orders and all functions, so no event must be told
//! from another, and none is missed.

use crate::dma::Region;
use crate::function::{self, Function, Progress};
use crate::link::Link;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use channel::ends::ChannelError;
use control::io::{EndpointReport, Order, PROTOCOL, Report};
use partition_runtime::events::{self, Events, VIRQ_TIMER};
use partition_runtime::window::Window;
use partition_runtime::{StartBlock, log, time};
use pv_abi::uv::devices::DeviceFunction;
use zerocopy::FromBytes;

/// All that an I/O partition has.
pub struct Server {
    link: Link,
    events: Events,
    window: Option<Window>,
    dma: Region,
    functions: BTreeMap<u32, Function>,
}

impl Server {
    /// Opens the channel and reports that the partition runs.
    ///
    /// # Errors
    /// The channel cannot be made.
    pub fn new(start: &StartBlock) -> Result<Self, ChannelError> {
        let link = Link::open(Report::Ready { protocol: PROTOCOL, restarts: start.restarts })?;
        if let Err(errno) = events::bind_virq(VIRQ_TIMER) {
            log!("no timer: {errno}; functions that do not interrupt stand still");
        }
        let (window, dma) = (Window::take(), Region::of_start_block());
        Ok(Self { link, events: Events::new(), window, dma, functions: BTreeMap::new() })
    }

    /// Serves for ever. No event is missed: everything is looked at again before each wait.
    pub fn serve(&mut self) -> ! {
        loop {
            while let Some(order) = self.link.order() {
                self.obey(order);
            }
            self.look();
            if let Some(deadline) = self.functions.values().filter_map(Function::deadline).min() {
                let _ = time::set_timer(deadline);
            }
            let _ = self.events.wait();
        }
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Function { index, record } => {
                if let Err(reason) = self.drive(index, &record) {
                    self.fail(index, reason);
                }
            }
            Order::Leave { index } => {
                if let Some(function) = self.functions.remove(&index) {
                    self.stop(index, function);
                }
            }
            Order::Attach(attach) => {
                let reason = String::from("this version serves no clients");
                let (endpoint, incarnation) = (attach.endpoint, attach.incarnation);
                let report = EndpointReport::Refused { reason };
                self.link.report(Report::Endpoint { endpoint, incarnation, report });
            }
            // Nothing is ever attached, so there is nothing to resize.
            Order::Resize { .. } => {}
            Order::Detach { endpoint, incarnation } => {
                let report = EndpointReport::Detached;
                self.link.report(Report::Endpoint { endpoint, incarnation, report });
            }
        }
    }

    fn fail(&mut self, index: u32, reason: String) {
        log!("function {index}: {reason}");
        self.link.report(Report::Failed { index, reason });
    }

    /// Starts to drive a function. One that is driven already is reported again, since the report
    /// may be lost.
    fn drive(&mut self, index: u32, record: &[u8]) -> Result<(), String> {
        if let Some(function) = self.functions.get_mut(&index) {
            if let Some(medium) = function.driving() {
                self.link.report(Report::Driving { index, medium });
            }
            return Ok(());
        }
        let record = DeviceFunction::read_from_bytes(record)
            .map_err(|_| format!("a record of {} bytes", record.len()))?;
        let window = self.window.as_mut().ok_or("the start block names no window")?;
        let chunk = self.dma.take_chunk().ok_or("the DMA region has no room for more functions")?;
        match function::start(window, (index, &record), chunk) {
            Ok(function) => {
                self.functions.insert(index, function);
                Ok(())
            }
            Err((reason, chunk)) => {
                chunk.iter().for_each(|chunk| self.dma.give_back(chunk));
                Err(reason)
            }
        }
    }

    /// Looks at what functions have completed, and stops those that are broken.
    fn look(&mut self) {
        while let Some((index, reason)) = self.look_at_all() {
            if let Some(function) = self.functions.remove(&index) {
                self.stop(index, function);
            }
            self.fail(index, reason);
        }
    }

    /// Looks at each function up to the first that is broken, which it returns with the reason.
    fn look_at_all(&mut self) -> Option<(u32, String)> {
        for (&index, function) in &mut self.functions {
            loop {
                match function.look() {
                    Progress::Nothing => break,
                    Progress::Driven(medium, text) => {
                        let sectors = medium.sectors;
                        log!("function {index}: {sectors} sectors, which begin with {text:?}");
                        self.link.report(Report::Driving { index, medium });
                    }
                    Progress::Broken(reason) => return Some((index, reason)),
                }
            }
        }
        None
    }

    fn stop(&mut self, index: u32, function: Function) {
        match function.stop() {
            Ok(chunk) => self.dma.give_back(&chunk),
            Err(fault) => log!("function {index}: {fault}; its DMA memory stays reserved"),
        }
    }
}
