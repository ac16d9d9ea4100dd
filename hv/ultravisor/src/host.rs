//! The event loop.
//!
//! Rule: a handler does a bounded amount of work and says whether there is more; what is not
//! finished waits its turn behind the others that have events. So no partition can keep the rest
//! from being served.

use alloc::collections::VecDeque;
use core::sync::atomic::AtomicU32;

use partition_runtime::events::{self, Events, Port, VIRQ_TIMER};
use partition_runtime::{lead, log, time};
use pv_abi::uv::calls::{self, MonitorEvent, cause};
use pv_abi::uv::command::{Body, Reply, Request};
use pv_abi::uv::database::rights;
use pv_abi::xen::sched::{REASON_POWEROFF, REASON_REBOOT};
use transaction::{Engine, Facts};

use crate::lead::{Counters, Lead};
use crate::services::Services;

/// Requests answered at one event.
const REQUESTS: usize = 4;
/// Times a console is served before the host ends.
const DRAIN_ROUNDS: usize = 4;

/// All that the ultravisor has.
pub struct Host {
    /// Database, log and transactions.
    pub engine: Engine<'static>,
    /// The pages of the database.
    arena: &'static [AtomicU32],
    facts: Facts,
    /// What is served.
    pub services: Services,
    events: Events,
    /// Ports whose handlers have more to do.
    turns: VecDeque<Port>,
    /// The timer, and when it is set to fire.
    timer: Option<(Port, Option<u64>)>,
    /// The number that the log's next record had when clients were told of new ones.
    told: u64,
    /// The version of the database that is served.
    followed: u64,
}

impl Host {
    /// A host that serves nothing yet.
    #[must_use]
    pub fn new(
        arena: &'static [AtomicU32],
        engine: Engine<'static>,
        facts: Facts,
        services: Services,
    ) -> Self {
        let timer = events::bind_virq(VIRQ_TIMER);
        let timer = timer.inspect_err(|error| log!("no timer: {error}")).ok();
        Self {
            told: engine.log_bounds().1,
            followed: 0,
            engine,
            arena,
            facts,
            services,
            events: Events::new(),
            turns: VecDeque::new(),
            timer: timer.map(|port| (port, None)),
        }
    }

    /// Handles events for ever.
    pub fn serve(&mut self) -> ! {
        self.monitor_events();
        loop {
            let port = self.next_turn();
            if self.handle(port) && !self.turns.contains(&port) {
                self.turns.push_back(port);
            }
            self.tell_clients(port);
            self.set_timer();
        }
    }

    /// The port whose turn it is: events first come, first served, and those with more to do
    /// behind them.
    fn next_turn(&mut self) -> Port {
        while let Some(port) = self.events.take() {
            if !self.turns.contains(&port) {
                self.turns.push_back(port);
            }
        }
        match self.turns.pop_front() {
            Some(port) => port,
            None => self.events.wait(),
        }
    }

    /// Handles an event; returns whether there is more to do.
    fn handle(&mut self, port: Port) -> bool {
        if port == self.services.serial_port {
            let consoles = self.services.consoles.values();
            return consoles.fold(false, |more, console| console.serve() | more);
        }
        if port == self.services.monitor_port {
            self.monitor_events();
            self.follow_database();
            self.services.flush_stores();
            return false;
        }
        if self.timer.is_some_and(|(timer, _)| timer == port) {
            self.try_again();
            return false;
        }
        if let Some(console) = self.services.consoles.get(&port) {
            return console.serve();
        }
        let more = if let Some(client) = self.services.stores.get_mut(&port) {
            client.serve(&mut self.services.store)
        } else {
            self.command(port)
        };
        self.services.flush_stores();
        more
    }

    /// Answers what a client asks, as far as its replies fit; returns whether it may ask more.
    fn command(&mut self, port: Port) -> bool {
        for _ in 0..REQUESTS {
            let Some(channel) = self.services.commands.get_mut(&port) else {
                return false;
            };
            let client = channel.client;
            let Some(request) = channel.next() else {
                return false;
            };
            let reply = self.answer(client, &request);
            if let Some(channel) = self.services.commands.get_mut(&port) {
                channel.answer(reply);
            }
        }
        true
    }

