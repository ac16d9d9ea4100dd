//! The requests of a client, one function each.
//!
//! Rule: a request either gets its reply or an error reply; nothing it says is kept before it
//! was checked.

use alloc::collections::BTreeSet;
use alloc::format;
use alloc::string::ToString;
use alloc::vec::Vec;

use crate::connection::{Change, Connection, Request, Transaction, Watched};
use crate::limits;
use crate::path::{Path, home};
use crate::service::{Store, apply};
use crate::tree::{Access, Actor, Node, Permissions};
use crate::wire::{Error, Header, PAYLOAD_MAX, kind, one_string, strings};

const OK: &[u8] = b"OK\0";
/// Bytes of a token.
const MAX_TOKEN: usize = 1024;

/// Does a request and queues its reply.
pub(crate) fn serve(store: &mut Store, partition: u32, request: &Request) {
    let result = dispatch(store, partition, request);
    let Some(client) = store.connections.get_mut(&partition) else {
        return;
    };
    match &result {
        Ok(payload) => client.reply(request.head, payload),
        Err(error) => {
            let head = Header { kind: kind::ERROR, ..request.head };
            client.reply(head, format!("{}\0", error.name()).as_bytes());
        }
    }
    // A new watch tells once, after its reply.
    if let (kind::WATCH, Ok(_)) = (request.head.kind, &result)
        && let Some([text, token]) = strings(&request.payload).as_deref()
        && let Ok(on) = watched(partition, text)
    {
        client.add_watch(text, on, token);
    }
}

fn dispatch(store: &mut Store, partition: u32, request: &Request) -> Result<Vec<u8>, Error> {
    let payload = request.payload.as_slice();
    let transaction = request.head.tx_id;
    let mut scope = Scope { store, partition, transaction };
    match request.head.kind {
        kind::DIRECTORY => scope.directory(payload),
        kind::DIRECTORY_PART => scope.directory_part(payload),
        kind::READ => scope.look(one_string(payload)?, |node| node.value.to_vec()),
        kind::GET_PERMS => scope.look(one_string(payload)?, |n| permission_text(&n.permissions)),
        kind::WRITE => scope.write(payload),
        kind::MKDIR => scope.make(payload),
        kind::RM => {
            let path = scope.path(one_string(payload)?)?;
            scope.change(Change::Remove(path))
        }
        kind::SET_PERMS => scope.set_permissions(payload),
        kind::WATCH => watch(scope.client()?, payload),
        kind::UNWATCH => unwatch(scope.client()?, payload),
        kind::RESET_WATCHES => reset(scope.client()?),
        kind::TRANSACTION_START => scope.begin(),
        kind::TRANSACTION_END => scope.end(payload),
        kind::GET_DOMAIN_PATH => {
            let number: u32 = one_string(payload)?.parse().map_err(|_| Error::Invalid)?;
            Ok(format!("{}\0", home(number)).into_bytes())
        }
        kind::IS_DOMAIN_INTRODUCED => {
            let number: u32 = one_string(payload)?.parse().map_err(|_| Error::Invalid)?;
            let known = number == partition && scope.store.connections.contains_key(&number);
            Ok(if known { b"T\0".to_vec() } else { b"F\0".to_vec() })
        }
        kind::CONTROL | kind::INTRODUCE | kind::RELEASE | kind::RESUME | kind::SET_TARGET => {
            Err(Error::Access)
        }
        _ => Err(Error::NoSystem),
    }
}

/// Where a request acts: for a client, in the tree or in a transaction of it.
struct Scope<'s> {
    store: &'s mut Store,
    partition: u32,
    transaction: u32,
}

