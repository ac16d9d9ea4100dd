//! The tree: nodes with a value and permissions, by path.
//!
//! Nodes are in maps in the order of their paths ([`crate::nodes`]), so the nodes below a node form
//! a range. Nodes change in place; no old version of the tree is kept. Transactions remember
//! generations instead (see [`crate::overlay`]).
//!
//! Rule: a node gets a new generation whenever it is created and whenever its value or permissions
//! change; its list gets one whenever a node directly below it is created or removed.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec;
use alloc::vec::Vec;

use crate::ledger::Differences;
use crate::limits;
use crate::nodes::Nodes;
use crate::overlay::{Entry, Overlay};
use crate::path::Path;

/// The access that a permission gives: bit 0 read, bit 1 write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access(u8);

impl Access {
    /// Nothing.
    pub const NONE: Self = Self(0);
    /// Read.
    pub const READ: Self = Self(1);
    /// Write.
    pub const WRITE: Self = Self(2);
    /// Read and write.
    pub const BOTH: Self = Self(3);

    /// Returns whether it includes all of `other`.
    #[must_use]
    pub const fn includes(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The letter on the wire.
    #[must_use]
    pub const fn letter(self) -> char {
        match self.0 {
            0 => 'n',
            1 => 'r',
            2 => 'w',
            _ => 'b',
        }
    }

    /// The access for a letter on the wire.
    #[must_use]
    pub const fn from_letter(letter: u8) -> Option<Self> {
        match letter {
            b'n' => Some(Self::NONE),
            b'r' => Some(Self::READ),
            b'w' => Some(Self::WRITE),
            b'b' => Some(Self::BOTH),
            _ => None,
        }
    }
}

/// Permissions of a node: its owner may do everything; `named` lists exceptions, and `others`
/// applies to the rest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Permissions {
    /// The owner.
    pub owner: u32,
    /// The access of partitions that are not named.
    pub others: Access,
    /// The access of each named partition.
    pub named: Vec<(u32, Access)>,
}

impl Permissions {
    /// Permissions with access for the owner only.
    #[must_use]
    pub const fn private(owner: u32) -> Self {
        Self { owner, others: Access::NONE, named: Vec::new() }
    }

    /// Permissions with full access for the owner and read access for `reader`.
    #[must_use]
    pub fn readable_by(owner: u32, reader: u32) -> Self {
        Self { owner, others: Access::NONE, named: vec![(reader, Access::READ)] }
    }

    /// Returns whether a partition has this access.
    #[must_use]
    pub fn allow(&self, partition: u32, access: Access) -> bool {
        if partition == self.owner {
            return true;
        }
        let named = self.named.iter().find(|(who, _)| *who == partition);
        named.map_or(self.others, |(_, access)| *access).includes(access)
    }

    /// Bytes that they take beside the node.
    pub(crate) const fn bytes(&self) -> usize {
        self.named.capacity() * size_of::<(u32, Access)>()
    }
}

/// A node.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) value: Box<[u8]>,
    pub(crate) permissions: Permissions,
    /// Generation of the value and the permissions.
    pub(crate) generation: u64,
    /// Generation of the list of names directly below.
    pub(crate) listed: u64,
}

/// The bytes that a node costs its owner.
pub(crate) fn cost(path: &Path, value: &[u8], permissions: &Permissions) -> usize {
    limits::NODE_BYTES + path.bytes() + value.len() + permissions.bytes()
}

/// The author of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Actor {
    /// The ultravisor itself: no limits.
    Server,
    /// A partition.
    Client(u32),
}

impl Actor {
    pub(crate) fn may(self, permissions: &Permissions, access: Access) -> bool {
        match self {
            Self::Server => true,
            Self::Client(partition) => permissions.allow(partition, access),
        }
    }
}

/// The nodes.
#[derive(Debug)]
pub(crate) struct Tree {
    nodes: Nodes,
    /// How often permissions name each partition.
    named: BTreeMap<u32, usize>,
    generation: u64,
}

