//! The event loop.
//!
//! Rule: a handler does a bounded amount of work and says whether there is more; what is not
//! finished waits its turn behind the others that have events. So no partition can keep the rest
//! from being served. What is done for guests has a budget of time (see [`budget`]): while
//! that is empty, guests' rings stay unread and their ports are masked.

use alloc::collections::{BTreeSet, VecDeque};
use alloc::vec::Vec;
use core::sync::atomic::AtomicU32;

use partition_runtime::events::{self, Events, Port, VIRQ_TIMER};
use partition_runtime::{heap, lead, log, time};
use pv_abi::uv::calls::{self, MonitorEvent, cause};
use pv_abi::uv::command::{Body, Operation, Refusal, Reply, Request};
use pv_abi::uv::database::{FIRST_GUEST, rights};
use pv_abi::xen::sched::{REASON_POWEROFF, REASON_REBOOT};
use transaction::{Engine, Facts, refusal};

use crate::command::Unread;
use crate::lead::{Counters, Lead};
use crate::services::{SERVICE, Services};

/// Requests answered at one event.
const REQUESTS: usize = 4;
/// Bytes of the heap that reading a request and answering a query take at most: a list whose
/// length the client made up takes 1 MiB before its end is missed.
const RECEIVE_ROOM: usize = 3 << 19;
/// Bytes of the heap that carrying out a transaction takes at least, and for each operation: its
/// descriptor is planned, and what differs is logged.
const TRANSACTION_ROOM: usize = 3 << 20;
const OPERATION_ROOM: usize = 6 << 10;
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
    /// Ports of the host's own whose turn comes, first come, first served.
    turns: VecDeque<Port>,
    /// Ports of guests whose turn comes when the budget says so.
    guests: Vec<Port>,
    /// Those of them that are masked, since they cannot be served now.
    masked: BTreeSet<Port>,
    /// The last turn was a guest's.
    guest_last: bool,
    /// Guests are served again from this time on.
    rests: Option<u64>,
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
            guests: Vec::new(),
            masked: BTreeSet::new(),
            guest_last: false,
            rests: None,
            timer: timer.map(|port| (port, None)),
        }
    }

    /// Handles events for ever.
    pub fn serve(&mut self) -> ! {
        self.monitor_events();
        loop {
            let port = self.next_turn();
            let (client, begin) = (self.services.client_at(port), time::now());
            if self.handle(port) {
                self.queue(port);
            }
            if let Some(who) = client {
                let spent = time::now().saturating_sub(begin);
                self.services.budget.spend(who, spent, who >= FIRST_GUEST);
            }
            self.tell_clients(port);
            self.set_timer();
        }
    }

    /// Whether a port's turn is paid by the budget of guests.
    fn is_guests(&self, port: Port) -> bool {
        self.services.client_at(port).is_some_and(|who| who >= FIRST_GUEST)
    }

    /// Has a port wait for its turn, where it does not already.
    fn queue(&mut self, port: Port) {
        if self.is_guests(port) {
            if !self.guests.contains(&port) {
                self.guests.push(port);
            }
        } else if !self.turns.contains(&port) {
            self.turns.push_back(port);
        }
    }

    /// The port whose turn it is. Where ports of the host's own and of guests wait, turns alternate.
    fn next_turn(&mut self) -> Port {
        loop {
            while let Some(port) = self.events.take() {
                self.queue(port);
            }
            let own_first = self.guest_last || self.guests.is_empty();
            let own = if own_first { self.turns.pop_front() } else { None };
            let next = own.or_else(|| self.next_guest()).or_else(|| self.turns.pop_front());
            if let Some(port) = next {
                self.guest_last = self.is_guests(port);
                return port;
            }
            self.set_timer();
            let port = self.events.wait();
            self.queue(port);
        }
    }

    /// The guest's port whose turn it is, where guests may be served now; else masks the ports of
    /// those that wait, so that their events wake nobody.
    fn next_guest(&mut self) -> Option<Port> {
        let now = time::now();
        let due = self.services.budget.due(now);
        if self.guests.is_empty() {
            return None;
        }
        if due > now && self.timer.is_some() {
            self.rests = Some(due);
            for &port in &self.guests {
                if self.masked.insert(port) {
                    events::mask(port);
                }
            }
            return None;
        }
        let rank = |port: &Port| {
            let client = self.services.client_at(*port);
            client.map_or(0, |who| self.services.budget.rank(who))
        };
        let ports = self.guests.iter().enumerate();
        let (index, _) = ports.min_by_key(|(_, port)| rank(port))?;
        let port = self.guests.remove(index);
        if self.masked.remove(&port) {
            // A port that was closed meanwhile needs no events.
            let _ = events::unmask(port);
        }
        Some(port)
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
            client.serve(&mut self.services.store, time::now().saturating_add(SERVICE.turn))
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
            let reply = match channel.next(heap::has_room(RECEIVE_ROOM)) {
                None => return false,
                Some(Ok(request)) => self.answer(client, &request),
                Some(Err(Unread::NoMemory(id))) => self.refuse(id, no_memory()),
                Some(Err(Unread::NotUnderstood(id))) => self.refuse(id, not_understood()),
            };
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
        if let Some(refusal) = self.lacks_room(&request.body) {
            return self.refuse(id, refusal);
        }
        let engine = &mut self.engine;
        let mut lead = Lead { services: &mut self.services };
        let reply = match &request.body {
            Body::Query(query) => {
                let answer = transaction::query(
                    engine,
                    &self.facts,
                    &Counters { budget: &lead.services.budget },
                    query,
                );
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
            Body::RollBack { requests } => {
                engine.roll_back_requests(&mut lead, (client, now), id, requests)
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

    fn refuse(&self, id: u64, refusal: Refusal) -> Reply {
        let version = self.engine.database().contents();
        Reply { id, version, result: Err(refusal) }
    }

    /// Why there is no memory for a request, where there is none. Requests that give back what
    /// partitions have are carried out with little, since they are the way out.
    fn lacks_room(&self, body: &Body) -> Option<Refusal> {
        let operations = match body {
            Body::Query(_) => return None,
            Body::Transaction(transaction) | Body::Plan(transaction) => {
                transaction.operations.as_slice()
            }
            // Gives back alone, as `gives_back` below.
            Body::RollBack { .. } => return (!heap::has_room(RECEIVE_ROOM)).then(no_memory),
            Body::Open | Body::Undo { .. } => &[],
        };
        let gives_back = |operation: &Operation| {
            matches!(
                operation,
                Operation::DestroyPartition { .. }
                    | Operation::SetState { .. }
                    | Operation::ReleaseMemory { .. }
                    | Operation::Complete { .. }
            )
        };
        let created =
            operations.iter().filter(|one| matches!(one, Operation::CreatePartition { .. }));
        let created = created.count();
        if created > 0 && !self.services.store.has_room_for(created) {
            return Some(no_memory());
        }
        let small = !operations.is_empty() && operations.iter().all(gives_back);
        let room = if small { RECEIVE_ROOM } else { TRANSACTION_ROOM };
        let room = room.max(operations.len().saturating_mul(OPERATION_ROOM));
        (!heap::has_room(room)).then(no_memory)
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
        self.rests = None;
        if !self.engine.waits() {
            return;
        }
        let mut lead = Lead { services: &mut self.services };
        self.engine.try_again(&mut lead, time::now());
        self.follow_database();
    }

    /// Has the timer fire when something is to be tried again, and when guests are served again.
    fn set_timer(&mut self) {
        let again = self.engine.waits().then(|| self.engine.next_try(time::now())).flatten();
        let Some(due) = again.into_iter().chain(self.rests).min() else {
            return;
        };
        let Some((_, set)) = &mut self.timer else {
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

    /// Writes down what the monitor did by itself. The monitor keeps each record until the next
    /// call says that it is written down.
    fn monitor_events(&mut self) {
        let mut written = 0;
        while let Ok(Some((number, event))) = lead::next_event(written) {
            let (partition, cause, detail) = (event.partition, event.cause, event.detail);
            log!("partition {partition} stopped: cause {cause}, detail {detail:#x}");
            let mut lead = Lead { services: &mut self.services };
            self.engine.monitor_did(&mut lead, &event);
            self.end_host_with(&event);
            written = number;
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

/// The refusal of a frame that holds no request of this protocol.
fn not_understood() -> Refusal {
    let reason = "the frame holds no request of the ultravisor's protocol";
    refusal("not-understood", "request", "message", reason, "use a client of its version")
}

/// The refusal of what the heap of this partition, or the store's part of it, has no room for.
fn no_memory() -> Refusal {
    refusal(
        "no-memory",
        "ultravisor",
        "heap",
        "what it keeps for partitions leaves no room for this request",
        "destroy a partition",
    )
}
