//! Disks of partitions: the endpoint table of the database, negotiated through the store, and served
//! by the I/O partitions.
//!
//! ```text
//! endpoint table --- read --> endpoint --- add ---> nodes of the back end (crate backend)
//! front end's state in the store -----------------> event --> orders to the server
//! reports of the I/O partitions ------------------> event --> nodes of the back end
//! a server dies, another one drives the functions -> event --> the same attach again
//! ```
//!
//! An endpoint is added once an I/O partition drives all its functions, and the home of its client is
//! in the store. From then on it offers the same, whoever serves it.
//!
//! # Rules
//! 1. The database decides which disks there are. This module keeps no more of them than it can read
//!    again.
//! 2. Rings that a server may hold go to another server only when the life of the first has ended:
//!    the monitor has then taken its functions, pins and mappings from it. Until then only that server
//!    can let go of them, so it stays their server even if it no longer drives the functions.
//! 3. Each set of rings has a number of its own: the endpoint's life in the database, and the number
//!    of the rings in that life. A journal page is never used with the same number again.
//! 4. An order is kept until the ring of its server has room. A server gets at most two for each
//!    endpoint before it answers.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::mem::take;

use backend::{Effect, Endpoints, Event, ReportBody, Standing};
use control::command::{DiskNumber, DiskState, DiskStatus, MAX_DISK_CAUSE};
use control::io::{Attach, EndpointReport, Order, PROTOCOL, Report, Ring};
use partition_runtime::log;
use pv_abi::uv::channel::JOURNAL_PAGES;
use pv_abi::uv::database::{IO_SERVICE, UNASSIGNED, state};
use pv_abi::uv::endpoints::{Endpoint, endpoint_state};
use resource_db::Database;
use store::{Path, Store, home};

use self::journals::{Journals, Pages};
use self::media::{BadMedium, Disk};
use self::servers::{Server, Servers, Unserved};

pub use self::pages::HeapPages;
pub use self::servers::Records;

mod journals;
mod media;
mod pages;
mod servers;
#[cfg(test)]
mod tests;

/// Causes of an endpoint that are all logged.
const LOGGED: u32 = 16;
/// Bits of a ring's number that count the rings of one life of an endpoint.
const RINGS_BITS: u32 = 32;

/// Why an endpoint is not served.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Why {
    Unserved(Unserved),
    Medium(BadMedium),
    Store(store::Error),
}

impl Why {
    fn words(&self) -> String {
        match self {
            Self::Unserved(why) => why.to_string(),
            Self::Medium(why) => why.to_string(),
            Self::Store(error) => format!("the store has no room for its nodes: {}", error.name()),
        }
    }

    /// Returns whether the reason lasts until an operator changes the disk.
    const fn is_lasting(&self) -> bool {
        matches!(self, Self::Unserved(Unserved::Divided(..)) | Self::Medium(_))
    }
}

/// An endpoint that is negotiated.
#[derive(Debug)]
struct Added {
    disk: Disk,
    /// The epoch of the server that has the endpoint.
    epoch: Option<u32>,
    /// The last server that had the endpoint.
    last: Option<Server>,
    /// Whether that server has let go of the rings, for another one.
    let_go: bool,
    /// Whether the endpoint was told of its detach, or of the end of its client.
    removed: bool,
    destroyed: bool,
}

impl Added {
    const fn new(disk: Disk) -> Self {
        let (epoch, last, let_go, removed, destroyed) = (None, None, false, false, false);
        Self { disk, epoch, last, let_go, removed, destroyed }
    }

    /// The server that may hold rings.
    fn holder(&self) -> Option<Server> {
        self.last.filter(|_| !self.let_go)
    }
}

/// An endpoint of the database.
#[derive(Debug)]
struct Known {
    client: u32,
    device: u32,
    /// Its life in the database.
    life: u64,
    detaching: bool,
    functions: Vec<u32>,
    added: Option<Added>,
    why: Option<Why>,
    /// Why its rings were closed last.
    cause: Option<String>,
    /// Number of causes so far.
    causes: u32,
}

impl Known {
    fn new(entry: &Endpoint) -> Self {
        Self {
            client: entry.client,
            device: entry.device,
            life: entry.incarnation,
            detaching: entry.state != endpoint_state::ATTACHED,
            functions: transaction::functions_of(entry),
            added: None,
            why: None,
            cause: None,
            causes: 0,
        }
    }

    /// Logs a text about the endpoint.
    fn log(&self, what: &str) {
        log!("{} of partition {}: {what}", DiskNumber(self.device), self.client);
    }
}

