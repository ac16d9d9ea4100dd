//! The event loop.
//!
//! Rule: a handler does a bounded amount of work and returns whether more is left. Unfinished work
//! goes to the end of the queue of ports with events. So no partition can keep the others from
//! being served. Work for guests has a time budget (see [`budget`]). While the budget is empty,
//! guests' rings stay unread and their ports are masked. A transaction that takes the monitor
//! longer than a turn continues in the next ([`crate::host::work`]). The loop scrubs free memory
//! when no port waits ([`crate::host::scrub`]).

use alloc::collections::{BTreeSet, VecDeque};
use alloc::vec::Vec;
use core::sync::atomic::AtomicU32;

use control::command::{Answer, Body, Code, Operation, Query, Refusal, Reply, Request, Turns};
use partition_runtime::events::{self, Events, Port, VIRQ_TIMER};
use partition_runtime::{heap, lead, log, time};
use pv_abi::uv::calls::{self, MonitorEvent, cause};
use pv_abi::uv::channel::NO_ID;
use pv_abi::uv::database::{BOOT, FIRST_GUEST, ULTRAVISOR, rights};
use pv_abi::xen::sched::{REASON_POWEROFF, REASON_REBOOT};
use transaction::{Begun, Engine, Facts, refusal};

use self::early::EarlyEvents;
use crate::command::Unread;
use crate::lead::{Counters, Lead};
use crate::services::{SERVICE, Services};

mod early;
mod hangs;
mod scrub;
mod work;

/// Nanoseconds after which a turn of the loop ends; the rest is done in the next.
const TURN: u64 = 2_000_000;
/// A turn of at least this many nanoseconds counts as long.
const LONG: u64 = 5_000_000;
/// Requests answered per event.
const REQUESTS: usize = 4;
/// Maximum number of bytes of the heap to read a request and answer a query: a list with a false
/// length takes 1 MiB before its missing end is noticed.
const RECEIVE_ROOM: usize = 3 << 19;
/// Minimum number of bytes of the heap to carry out a transaction, and bytes for each operation,
/// whose descriptor is planned and whose differences are logged.
const TRANSACTION_ROOM: usize = 3 << 20;
const OPERATION_ROOM: usize = 6 << 10;
/// Nanoseconds after which an attach that was refused is ordered again, if nothing else happened.
const ATTACH_AGAIN: u64 = 10_000_000_000;
/// How often a console is served before the host ends.
const DRAIN_ROUNDS: usize = 4;

/// The whole state of the ultravisor.
pub struct Host {
    /// Database, log and transactions.
    pub engine: Engine<'static>,
    /// The pages of the database.
    arena: &'static [AtomicU32],
    facts: Facts,
    /// The channels and devices that are served.
    pub services: Services,
    events: Events,
    /// Ports of the host's own partitions that wait for a turn, first come, first served.
    turns: VecDeque<Port>,
    /// Ports of guests that wait for a turn; the budget decides the order.
    guests: Vec<Port>,
    /// The guests' ports that are masked, since they cannot be served now.
    masked: BTreeSet<Port>,
    /// Whether the last turn was a guest's.
    guest_last: bool,
    /// If guests are not served now, when they are served again.
    rests: Option<u64>,
    /// The timer's port, and the time that it is set to.
    timer: Option<(Port, Option<u64>)>,
    /// The number of the log's next record when clients were last notified.
    told: u64,
    /// The version of the database that the services follow.
    followed: u64,
    /// When the present turn began, and how long this partition had waited for a CPU by then.
    begun: u64,
    waited: u64,
    turns_taken: Turns,
    /// Requests that wait for the one under way, first come, first served; at most one of each
    /// channel.
    waiting: VecDeque<work::Waiting>,
    /// If other partitions want the CPU: no scrubbing before this time.
    pressed: Option<u64>,
    /// When attaches of disks that were refused are ordered again.
    attaches: Option<u64>,
    /// When the watchdog of the I/O partitions ticks.
    watch: Option<u64>,
    /// Ports whose events came before they were served.
    early: EarlyEvents,
    /// Memory that a test takes.
    filling: crate::inject::Filling,
}

