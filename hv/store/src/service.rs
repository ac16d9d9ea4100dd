//! The store as the ultravisor uses it: clients by partition, and the server's own access.
//!
//! Rule: an event goes only to a client that may read the node concerned, before or after the
//! change.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::rc::Rc;
use alloc::string::ToString;
use alloc::vec::Vec;
use core::cell::LazyCell;

use crate::connection::{Connection, Watched};
use crate::ledger::{Differences, Ledger};
use crate::nodes::as_str;
use crate::overlay::{Entry, Overlay, Step, View};
use crate::path::Path;
use crate::tree::{Access, Actor, Permissions, Tree};
use crate::wire::Error;

/// The reason why the store takes no more bytes from a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// No partition with this number is connected.
    NotConnected,
    /// The client sent a message longer than the protocol allows.
    MessageTooLong,
}

/// The result of taking bytes from a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fed {
    /// Number of bytes taken.
    pub taken: usize,
    /// Whether the bytes completed a request, which was served.
    pub served: bool,
}

/// The store.
#[derive(Debug)]
pub struct Store {
    pub(crate) tree: Tree,
    pub(crate) ledger: Ledger,
    pub(crate) connections: BTreeMap<u32, Connection>,
    /// Watches of all clients, by target: pairs of client and number.
    pub(crate) watches: BTreeMap<Box<str>, Vec<(u32, u64)>>,
    /// Clients that got output since the last [`Store::take_readers`].
    readers: BTreeSet<u32>,
    /// Set while no new data is kept for clients.
    pub(crate) tight: bool,
    /// Paths whose changes the ultravisor observes, and those of them that clients have changed.
    /// Both are sets, since each change of a client looks for its path among them.
    observed: BTreeSet<Path>,
    changed: BTreeSet<Path>,
}

impl Store {
    /// Makes an empty store. Its root belongs to `owner`; all data of clients together stays below
    /// `budget` bytes.
    #[must_use]
    pub fn new(owner: u32, budget: usize) -> Self {
        let root = Path::root();
        Self {
            tree: Tree::new(root, owner),
            ledger: Ledger::new(budget),
            connections: BTreeMap::new(),
            watches: BTreeMap::new(),
            readers: BTreeSet::new(),
            tight: false,
            observed: BTreeSet::new(),
            changed: BTreeSet::new(),
        }
    }

    /// Returns whether the budget has room for `clients` more clients.
    #[must_use]
    pub const fn has_room_for(&self, clients: usize) -> bool {
        self.ledger.has_room_for(clients)
    }

    /// While this is set, requests that would store more are refused.
    pub const fn set_tight(&mut self, tight: bool) {
        self.tight = tight;
    }

    /// Connects a partition. If it was connected before, it starts anew, without watches and
    /// transactions. Only a privileged client may watch other partitions appear and disappear.
    pub fn connect(&mut self, partition: u32, privileged: bool) {
        self.forget(partition);
        self.ledger.set_connected(partition, true);
        self.connections.insert(partition, Connection::new(partition, privileged));
        self.happening("@introduceDomain");
    }

    /// Disconnects a client: drops its watches, its transactions, and its unread output.
    pub fn disconnect(&mut self, partition: u32) {
        if self.forget(partition) {
            self.happening("@releaseDomain");
        }
    }

    fn forget(&mut self, partition: u32) -> bool {
        self.readers.remove(&partition);
        let Some(client) = self.connections.remove(&partition) else {
            return false;
        };
        for watch in client.watches.values() {
            self.unindex(watch.on.as_str(), |&(who, _)| who == partition);
        }
        self.ledger.release(partition, client.bytes());
        self.ledger.set_connected(partition, false);
        true
    }

    /// Removes everything that a partition which no longer exists left behind: nodes that it owns
    /// in other homes, with everything below them, and its number in permissions. So the next
    /// partition with this number finds nothing of it. If there is nothing to remove, the time does
    /// not depend on the number of nodes.
    pub fn purge(&mut self, partition: u32) {
        let mut owns = self.ledger.nodes(partition) > 0;
        let owned = |node: &crate::tree::Node| node.permissions.owner == partition;
        let mut from = Path::root();
        while owns && let Some(path) = self.tree.find(from.as_str(), owned).cloned() {
            if self.remove(&path).is_err() {
                // Only the root cannot be removed, and it is the server's.
                break;
            }
            owns = self.ledger.nodes(partition) > 0;
            from = path;
        }
        let mut differences = Differences::new();
        self.tree.drop_named(partition, &mut differences);
        self.ledger.book(&differences);
    }