/// The disks of all partitions.
#[derive(Debug)]
pub struct Disks<P = HeapPages> {
    endpoints: Endpoints,
    known: BTreeMap<u32, Known>,
    servers: Servers,
    journals: Journals<P>,
    /// Entries to be read; those that earlier endpoints occupy stay.
    unread: BTreeSet<u32>,
    /// Endpoints whose server refused rings in use.
    refused: BTreeSet<u32>,
    /// Orders to be sent, with the I/O partition of each.
    orders: Vec<(u32, Order)>,
    /// Whether an endpoint is gone since the last question.
    gone: bool,
}

impl Default for Disks {
    fn default() -> Self {
        Self::new(HeapPages::default())
    }
}

impl<P: Pages> Disks<P> {
    /// Without any disk.
    fn new(pages: P) -> Self {
        Self {
            endpoints: Endpoints::default(),
            known: BTreeMap::new(),
            servers: Servers::default(),
            journals: Journals::new(pages, JOURNAL_PAGES),
            unread: BTreeSet::new(),
            refused: BTreeSet::new(),
            orders: Vec::new(),
            gone: false,
        }
    }

    /// Follows the database: the entries of the endpoint table that were written, the owners of
    /// functions, and the states of partitions.
    pub fn follow(&mut self, store: &mut Store, changed: BTreeSet<u32>, records: &impl Records) {
        self.servers.follow(records);
        self.unread.extend(changed);
        self.read_again(store, records);
        self.advance(store, records);
        self.attach_again(store);
    }

    /// Returns whether a server refused rings that are in use. They are attached again with the next
    /// change that may help, or by [`Self::attach_again`].
    pub fn has_refused(&self) -> bool {
        !self.refused.is_empty()
    }

    /// Orders the attaches again that were refused of rings in use.
    pub fn attach_again(&mut self, store: &mut Store) {
        for index in take(&mut self.refused) {
            self.event(store, index, Event::Again);
        }
    }

    /// Handles a report of an I/O partition.
    pub fn hear(&mut self, store: &mut Store, member: u32, report: Report, records: &impl Records) {
        // What the attach of another endpoint may have waited for.
        let helps = matches!(
            report,
            Report::Driving { .. } | Report::Endpoint { report: EndpointReport::Detached, .. }
        );
        match report {
            Report::Ready { protocol: PROTOCOL, .. } => self.servers.started(member, records),
            Report::Ready { .. } => self.servers.ended(member),
            // The watchdog hears it.
            Report::Alive { .. } => return,
            Report::Driving { index, medium } => {
                self.servers.drives(member, index, Ok(medium), records);
            }
            Report::Failed { index, reason } => {
                self.servers.drives(member, index, Err(short(reason)), records);
            }
            Report::Left { index } => {
                self.servers.left(member, index);
                self.let_go(store, member, index, records);
            }
            Report::Endpoint { endpoint, incarnation, report } => {
                let Some(server) = self.servers.server(member) else {
                    return;
                };
                let (epoch, body) = (server.epoch, body_of(report));
                let report = backend::Report { epoch, incarnation, body };
                self.event(store, endpoint, Event::Report(report));
                // Without rings it needs a server that drives all functions.
                self.choose_server(store, endpoint, records);
                if self.gone {
                    self.read_again(store, records);
                } else if !helps {
                    return;
                }
            }
        }
        self.advance(store, records);
        if helps {
            self.attach_again(store);
        }
    }

    /// Notes that a partition has let go of all rings on a function. Another server gets them, or the
    /// same one again.
    fn let_go(&mut self, store: &mut Store, member: u32, function: u32, records: &impl Records) {
        if records.owner(function) != member {
            return;
        }
        let held: Vec<u32> = self
            .known
            .iter_mut()
            .filter(|(_, known)| known.functions.contains(&function))
            .filter_map(|(index, known)| Some((index, known.added.as_mut()?)))
            .filter(|(_, added)| added.last.is_some_and(|last| last.member == member))
            .map(|(index, added)| {
                added.let_go = true;
                *index
            })
            .collect();
        for index in held {
            self.choose_server(store, index, records);
            self.release(store, index);
        }
    }

    /// Handles a change in the store. Returns whether it was one of a disk's front end.
    pub fn changed(&mut self, store: &mut Store, path: &Path) -> bool {
        let number = self.endpoints.at(path);
        if let Some(number) = number {
            self.event(store, number, Event::Frontend);
        }
        number.is_some()
    }