impl Host {
    /// Makes a host that serves nothing yet.
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
            begun: time::now(),
            waited: 0,
            turns_taken: Turns::default(),
            waiting: VecDeque::new(),
            pressed: None,
            attaches: None,
            watch: None,
            early: EarlyEvents::default(),
            filling: crate::inject::Filling::default(),
        }
    }

    /// Handles events for ever.
    pub fn serve(&mut self) -> ! {
        self.monitor_events();
        loop {
            let port = self.next_turn();
            self.begin_turn();
            if let Some(port) = port {
                self.serve_port(port);
            }
            // The client whose turn it was learns of new records from its reply.
            self.tell_clients(port);
            self.go_on();
            self.tell_clients(None);
            self.set_timer();
            self.end_turn();
        }
    }

    fn serve_port(&mut self, port: Port) {
        let client = self.services.client_at(port);
        if self.handle(port) {
            self.queue(port);
        }
        if let Some(who) = client {
            let spent = time::now().saturating_sub(self.begun);
            self.services.budget.spend(who, spent, who >= FIRST_GUEST);
        }
    }

    fn begin_turn(&mut self) {
        (self.begun, self.waited) = (time::now(), waited());
    }

    /// Records the length of a turn, without the time in which other partitions had the CPU.
    fn end_turn(&mut self) {
        let mut spent = time::now().saturating_sub(self.begun);
        if spent > self.turns_taken.longest.min(LONG) {
            spent = spent.saturating_sub(waited().saturating_sub(self.waited));
        }
        let taken = &mut self.turns_taken;
        taken.longest = taken.longest.max(spent);
        taken.long += u64::from(spent > LONG);
    }

    fn turn_over(&self) -> bool {
        time::now().saturating_sub(self.begun) >= TURN
    }

    /// The engine, and the calls to the monitor, which may be used until this turn is over.
    fn lead(&mut self) -> (&mut Engine<'static>, Lead<'_>) {
        let until = self.begun.saturating_add(TURN);
        (&mut self.engine, Lead { services: &mut self.services, until })
    }

    /// Returns whether the guests' budget pays for a port's turn.
    fn is_guests(&self, port: Port) -> bool {
        self.services.client_at(port).is_some_and(|who| who >= FIRST_GUEST)
    }

    /// Queues a port for a turn, unless it is queued already.
    fn queue(&mut self, port: Port) {
        if self.is_guests(port) {
            if !self.guests.contains(&port) {
                self.guests.push(port);
            }
        } else if !self.turns.contains(&port) {
            // The monitor tells of deaths, which come first.
            if port == self.services.monitor_port {
                self.turns.push_front(port);
            } else {
                self.turns.push_back(port);
            }
        }
    }

    /// Waits for the port of the next turn. Returns `None` at once if only the request under way
    /// has work. If ports of both the host and guests wait, turns alternate between them.
    fn next_turn(&mut self) -> Option<Port> {
        loop {
            while let Some(port) = self.events.take() {
                self.queue(port);
            }
            let own_first = self.guest_last || self.guests.is_empty();
            let own = if own_first { self.turns.pop_front() } else { None };
            let next = own.or_else(|| self.next_guest()).or_else(|| self.turns.pop_front());
            if let Some(port) = next {
                self.guest_last = self.is_guests(port);
                return Some(port);
            }
            if self.has_work() {
                return None;
            }
            if self.scrub() {
                continue;
            }
            self.set_timer();
            let port = self.events.wait();
            self.queue(port);
        }
    }

    /// Takes the guest's port of the next turn, if guests may be served now. Otherwise masks the
    /// waiting ports, so that their events do not wake the ultravisor.
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

    /// Handles an event. Returns whether more work is left.
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
            self.watch_io();
            self.try_again();
            return false;
        }
        if let Some(console) = self.services.consoles.get(&port) {
            return console.serve();
        }
        if self.services.io.contains_key(&port) {
            return self.hear_io(port);
        }
        let more = if let Some(client) = self.services.stores.get_mut(&port) {
            client.serve(&mut self.services.store, time::now().saturating_add(SERVICE.turn))
        } else {
            self.command(port)
        };
        self.services.flush_stores();
        self.free_disks();
        more
    }

    /// Answers requests of a client, as far as its replies fit and this turn goes. Returns whether
    /// more requests may be waiting.
    fn command(&mut self, port: Port) -> bool {
        for answered in 0..REQUESTS {
            if self.waits(port) {
                return false;
            }
            if answered > 0 && self.turn_over() {
                return true;
            }
            let Some(channel) = self.services.commands.get_mut(&port) else {
                self.early.note(port);
                return false;
            };
            let client = channel.client;
            let reply = match channel.next(heap::has_room(RECEIVE_ROOM)) {
                None => return false,
                Some(Ok(request)) if self.must_wait(&request.body) => {
                    self.wait(port, client, request);
                    return false;
                }
                Some(Ok(request)) => match self.answer(client, &request) {
                    Begun::Later => {
                        self.wait(port, client, request);
                        return false;
                    }
                    begun => begun,
                },
                Some(Err(Unread::NoMemory(id))) => Begun::Answered(self.refuse(id, no_memory())),
                Some(Err(Unread::NotUnderstood(id))) => {
                    Begun::Answered(self.refuse(id, not_understood()))
                }
            };
            if !self.answered(port, reply) {
                return true;
            }
        }
        true
    }

    fn answer(&mut self, client: u32, request: &Request) -> Begun {
        // Events are handled first: a partition that stopped before this request had its number
        // then.
        self.monitor_events();
        if self.must_wait(&request.body) && self.engine.is_busy() {
            return Begun::Later;
        }
        crate::inject::asked_by(client);
        self.follow_filling();
        let (now, id) = (time::now(), request.id);
        if let Some(refusal) = self.lacks_room(&request.body) {
            return Begun::Answered(self.refuse(id, refusal));
        }
        let (engine, mut lead) = self.lead();
        let begun = match &request.body {
            Body::Query(query) => return Begun::Answered(self.answer_query(id, query)),
            Body::Plan(transaction) => {
                return Begun::Answered(engine.dry_run(client, id, transaction));
            }
            Body::Transaction(transaction) => engine.begin(&mut lead, client, now, id, transaction),
            Body::Open => engine.begin_open(&mut lead, client, now, id),
            Body::Undo { sequence, reason } => {
                engine.begin_undo(&mut lead, (client, now), id, (*sequence, reason))
            }
            Body::RollBack { requests } => {
                engine.begin_roll_back_requests(&mut lead, (client, now), id, requests)
            }
        };
        if let Begun::Answered(reply) = &begun {
            self.carried_out(client, reply);
        }
        begun
    }

    fn answer_query(&self, id: u64, query: &Query) -> Reply {
        let Services { budget, disks, .. } = &self.services;
        let counters = Counters { budget, disks, turns: self.turns_taken };
        let answer = transaction::query(&self.engine, &self.facts, &counters, query);
        Reply { id, version: self.engine.database().contents(), result: Ok(answer) }
    }

    /// Lets a test take memory while a guest exists.
    fn follow_filling(&mut self) {
        let exists = |number| self.engine.database().reader().descriptor(number).is_ok();
        self.filling.follow(TRANSACTION_ROOM, exists);
    }

    /// Updates the services after a client's request has ended.
    fn carried_out(&mut self, client: u32, reply: &Reply) {
        if let Err(refusal) = &reply.result {
            let (object, field) = (&refusal.object, &refusal.field);
            log!("refused partition {client}: {object}: {field}: {}", refusal.reason);
        }
        self.follow_database();
        self.follow_filling();
        crate::inject::misbehave(self.arena);
    }

    fn refuse(&self, id: u64, refusal: Refusal) -> Reply {
        let version = self.engine.database().contents();
        Reply { id, version, result: Err(refusal) }
    }

    /// Returns a refusal if memory is too short for a request. A request that releases resources of
    /// partitions needs little memory, since it is the way out of a lack of memory.
    fn lacks_room(&self, body: &Body) -> Option<Refusal> {
        let operations = match body {
            Body::Query(_) => return None,
            Body::Transaction(transaction) | Body::Plan(transaction) => {
                transaction.operations.as_slice()
            }
            // A rollback only releases resources, as `gives_back` below.
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

    /// Updates the services from the database.
    fn follow_database(&mut self) {
        let version = self.engine.database().contents();
        let changed = version != self.followed;
        if changed {
            self.followed = version;
            self.attach_channels();
            self.engine.take_news().iter().for_each(|line| log!("{line}"));
            let partitions = self.engine.take_partitions_changed();
            let reader = self.engine.database().reader();
            self.services.follow_database(&reader, &partitions);
        }
        self.tell_builder();
        // A request under way may take its disks back.
        let disks = match self.engine.is_busy() {
            true => BTreeSet::new(),
            false => self.engine.take_endpoints_changed(),
        };
        if changed || !disks.is_empty() {
            self.services.follow_disks(disks, self.engine.database());
            self.free_disks();
        }
    }

    /// Frees the disks that nothing serves any more.
    fn free_disks(&mut self) {
        if !self.engine.is_busy() && self.services.disks.take_gone() {
            let (engine, mut lead) = self.lead();
            engine.try_again(&mut lead, time::now());
            self.follow_database();
        }
    }

    /// Tells the boot partition if an I/O partition has ended, or is gone, with a reply to no request:
    /// the reply stays in the ring until it is read, as an event alone would not.
    fn tell_builder(&mut self) {
        if self.engine.take_server_ended() {
            let version = self.engine.database().contents();
            let result = Ok(Answer::Applied(Vec::new()));
            self.send(BOOT, Reply { id: NO_ID, version, result });
        }
    }

    /// Notifies clients that the log has new records, except the client whose turn it was.
    fn tell_clients(&mut self, turn: Option<Port>) {
        let next = self.engine.log_bounds().1;
        if next == self.told {
            return;
        }
        self.told = next;
        for &port in self.services.commands.keys().filter(|port| Some(**port) != turn) {
            // The other end of the channel may not be bound yet.
            let _ = events::send(port);
        }
    }

    /// Tries again to release what could not be released.
    fn try_again(&mut self) {
        if let Some((_, set)) = &mut self.timer {
            *set = None;
        }
        (self.rests, self.pressed) = (None, None);
        if self.attaches.is_some_and(|due| due <= time::now()) {
            self.attaches = None;
            self.services.attach_again();
        }
        self.give_back();
    }

    /// Releases what can be released by now.
    fn give_back(&mut self) {
        if !self.engine.waits() || self.engine.is_busy() {
            return;
        }
        let (engine, mut lead) = self.lead();
        engine.try_again(&mut lead, time::now());
        self.follow_database();
    }

    /// Sets the timer to the earliest of the next retry, the time when guests are served again, and
    /// the next tick.
    fn set_timer(&mut self) {
        let again = self.engine.waits().then(|| self.engine.next_try(time::now())).flatten();
        let pressed = self.pressed.filter(|_| self.engine.unscrubbed() > 0);
        self.attaches = match self.services.disks.has_refused() {
            true => self.attaches.or_else(|| Some(time::now().saturating_add(ATTACH_AGAIN))),
            false => None,
        };
        self.set_watch();
        let due = again.into_iter().chain(self.rests).chain(pressed).chain(self.attaches);
        let Some(due) = due.chain(self.watch).min() else {
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

    /// Serves the channels in the table, as far as it has changed.
    pub fn attach_channels(&mut self) {
        let changed = self.engine.take_channels_changed();
        let reader = self.engine.database().reader();
        for index in changed {
            match reader.channel(index) {
                Ok(entry) => {
                    if let Ok(client) = reader.descriptor(entry.a) {
                        self.services.attach(index, &entry, &client);
                    }
                }
                Err(_) => self.services.forget_channel(index),
            }
        }
        let services = &self.services;
        for port in self.early.take_served(|port| services.client_at(port).is_some()) {
            self.queue(port);
        }
    }

    /// Logs the events that the monitor caused by itself, once no request is under way. The monitor
    /// keeps each event until the next call confirms that it is logged.
    fn monitor_events(&mut self) {
        let mut written = 0;
        loop {
            let next = lead::next_event(written);
            if self.engine.is_busy() {
                return;
            }
            let Ok(Some((number, event))) = next else {
                return;
            };
            let (partition, cause, detail) = (event.partition, event.cause, event.detail);
            log!("partition {partition} stopped: cause {cause}, detail {detail:#x}");
            let (engine, mut lead) = self.lead();
            engine.monitor_did(&mut lead, &event);
            self.end_host_with(&event);
            written = number;
        }
    }

    /// Ends the host if the partition that stopped has the right to end it, once its console output
    /// is sent.
    fn end_host_with(&self, event: &MonitorEvent) {
        let stopped = self.engine.database().reader().descriptor(event.partition);
        if !stopped.is_ok_and(|d| d.rights & rights::HOST_POWER != 0) {
            return;
        }
        let consoles = self.services.consoles.values();
        for console in consoles.filter(|c| c.partition == event.partition) {
            // A ring holds 2 KiB, and its partition writes no more.
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

/// Nanoseconds in which this partition was ready to run but had no CPU.
fn waited() -> u64 {
    lead::usage(ULTRAVISOR).map_or(0, |usage| usage.wait_time)
}

/// The refusal of a frame that holds no request of this protocol.
fn not_understood() -> Refusal {
    let reason = "the frame holds no request of the ultravisor's protocol";
    refusal(Code::NotUnderstood, "request", "message", reason, "use a client of its version")
}

/// The refusal of a request for which the heap of this partition, or the store's part of it, has no
/// room.
fn no_memory() -> Refusal {
    refusal(
        Code::NoMemory,
        "ultravisor",
        "heap",
        "what it keeps for partitions leaves no room for this request",
        "destroy a partition",
    )
}