impl Scope<'_> {
    fn client(&mut self) -> Result<&mut Connection, Error> {
        self.store.connections.get_mut(&self.partition).ok_or(Error::Absent)
    }

    fn open(&mut self) -> Result<Option<&mut Transaction>, Error> {
        let number = self.transaction;
        if number == 0 {
            return Ok(None);
        }
        self.client()?.transactions.get_mut(&number).map(Some).ok_or(Error::Absent)
    }

    fn path(&self, text: &str) -> Result<Path, Error> {
        Path::of_client(self.partition, text)
    }

    /// Looks at a node.
    fn look<T>(&mut self, text: &str, see: impl FnOnce(&Node) -> T) -> Result<T, Error> {
        let path = self.path(text)?;
        let actor = Actor::Client(self.partition);
        let Some(transaction) = self.open()? else {
            return self.store.tree.visible(actor, &path, Access::READ).map(see);
        };
        note(transaction, &path)?;
        transaction.view.visible(actor, &path, Access::READ).map(see)
    }

    /// Makes a change in the tree or the transaction.
    fn change(&mut self, change: Change) -> Result<Vec<u8>, Error> {
        let actor = Actor::Client(self.partition);
        let Some(transaction) = self.open()? else {
            return self.store.change(actor, &change).map(|()| OK.to_vec());
        };
        if transaction.changes.len() >= limits::CHANGES {
            return Err(Error::NoSpace);
        }
        note(transaction, change.path())?;
        apply(&mut transaction.view, actor, &change)?;
        transaction.changes.push(change);
        Ok(OK.to_vec())
    }

    fn directory(&mut self, payload: &[u8]) -> Result<Vec<u8>, Error> {
        let names = self.look(one_string(payload)?, child_names)?;
        if names.len() > PAYLOAD_MAX { Err(Error::TooBig) } else { Ok(names) }
    }

    /// A part of a directory: a count that changes with it, then names from an offset on; an
    /// empty name ends the last part.
    fn directory_part(&mut self, payload: &[u8]) -> Result<Vec<u8>, Error> {
        let parts = strings(payload).ok_or(Error::Invalid)?;
        let [text, offset] = parts.as_slice() else {
            return Err(Error::Invalid);
        };
        let offset: usize = offset.parse().map_err(|_| Error::Invalid)?;
        let mut names = self.look(text, child_names)?;
        let version =
            names.iter().fold(5381u32, |sum, &b| sum.wrapping_mul(33).wrapping_add(u32::from(b)));
        names.push(0);
        let mut part = format!("{version}\0").into_bytes();
        let room = PAYLOAD_MAX - part.len();
        let rest = names.get(offset..).ok_or(Error::Invalid)?;
        part.extend_from_slice(rest.get(..room).unwrap_or(rest));
        Ok(part)
    }

    fn write(&mut self, payload: &[u8]) -> Result<Vec<u8>, Error> {
        let end = payload.iter().position(|&byte| byte == 0).ok_or(Error::Invalid)?;
        let (text, value) = payload.split_at(end);
        let text = core::str::from_utf8(text).map_err(|_| Error::Invalid)?;
        let path = self.path(text)?;
        self.change(Change::Write(path, value.get(1..).unwrap_or_default().to_vec()))
    }

    fn make(&mut self, payload: &[u8]) -> Result<Vec<u8>, Error> {
        let path = self.path(one_string(payload)?)?;
        self.change(Change::Make(path))
    }

    fn set_permissions(&mut self, payload: &[u8]) -> Result<Vec<u8>, Error> {
        let parts = strings(payload).ok_or(Error::Invalid)?;
        let (text, list) = parts.split_first().ok_or(Error::Invalid)?;
        let permissions = parse_permissions(list)?;
        let path = self.path(text)?;
        self.change(Change::Permit(path, permissions))
    }

    fn begin(&mut self) -> Result<Vec<u8>, Error> {
        if self.transaction != 0 {
            return Err(Error::Busy);
        }
        let base = self.store.tree.clone();
        let client = self.client()?;
        if client.transactions.len() >= limits::TRANSACTIONS {
            return Err(Error::NoSpace);
        }
        let number = client.transaction_number();
        let (view, touched, changes) = (base.clone(), BTreeSet::new(), Vec::new());
        client.transactions.insert(number, Transaction { base, view, touched, changes });
        Ok(format!("{number}\0").into_bytes())
    }

    fn end(&mut self, payload: &[u8]) -> Result<Vec<u8>, Error> {
        let commit = match one_string(payload)? {
            "T" => true,
            "F" => false,
            _ => return Err(Error::Invalid),
        };
        let number = self.transaction;
        let ended = self.client()?.transactions.remove(&number).ok_or(Error::Absent)?;
        if !commit || ended.changes.is_empty() {
            return Ok(OK.to_vec());
        }
        self.commit(&ended)?;
        Ok(OK.to_vec())
    }

    /// Makes the changes of a transaction, where nothing it looked at is different now.
    fn commit(&mut self, ended: &Transaction) -> Result<(), Error> {
        let now = &self.store.tree;
        let same = |path: &Path| match (ended.base.get(path), now.get(path)) {
            (Some(before), Some(now)) => before.looks_like(now),
            (before, now) => before.is_none() && now.is_none(),
        };
        if !now.is_same(&ended.base) && !ended.touched.iter().all(same) {
            return Err(Error::Again);
        }
        let actor = Actor::Client(self.partition);
        let before = now.clone();
        let mut after = before.clone();
        let mut told = Vec::new();
        for change in &ended.changes {
            let gone = apply(&mut after, actor, change).map_err(|_| Error::Again)?;
            told.push(gone);
        }
        self.store.tree = after;
        for (change, gone) in ended.changes.iter().zip(&told) {
            self.store.observed(change.path(), actor);
            self.store.tell(&before, change.path(), gone);
        }
        Ok(())
    }
}