    /// Notes that an I/O partition is given up. Its endpoints hear that when the database changes.
    pub fn ended(&mut self, member: u32) {
        self.servers.ended(member);
    }

    /// Returns whether nothing serves an endpoint any more.
    pub fn is_drained(&self, endpoint: u32) -> bool {
        self.known.get(&endpoint).is_none_or(|known| known.added.is_none())
    }

    /// Returns whether an endpoint has gone since the last question.
    pub const fn take_gone(&mut self) -> bool {
        core::mem::replace(&mut self.gone, false)
    }

    /// Takes the orders to be sent, each with its I/O partition.
    pub fn take_orders(&mut self) -> Vec<(u32, Order)> {
        take(&mut self.orders)
    }

    /// The status of the disk of an endpoint. Returns `None` if there is no such disk.
    pub fn status(&self, endpoint: u32) -> Option<DiskStatus> {
        let known = self.known.get(&endpoint)?;
        let why = known.why.as_ref().map(Why::words);
        let mut cause = why.or_else(|| known.cause.clone());
        if let Some(words) = &mut cause {
            words.truncate(words.floor_char_boundary(MAX_DISK_CAUSE));
        }
        let Some(added) = &known.added else {
            let state = if known.detaching { DiskState::Detaching } else { DiskState::Unserved };
            return Some(DiskStatus { state, server: None, sectors: None, cause });
        };
        let state = match self.endpoints.standing(endpoint)? {
            Standing::Waiting => DiskState::Waiting,
            Standing::Attached => DiskState::Attached,
            Standing::Interrupted => DiskState::Moving,
            Standing::Barred => DiskState::Failed,
            Standing::Leaving => DiskState::Detaching,
        };
        let server = added.epoch.and(added.last).map(|server| server.member);
        let sectors = self.endpoints.features(endpoint).map(|features| features.sectors);
        Some(DiskStatus { state, server, sectors, cause })
    }

    /// Reads the entries that are to be read, as far as no earlier endpoint occupies them.
    fn read_again(&mut self, store: &mut Store, records: &impl Records) {
        for index in take(&mut self.unread) {
            self.read(store, index, records);
        }
    }

    /// Reads an entry of the endpoint table.
    fn read(&mut self, store: &mut Store, index: u32, records: &impl Records) {
        let entry = records.endpoint(index).filter(|entry| entry.state != endpoint_state::FREE);
        if let Some(known) = self.known.get_mut(&index) {
            if let Some(entry) = entry.as_ref().filter(|entry| entry.incarnation == known.life) {
                known.detaching |= entry.state != endpoint_state::ATTACHED;
                return;
            }
            // The database has another endpoint there, so this one has to go first.
            known.detaching = true;
            self.event(store, index, Event::Destroy);
            if !self.is_drained(index) {
                self.unread.insert(index);
                return;
            }
        }
        match entry {
            Some(entry) => drop(self.known.insert(index, Known::new(&entry))),
            None => drop(self.known.remove(&index)),
        }
    }

    /// Adds, moves and removes endpoints as far as that can be done now.
    fn advance(&mut self, store: &mut Store, records: &impl Records) {
        for index in self.known.keys().copied().collect::<Vec<_>>() {
            let Some(known) = self.known.get(&index) else { continue };
            match (&known.added, known.detaching) {
                (None, true) => {}
                (None, false) => self.add(store, index, records),
                (Some(_), _) => {
                    self.choose_server(store, index, records);
                    self.remove(store, index, records);
                    self.release(store, index);
                }
            }
        }
    }

    /// Adds an endpoint, if it can be served.
    fn add(&mut self, store: &mut Store, index: u32, records: &impl Records) {
        let Some(known) = self.known.get(&index) else { return };
        let disk = match self.servers.server_of(&known.functions, records) {
            Err(why) => Err(Why::Unserved(why)),
            // The client's store is not connected yet.
            Ok(_) if !is_home(store, known.client) => return,
            Ok(server) => records
                .endpoint(index)
                .ok_or(Why::Unserved(Unserved::Unowned(0)))
                .and_then(|entry| {
                    let medium = |function| self.servers.medium(server.member, function);
                    media::disk_of(&entry, medium).map_err(Why::Medium)
                }),
        };
        let (client, device) = (known.client, known.device);
        let endpoint = disk.and_then(|disk| {
            let endpoint = backend::Endpoint {
                number: index,
                client,
                device,
                server: IO_SERVICE,
                features: disk.features,
                incarnation: (known.life.wrapping_add(1) << RINGS_BITS) + 1,
            };
            let added = self.endpoints.add(store, &endpoint);
            added.map(|()| disk).map_err(Why::Store)
        });
        match endpoint {
            Ok(disk) => {
                let Some(known) = self.known.get_mut(&index) else { return };
                known.added = Some(Added::new(disk));
                self.set_why(index, None);
                self.choose_server(store, index, records);
            }
            Err(why) => self.set_why(index, Some(why)),
        }
    }

