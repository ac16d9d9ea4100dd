//! The tree: nodes with a value, permissions and children, shared between versions.
//!
//! A node is counted, not copied: a transaction keeps the root it started from, and a change
//! copies the nodes on the way to what changes. So a snapshot costs one count.
//!
//! Rule: a node's owner is who its quota is charged to; the sum over the tree is kept as the
//! tree changes.

use alloc::collections::BTreeMap;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;

use crate::limits;
use crate::path::Path;
use crate::wire::Error;

/// What a permission lets a partition do: bit 0 read, bit 1 write.
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

    /// Whether all of `other` is in it.
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

    /// What a letter on the wire means.
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

/// Permissions of a node: its owner may do everything, those named what is said, the rest
/// `others`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Permissions {
    /// Who owns it.
    pub owner: u32,
    /// What those that are not named may do.
    pub others: Access,
    /// What those that are named may do.
    pub named: Vec<(u32, Access)>,
}

impl Permissions {
    /// Only the owner may do anything.
    #[must_use]
    pub const fn private(owner: u32) -> Self {
        Self { owner, others: Access::NONE, named: Vec::new() }
    }

    /// The owner may do everything, `reader` read.
    #[must_use]
    pub fn readable_by(owner: u32, reader: u32) -> Self {
        Self { owner, others: Access::NONE, named: vec![(reader, Access::READ)] }
    }

    /// Whether a partition may do that.
    #[must_use]
    pub fn allow(&self, partition: u32, access: Access) -> bool {
        if partition == self.owner {
            return true;
        }
        let named = self.named.iter().find(|(who, _)| *who == partition);
        named.map_or(self.others, |(_, access)| *access).includes(access)
    }
}

/// A node.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) value: Rc<[u8]>,
    pub(crate) permissions: Rc<Permissions>,
    pub(crate) children: BTreeMap<Rc<str>, Rc<Node>>,
}

impl Node {
    fn new(permissions: Rc<Permissions>) -> Self {
        Self { value: Rc::from([]), permissions, children: BTreeMap::new() }
    }

    /// Whether a reader of the node itself would notice a difference.
    pub(crate) fn looks_like(&self, other: &Self) -> bool {
        self.value == other.value
            && self.permissions == other.permissions
            && self.children.keys().eq(other.children.keys())
    }
}

/// A version of the tree.
#[derive(Clone, Debug)]
pub(crate) struct Tree {
    root: Rc<Node>,
    /// Nodes by owner.
    charged: BTreeMap<u32, u32>,
}

/// Who changes something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Actor {
    /// The ultravisor itself: no limits.
    Server,
    /// A partition.
    Client(u32),
}

impl Actor {
    fn may(self, permissions: &Permissions, access: Access) -> bool {
        match self {
            Self::Server => true,
            Self::Client(partition) => permissions.allow(partition, access),
        }
    }
}

impl Tree {
    /// A tree with a root that belongs to `owner` and is nobody else's business.
    pub(crate) fn new(owner: u32) -> Self {
        let root = Rc::new(Node::new(Rc::new(Permissions::private(owner))));
        Self { root, charged: BTreeMap::new() }
    }

    /// The node of a path.
    pub(crate) fn get(&self, path: &Path) -> Option<&Node> {
        path.names().try_fold(&*self.root, |node, name| node.children.get(name).map(|n| &**n))
    }

    /// The node of a path, where `actor` may access it. Which error it is does not tell whether
    /// a node exists that the actor may not see.
    pub(crate) fn visible(
        &self,
        actor: Actor,
        path: &Path,
        access: Access,
    ) -> Result<&Node, Error> {
        let mut deepest = &*self.root;
        for name in path.names() {
            let Some(child) = deepest.children.get(name) else {
                let seen = actor.may(&deepest.permissions, Access::READ);
                return Err(if seen { Error::Absent } else { Error::Access });
            };
            deepest = child;
        }
        if actor.may(&deepest.permissions, access) { Ok(deepest) } else { Err(Error::Access) }
    }

    /// Writes a value, making the node and those above it. Without a value the node is only made.
    pub(crate) fn write(
        &mut self,
        actor: Actor,
        path: &Path,
        value: Option<&[u8]>,
    ) -> Result<(), Error> {
        let missing = self.check_write(actor, path)?;
        if let (Actor::Client(partition), Some(inherited)) = (actor, &missing) {
            let used = self.charged.get(&partition).copied().unwrap_or(0);
            if used.saturating_add(inherited.count) > limits::NODES {
                return Err(Error::NoSpace);
            }
        }
        if value.is_some_and(|value| value.len() > limits::VALUE) {
            return Err(Error::NoSpace);
        }
        let mut node = Rc::make_mut(&mut self.root);
        for name in path.names() {
            let permissions = missing.as_ref().map_or(&node.permissions, |m| &m.permissions);
            let permissions = permissions.clone();
            let child = node.children.entry(Rc::from(name));
            node = Rc::make_mut(child.or_insert_with(|| Rc::new(Node::new(permissions))));
        }
        if let Some(value) = value {
            node.value = Rc::from(value);
        }
        if let Some(missing) = missing {
            *self.charged.entry(missing.permissions.owner).or_default() += missing.count;
        }
        Ok(())
    }