    /// Takes bytes from a client, up to the end of a message, and performs the request once it is
    /// complete. If no bytes are taken, the client must first read replies.
    ///
    /// # Errors
    /// See [`Fault`]: the store takes no more bytes from the client.
    pub fn step(&mut self, partition: u32, bytes: &[u8]) -> Result<Fed, Fault> {
        let client = self.connections.get_mut(&partition).ok_or(Fault::NotConnected)?;
        let taken = client.take_in(bytes);
        let request = client.next_request();
        if client.broken {
            return Err(Fault::MessageTooLong);
        }
        let served = request.is_some();
        if let Some(request) = request {
            crate::request::serve(self, partition, &request);
        }
        Ok(Fed { taken, served })
    }

    /// Repeats [`Self::step`] until no more bytes are taken. Returns how many were taken.
    ///
    /// # Errors
    /// The same as [`Self::step`].
    pub fn feed(&mut self, partition: u32, bytes: &[u8]) -> Result<usize, Fault> {
        let mut taken = 0;
        loop {
            let fed = self.step(partition, bytes.get(taken..).unwrap_or_default())?;
            taken += fed.taken;
            if fed.taken == 0 && !fed.served {
                return Ok(taken);
            }
        }
    }

    /// The clients that got output since the last call, except replies to their own requests.
    pub fn take_readers(&mut self) -> BTreeSet<u32> {
        core::mem::take(&mut self.readers)
    }

    /// The unread output of a client.
    #[must_use]
    pub fn output(&self, partition: u32) -> &[u8] {
        self.connections.get(&partition).map(Connection::output).unwrap_or_default()
    }

    /// Removes output that a client has read; queued events take its place.
    pub fn sent(&mut self, partition: u32, bytes: usize) {
        if let Some(client) = self.connections.get_mut(&partition) {
            client.sent(bytes, &mut self.ledger);
        }
    }

    /// Starts to record changes by clients at, above or below this path; see [`Self::take_change`].
    pub fn observe(&mut self, path: Path) {
        self.observed.insert(path);
    }

    /// Stops recording changes at and below a path.
    pub fn ignore(&mut self, path: &Path) {
        self.observed.retain(|observed| !observed.is_within(path));
        self.changed.retain(|changed| !changed.is_within(path));
    }

    /// Takes the next observed path that clients have changed.
    pub fn take_change(&mut self) -> Option<Path> {
        self.changed.pop_first()
    }

    /// A node's value.
    #[must_use]
    pub fn read(&self, path: &Path) -> Option<&[u8]> {
        Some(&self.tree.get(path.as_str())?.value)
    }

    /// Writes a value; nodes that this creates get the permissions of the node above them.
    ///
    /// # Errors
    /// [`Error::NoSpace`] if the value is too long.
    pub fn write(&mut self, path: &Path, value: &[u8]) -> Result<(), Error> {
        self.change(|view| view.write(Actor::Server, path, Some(value)))
    }

    /// Creates a node with these permissions; a node that exists gets them.
    ///
    /// # Errors
    /// There are none at present.
    pub fn make(&mut self, path: &Path, permissions: &Permissions) -> Result<(), Error> {
        self.change(|view| view.make(path, permissions))
    }

    /// Removes a node and everything below it.
    ///
    /// # Errors
    /// [`Error::Absent`] if the node above it does not exist; [`Error::Invalid`] if it is the root.
    pub fn remove(&mut self, path: &Path) -> Result<(), Error> {
        self.change(|view| view.remove(Actor::Server, path))
    }

    /// Nodes that count against a partition's limit.
    #[must_use]
    pub fn nodes_of(&self, partition: u32) -> u32 {
        self.ledger.nodes(partition)
    }

    /// Bytes that count against a partition's limit.
    #[must_use]
    pub fn bytes_of(&self, partition: u32) -> usize {
        self.ledger.bytes(partition)
    }