    /// Tells an endpoint who serves it, if that has changed.
    fn choose_server(&mut self, store: &mut Store, index: u32, records: &impl Records) {
        let Some(known) = self.known.get(&index) else { return };
        let Some(added) = &known.added else { return };
        let holder = added.holder().filter(|_| self.endpoints.holds_rings(index));
        let chosen = self.servers.server_of(&known.functions, records).map_err(Why::Unserved);
        let chosen = chosen.and_then(|server| {
            // Whoever held the rings may still reach the client's memory.
            if let Some(Server { member, life, .. }) = holder
                && (member, life) != (server.member, server.life)
                && !self.servers.is_gone(member, life)
            {
                return Err(Why::Unserved(Unserved::NotGone(member)));
            }
            let medium = |function| self.servers.medium(server.member, function);
            let fits = media::sectors_of(&added.disk.extents, medium);
            fits.map(|_| server).map_err(Why::Medium)
        });
        let runs = |holder: &Server| self.servers.server(holder.member) == Some(*holder);
        let server = chosen.as_ref().ok().copied().or(holder.filter(runs));
        let epoch = server.map(|server| server.epoch);
        let before = added.epoch;
        let Some(added) = self.known.get_mut(&index).and_then(|known| known.added.as_mut()) else {
            return;
        };
        added.epoch = epoch;
        added.last = server.or(added.last);
        added.let_go &= server.is_none();
        self.set_why(index, chosen.err());
        if epoch != before {
            self.event(store, index, Event::Server(epoch));
        }
    }

    /// Tells an endpoint, if it is detaching, to end its rings.
    fn remove(&mut self, store: &mut Store, index: u32, records: &impl Records) {
        let Some(known) = self.known.get_mut(&index).filter(|known| known.detaching) else {
            return;
        };
        let Some(added) = &mut known.added else { return };
        let lives = [state::BUILDING, state::RUNNING, state::PAUSED];
        let client = records.partition(known.client);
        if !client.is_some_and(|(_, state)| lives.contains(&state)) {
            if !core::mem::replace(&mut added.destroyed, true) {
                self.event(store, index, Event::Destroy);
            }
        } else if !core::mem::replace(&mut added.removed, true) {
            self.event(store, index, Event::Remove);
        }
    }

    /// Ends the rings of an endpoint that nobody serves and whose last server is gone, if they are to
    /// end: no successor has to let go of them.
    fn release(&mut self, store: &mut Store, index: u32) {
        let added = self.known.get(&index).and_then(|known| known.added.as_ref());
        let Some(added) = added.filter(|added| added.epoch.is_none()) else { return };
        let is_gone = |last: Server| self.servers.is_gone(last.member, last.life);
        if added.let_go || added.last.is_some_and(is_gone) {
            self.handle(store, index, Event::Released);
        }
    }

    /// Keeps why an endpoint is not served, and logs what lasts.
    fn set_why(&mut self, index: u32, why: Option<Why>) {
        if let Some(known) = self.known.get_mut(&index).filter(|known| known.why != why) {
            if let Some(why) = why.as_ref().filter(|why| why.is_lasting()) {
                known.log(&why.words());
            }
            known.why = why;
        }
    }

    /// Gives an event to the negotiation of an endpoint, and carries out its effects.
    fn event(&mut self, store: &mut Store, index: u32, event: Event) {
        self.handle(store, index, event);
        self.release(store, index);
    }

    fn handle(&mut self, store: &mut Store, index: u32, event: Event) {
        let before = self.endpoints.standing(index);
        let mut effects = self.endpoints.handle(store, index, event);
        effects.reverse();
        while let Some(effect) = effects.pop() {
            match effect {
                Effect::Order(order) => {
                    let refused = self.order(index, order);
                    // The answer that the server would have given.
                    let more = refused
                        .map(|report| self.endpoints.handle(store, index, Event::Report(report)));
                    effects.splice(0..0, more.into_iter().flatten().rev());
                }
                Effect::Incarnation(_) => self.journals.part_with(index),
                Effect::Record(cause) => self.note_cause(index, &cause),
                Effect::Gone => self.note_gone(index),
            }
        }
        match self.endpoints.is_refused(index) {
            true => drop(self.refused.insert(index)),
            false => drop(self.refused.remove(&index)),
        }
        if before != Some(Standing::Attached)
            && self.endpoints.standing(index) == Some(Standing::Attached)
            && let Some(known) = self.known.get_mut(&index)
        {
            known.cause = None;
        }
    }

