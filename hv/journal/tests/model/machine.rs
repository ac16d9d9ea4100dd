//! The machine of the model: guest, server, device, and the true state of each request.
//!
//! The true state of a request is kept by the request's index in the ring. An honest guest also
//! writes the index as the request's sector, so an issued request names the request that was sent.

use block_ring::{Broken, Index};
use journal::{Answer, Found, Journal, settle, words};
use pv_abi::xen::block::{FLUSH, STATUS_OK, WRITE};

use crate::memory::{Place, Recorder, SLOTS, Store, Words};

const INCARNATION: u64 = 5;
/// Ids of the guest's requests: 0 and 1, each used again as soon as its answer was seen.
const IDS: usize = 2;
/// Ghosts: more than any setup sends.
const GHOSTS: usize = 16;

/// A way to break the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    None,
    /// Take: STATE is stored first.
    StateBeforeEntries,
    /// Take: no seal is stored.
    NoSeal,
    /// Answer: no lines.
    NoLines,
    PublishBeforeLines,
    /// Answer: PUBLISH never has a count.
    NoPublish,
    PublishAfterSlots,
    PublishAfterProduced,
    ProducedBeforeSlots,
    StateBeforeProduced,
    /// Answer: PUBLISH ends before STATE is cleared.
    EndBeforeState,
    /// Answer: STATE keeps the bits.
    NoClearing,
    SettleDoesNotClear,
    SettleWritesNoSlots,
    /// Requests are issued from the ring.
    IssueFromRing,
    /// The successor does not reset the device.
    NoReset,
    NoReissue,
    NoEventAtAttach,
    /// The server sleeps without a second look at the ring.
    NoSecondLook,
    OldPathNotFlushed,
}

/// The setup whose states are explored.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Operations of the guest's requests, in order.
    pub operations: Vec<u8>,
    /// Servers that may die.
    pub deaths: u8,
    /// The number of times that the guest writes an index that it must not write.
    pub hostile: u8,
    /// A successor reaches the medium by another path, with a cache of its own.
    pub two_paths: bool,
    pub fault: Fault,
}

