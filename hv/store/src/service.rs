//! The store as the ultravisor uses it: clients by partition, and the privileged side.
//!
//! Rule: an event is told only to a client that may read the node it is about, before or after
//! the change.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;

use crate::connection::{Change, Connection, Watched};
use crate::path::Path;
use crate::tree::{Access, Actor, Permissions, Tree};
use crate::wire::Error;

/// Changes by clients that are kept for [`Store::take_change`].
const KEPT_CHANGES: usize = 4096;

/// Why a client is not listened to any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// No partition of this number is connected.
    NotConnected,
    /// It sent a message longer than the protocol allows.
    MessageTooLong,
}

/// The store.
#[derive(Debug)]
pub struct Store {
    pub(crate) tree: Tree,
    pub(crate) connections: BTreeMap<u32, Connection>,
    observed: Vec<Path>,
    changes: VecDeque<Path>,
}

impl Store {
    /// A store with nothing in it. Its root belongs to `owner`.
    #[must_use]
    pub fn new(owner: u32) -> Self {
        Self {
            tree: Tree::new(owner),
            connections: BTreeMap::new(),
            observed: Vec::new(),
            changes: VecDeque::new(),
        }
    }

    /// Lets a partition talk. One that did before starts anew, without watches and transactions.
    pub fn connect(&mut self, partition: u32) {
        self.connections.insert(partition, Connection::new(partition));
        self.happening("@introduceDomain");
    }

    /// Forgets a client: what it watches, what it has open, what it has not read.
    pub fn disconnect(&mut self, partition: u32) {
        if self.connections.remove(&partition).is_some() {
            self.happening("@releaseDomain");
        }
    }

    /// Takes bytes that a client sent, does the requests that are whole, and returns how many
    /// bytes were taken. Fewer than there are: the client has replies to read first.
    ///
    /// # Errors
    /// See [`Fault`]: its bytes cannot be taken any more.
    pub fn feed(&mut self, partition: u32, bytes: &[u8]) -> Result<usize, Fault> {
        let mut taken = 0;
        loop {
            let client = self.connections.get_mut(&partition).ok_or(Fault::NotConnected)?;
            let rest = bytes.get(taken..).unwrap_or_default();
            let more = client.take_in(rest);
            taken += more;
            match client.next_request() {
                Some(request) => crate::request::serve(self, partition, &request),
                None if client.broken => return Err(Fault::MessageTooLong),
                None if more == 0 => return Ok(taken),
                None => {}
            }
        }
    }

    /// What a client has to read.
    #[must_use]
    pub fn output(&self, partition: u32) -> &[u8] {
        self.connections.get(&partition).map(Connection::output).unwrap_or_default()
    }

    /// Takes what a client has read out of its output.
    pub fn sent(&mut self, partition: u32, bytes: usize) {
        if let Some(client) = self.connections.get_mut(&partition) {
            client.sent(bytes);
        }
    }

    /// Tells of changes that clients make at this path or below it; see [`Self::take_change`].
    pub fn observe(&mut self, path: Path) {
        self.observed.push(path);
    }

    /// Stops telling of changes below a path.
    pub fn ignore(&mut self, path: &Path) {
        self.observed.retain(|observed| !observed.is_within(path));
    }

    /// The next observed path that a client changed. When very many were not taken, the oldest
    /// are lost: look at the values, not at how often they changed.
    pub fn take_change(&mut self) -> Option<Path> {
        self.changes.pop_front()
    }

    /// A node's value.
    #[must_use]
    pub fn read(&self, path: &Path) -> Option<&[u8]> {
        Some(&self.tree.get(path)?.value)
    }

    /// Writes a value; the nodes that this makes get the permissions of the node above them.
    ///
    /// # Errors
    /// [`Error::NoSpace`]: the value is too long.
    pub fn write(&mut self, path: &Path, value: &[u8]) -> Result<(), Error> {
        self.change(Actor::Server, &Change::Write(path.clone(), value.to_vec()))
    }

