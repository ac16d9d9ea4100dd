//! Changes that are not in the tree yet: those of one request, or of an open transaction.
//!
//! An [`Overlay`] holds the final state of each changed node, once, however often it was changed. A
//! [`View`] is the tree as it looks with an overlay over it. A transaction keeps no version of the
//! tree: it remembers the generation of each node that it read, and is refused at its end if one
//! has changed.
//!
//! Rule: an overlay is applied as a whole or not at all, and its cost is known beforehand.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use crate::ledger::Differences;
use crate::limits;
use crate::nodes::as_str;
use crate::path::{Path, upwards};
use crate::tree::{Access, Actor, Node, Permissions, Tree, cost};
use crate::wire::Error;

/// The new state of a node.
#[derive(Debug)]
pub(crate) struct Draft {
    pub(crate) value: Box<[u8]>,
    pub(crate) permissions: Permissions,
    /// The node was removed and created again: its old children in the tree are gone.
    pub(crate) hides: bool,
    /// Whether watchers get an event. They get none for nodes that are created on the way to
    /// another.
    pub(crate) told: bool,
}

/// The change of a node.
#[derive(Debug)]
pub(crate) enum Entry {
    /// The node is removed, with everything below it.
    Gone,
    /// The node gets this state.
    There(Draft),
}

/// A checked change that a request asks for.
#[derive(Debug)]
pub(crate) enum Step {
    /// Nothing changes.
    Nothing,
    /// Each of these nodes gets the state beside it.
    Put(Vec<(Path, Draft)>),
    /// This node is removed; the flag says whether the tree has it.
    Remove(Path, bool),
}

/// Changes that are not in the tree yet.
#[derive(Debug, Default)]
pub(crate) struct Overlay {
    entries: BTreeMap<Path, Entry>,
    bytes: usize,
}

fn entry_cost(path: &Path, entry: &Entry) -> usize {
    match entry {
        Entry::Gone => limits::NODE_BYTES + path.bytes(),
        Entry::There(draft) => cost(path, &draft.value, &draft.permissions),
    }
}

impl Step {
    /// Maximum number of bytes that this adds to an overlay.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Nothing => 0,
            Self::Put(drafts) => drafts
                .iter()
                .map(|(path, draft)| cost(path, &draft.value, &draft.permissions))
                .sum(),
            Self::Remove(path, _) => entry_cost(path, &Entry::Gone),
        }
    }

    /// The nodes that it changes.
    pub(crate) fn paths(&self) -> impl Iterator<Item = &Path> + Clone {
        let (drafts, removed) = match self {
            Self::Nothing => (&[][..], None),
            Self::Put(drafts) => (drafts.as_slice(), None),
            Self::Remove(path, _) => (&[][..], Some(path)),
        };
        drafts.iter().map(|(path, _)| path).chain(removed)
    }
}

impl Overlay {
    /// The overlay of a single change.
    pub(crate) fn of(step: Step) -> Self {
        let mut overlay = Self::default();
        overlay.take(step);
        overlay
    }

    /// The bytes that it costs the owner of the transaction.
    pub(crate) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Number of nodes that it changes.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn entries(&self) -> impl Iterator<Item = (&Path, &Entry)> {
        self.entries.iter()
    }

    pub(crate) fn into_entries(self) -> impl Iterator<Item = (Path, Entry)> {
        self.entries.into_iter()
    }

    /// Adds a change; a change of the same node replaces the earlier one.
    pub(crate) fn take(&mut self, step: Step) {
        match step {
            Step::Nothing => {}
            Step::Put(drafts) => {
                for (path, draft) in drafts {
                    self.put(path, Entry::There(draft));
                }
            }
            Step::Remove(path, in_tree) => {
                let bounds = path.below();
                while let Some((next, _)) = self.entries.range::<str, _>(as_str(&bounds)).next() {
                    let next = next.clone();
                    self.drop(&next);
                }
                self.drop(&path);
                if in_tree {
                    self.put(path, Entry::Gone);
                }
            }
        }
    }

    fn put(&mut self, path: Path, entry: Entry) {
        self.drop(&path);
        self.bytes += entry_cost(&path, &entry);
        self.entries.insert(path, entry);
    }

    fn drop(&mut self, path: &Path) {
        if let Some(entry) = self.entries.remove(path) {
            self.bytes = self.bytes.saturating_sub(entry_cost(path, &entry));
        }
    }

    /// Returns whether it removes a node of the tree above this one.
    fn hides(&self, path: &str) -> bool {
        let hides = |entry: &Entry| match entry {
            Entry::Gone => true,
            Entry::There(draft) => draft.hides,
        };
        // The nodes above a node come before it.
        self.entries.first_key_value().is_some_and(|(first, _)| first.as_str() < path)
            && upwards(path).skip(1).any(|above| self.entries.get(above).is_some_and(hides))
    }

    /// Drops named permissions of partitions that `known` rejects.
    pub(crate) fn keep_named(&mut self, known: impl Fn(u32) -> bool) {
        for entry in self.entries.values_mut() {
            if let Entry::There(draft) = entry {
                draft.permissions.named.retain(|(who, _)| known(*who));
            }
        }
    }