impl Tree {
    /// A tree with a root that belongs to `owner` and that no other partition may access.
    pub(crate) fn new(root: Path, owner: u32) -> Self {
        let permissions = Permissions::private(owner);
        let node = Node { value: Box::default(), permissions, generation: 1, listed: 1 };
        let (mut nodes, named) = (Nodes::default(), BTreeMap::new());
        nodes.insert(root, node);
        Self { nodes, named, generation: 1 }
    }

    /// The node at a path.
    pub(crate) fn get(&self, path: &str) -> Option<&Node> {
        self.nodes.get(path)
    }

    /// The nodes below a path.
    pub(crate) fn below(&self, path: &Path) -> impl Iterator<Item = (&Path, &Node)> {
        self.nodes.below(path)
    }

    /// The nodes directly below a path: names, in order, and nodes.
    pub(crate) fn children<'t>(
        &'t self,
        path: &Path,
    ) -> impl Iterator<Item = (&'t str, &'t Node)> + use<'t> {
        self.nodes.children(path)
    }

    /// The first node from this path on that `wanted` accepts.
    pub(crate) fn find(&self, from: &str, wanted: impl Fn(&Node) -> bool) -> Option<&Path> {
        self.nodes.find(from, wanted)
    }

    const fn next_generation(&mut self) -> u64 {
        self.generation += 1;
        self.generation
    }

    fn list_changed(&mut self, below: &str) {
        let generation = self.next_generation();
        if let Some(node) = self.nodes.get_mut(below) {
            node.listed = generation;
        }
    }

    fn remove_below(&mut self, path: &Path) {
        let below: Vec<Path> = self.nodes.below(path).map(|(path, _)| path.clone()).collect();
        below.iter().for_each(|path| self.remove_one(path));
    }

    fn remove_one(&mut self, path: &Path) {
        if let Some(node) = self.nodes.remove(path) {
            self.forget_names(&node.permissions);
        }
    }

    fn forget_names(&mut self, permissions: &Permissions) {
        for (who, _) in &permissions.named {
            if let Some(times) = self.named.get_mut(who) {
                *times = times.saturating_sub(1);
                if *times == 0 {
                    self.named.remove(who);
                }
            }
        }
    }

    fn insert(&mut self, path: Path, node: Node) {
        for (who, _) in &node.permissions.named {
            *self.named.entry(*who).or_default() += 1;
        }
        if let Some(before) = self.nodes.insert(path, node) {
            self.forget_names(&before.permissions);
        }
    }

    /// Applies an overlay to the tree.
    pub(crate) fn apply(&mut self, overlay: Overlay) {
        for (path, entry) in overlay.into_entries() {
            let above = path.above();
            let draft = match entry {
                Entry::Gone => None,
                Entry::There(draft) => Some(draft),
            };
            if draft.as_ref().is_none_or(|draft| draft.hides) {
                self.remove_below(&path);
                self.remove_one(&path);
            }
            let listed = self.nodes.get(path.as_str()).map(|node| node.listed);
            if let Some(draft) = draft {
                let generation = self.next_generation();
                let listed = listed.unwrap_or(generation);
                let (value, permissions) = (draft.value, draft.permissions);
                let node = Node { value, permissions, generation, listed };
                self.insert(path, node);
            }
            if let Some(above) = above.filter(|_| listed.is_none()) {
                self.list_changed(above.as_str());
            }
        }
    }

    /// Drops named permissions of a partition, and adds the freed bytes to `differences`.
    pub(crate) fn drop_named(&mut self, partition: u32, differences: &mut Differences) {
        if self.named.remove(&partition).is_none() {
            return;
        }
        let mut generation = self.generation;
        for node in self.nodes.values_mut() {
            let permissions = &mut node.permissions;
            if permissions.named.iter().any(|(who, _)| *who == partition) {
                let before = permissions.bytes();
                permissions.named.retain(|(who, _)| *who != partition);
                permissions.named.shrink_to_fit();
                let difference = differences.entry(permissions.owner).or_default();
                difference.less += before.saturating_sub(permissions.bytes());
                generation += 1;
                node.generation = generation;
            }
        }
        self.generation = generation;
    }
}