impl Setup {
    const fn is_honest(&self) -> bool {
        self.hostile == 0
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Guest {
    Asleep,
    Handling,
    /// The guest has asked for an event and looks once more.
    Looking,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Server {
    Dead,
    /// The successor has the device, which is reset.
    Attaching,
    Working,
    /// The server has found nothing to do.
    Asking,
    /// The server has asked for an event and looks once more.
    Looking,
    Asleep,
    /// The server has detached the client.
    Gone,
}

/// The next action of the server once its stores are done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Then {
    Nothing,
    Issue(u32),
    Wake { before: u32, produced: u32 },
    WakeAtAttach,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Flight {
    entry: u32,
    ghost: usize,
    operation: u8,
    /// Deaths still allowed when it was issued: names the server that waits for it.
    server: u8,
    /// The number of writes in the cache when it was issued.
    cached: u16,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Ghost {
    done: bool,
    /// The guest has seen the answer.
    answered: bool,
    /// The journal has cleared it.
    cleared: bool,
    /// Writes that a flush must cover.
    covers: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Machine {
    words: Words,
    guest: Guest,
    /// Requests that the guest sent.
    sent: u32,
    /// Responses that it consumed.
    consumed: u32,
    /// The request of each id.
    outstanding: [Option<usize>; IDS],
    /// `req_prod` before and after, if it has still to see whether the server wants an event.
    must_notify: Option<(u32, u32)>,
    guest_event: bool,
    server: Server,
    journal: Option<Journal>,
    /// The rest of the stores of the server's operation, the next last.
    stores: Vec<Store>,
    then: Then,
    /// Entries that the device has done.
    completed: u32,
    server_event: bool,
    device: Vec<Flight>,
    path: usize,
    /// Writes in the cache of each path.
    cached: [u16; 2],
    durable: u16,
    ghosts: [Ghost; GHOSTS],
    deaths: u8,
    hostile: u8,
}

type Step = (&'static str, Result<Machine, String>);

impl Machine {
    pub fn new(setup: &Setup) -> Self {
        Self {
            words: Words::new(),
            guest: Guest::Asleep,
            sent: 0,
            consumed: 0,
            outstanding: [None; IDS],
            must_notify: None,
            guest_event: false,
            server: Server::Attaching,
            journal: None,
            stores: Vec::new(),
            then: Then::Nothing,
            completed: 0,
            server_event: false,
            device: Vec::new(),
            path: 0,
            cached: [0; 2],
            durable: 0,
            ghosts: [Ghost::default(); GHOSTS],
            deaths: setup.deaths,
            hostile: setup.hostile,
        }
    }

    /// Every step from here, with the state after it, or with the rule that it breaks.
    pub fn steps(&self, setup: &Setup) -> Vec<Step> {
        let mut steps = Vec::new();
        self.guest_steps(setup, &mut steps);
        self.server_steps(setup, &mut steps);
        self.device_steps(setup, &mut steps);
        let is_end = steps.is_empty() && self.server != Server::Gone;
        let all_answered = self.sent as usize == setup.operations.len()
            && self.outstanding.iter().all(Option::is_none);
        if is_end && setup.is_honest() && !all_answered {
            steps.push(("end", Err("asleep for ever".to_owned())));
        }
        self.deaths(setup, &mut steps);
        steps
    }

    fn then(&self, change: impl FnOnce(&mut Self)) -> Self {
        let mut next = self.clone();
        change(&mut next);
        next
    }

    // The guest.

    fn guest_steps(&self, setup: &Setup, steps: &mut Vec<Step>) {
        if let Some((before, produced)) = self.must_notify {
            let event = self.words.index(Index::RequestEvent);
            let owed = produced.wrapping_sub(event) < produced.wrapping_sub(before);
            // While no server has the port, the event is dropped.
            let is_bound = !matches!(self.server, Server::Dead | Server::Attaching);
            steps.push((
                "guest notifies",
                Ok(self.then(|next| {
                    next.must_notify = None;
                    next.server_event |= owed && is_bound;
                })),
            ));
        } else if let Some(next) = self.send(setup) {
            steps.push(("guest sends", Ok(next)));
        }
        let produced = self.words.index(Index::ResponsesProduced);
        match self.guest {
            Guest::Asleep if self.guest_event => {
                steps.push((
                    "guest wakes",
                    Ok(self.then(|next| {
                        next.guest_event = false;
                        next.guest = Guest::Handling;
                    })),
                ));
            }
            Guest::Asleep => {}
            Guest::Handling if produced == self.consumed => {
                steps.push((
                    "guest asks for an event",
                    Ok(self.then(|next| {
                        let value = u64::from(self.consumed.wrapping_add(1));
                        next.words
                            .apply(Store { place: Place::Index(Index::ResponseEvent), value });
                        next.guest = Guest::Looking;
                    })),
                ));
            }
            Guest::Handling => steps.push(("guest sees an answer", self.consume(setup))),
            Guest::Looking => {
                let found = produced != self.consumed;
                steps.push((
                    "guest looks again",
                    Ok(self.then(|next| {
                        next.guest = if found { Guest::Handling } else { Guest::Asleep };
                    })),
                ));
            }
        }
        self.hostile_steps(steps);
    }

    fn send(&self, setup: &Setup) -> Option<Self> {
        let ghost = self.sent as usize;
        let operation = *setup.operations.get(ghost)?;
        let id = self.outstanding.iter().position(Option::is_none)?;
        let produced = self.words.index(Index::RequestsProduced);
        if setup.is_honest() && self.sent.wrapping_sub(self.consumed) >= SLOTS {
            return None;
        }
        let answered =
            self.ghosts.iter().enumerate().filter(|(_, ghost)| ghost.answered && ghost.done);
        let covers = answered
            .filter(|&(at, _)| setup.operations.get(at) == Some(&WRITE))
            .fold(0, |mask, (at, _)| mask | 1 << at);
        Some(self.then(|next| {
            let slot = self.sent % SLOTS;
            let request = [u64::from(operation), id as u64, ghost as u64];
            for (word, value) in request.into_iter().enumerate() {
                next.words.apply(Store { place: Place::Slot(slot, word), value });
            }
            let value = u64::from(self.sent + 1);
            next.words.apply(Store { place: Place::Index(Index::RequestsProduced), value });
            next.sent += 1;
            next.outstanding[id] = Some(ghost);
            next.ghosts[ghost].covers = covers;
            next.must_notify = Some((produced, produced.wrapping_add(1)));
        }))
    }

    fn consume(&self, setup: &Setup) -> Result<Self, String> {
        let slot = self.consumed % SLOTS;
        let id = self.words.load(Place::Slot(slot, 0));
        let [operation, _, status, ..] = self.words.load(Place::Slot(slot, 1)).to_le_bytes();
        let known = usize::try_from(id).ok().filter(|&id| id < IDS);
        let ghost = known.and_then(|id| self.outstanding[id]);
        let mut next = self.clone();
        next.consumed = self.consumed.wrapping_add(1);
        let produced = self.words.index(Index::ResponsesProduced);
        if !setup.is_honest() && produced.wrapping_sub(self.consumed) > SLOTS {
            next.consumed = produced;
            return Ok(next);
        }
        let Some(ghost) = ghost.filter(|&at| setup.operations[at] == operation && status == 0)
        else {
            return if setup.is_honest() { Err("answer to nothing".to_owned()) } else { Ok(next) };
        };
        next.outstanding[usize::try_from(id).unwrap()] = None;
        if setup.is_honest() && !self.ghosts[ghost].done {
            return Err("answer before the device was done".to_owned());
        }
        if operation == FLUSH && self.ghosts[ghost].covers & !self.durable != 0 {
            return Err("flush answered falsely".to_owned());
        }
        next.ghosts[ghost].answered = true;
        Ok(next)
    }

    /// The guest writes an index that it must not write.
    fn hostile_steps(&self, steps: &mut Vec<Step>) {
        if self.hostile == 0 {
            return;
        }
        for index in [Index::ResponsesProduced, Index::RequestsProduced] {
            for change in [-2, -1, 1, 2, 40] {
                let value = u64::from(self.words.index(index).wrapping_add_signed(change));
                steps.push((
                    "guest moves an index",
                    Ok(self.then(|next| {
                        next.hostile -= 1;
                        next.words.apply(Store { place: Place::Index(index), value });
                    })),
                ));
            }
        }
    }

    // The device.

    fn device_steps(&self, setup: &Setup, steps: &mut Vec<Step>) {
        for (at, flight) in self.device.iter().enumerate() {
            if setup.is_honest() && self.ghosts[flight.ghost].answered {
                steps.push(("device transfers", Err("late transfer".to_owned())));
                continue;
            }
            steps.push((
                "device completes",
                Ok(self.then(|next| {
                    next.device.remove(at);
                    next.ghosts[flight.ghost].done = true;
                    match flight.operation {
                        WRITE => next.cached[self.path] |= 1 << flight.ghost,
                        FLUSH => next.durable |= flight.cached,
                        _ => {}
                    }
                    let is_known = next.journal.is_some() && flight.server == self.deaths;
                    if is_known {
                        next.completed |= 1 << flight.entry;
                    }
                })),
            ));
        }
    }

    // The server.

    fn deaths(&self, setup: &Setup, steps: &mut Vec<Step>) {
        if self.deaths == 0 || matches!(self.server, Server::Dead | Server::Gone) {
            return;
        }
        let hidden = self.stores.iter().rev().take_while(|s| matches!(s.place, Place::Page(_)));
        for count in 0..=hidden.count() {
            let mut next = self.clone();
            let stored = (0..count).try_for_each(|_| next.store(setup));
            let dead = stored.map(|()| {
                next.stores.clear();
                next.then = Then::Nothing;
                next.journal = None;
                next.completed = 0;
                next.server_event = false;
                next.server = Server::Dead;
                next.deaths -= 1;
                next
            });
            steps.push(("server dies", dead));
        }
    }

    /// Makes the next store, and checks what it tells about the requests.
    fn store(&mut self, setup: &Setup) -> Result<(), String> {
        let Some(store) = self.stores.pop() else { return Ok(()) };
        if store.place == Place::Page(words::STATE) && self.then != Then::Nothing {
            let before = self.words.load(store.place) >> 32;
            let cleared = before & !(store.value >> 32);
            for entry in (0..32).filter(|entry| cleared & 1 << entry != 0) {
                let ghost = &mut self.ghosts[index_of(&self.words, entry)];
                if ghost.cleared {
                    return Err("answered twice".to_owned());
                }
                ghost.cleared = true;
                if setup.is_honest() && !ghost.done {
                    return Err("answer before the device was done".to_owned());
                }
            }
        }
        self.words.apply(store);
        Ok(())
    }

    fn server_steps(&self, setup: &Setup, steps: &mut Vec<Step>) {
        if !self.stores.is_empty() {
            // Stores that only a successor sees, up to one that the guest sees.
            let mut next = self.clone();
            let mut result = Ok(());
            while result.is_ok() && !next.stores.is_empty() {
                let is_seen =
                    !matches!(next.stores.last(), Some(Store { place: Place::Page(_), .. }));
                result = next.store(setup);
                if is_seen {
                    break;
                }
            }
            steps.push(("server stores", result.map(|()| next)));
            return;
        }
        match self.then {
            Then::Nothing => self.serve(setup, steps),
            Then::Issue(entries) => steps.push(("server issues", self.issue(setup, entries))),
            Then::Wake { before, produced } => {
                let owed =
                    Recorder::record(&self.words, |_, ring| ring.event_owed(before, produced));
                steps.push((
                    "server notifies",
                    Ok(self.then(|next| {
                        next.guest_event |= owed.0;
                        next.then = Then::Nothing;
                    })),
                ));
            }
            Then::WakeAtAttach => steps.push(("server notifies", self.wake_at_attach(setup))),
        }
    }

    fn wake_at_attach(&self, setup: &Setup) -> Result<Self, String> {
        let journal = self.journal.ok_or("no journal")?;
        let produced = journal.cursor().produced;
        let (owed, _) =
            Recorder::record(&self.words, |_, ring| ring.event_owed_at_attach(produced));
        Ok(self.then(|next| {
            next.guest_event |= owed && setup.fault != Fault::NoEventAtAttach;
            let entries = if setup.fault == Fault::NoReissue { 0 } else { journal.taken() };
            next.then = Then::Issue(entries);
        }))
    }

    fn serve(&self, setup: &Setup, steps: &mut Vec<Step>) {
        match self.server {
            Server::Gone => {}
            Server::Dead => steps.push(("device is reset", Ok(self.reset(setup)))),
            Server::Attaching => steps.push(("successor settles", self.settle(setup))),
            Server::Asleep if self.server_event || self.completed != 0 => {
                steps.push((
                    "server wakes",
                    Ok(self.then(|next| {
                        next.server_event = false;
                        next.server = Server::Working;
                    })),
                ));
            }
            Server::Asleep => {}
            Server::Asking => {
                steps.push((
                    "server asks for an event",
                    Ok(self.then(|next| {
                        let consumed = self.journal.unwrap().cursor().consumed;
                        let (_, stores) =
                            Recorder::record(&self.words, |_, ring| ring.ask_for_event(consumed));
                        stores.into_iter().for_each(|store| next.words.apply(store));
                        next.server = Server::Looking;
                    })),
                ));
            }
            Server::Looking => {
                let (pending, _) = self.try_take();
                let found = pending.is_err() || pending.is_ok_and(|(_, entries)| entries != 0);
                let found = found && setup.fault != Fault::NoSecondLook;
                steps.push((
                    "server looks again",
                    Ok(self.then(|next| {
                        next.server = if found { Server::Working } else { Server::Asleep };
                    })),
                ));
            }
            Server::Working => self.work(setup, steps),
        }
    }

    fn try_take(&self) -> (Result<(Journal, u32), Broken>, Vec<Store>) {
        let mut journal = self.journal.unwrap();
        Recorder::record(&self.words, |page, ring| {
            journal.take(page, ring, 32).map(|entries| (journal, entries))
        })
    }

    fn work(&self, setup: &Setup, steps: &mut Vec<Step>) {
        let (taken, stores) = self.try_take();
        match taken {
            Err(broken) => steps.push(("server detaches", self.detach(setup, broken))),
            Ok((journal, entries)) if entries != 0 => {
                let stores = take_with(setup.fault, stores);
                let then = Then::Issue(entries);
                steps.push(("server takes", Ok(self.begin(journal, stores, then))));
            }
            Ok(_) if self.completed == 0 => {
                steps.push((
                    "server finds nothing",
                    Ok(self.then(|next| {
                        next.server = Server::Asking;
                    })),
                ));
            }
            Ok(_) => {}
        }
        let mut all: Vec<u32> = (0..32).filter(|at| self.completed & 1 << at != 0).collect();
        for &entry in &all {
            steps.push(("server answers", self.answer(setup, &[entry])));
        }
        if all.len() > 1 {
            steps.push(("server answers all", self.answer(setup, &all)));
            all.reverse();
            steps.push(("server answers all", self.answer(setup, &all)));
        }
    }

    fn begin(&self, journal: Journal, mut stores: Vec<Store>, then: Then) -> Self {
        stores.reverse();
        self.then(|next| {
            next.journal = Some(journal);
            next.stores = stores;
            next.then = then;
        })
    }

    fn answer(&self, setup: &Setup, entries: &[u32]) -> Result<Self, String> {
        let mut journal = self.journal.unwrap();
        let answers: Vec<_> =
            entries.iter().map(|&entry| Answer { entry, status: STATUS_OK }).collect();
        let (published, stores) =
            Recorder::record(&self.words, |page, ring| journal.answer(page, ring, &answers));
        let published = published.map_err(|refused| format!("unanswerable: {refused:?}"))?;
        let then = Then::Wake { before: published.before, produced: published.produced };
        let mut next = self.begin(journal, answer_with(setup.fault, stores), then);
        entries.iter().for_each(|entry| next.completed &= !(1 << entry));
        Ok(next)
    }

    fn detach(&self, setup: &Setup, broken: Broken) -> Result<Self, String> {
        if setup.is_honest() {
            return Err(format!("broken: {broken:?}"));
        }
        Ok(self.then(|next| {
            next.device.clear();
            next.server = Server::Gone;
        }))
    }

    fn reset(&self, setup: &Setup) -> Self {
        self.then(|next| {
            if setup.fault != Fault::NoReset {
                next.device.clear();
            }
            if setup.two_paths {
                if setup.fault != Fault::OldPathNotFlushed {
                    next.durable |= self.cached[self.path];
                }
                next.path = 1 - self.path;
            }
            next.server = Server::Attaching;
        })
    }

    fn settle(&self, setup: &Setup) -> Result<Self, String> {
        let (found, stores) =
            Recorder::record(&self.words, |page, ring| settle(page, ring, INCARNATION));
        match found.map_err(|held| format!("held: {held:?}"))? {
            Found::Vacant => {
                let (journal, stores) = Recorder::record(&self.words, |page, ring| {
                    Journal::start(page, ring, INCARNATION)
                });
                let mut next = self.begin(journal.unwrap(), stores, Then::WakeAtAttach);
                next.server = Server::Working;
                Ok(next)
            }
            Found::Detaching(_) => Err("nobody detached".to_owned()),
            Found::Broken(broken, _) => self.detach(setup, broken),
            Found::Serving(journal) => {
                let stores = settle_with(setup.fault, stores);
                let mut next = self.begin(journal, stores, Then::WakeAtAttach);
                next.server = Server::Working;
                Ok(next)
            }
        }
    }

    fn issue(&self, setup: &Setup, entries: u32) -> Result<Self, String> {
        let journal = self.journal.ok_or("no journal")?;
        let mut next = self.clone();
        next.then = Then::Nothing;
        for entry in (0..32).filter(|entry| entries & 1 << entry != 0) {
            let ghost = index_of(&self.words, entry);
            let (raw, _) = Recorder::record(&self.words, |page, ring| match setup.fault {
                Fault::IssueFromRing => Some(ring.fetch(u32::try_from(ghost).unwrap())),
                _ => journal.request(page, entry),
            });
            let raw = raw.ok_or("an entry is not taken")?;
            let operation = raw.response_operation();
            let is_sent = raw.0[2] == ghost as u64
                && ghost < self.sent as usize
                && setup.operations.get(ghost) == Some(&operation);
            if setup.is_honest() && !is_sent {
                return Err("issued what was not sent".to_owned());
            }
            let is_seen = setup.is_honest() && self.ghosts[ghost].answered;
            if self.ghosts[ghost].cleared || is_seen {
                return Err("issued again after its answer".to_owned());
            }
            let cached = self.cached[self.path];
            let server = self.deaths;
            next.device.push(Flight { entry, ghost, operation, server, cached });
        }
        Ok(next)
    }
}

/// The index in the ring of an entry's request.
fn index_of(words: &Words, entry: u32) -> usize {
    let index = words.load(Place::Page(words::SEALS + entry as usize)) >> 32;
    // A hostile guest moves the indices by less than half of the ghosts.
    usize::try_from(index).unwrap() % GHOSTS
}

/// The part of an operation that a store belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Entry,
    Seal,
    State,
    Line,
    Begin,
    Slot,
    Produced,
    End,
    Other,
}

fn part(store: &Store) -> Part {
    match store.place {
        Place::Page(words::STATE) => Part::State,
        Place::Page(words::PUBLISH) if store.value & 0xffff_ffff != 0 => Part::Begin,
        Place::Page(words::PUBLISH) => Part::End,
        Place::Page(words::REQUESTS..) => Part::Entry,
        Place::Page(words::SEALS..) => Part::Seal,
        Place::Page(words::LINES..) => Part::Line,
        Place::Slot(..) => Part::Slot,
        Place::Index(Index::ResponsesProduced) => Part::Produced,
        _ => Part::Other,
    }
}

fn without(mut stores: Vec<Store>, gone: Part) -> Vec<Store> {
    stores.retain(|store| part(store) != gone);
    stores
}

/// Moves the stores of a part before the first of another.
fn before(stores: Vec<Store>, moved: Part, first: Part) -> Vec<Store> {
    let (moved, mut rest): (Vec<_>, Vec<_>) =
        stores.into_iter().partition(|store| part(store) == moved);
    let at = rest.iter().position(|store| part(store) == first).unwrap_or(rest.len());
    rest.splice(at..at, moved);
    rest
}

fn take_with(fault: Fault, stores: Vec<Store>) -> Vec<Store> {
    match fault {
        Fault::StateBeforeEntries => before(stores, Part::State, Part::Entry),
        Fault::NoSeal => without(stores, Part::Seal),
        _ => stores,
    }
}

fn answer_with(fault: Fault, stores: Vec<Store>) -> Vec<Store> {
    match fault {
        Fault::NoLines => without(stores, Part::Line),
        Fault::PublishBeforeLines => before(stores, Part::Begin, Part::Line),
        Fault::NoPublish => without(stores, Part::Begin),
        Fault::PublishAfterSlots => before(stores, Part::Begin, Part::Produced),
        Fault::PublishAfterProduced => before(stores, Part::Begin, Part::State),
        Fault::ProducedBeforeSlots => before(stores, Part::Produced, Part::Slot),
        Fault::StateBeforeProduced => before(stores, Part::State, Part::Produced),
        Fault::EndBeforeState => before(stores, Part::End, Part::State),
        Fault::NoClearing => without(stores, Part::State),
        _ => stores,
    }
}

fn settle_with(fault: Fault, stores: Vec<Store>) -> Vec<Store> {
    match fault {
        Fault::SettleDoesNotClear => without(stores, Part::State),
        Fault::SettleWritesNoSlots => without(stores, Part::Slot),
        _ => stores,
    }
}