    /// How applying it affects the accounts of partitions.
    pub(crate) fn differences(&self, tree: &Tree) -> Differences {
        let mut all = Differences::new();
        let less = |all: &mut Differences, path: &Path, node: &Node| {
            let difference = all.entry(node.permissions.owner).or_default();
            difference.less += cost(path, &node.value, &node.permissions);
            difference.less_nodes += 1;
        };
        for (path, entry) in &self.entries {
            let removes = match entry {
                Entry::Gone => true,
                Entry::There(draft) => draft.hides,
            };
            if !self.hides(path.as_str()) {
                if let Some(node) = tree.get(path.as_str()) {
                    less(&mut all, path, node);
                }
                if removes {
                    tree.below(path).for_each(|(path, node)| less(&mut all, path, node));
                }
            }
            if let Entry::There(draft) = entry {
                let difference = all.entry(draft.permissions.owner).or_default();
                difference.more += cost(path, &draft.value, &draft.permissions);
                difference.more_nodes += 1;
            }
        }
        all
    }
}

/// A node as a view shows it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen<'v> {
    pub(crate) value: &'v [u8],
    pub(crate) permissions: &'v Permissions,
}

/// The tree with an overlay over it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View<'v> {
    pub(crate) tree: &'v Tree,
    pub(crate) overlay: &'v Overlay,
}

impl<'v> View<'v> {
    /// The node at a path.
    pub(crate) fn node(&self, path: &str) -> Option<Seen<'v>> {
        match self.overlay.entries.get(path) {
            Some(Entry::Gone) => None,
            Some(Entry::There(draft)) => {
                Some(Seen { value: &draft.value, permissions: &draft.permissions })
            }
            None => self
                .in_tree(path)
                .map(|node| Seen { value: &node.value, permissions: &node.permissions }),
        }
    }

    /// The tree's node at a path, unless the overlay removed a node above it.
    fn in_tree(&self, path: &str) -> Option<&'v Node> {
        self.tree.get(path).filter(|_| !self.overlay.hides(path))
    }

    /// The deepest existing node among a path and the paths above it.
    fn deepest<'p>(&self, path: &'p Path) -> Option<(&'p str, Seen<'v>)> {
        path.upwards().find_map(|path| Some((path, self.node(path)?)))
    }

    /// The node at a path, if `actor` may access it. The error does not reveal whether a node
    /// exists below a node that the actor may not read.
    pub(crate) fn visible(
        &self,
        actor: Actor,
        path: &Path,
        access: Access,
    ) -> Result<Seen<'v>, Error> {
        if let Some(seen) = self.node(path.as_str()) {
            return if actor.may(seen.permissions, access) { Ok(seen) } else { Err(Error::Access) };
        }
        let readable =
            self.deepest(path).is_some_and(|(_, seen)| actor.may(seen.permissions, Access::READ));
        Err(if readable { Error::Absent } else { Error::Access })
    }

    /// Calls `visit` with the names directly below a node, in order, as far as `actor` may access
    /// those nodes.
    pub(crate) fn children(&self, actor: Actor, path: &Path, mut visit: impl FnMut(&str)) {
        let removed = match self.overlay.entries.get(path) {
            Some(Entry::There(draft)) => draft.hides,
            _ => false,
        } || self.overlay.hides(path.as_str());
        let mut old = self.tree.children(path).filter(|_| !removed).peekable();
        let prefix = path.prefix().len();
        let bounds = path.below();
        let new = self.overlay.entries.range::<str, _>(as_str(&bounds));
        let mut new = new
            .filter_map(|(path, entry)| Some((path.as_str().get(prefix..)?, entry)))
            .filter(|(name, _)| !name.contains('/'))
            .peekable();
        let mut tell = |name: &str, permissions: &Permissions| {
            if [Access::READ, Access::WRITE].iter().any(|&access| actor.may(permissions, access)) {
                visit(name);
            }
        };
        loop {
            let first = match (old.peek(), new.peek()) {
                (Some((old, _)), Some((new, _))) => old.cmp(new),
                (Some(_), None) => core::cmp::Ordering::Less,
                (None, Some(_)) => core::cmp::Ordering::Greater,
                (None, None) => return,
            };
            if first.is_lt() {
                if let Some((name, node)) = old.next() {
                    tell(name, &node.permissions);
                }
                continue;
            }
            if first.is_eq() {
                old.next();
            }
            if let Some((name, Entry::There(draft))) = new.next() {
                tell(name, &draft.permissions);
            }
        }
    }

    /// Writes a value, and creates the node and those above it. Without a value, only creates the
    /// node.
    pub(crate) fn write(
        &self,
        actor: Actor,
        path: &Path,
        value: Option<&[u8]>,
    ) -> Result<Step, Error> {
        let (there, seen) = self.deepest(path).ok_or(Error::Invalid)?;
        if !actor.may(seen.permissions, Access::WRITE) {
            return Err(Error::Access);
        }
        if value.is_some_and(|value| value.len() > limits::VALUE) {
            return Err(Error::NoSpace);
        }
        if there == path.as_str() {
            let Some(value) = value else {
                return Ok(Step::Nothing);
            };
            let permissions = seen.permissions.clone();
            return Ok(Step::Put(Vec::from([(
                path.clone(),
                self.draft(path, value, permissions),
            )])));
        }
        let mut permissions = seen.permissions.clone();
        if let Actor::Client(owner) = actor {
            permissions.owner = owner;
        }
        let mut drafts = Vec::new();
        let mut at = Some(path.clone());
        while let Some(path) = at.filter(|path| path.as_str() != there) {
            at = path.above();
            let made = if drafts.is_empty() { value.unwrap_or_default() } else { &[] };
            let told = drafts.is_empty();
            let draft = Draft { told, ..self.draft(&path, made, permissions.clone()) };
            drafts.push((path, draft));
        }
        Ok(Step::Put(drafts))
    }

    /// Makes a node with these permissions, as the server; a node that exists gets them.
    pub(crate) fn make(&self, path: &Path, permissions: &Permissions) -> Result<Step, Error> {
        let mut step = self.write(Actor::Server, path, None)?;
        let Step::Put(drafts) = &mut step else {
            return self.set_permissions(Actor::Server, path, permissions);
        };
        // The drafts of the nodes on the way to the node come after its own.
        if let Some((_, draft)) = drafts.first_mut() {
            draft.permissions = permissions.clone();
        }
        Ok(step)
    }

    fn draft(&self, path: &Path, value: &[u8], permissions: Permissions) -> Draft {
        let hides = match self.overlay.entries.get(path) {
            Some(Entry::Gone) => true,
            Some(Entry::There(draft)) => draft.hides,
            None => false,
        };
        Draft { value: value.into(), permissions, hides, told: true }
    }

    /// Removes a node and everything below it. Removing a missing node succeeds if the node above
    /// it exists.
    pub(crate) fn remove(&self, actor: Actor, path: &Path) -> Result<Step, Error> {
        let above = path.above().ok_or(Error::Invalid)?;
        let parent = self.visible(actor, &above, Access::NONE)?;
        let (permissions, step) = match self.node(path.as_str()) {
            Some(node) => {
                let in_tree = self.in_tree(path.as_str()).is_some();
                (node.permissions, Step::Remove(path.clone(), in_tree))
            }
            None => (parent.permissions, Step::Nothing),
        };
        if actor.may(permissions, Access::WRITE) { Ok(step) } else { Err(Error::Access) }
    }

    /// Sets a node's permissions. Only the owner may do that, and only the server may change the
    /// owner.
    pub(crate) fn set_permissions(
        &self,
        actor: Actor,
        path: &Path,
        permissions: &Permissions,
    ) -> Result<Step, Error> {
        let node = self.visible(actor, path, Access::NONE)?;
        let owner = node.permissions.owner;
        if let Actor::Client(partition) = actor
            && (partition != owner || permissions.owner != owner)
        {
            return Err(Error::Access);
        }
        let draft = self.draft(path, node.value, permissions.clone());
        Ok(Step::Put(Vec::from([(path.clone(), draft)])))
    }
}