/// Remembers that a transaction depends on a node.
fn note(transaction: &mut Transaction, path: &Path) -> Result<(), Error> {
    if transaction.touched.len() >= limits::CHANGES && !transaction.touched.contains(path) {
        return Err(Error::NoSpace);
    }
    transaction.touched.insert(path.clone());
    Ok(())
}

fn child_names(node: &Node) -> Vec<u8> {
    let mut names = Vec::new();
    for name in node.children.keys() {
        names.extend_from_slice(name.as_bytes());
        names.push(0);
    }
    names
}

fn permission_text(permissions: &Permissions) -> Vec<u8> {
    let mut text = format!("{}{}\0", permissions.others.letter(), permissions.owner);
    for (who, access) in &permissions.named {
        text.push_str(&format!("{}{who}\0", access.letter()));
    }
    text.into_bytes()
}

fn parse_permissions(list: &[&str]) -> Result<Permissions, Error> {
    let parse = |text: &&str| -> Result<(u32, Access), Error> {
        let letter = text.bytes().next().and_then(Access::from_letter).ok_or(Error::Invalid)?;
        let number = text.get(1..).and_then(|digits| digits.parse().ok()).ok_or(Error::Invalid)?;
        Ok((number, letter))
    };
    let (first, named) = list.split_first().ok_or(Error::Invalid)?;
    if named.len() > limits::PERMISSIONS {
        return Err(Error::NoSpace);
    }
    let (owner, others) = parse(first)?;
    let named = named.iter().map(parse).collect::<Result<_, _>>()?;
    Ok(Permissions { owner, others, named })
}

fn watched(partition: u32, text: &str) -> Result<Watched, Error> {
    match text {
        "@introduceDomain" | "@releaseDomain" => Ok(Watched::Special(text.to_string())),
        _ if text.starts_with('@') => Err(Error::Invalid),
        _ => Path::of_client(partition, text).map(Watched::Node),
    }
}

/// Checks a new watch; it is added after its reply.
fn watch(client: &mut Connection, payload: &[u8]) -> Result<Vec<u8>, Error> {
    let parts = strings(payload).ok_or(Error::Invalid)?;
    let [text, token] = parts.as_slice() else {
        return Err(Error::Invalid);
    };
    let on = watched(client.partition, text)?;
    if token.len() > MAX_TOKEN {
        return Err(Error::Invalid);
    }
    if client.watches.iter().any(|w| w.on == on && w.token == *token) {
        return Err(Error::Exists);
    }
    if client.watches.len() >= limits::WATCHES {
        return Err(Error::NoSpace);
    }
    Ok(OK.to_vec())
}

fn unwatch(client: &mut Connection, payload: &[u8]) -> Result<Vec<u8>, Error> {
    let parts = strings(payload).ok_or(Error::Invalid)?;
    let [text, token] = parts.as_slice() else {
        return Err(Error::Invalid);
    };
    let on = watched(client.partition, text)?;
    let found = client.watches.iter().position(|w| w.on == on && w.token == *token);
    client.watches.remove(found.ok_or(Error::Absent)?);
    Ok(OK.to_vec())
}

/// Forgets watches and transactions, as a kernel asks that was started by another.
fn reset(client: &mut Connection) -> Result<Vec<u8>, Error> {
    client.watches.clear();
    client.transactions.clear();
    Ok(OK.to_vec())
}