    /// Whether `actor` may write a path, and what nodes that makes.
    fn check_write(&self, actor: Actor, path: &Path) -> Result<Option<Missing>, Error> {
        let mut names = path.names();
        let mut deepest = &*self.root;
        let mut missing = 0;
        for name in names.by_ref() {
            match deepest.children.get(name) {
                Some(child) => deepest = child,
                None => {
                    missing = 1;
                    break;
                }
            }
        }
        missing += u32::try_from(names.count()).unwrap_or(u32::MAX);
        if !actor.may(&deepest.permissions, Access::WRITE) {
            return Err(Error::Access);
        }
        if missing == 0 {
            return Ok(None);
        }
        let mut permissions = deepest.permissions.clone();
        if let Actor::Client(owner) = actor
            && owner != permissions.owner
        {
            permissions = Rc::new(Permissions { owner, ..(*permissions).clone() });
        }
        Ok(Some(Missing { count: missing, permissions }))
    }

    /// Removes a node and all below it; returns the paths that are gone, the node's first.
    /// Removing what is not there is done already, where the node above it is there.
    pub(crate) fn remove(&mut self, actor: Actor, path: &Path) -> Result<Vec<Path>, Error> {
        let Some((above, name)) = split_last(path) else {
            return Err(Error::Invalid);
        };
        let parent = self.visible(actor, &above, Access::NONE)?;
        let Some(node) = parent.children.get(name.as_str()).cloned() else {
            let writable = actor.may(&parent.permissions, Access::WRITE);
            return if writable { Ok(Vec::new()) } else { Err(Error::Access) };
        };
        if !actor.may(&node.permissions, Access::WRITE) {
            return Err(Error::Access);
        }
        let mut gone = Vec::new();
        self.uncharge(&node, path, &mut gone);
        let mut at = Rc::make_mut(&mut self.root);
        for name in above.names() {
            let Some(child) = at.children.get_mut(name) else {
                return Err(Error::Absent);
            };
            at = Rc::make_mut(child);
        }
        at.children.remove(name.as_str());
        Ok(gone)
    }

    fn uncharge(&mut self, node: &Node, path: &Path, gone: &mut Vec<Path>) {
        self.charge_less(node.permissions.owner);
        gone.push(path.clone());
        for (name, child) in &node.children {
            self.uncharge(child, &path.child(name), gone);
        }
    }

    /// Sets a node's permissions. Only the owner may; only the server gives it another owner.
    pub(crate) fn set_permissions(
        &mut self,
        actor: Actor,
        path: &Path,
        permissions: Permissions,
    ) -> Result<(), Error> {
        let owner = self.visible(actor, path, Access::NONE)?.permissions.owner;
        if let Actor::Client(partition) = actor
            && (partition != owner || permissions.owner != owner)
        {
            return Err(Error::Access);
        }
        self.charge_less(owner);
        *self.charged.entry(permissions.owner).or_default() += 1;
        let mut node = Rc::make_mut(&mut self.root);
        for name in path.names() {
            let Some(child) = node.children.get_mut(name) else {
                return Err(Error::Absent);
            };
            node = Rc::make_mut(child);
        }
        node.permissions = Rc::new(permissions);
        Ok(())
    }

    /// A node less is a partition's; of one that has none nothing is kept.
    fn charge_less(&mut self, owner: u32) {
        let left = self.charged.get(&owner).copied().unwrap_or(0).saturating_sub(1);
        if left == 0 {
            self.charged.remove(&owner);
        } else {
            self.charged.insert(owner, left);
        }
    }

    /// Nodes charged to a partition.
    pub(crate) fn charged(&self, partition: u32) -> u32 {
        self.charged.get(&partition).copied().unwrap_or(0)
    }

    /// Whether both are the very same version.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Rc::ptr_eq(&self.root, &other.root)
    }
}

/// Nodes that a write makes, and the permissions they get.
struct Missing {
    count: u32,
    permissions: Rc<Permissions>,
}

/// The node above, and the last name; `None` for the root.
fn split_last(path: &Path) -> Option<(Path, String)> {
    let (above, name) = path.as_str().rsplit_once('/')?;
    if name.is_empty() {
        return None;
    }
    let above = if above.is_empty() { "/" } else { above };
    Some((Path::new(above).ok()?, name.to_string()))
}