    fn note_cause(&mut self, index: u32, cause: &backend::Cause) {
        if let Some(known) = self.known.get_mut(&index) {
            let words = cause.to_string();
            known.causes = known.causes.saturating_add(1);
            // A client can close its disk as often as it likes.
            if known.causes <= LOGGED || known.causes.is_power_of_two() {
                known.log(&words);
            }
            known.cause = Some(words);
        }
    }

    fn note_gone(&mut self, index: u32) {
        self.journals.part_with(index);
        self.gone = true;
        if let Some(known) = self.known.get_mut(&index) {
            known.added = None;
        }
    }

    /// Queues an order for the server of an endpoint. If it cannot be given, returns the report that
    /// says so.
    fn order(&mut self, index: u32, order: backend::Order) -> Option<backend::Report> {
        let known = self.known.get(&index)?;
        let added = known.added.as_ref()?;
        let (epoch, Server { member, .. }) = (added.epoch?, added.last?);
        let extents = added.disk.extents.clone();
        let order = match order {
            backend::Order::Attach { incarnation, rings, .. } => {
                let count = rings.queues.len();
                let Some(journals) = self.journals.references(index, incarnation, count) else {
                    let reason = "no journal page is free; detach another disk".to_string();
                    let body = ReportBody::Refused(reason);
                    return Some(backend::Report { epoch, incarnation, body });
                };
                let ring = |(queue, journal): (backend::Queue, u32)| Ring {
                    pages: queue.pages,
                    port: queue.port,
                    journal,
                };
                let features = &added.disk.features;
                Order::Attach(Attach {
                    endpoint: index,
                    incarnation,
                    client: u16::try_from(known.client).unwrap_or(u16::MAX),
                    rings: rings.queues.into_iter().zip(journals).map(ring).collect(),
                    read_only: features.read_only,
                    discard: features.discard.is_some(),
                    indirect_segments: features.indirect_segments,
                    extents,
                })
            }
            backend::Order::Resize { incarnation, .. } => {
                Order::Resize { endpoint: index, incarnation, extents }
            }
            backend::Order::Detach { incarnation } => {
                Order::Detach { endpoint: index, incarnation }
            }
        };
        self.orders.push((member, order));
        None
    }
}

/// Returns whether a partition's home is in the store.
fn is_home(store: &Store, client: u32) -> bool {
    Path::new(&format!("{}/domid", home(client))).is_ok_and(|path| store.read(&path).is_some())
}

/// Cuts a reason to the length that is kept.
fn short(mut reason: String) -> String {
    reason.truncate(reason.floor_char_boundary(MAX_DISK_CAUSE));
    reason
}

/// A report of an I/O partition about an endpoint, as the negotiation takes it.
fn body_of(report: EndpointReport) -> ReportBody {
    match report {
        EndpointReport::Attached => ReportBody::Attached,
        EndpointReport::Refused { reason } => ReportBody::Refused(short(reason)),
        EndpointReport::Broken { reason } => ReportBody::Broken(short(reason)),
        EndpointReport::MediumFailed { reason } => ReportBody::MediumFailed(short(reason)),
        EndpointReport::Resized { sectors } => ReportBody::Resized(sectors),
        EndpointReport::Detached => ReportBody::Detached,
    }
}

impl Records for Database<'_> {
    fn partition(&self, number: u32) -> Option<(u64, u32)> {
        let descriptor = self.reader().descriptor(number).ok()?;
        Some((descriptor.created_at, descriptor.state))
    }

    fn owner(&self, function: u32) -> u32 {
        self.reader().device(function).map_or(UNASSIGNED, |entry| entry.owner)
    }

    fn next_owner(&self, function: u32) -> u32 {
        let next = self.reader().device(function).map_or(0, |entry| entry.next[0]);
        u32::try_from(next).unwrap_or(0)
    }

    fn endpoint(&self, index: u32) -> Option<Box<Endpoint>> {
        Database::endpoint(self, index).ok()
    }
}
