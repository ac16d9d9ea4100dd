//! The event loop of an I/O partition.
//!
//! ```text
//! wait -> note which ports have events -> orders -> completed pieces -> rings -> tell functions
//! ```
//!
//! Rule: orders are looked at after every event, which takes a few loads. A function that interrupts
//! is looked at in each round from its event on, and interrupts no more until the loop has nothing
//! left to do; then it is looked at once more. Functions that do not interrupt are looked at in each
//! round. A ring of a client is looked at after its own event, after the end of a piece of it, and
//! when it was attached. Before the loop waits nothing is left that no event will come for.

use crate::clients::{Clients, End};
use crate::deaths::{Step, made};
use crate::dma::{CHUNKS, Region};
use crate::function::{self, Function, Own, Progress, Stopped, Unprepared, Unstarted};
use crate::held::Held;
use crate::link::Link;
use crate::machine::Monitor;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use block_service::{Disks, Tag};
use channel::ends::ChannelError;
use control::io::{Order, PROTOCOL, Report};
use partition_runtime::events::{self, Events, Port, VIRQ_TIMER};
use partition_runtime::{StartBlock, log, time};
use pv_abi::uv::devices::DeviceFunction;
use virtio::drive::{Medium, Request, Unsubmitted};
use virtio::queue::Segment;
use zerocopy::FromBytes;

/// All that an I/O partition has.
pub struct Server {
    link: Link,
    events: Events,
    dma: Region,
    functions: Functions,
    held: Held,
    clients: Clients<Monitor>,
}

/// The functions by their indices in the device table.
struct Functions(BTreeMap<u32, Function>);

impl Disks for Functions {
    fn medium(&self, disk: u32) -> Option<Medium> {
        self.0.get(&disk)?.disk()
    }

