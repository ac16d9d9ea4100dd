//! The state of one client: its input, its output, its watches and transactions.
//!
//! ```text
//! ring -> input (one message) -> request -> reply  \
//!         change of a watched node -> queued event -> output -> ring
//! ```
//!
//! Rule: a client is served only while little of its output is unread, so input and output together
//! fit [`limits::FIXED`] bytes. All other data that is kept for a client is charged to it in the
//! [`Ledger`]. If an event cannot be kept, its watch is marked; once the queue is empty, an event
//! with the watch's own path follows. So after the last change below a watch, a client gets at
//! least one event, and must then read all of the nodes.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;

use zerocopy::FromBytes;

use crate::ledger::Ledger;
use crate::limits;
use crate::overlay::{Notes, Overlay};
use crate::path::{Path, home};
use crate::wire::{HEADER, Header, PAYLOAD_MAX, kind, message};

/// The target of a watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Watched {
    /// A node and everything below it.
    Node(Path),
    /// A special path that names an event: `@introduceDomain` or `@releaseDomain`.
    Special(String),
}

impl Watched {
    /// The path as events name it.
    pub(crate) fn as_str(&self) -> &str {
        match self {
            Self::Node(path) => path.as_str(),
            Self::Special(name) => name,
        }
    }
}

/// A watch.
#[derive(Debug)]
pub(crate) struct Watch {
    pub(crate) on: Watched,
    pub(crate) token: Box<str>,
    /// Whether events name paths relative to the client's home.
    relative: bool,
    /// Whether an event could not be kept.
    lost: bool,
}

impl Watch {
    /// The bytes that a watch costs its client; its path is also in the index of all watches.
    pub(crate) const fn cost(path: &str, token: &str) -> usize {
        limits::WATCH_BYTES + 2 * path.len() + token.len()
    }
}

/// A queued event: the number of its watch, and the path of the change.
type Event = (u64, Rc<str>);

const fn event_cost(path: &str) -> usize {
    limits::EVENT_BYTES + path.len()
}

/// An open transaction.
#[derive(Debug, Default)]
pub(crate) struct Transaction {
    /// Its changes.
    pub(crate) overlay: Overlay,
    /// The nodes it depends on.
    pub(crate) notes: Notes,
}

impl Transaction {
    /// The bytes that it costs its client.
    pub(crate) const fn bytes(&self) -> usize {
        limits::TRANSACTION_BYTES + self.overlay.bytes() + self.notes.bytes()
    }
}

/// A complete request.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) head: Header,
    pub(crate) payload: Vec<u8>,
}

/// A client.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) partition: u32,
    /// Whether the client may watch other clients connect and disconnect.
    pub(crate) privileged: bool,
    input: Vec<u8>,
    output: Vec<u8>,
    /// A message was too long, so the rest of the stream cannot be parsed.
    pub(crate) broken: bool,
    pub(crate) watches: BTreeMap<u64, Watch>,
    next_watch: u64,
    events: VecDeque<Event>,
    queued: BTreeSet<Event>,
    /// Number of watches that are marked as having lost an event.
    losers: usize,
    pub(crate) transactions: BTreeMap<u32, Transaction>,
    next_transaction: u32,
}

impl Connection {
    pub(crate) const fn new(partition: u32, privileged: bool) -> Self {
        Self {
            partition,
            privileged,
            input: Vec::new(),
            output: Vec::new(),
            broken: false,
            watches: BTreeMap::new(),
            next_watch: 1,
            events: VecDeque::new(),
            queued: BTreeSet::new(),
            losers: 0,
            transactions: BTreeMap::new(),
            next_transaction: 1,
        }
    }

    /// Takes input bytes of one message, if its reply may be queued. Returns how many.
    pub(crate) fn take_in(&mut self, bytes: &[u8]) -> usize {
        if self.broken || self.output.len() >= limits::UNREAD {
            return 0;
        }
        let mut taken = 0;
        while let wanted @ 1.. = self.wanted() {
            let rest = bytes.get(taken..).unwrap_or_default();
            let piece = rest.get(..wanted).unwrap_or(rest);
            if piece.is_empty() {
                break;
            }
            self.input.reserve_exact(wanted);
            self.input.extend_from_slice(piece);
            taken += piece.len();
        }
        taken
    }

    /// Bytes that are missing from the message; 0 if the message is complete or too long.
    fn wanted(&mut self) -> usize {
        let Ok((head, rest)) = Header::read_from_prefix(&self.input) else {
            return HEADER - self.input.len();
        };
        let length = head.len as usize;
        self.broken |= length > PAYLOAD_MAX;
        if self.broken { 0 } else { length.saturating_sub(rest.len()) }
    }