    fn answer(&mut self, client: u32, request: &Request) -> Reply {
        // What stopped before this request has the number that it had then.
        self.monitor_events();
        crate::inject::asked_by(client);
        let (now, id) = (time::now(), request.id);
        let engine = &mut self.engine;
        let mut lead = Lead { services: &mut self.services };
        let reply = match &request.body {
            Body::Query(query) => {
                let answer = transaction::query(engine, &self.facts, &Counters, query);
                return Reply { id, version: engine.database().contents(), result: Ok(answer) };
            }
            Body::Plan(transaction) => return engine.dry_run(client, id, transaction),
            Body::Transaction(transaction) => {
                engine.execute(&mut lead, client, now, id, transaction)
            }
            Body::Open => engine.open(&mut lead, client, now, id),
            Body::Undo { sequence, reason } => {
                engine.undo(&mut lead, (client, now), id, (*sequence, reason))
            }
        };
        if let Err(refusal) = &reply.result {
            let (object, field) = (&refusal.object, &refusal.field);
            log!("refused partition {client}: {object}: {field}: {}", refusal.reason);
        }
        self.follow_database();
        crate::inject::misbehave(self.arena);
        reply
    }

    /// Serves what the database says now.
    fn follow_database(&mut self) {
        let version = self.engine.database().contents();
        if version == self.followed {
            return;
        }
        self.followed = version;
        self.attach_channels();
        let partitions = self.engine.take_partitions_changed();
        let reader = self.engine.database().reader();
        self.services.follow_database(&reader, &partitions);
    }

    /// Tells clients that the log has new records; the one whose turn it was has its reply.
    fn tell_clients(&mut self, turn: Port) {
        let next = self.engine.log_bounds().1;
        if next == self.told {
            return;
        }
        self.told = next;
        for &port in self.services.commands.keys().filter(|port| **port != turn) {
            // A channel whose other end is not bound yet.
            let _ = events::send(port);
        }
    }

    /// Tries again what could not be given back.
    fn try_again(&mut self) {
        if let Some((_, set)) = &mut self.timer {
            *set = None;
        }
        let mut lead = Lead { services: &mut self.services };
        self.engine.try_again(&mut lead, time::now());
        self.follow_database();
    }

    /// Has the timer fire when something is to be tried again.
    fn set_timer(&mut self) {
        let Some((_, set)) = self.timer.as_mut().filter(|_| self.engine.waits()) else {
            return;
        };
        let Some(due) = self.engine.next_try(time::now()) else {
            return;
        };
        if set.is_none_or(|at| due < at) {
            *set = Some(due);
            if let Err(error) = time::set_timer(due) {
                log!("the timer is not set: {error}");
            }
        }
    }

    /// Serves the channels that the table has now, as far as it changed.
    pub fn attach_channels(&mut self) {
        let changed = self.engine.take_channels_changed();
        let reader = self.engine.database().reader();
        if changed.iter().any(|&index| reader.channel(index).is_err()) {
            self.services.keep_attached(|index| reader.channel(index).is_ok());
        }
        for index in changed {
            if let Ok(entry) = reader.channel(index)
                && let Ok(client) = reader.descriptor(entry.a)
            {
                self.services.attach(index, &entry, &client);
            }
        }
    }

    /// Writes down what the monitor did by itself.
    fn monitor_events(&mut self) {
        while let Ok(Some(event)) = lead::next_event() {
            let (partition, cause, detail) = (event.partition, event.cause, event.detail);
            log!("partition {partition} stopped: cause {cause}, detail {detail:#x}");
            let mut lead = Lead { services: &mut self.services };
            self.engine.monitor_did(&mut lead, &event);
            self.end_host_with(&event);
        }
    }

    /// The host ends with a partition that has the right to end it, once all that partition
    /// printed is out.
    fn end_host_with(&self, event: &MonitorEvent) {
        let stopped = self.engine.database().reader().descriptor(event.partition);
        if !stopped.is_ok_and(|d| d.rights & rights::HOST_POWER != 0) {
            return;
        }
        let consoles = self.services.consoles.values();
        for console in consoles.filter(|c| c.partition == event.partition) {
            // A ring holds 2 KiB; its partition writes no more.
            for _ in 0..DRAIN_ROUNDS {
                console.serve();
            }
        }
        let how = match (event.cause, event.detail) {
            (cause::SHUTDOWN, REASON_POWEROFF) => calls::END_POWER_OFF,
            (cause::SHUTDOWN, REASON_REBOOT) => calls::END_RESTART,
            _ => calls::END_FAILED,
        };
        if let Err(error) = lead::end_host(how, event) {
            log!("the monitor does not end the host: {error}");
        }
    }
}