/// A node that a transaction has read, with the generations that it saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Noted {
    /// The node's generation; 0 if it did not exist.
    generation: u64,
    /// The generation of its list of names, if the transaction read the list.
    listed: Option<u64>,
}

/// The nodes that an open transaction depends on.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    noted: BTreeMap<Path, Noted>,
    bytes: usize,
}

impl Notes {
    /// The bytes that one note costs.
    pub(crate) const fn cost(path: &Path) -> usize {
        limits::NODE_BYTES + path.bytes()
    }

    /// The bytes that they cost the owner of the transaction.
    pub(crate) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Number of noted nodes.
    pub(crate) fn len(&self) -> usize {
        self.noted.len()
    }

    /// Whether a node is noted.
    pub(crate) fn has(&self, path: &Path) -> bool {
        self.noted.contains_key(path)
    }

    /// Notes the present generation of a node, once, and that of its list of names if `list`.
    pub(crate) fn note(&mut self, tree: &Tree, path: &Path, list: bool) {
        let node = tree.get(path.as_str());
        let generation = node.map_or(0, |node| node.generation);
        let listed = list.then(|| node.map_or(0, |node| node.listed));
        if let Some(noted) = self.noted.get_mut(path) {
            noted.listed = noted.listed.or(listed);
            return;
        }
        self.bytes += Self::cost(path);
        self.noted.insert(path.clone(), Noted { generation, listed });
    }

    /// Returns whether no noted node has changed.
    pub(crate) fn hold(&self, tree: &Tree) -> bool {
        self.noted.iter().all(|(path, noted)| {
            let node = tree.get(path.as_str());
            noted.generation == node.map_or(0, |node| node.generation)
                && noted.listed.is_none_or(|listed| listed == node.map_or(0, |node| node.listed))
        })
    }
}