    /// Makes a node, where it is not there, with these permissions.
    ///
    /// # Errors
    /// None at present.
    pub fn make(&mut self, path: &Path, permissions: Permissions) -> Result<(), Error> {
        self.change(Actor::Server, &Change::Make(path.clone()))?;
        self.change(Actor::Server, &Change::Permit(path.clone(), permissions))
    }

    /// Removes a node and all below it.
    ///
    /// # Errors
    /// [`Error::Absent`]: the node above it is not there; [`Error::Invalid`]: it is the root.
    pub fn remove(&mut self, path: &Path) -> Result<(), Error> {
        self.change(Actor::Server, &Change::Remove(path.clone()))
    }

    /// Nodes that count against a partition's limit.
    #[must_use]
    pub fn nodes_of(&self, partition: u32) -> u32 {
        self.tree.charged(partition)
    }

    /// Makes a change and tells those who watch.
    pub(crate) fn change(&mut self, actor: Actor, change: &Change) -> Result<(), Error> {
        // A version that is kept has the nodes on the way copied, so it is kept only for somebody.
        let before = self.is_watched(change.path()).then(|| self.tree.clone());
        let gone = apply(&mut self.tree, actor, change)?;
        let removed = matches!(change, Change::Remove(_));
        if !removed || !gone.is_empty() {
            self.observed(change.path(), actor);
            if let Some(before) = before {
                self.tell(&before, change.path(), &gone);
            }
        }
        Ok(())
    }

    /// Whether a client watches the node, one above it, or one below it.
    fn is_watched(&self, path: &Path) -> bool {
        let concerns = |watched: &Watched| match watched {
            Watched::Node(on) => path.is_within(on) || on.is_within(path),
            Watched::Special(_) => false,
        };
        let mut clients = self.connections.values();
        clients.any(|client| client.watches.iter().any(|watch| concerns(&watch.on)))
    }

    /// Keeps a change for [`Self::take_change`], where it is an observed one by a client.
    pub(crate) fn observed(&mut self, path: &Path, actor: Actor) {
        if actor == Actor::Server
            || !self.observed.iter().any(|one| path.is_within(one) || one.is_within(path))
        {
            return;
        }
        if self.changes.len() >= KEPT_CHANGES {
            self.changes.pop_front();
        }
        self.changes.push_back(path.clone());
    }

    /// Queues the events of a change at `path`, by which the nodes `gone` vanished.
    pub(crate) fn tell(&mut self, before: &Tree, path: &Path, gone: &[Path]) {
        let after = &self.tree;
        for client in self.connections.values_mut() {
            let reader = Actor::Client(client.partition);
            let may_see = |path: &Path| {
                [before, after].iter().any(|tree| tree.visible(reader, path, Access::READ).is_ok())
            };
            let mut hits = Vec::new();
            for watch in &client.watches {
                let Watched::Node(on) = &watch.on else {
                    continue;
                };
                if path.is_within(on) {
                    if may_see(path) {
                        hits.push((path.clone(), watch.clone()));
                    }
                } else if gone.contains(on) && may_see(on) {
                    hits.push((on.clone(), watch.clone()));
                }
            }
            for (at, watch) in hits {
                client.event(at.as_str(), &watch);
            }
        }
    }

    /// Tells those who watch for it that something happened.
    fn happening(&mut self, name: &str) {
        for client in self.connections.values_mut() {
            let of = |on: &Watched| matches!(on, Watched::Special(special) if special == name);
            let hits: Vec<_> = client.watches.iter().filter(|w| of(&w.on)).cloned().collect();
            for watch in hits {
                client.event(name, &watch);
            }
        }
    }
}

/// Makes a change in a tree; returns the nodes that vanished. Nothing is changed where it fails.
pub(crate) fn apply(tree: &mut Tree, actor: Actor, change: &Change) -> Result<Vec<Path>, Error> {
    match change {
        Change::Write(path, value) => tree.write(actor, path, Some(value)).map(|()| Vec::new()),
        Change::Make(path) => tree.write(actor, path, None).map(|()| Vec::new()),
        Change::Remove(path) => tree.remove(actor, path),
        Change::Permit(path, permissions) => {
            tree.set_permissions(actor, path, permissions.clone()).map(|()| Vec::new())
        }
    }
}
