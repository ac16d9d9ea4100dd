//! One client: bytes that came in, bytes that go out, its watches and transactions.
//!
//! Rule: what is kept for a client is bounded by [`crate::limits`], whatever it sends.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use zerocopy::FromBytes;

use crate::limits;
use crate::path::{Path, home};
use crate::tree::{Permissions, Tree};
use crate::wire::{HEADER, Header, PAYLOAD_MAX, kind, message};

/// What a watch is on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Watched {
    /// A node and all below it.
    Node(Path),
    /// A happening, `@introduceDomain` or the like.
    Special(String),
}

/// A watch.
#[derive(Clone, Debug)]
pub(crate) struct Watch {
    pub(crate) on: Watched,
    pub(crate) token: String,
    /// Whether events name paths relative to the client's home.
    pub(crate) relative: bool,
}

/// A change made in a transaction.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    /// A value was written.
    Write(Path, Vec<u8>),
    /// A node was made.
    Make(Path),
    /// A node was removed.
    Remove(Path),
    /// Permissions were set.
    Permit(Path, Permissions),
}

impl Change {
    /// The node it is about.
    pub(crate) const fn path(&self) -> &Path {
        let (Self::Write(path, _) | Self::Make(path) | Self::Remove(path) | Self::Permit(path, _)) =
            self;
        path
    }
}

/// An open transaction.
#[derive(Debug)]
pub(crate) struct Transaction {
    /// The tree when it began.
    pub(crate) base: Tree,
    /// The tree as the client sees it.
    pub(crate) view: Tree,
    /// Nodes it looked at or changed.
    pub(crate) touched: BTreeSet<Path>,
    /// What it changed, in order.
    pub(crate) changes: Vec<Change>,
}

/// A whole request.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) head: Header,
    pub(crate) payload: Vec<u8>,
}

/// A client.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) partition: u32,
    input: Vec<u8>,
    output: Vec<u8>,
    /// A message was too long; nothing of the stream can be understood any more.
    pub(crate) broken: bool,
    pub(crate) watches: Vec<Watch>,
    pub(crate) transactions: BTreeMap<u32, Transaction>,
    next_transaction: u32,
}

impl Connection {
    pub(crate) const fn new(partition: u32) -> Self {
        Self {
            partition,
            input: Vec::new(),
            output: Vec::new(),
            broken: false,
            watches: Vec::new(),
            transactions: BTreeMap::new(),
            next_transaction: 1,
        }
    }

    /// Takes bytes in as far as they are wanted; returns how many.
    pub(crate) fn take_in(&mut self, bytes: &[u8]) -> usize {
        let room = (HEADER + PAYLOAD_MAX).saturating_sub(self.input.len());
        let taken = bytes.get(..room).unwrap_or(bytes);
        self.input.extend_from_slice(taken);
        taken.len()
    }

    /// The next whole request, where its reply may be queued.
    pub(crate) fn next_request(&mut self) -> Option<Request> {
        if self.broken || self.output.len() >= limits::UNREAD {
            return None;
        }
        let (head, rest) = Header::read_from_prefix(&self.input).ok()?;
        let length = head.len as usize;
        if length > PAYLOAD_MAX {
            self.broken = true;
            return None;
        }
        let payload = rest.get(..length)?.to_vec();
        self.input.drain(..HEADER + length);
        Some(Request { head, payload })
    }

    pub(crate) fn reply(&mut self, head: Header, payload: &[u8]) {
        message(&mut self.output, head, payload);
    }

    pub(crate) fn output(&self) -> &[u8] {
        &self.output
    }

    pub(crate) fn sent(&mut self, bytes: usize) {
        self.output.drain(..bytes.min(self.output.len()));
    }

    /// A number for a new transaction, not 0 and not in use.
    pub(crate) fn transaction_number(&mut self) -> u32 {
        loop {
            let number = self.next_transaction;
            self.next_transaction = self.next_transaction.wrapping_add(1).max(1);
            if number != 0 && !self.transactions.contains_key(&number) {
                return number;
            }
        }
    }

    /// Queues the event of a watch on a node: `path` is where something happened.
    pub(crate) fn event(&mut self, path: &str, watch: &Watch) {
        let home = home(self.partition);
        let shown = match path.strip_prefix(home.as_str()) {
            Some(rest) if watch.relative => rest.strip_prefix('/').unwrap_or(rest),
            _ => path,
        };
        let mut payload = Vec::with_capacity(shown.len() + watch.token.len() + 2);
        for text in [shown, &watch.token] {
            payload.extend_from_slice(text.as_bytes());
            payload.push(0);
        }
        let room = limits::UNREAD_EVENTS.saturating_sub(self.output.len());
        if payload.len() <= PAYLOAD_MAX && HEADER + payload.len() <= room {
            let head = Header { kind: kind::WATCH_EVENT, ..Header::default() };
            message(&mut self.output, head, &payload);
        }
    }

    /// Adds a watch and tells of it once.
    pub(crate) fn add_watch(&mut self, text: &str, on: Watched, token: &str) {
        let relative = !text.starts_with('/') && !text.starts_with('@');
        let watch = Watch { on, token: token.to_string(), relative };
        let path = match &watch.on {
            Watched::Node(path) => path.to_string(),
            Watched::Special(name) => name.clone(),
        };
        self.event(&path, &watch);
        self.watches.push(watch);
    }
}