    fn submit(
        &mut self,
        disk: u32,
        request: Request,
        segments: &[Segment],
        tag: Tag,
    ) -> Result<(), Unsubmitted> {
        let function = self.0.get_mut(&disk).ok_or(Unsubmitted::Refused)?;
        function.submit(request, segments, tag)
    }
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
        let (dma, functions) = (Region::of_start_block(), Functions(BTreeMap::new()));
        let clients = Clients::new(Monitor::take());
        let held = Held::default();
        Ok(Self { link, events: Events::new(), dma, functions, held, clients })
    }

    /// Serves for ever.
    pub fn serve(&mut self) -> ! {
        loop {
            while let Some(order) = self.link.order() {
                self.obey(order);
            }
            self.look();
            let now = time::now();
            let again = self.clients.serve(&mut self.functions, now);
            self.functions.0.values_mut().for_each(Function::tell);
            for report in self.clients.take_reports() {
                self.link.report(report);
            }
            self.wait(now, again);
        }
    }

    /// Waits for an event, or until `again`, and notes all events.
    fn wait(&mut self, now: u64, again: Option<u64>) {
        let functions = self.functions.0.values().filter_map(|function| function.deadline(now));
        let deadline = functions.chain(again).min();
        let waits = deadline.is_none_or(|deadline| deadline > now);
        if waits {
            if self.functions.0.values_mut().any(Function::listen) {
                return;
            }
            if let Some(deadline) = deadline {
                let _ = time::set_timer(deadline);
            }
            let port = self.events.wait();
            self.event(port);
        }
        while let Some(port) = self.events.take() {
            self.event(port);
        }
    }

    /// Notes an event for the client or the function whose port it is.
    fn event(&mut self, port: Port) {
        if !self.clients.event(port) {
            self.functions.0.values_mut().any(|function| function.event(port));
        }
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Function { index, record } => {
                made(Step::Ordered);
                if let Err(reason) = self.drive(index, &record) {
                    self.clients.function_failed(index, reason);
                }
            }
            Order::Leave { index } => self.leave(index),
            Order::Attach(attach) => self.clients.attach(&attach, &self.functions),
            Order::Resize { endpoint, incarnation, extents } => {
                self.clients.resize((endpoint, incarnation), &extents, &self.functions);
            }
            Order::Detach { endpoint, incarnation } => self.clients.detach(endpoint, incarnation),
            // The link answers pings.
            Order::Ping { .. } => {}
        }
    }

    /// Starts to drive a function. One that is driven already is reported again, since the report
    /// may be lost.
    fn drive(&mut self, index: u32, record: &[u8]) -> Result<(), String> {
        if let Some(function) = self.functions.0.get_mut(&index) {
            if let Some(medium) = function.driving() {
                self.link.report(Report::Driving { index, medium });
                made(Step::Driving);
            }
            return Ok(());
        }
        let record = DeviceFunction::read_from_bytes(record)
            .map_err(|_| format!("a record of {} bytes", record.len()))?;
        let window = &mut self.clients.machine.window;
        let window = window.as_mut().ok_or("the start block names no window")?;
        let ready =
            function::prepare(&mut Own { window, index, record: &record, link: &mut self.link });
        if !matches!(ready, Err(Unprepared { is_reset: false, .. })) {
            self.settle(index);
        }
        let ready = ready.map_err(|unprepared| unprepared.reason)?;
        let chunk = self.dma.take_chunk().ok_or_else(|| {
            format!("an I/O partition drives at most {CHUNKS} functions; the others stand still")
        })?;
        match function::start((index, &record), ready, chunk, &mut self.link) {
            Ok(function) => {
                self.functions.0.insert(index, function);
                Ok(())
            }
            Err(Unstarted { reason, chunk, is_reset }) => {
                self.held.keep(index, Stopped { chunk, pieces: Vec::new() });
                if is_reset {
                    self.settle(index);
                }
                Err(reason)
            }
        }
    }

    /// Frees what a function may have reached until its reset, which is confirmed now.
    fn settle(&mut self, index: u32) {
        self.held.settle(index, &mut self.dma, &mut self.clients);
    }

    /// Looks at what functions have completed, and stops those that are broken.
    fn look(&mut self) {
        while let Some((index, reason)) = self.look_at_all() {
            if let Err(other) = self.stop(index, End::Failed) {
                log!("function {index}: {other}");
            }
            self.clients.function_failed(index, reason);
        }
    }

    /// Looks at each function up to the first that is broken, which it returns with the reason.
    fn look_at_all(&mut self) -> Option<(u32, String)> {
        for (&index, function) in self.functions.0.iter_mut().filter(|(_, one)| one.is_due()) {
            loop {
                match function.look() {
                    Progress::Nothing => break,
                    Progress::Driven(medium, text) => {
                        let sectors = medium.sectors;
                        log!("function {index}: {sectors} sectors, which begin with {text:?}");
                        self.link.report(Report::Driving { index, medium });
                        made(Step::Driving);
                    }
                    Progress::Ended(tag, outcome) => self.clients.ended(tag, outcome),
                    Progress::Broken(reason) => return Some((index, reason)),
                }
            }
        }
        None
    }

    /// Lets go of a function, for another I/O partition. One that is not driven is let go of already:
    /// the report may be lost.
    fn leave(&mut self, index: u32) {
        match self.stop(index, End::Left) {
            Ok(()) if self.held.has(index) => {
                let reason = "its last reset was not confirmed; it is held until one is";
                self.clients.function_failed(index, reason.into());
            }
            Ok(()) => self.clients.function_left(index),
            Err(reason) => self.clients.function_failed(index, reason),
        }
    }

    /// Stops driving a function, if it is driven, and tells its clients' rings.
    ///
    /// # Errors
    /// The function cannot go to another partition, since its reset failed; the text says why.
    fn stop(&mut self, index: u32, end: End) -> Result<(), String> {
        let Some(function) = self.functions.0.remove(&index) else { return Ok(()) };
        // Its registers are unmapped with it. If the monitor does not unmap them, it does not give the
        // function to another partition either.
        let (stopped, reset) = function.stop(&mut function::within_reset(&mut self.link));
        match reset {
            Ok(()) => {
                self.dma.give_back(&stopped.chunk);
                self.clients.function_ended(index, end, stopped.pieces.into_iter());
            }
            Err(fault) => {
                log!("function {index}: {fault}; its DMA memory stays reserved until it is reset");
                self.held.keep(index, stopped);
                self.clients.function_ended(index, End::Unknown, core::iter::empty());
                return Err(fault.to_string());
            }
        }
        Ok(())
    }
}