    /// Upper bound of the bytes in use for everything in the store.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.ledger.total()
    }

    /// Makes a change as the server.
    fn change(&mut self, of: impl FnOnce(View<'_>) -> Result<Step, Error>) -> Result<(), Error> {
        let overlay = Overlay::default();
        let step = of(View { tree: &self.tree, overlay: &overlay })?;
        self.commit(Actor::Server, Overlay::of(step))
    }

    /// Applies an overlay if the accounts of the owners allow it, and sends events to watchers.
    pub(crate) fn commit(&mut self, actor: Actor, mut overlay: Overlay) -> Result<(), Error> {
        if actor != Actor::Server {
            overlay.keep_named(|who| self.connections.contains_key(&who));
        }
        let differences = overlay.differences(&self.tree);
        let kept = differences.values().any(|difference| difference.more > difference.less);
        if actor != Actor::Server && (kept && self.tight || !self.ledger.admits(&differences)) {
            return Err(Error::NoSpace);
        }
        self.ledger.book(&differences);
        let mut told = BTreeSet::new();
        for (path, entry) in overlay.entries() {
            if actor != Actor::Server {
                self.note_observed(path);
            }
            let connections = &mut self.connections;
            tell(&self.tree, &self.watches, path, entry, |who, at, id| {
                if let Some(client) = connections.get_mut(&who) {
                    client.event(at, id, &mut self.ledger);
                    told.insert(who);
                }
            });
        }
        self.tree.apply(overlay);
        told.into_iter().for_each(|who| self.send_events(who));
        Ok(())
    }

    /// Moves a client's queued events to its output, as far as there is room.
    fn send_events(&mut self, who: u32) {
        if let Some(client) = self.connections.get_mut(&who) {
            client.send_events(&mut self.ledger);
            self.readers.insert(who);
        }
    }

    /// Records that a client changed an observed path.
    fn note_observed(&mut self, path: &Path) {
        let above = path.upwards().filter_map(|text| self.observed.get(text));
        let bounds = path.below();
        let below = self.observed.range::<str, _>(as_str(&bounds));
        self.changed.extend(above.chain(below).cloned());
    }

    /// Adds a watch to a client, and fires it once.
    pub(crate) fn watch(&mut self, partition: u32, on: Watched, token: &str, relative: bool) {
        let Some(client) = self.connections.get_mut(&partition) else {
            return;
        };
        let path: Rc<str> = on.as_str().into();
        let list = self.watches.entry(on.as_str().into()).or_default();
        let id = client.add_watch(on, token, relative);
        list.push((partition, id));
        client.event(&path, id, &mut self.ledger);
        self.send_events(partition);
    }

    /// Drops watches of a client.
    pub(crate) fn unwatch(&mut self, partition: u32, ids: &[u64]) {
        for &id in ids {
            let client = self.connections.get_mut(&partition);
            let removed = client.and_then(|client| client.remove_watch(id, &mut self.ledger));
            if let Some(watch) = removed {
                self.unindex(watch.on.as_str(), |&entry| entry == (partition, id));
            }
        }
    }

    fn unindex(&mut self, on: &str, gone: impl Fn(&(u32, u64)) -> bool) {
        if let Some(list) = self.watches.get_mut(on) {
            list.retain(|entry| !gone(entry));
            if list.is_empty() {
                self.watches.remove(on);
            } else if list.len() * 4 < list.capacity() {
                list.shrink_to_fit();
            }
        }
    }

    /// Sends a special event to its watchers.
    fn happening(&mut self, name: &str) {
        let path: Rc<str> = name.into();
        for (who, id) in self.watches.get(name).cloned().unwrap_or_default() {
            if let Some(client) = self.connections.get_mut(&who) {
                client.event(&path, id, &mut self.ledger);
                self.send_events(who);
            }
        }
    }
}

/// Collects the events for the change of a node, before it is made: the client, the watch, and the
/// path.
fn tell(
    tree: &Tree,
    watches: &BTreeMap<Box<str>, Vec<(u32, u64)>>,
    path: &Path,
    entry: &Entry,
    mut event: impl FnMut(u32, &Rc<str>, u64),
) {
    let before = tree.get(path.as_str()).map(|node| &node.permissions);
    let (after, told, removes) = match entry {
        Entry::Gone => (None, true, true),
        Entry::There(draft) => (Some(&draft.permissions), draft.told, draft.hides),
    };
    let mut queue = |at: &Rc<str>, list: &[(u32, u64)], who_may: [Option<&Permissions>; 2]| {
        for &(who, id) in list {
            if who_may.iter().flatten().any(|p| p.allow(who, Access::READ)) {
                event(who, at, id);
            }
        }
    };
    let at = LazyCell::new(|| Rc::<str>::from(path.as_str()));
    for on in path.upwards().filter(|_| told) {
        if let Some(list) = watches.get(on) {
            queue(&at, list, [before, after]);
        }
    }
    if removes {
        for (on, list) in watches.range::<str, _>(as_str(&path.below())) {
            if let Some(node) = tree.get(on) {
                queue(&on.to_string().into(), list, [Some(&node.permissions), None]);
            }
        }
    }
}