    /// The request in the input, if it is complete and its reply may be queued.
    pub(crate) fn next_request(&mut self) -> Option<Request> {
        if self.output.len() >= limits::UNREAD || self.wanted() > 0 || self.broken {
            return None;
        }
        let mut payload = core::mem::take(&mut self.input);
        let (head, _) = Header::read_from_prefix(&payload).ok()?;
        payload.drain(..HEADER);
        Some(Request { head, payload })
    }

    pub(crate) fn reply(&mut self, head: Header, payload: &[u8]) {
        message(&mut self.output, head, &[payload]);
    }

    pub(crate) fn output(&self) -> &[u8] {
        &self.output
    }

    /// Removes output that the client has read, and queues further events.
    pub(crate) fn sent(&mut self, bytes: usize, ledger: &mut Ledger) {
        self.output.drain(..bytes.min(self.output.len()));
        if self.output.is_empty() {
            self.output = Vec::new();
        }
        self.send_events(ledger);
    }

    /// Moves queued events to the output, while little of it is unread.
    pub(crate) fn send_events(&mut self, ledger: &mut Ledger) {
        while self.output.len() < limits::UNREAD {
            let Some(event) = self.events.pop_front() else {
                return self.send_lost();
            };
            self.queued.remove(&event);
            let (id, path) = event;
            ledger.release(self.partition, event_cost(&path));
            if let Some(watch) = self.watches.get(&id) {
                write_event(&mut self.output, self.partition, &path, watch);
            }
        }
    }

    /// Sends an event for each watch that lost one.
    fn send_lost(&mut self) {
        for watch in self.watches.values_mut() {
            if self.losers == 0 || self.output.len() >= limits::UNREAD {
                return;
            }
            if core::mem::take(&mut watch.lost) {
                self.losers -= 1;
                write_event(&mut self.output, self.partition, watch.on.as_str(), watch);
            }
        }
        self.losers = 0;
    }

    /// A number for a new transaction: not 0, and not in use.
    pub(crate) fn transaction_number(&mut self) -> u32 {
        loop {
            let number = self.next_transaction;
            self.next_transaction = self.next_transaction.wrapping_add(1).max(1);
            if number != 0 && !self.transactions.contains_key(&number) {
                return number;
            }
        }
    }

    /// Queues the event of a watch, unless the same event is queued already.
    pub(crate) fn event(&mut self, path: &Rc<str>, id: u64, ledger: &mut Ledger) {
        let Some(watch) = self.watches.get_mut(&id) else {
            return;
        };
        let event = (id, path.clone());
        if watch.lost || self.queued.contains(&event) {
            return;
        }
        if !ledger.charge(self.partition, event_cost(path)) {
            watch.lost = true;
            self.losers += 1;
            return;
        }
        self.queued.insert(event.clone());
        self.events.push_back(event);
    }

    /// Adds a watch. Returns its number. The caller has charged its cost.
    pub(crate) fn add_watch(&mut self, on: Watched, token: &str, relative: bool) -> u64 {
        let id = self.next_watch;
        self.next_watch += 1;
        self.watches.insert(id, Watch { on, token: token.into(), relative, lost: false });
        id
    }

    /// Removes a watch and its queued events.
    pub(crate) fn remove_watch(&mut self, id: u64, ledger: &mut Ledger) -> Option<Watch> {
        let watch = self.watches.remove(&id)?;
        self.losers = self.losers.saturating_sub(usize::from(watch.lost));
        ledger.release(self.partition, Watch::cost(watch.on.as_str(), &watch.token));
        Some(watch)
    }

    /// Removes a transaction, to be applied or dropped.
    pub(crate) fn close(&mut self, number: u32, ledger: &mut Ledger) -> Option<Transaction> {
        let transaction = self.transactions.remove(&number)?;
        ledger.release(self.partition, transaction.bytes());
        Some(transaction)
    }

    /// The bytes charged for this client's connection.
    pub(crate) fn bytes(&self) -> usize {
        let watches = self.watches.values();
        let watches = watches.map(|watch| Watch::cost(watch.on.as_str(), &watch.token));
        let events = self.events.iter().map(|(_, path)| event_cost(path));
        let transactions = self.transactions.values().map(Transaction::bytes);
        watches.chain(events).chain(transactions).sum()
    }
}

/// Writes the event of a watch; `path` is where the change happened.
fn write_event(output: &mut Vec<u8>, partition: u32, path: &str, watch: &Watch) {
    let home = home(partition);
    let shown = match path.strip_prefix(home.as_str()) {
        Some(rest) if watch.relative => rest.strip_prefix('/').unwrap_or(rest),
        _ => path,
    };
    let head = Header { kind: kind::WATCH_EVENT, ..Header::default() };
    message(output, head, &[shown.as_bytes(), &[0], watch.token.as_bytes(), &[0]]);
}
