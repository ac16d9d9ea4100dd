//! The requests of a client, one function each.
//!
//! Rule: each request gets its reply or an error reply; nothing in it is stored before it is
//! checked.

use alloc::format;
use alloc::string::ToString;
use alloc::vec::Vec;

use crate::connection::{Connection, Request, Transaction, Watch, Watched};
use crate::limits;
use crate::overlay::{Notes, Overlay, Seen, Step, View};
use crate::path::{Path, home};
use crate::service::Store;
use crate::tree::{Access, Actor, Permissions};
use crate::wire::{Error, Header, PAYLOAD_MAX, kind, one_string, strings};

const OK: &[u8] = b"OK\0";

/// Performs a request and queues its reply.
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
    client.send_events(&mut store.ledger);
    // A new watch fires once, after its reply.
    if let (kind::WATCH, Ok(_)) = (request.head.kind, &result)
        && let Some([text, token]) = strings(&request.payload).as_deref()
        && let Ok(on) = watched(partition, text)
    {
        let relative = !text.starts_with('/') && !text.starts_with('@');
        store.watch(partition, on, token, relative);
    }
}

fn dispatch(store: &mut Store, partition: u32, request: &Request) -> Result<Vec<u8>, Error> {
    let payload = request.payload.as_slice();
    let transaction = request.head.tx_id;
    let keeps = matches!(
        request.head.kind,
        kind::WRITE | kind::MKDIR | kind::SET_PERMS | kind::WATCH | kind::TRANSACTION_START
    );
    if keeps && store.tight {
        return Err(Error::NoSpace);
    }
    let mut scope = Scope { store, partition, transaction };
    match request.head.kind {
        kind::DIRECTORY => scope.directory(payload),
        kind::DIRECTORY_PART => scope.directory_part(payload),
        kind::READ => scope.look(one_string(payload)?, |node| node.value.to_vec()),
        kind::GET_PERMS => scope.look(one_string(payload)?, |n| permission_text(n.permissions)),
        kind::WRITE => scope.write(payload),
        kind::MKDIR => scope.make(payload),
        kind::RM => {
            let path = scope.path(one_string(payload)?)?;
            scope.change(&path, |view, actor| view.remove(actor, &path))
        }
        kind::SET_PERMS => scope.set_permissions(payload),
        kind::WATCH => scope.watch(payload),
        kind::UNWATCH => scope.unwatch(payload),
        kind::RESET_WATCHES => scope.reset(),
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

/// The scope of a request: its client, and the tree or a transaction of the client.
struct Scope<'s> {
    store: &'s mut Store,
    partition: u32,
    transaction: u32,
}

impl Scope<'_> {
    fn client(&mut self) -> Result<&mut Connection, Error> {
        self.store.connections.get_mut(&self.partition).ok_or(Error::Absent)
    }

    /// The transaction of the request; `None` if it is in none.
    fn open(&self) -> Result<Option<&Transaction>, Error> {
        if self.transaction == 0 {
            return Ok(None);
        }
        let client = self.store.connections.get(&self.partition).ok_or(Error::Absent)?;
        client.transactions.get(&self.transaction).map(Some).ok_or(Error::Absent)
    }

    fn path(&self, text: &str) -> Result<Path, Error> {
        Path::of_client(self.partition, text)
    }

    /// Calls `look` with the tree as the request sees it.
    fn view<T>(&self, look: impl FnOnce(View<'_>, Actor) -> Result<T, Error>) -> Result<T, Error> {
        let (tree, none) = (&self.store.tree, Overlay::default());
        let overlay = self.open()?.map_or(&none, |transaction| &transaction.overlay);
        look(View { tree, overlay }, Actor::Client(self.partition))
    }

    /// If the request is in a transaction, notes that the transaction depends on nodes and, if
    /// `list`, on the list of names of the first of them.
    fn note<'p>(
        &mut self,
        paths: impl Iterator<Item = &'p Path> + Clone,
        list: bool,
    ) -> Result<(), Error> {
        let Some(transaction) = self.open()? else {
            return Ok(());
        };
        let new = paths.clone().filter(|path| !transaction.notes.has(path));
        let (count, cost) =
            new.fold((0, 0), |(count, cost), path| (count + 1, cost + Notes::cost(path)));
        if transaction.notes.len() + count > limits::CHANGES {
            return Err(Error::NoSpace);
        }
        let (partition, number) = (self.partition, self.transaction);
        let Store { tree, ledger, connections, .. } = &mut *self.store;
        if count > 0 && !ledger.charge(partition, cost) {
            return Err(Error::NoSpace);
        }
        let client = connections.get_mut(&partition).ok_or(Error::Absent)?;
        let transaction = client.transactions.get_mut(&number).ok_or(Error::Absent)?;
        let before = transaction.notes.bytes();
        for (index, path) in paths.enumerate() {
            transaction.notes.note(tree, path, list && index == 0);
        }
        let less = (before + cost).saturating_sub(transaction.notes.bytes());
        ledger.release(partition, less);
        Ok(())
    }

    /// Reads a node.
    fn look<T>(&mut self, text: &str, see: impl FnOnce(Seen<'_>) -> T) -> Result<T, Error> {
        let path = self.path(text)?;
        self.note(core::iter::once(&path), false)?;
        self.view(|view, actor| view.visible(actor, &path, Access::READ).map(see))
    }

    /// Makes a change, in the tree or in the transaction.
    fn change(
        &mut self,
        path: &Path,
        plan: impl FnOnce(View<'_>, Actor) -> Result<Step, Error>,
    ) -> Result<Vec<u8>, Error> {
        let step = self.view(plan);
        if self.transaction == 0 {
            self.store.commit(Actor::Client(self.partition), Overlay::of(step?))?;
            return Ok(OK.to_vec());
        }
        self.note(core::iter::once(path), false)?;
        let step = step?;
        // New nodes get the permissions of the deepest existing node.
        let above = step.paths().last().and_then(Path::above);
        self.note(step.paths().chain(&above), false)?;
        self.keep(step)?;
        Ok(OK.to_vec())
    }

    /// Adds a change to the transaction.
    fn keep(&mut self, step: Step) -> Result<(), Error> {
        let (partition, number) = (self.partition, self.transaction);
        let Store { ledger, connections, .. } = &mut *self.store;
        let client = connections.get_mut(&partition).ok_or(Error::Absent)?;
        let transaction = client.transactions.get_mut(&number).ok_or(Error::Absent)?;
        let (before, most) = (transaction.overlay.bytes(), step.bytes());
        if transaction.overlay.len() + step.paths().count() > 2 * limits::CHANGES {
            return Err(Error::NoSpace);
        }
        if !ledger.charge(partition, most) {
            return Err(Error::NoSpace);
        }
        transaction.overlay.take(step);
        let less = (before + most).saturating_sub(transaction.overlay.bytes());
        ledger.release(partition, less);
        Ok(())
    }

    fn directory(&mut self, payload: &[u8]) -> Result<Vec<u8>, Error> {
        let path = self.path(one_string(payload)?)?;
        self.note(core::iter::once(&path), true)?;
        let mut names = Window::new(0, PAYLOAD_MAX);
        self.view(|view, actor| {
            view.visible(actor, &path, Access::READ)?;
            view.children(actor, &path, |name| names.pass(name));
            Ok(())
        })?;
        if names.passed > PAYLOAD_MAX { Err(Error::TooBig) } else { Ok(names.bytes) }
    }

    /// Returns a part of a directory: a count that changes with the directory, then names from an
    /// offset on; an empty name ends the last part.
    fn directory_part(&mut self, payload: &[u8]) -> Result<Vec<u8>, Error> {
        let parts = strings(payload).ok_or(Error::Invalid)?;
        let [text, offset] = parts.as_slice() else {
            return Err(Error::Invalid);
        };
        let offset: usize = offset.parse().map_err(|_| Error::Invalid)?;
        let path = self.path(text)?;
        self.note(core::iter::once(&path), true)?;
        let listed = self.store.tree.get(path.as_str()).map_or(0, |node| node.listed);
        let mut part = format!("{listed}\0").into_bytes();
        let mut names = Window::new(offset, PAYLOAD_MAX - part.len());
        self.view(|view, actor| {
            view.visible(actor, &path, Access::READ)?;
            view.children(actor, &path, |name| names.pass(name));
            Ok(())
        })?;
        names.pass("");
        if offset > names.passed {
            return Err(Error::Invalid);
        }
        part.extend_from_slice(&names.bytes);
        Ok(part)
    }

    fn write(&mut self, payload: &[u8]) -> Result<Vec<u8>, Error> {
        let end = payload.iter().position(|&byte| byte == 0).ok_or(Error::Invalid)?;
        let (text, value) = payload.split_at(end);
        let text = core::str::from_utf8(text).map_err(|_| Error::Invalid)?;
        let path = self.path(text)?;
        let value = value.get(1..).unwrap_or_default();
        self.change(&path, |view, actor| view.write(actor, &path, Some(value)))
    }

    fn make(&mut self, payload: &[u8]) -> Result<Vec<u8>, Error> {
        let path = self.path(one_string(payload)?)?;
        self.change(&path, |view, actor| view.write(actor, &path, None))
    }

    fn set_permissions(&mut self, payload: &[u8]) -> Result<Vec<u8>, Error> {
        let parts = strings(payload).ok_or(Error::Invalid)?;
        let (text, list) = parts.split_first().ok_or(Error::Invalid)?;
        let permissions = parse_permissions(list)?;
        let path = self.path(text)?;
        self.change(&path, |view, actor| view.set_permissions(actor, &path, &permissions))
    }

    fn begin(&mut self) -> Result<Vec<u8>, Error> {
        if self.transaction != 0 {
            return Err(Error::Busy);
        }
        let Store { ledger, connections, .. } = &mut *self.store;
        let client = connections.get_mut(&self.partition).ok_or(Error::Absent)?;
        if client.transactions.len() >= limits::TRANSACTIONS
            || !ledger.charge(self.partition, limits::TRANSACTION_BYTES)
        {
            return Err(Error::NoSpace);
        }
        let number = client.transaction_number();
        client.transactions.insert(number, Transaction::default());
        Ok(format!("{number}\0").into_bytes())
    }

    fn end(&mut self, payload: &[u8]) -> Result<Vec<u8>, Error> {
        let commit = match one_string(payload)? {
            "T" => true,
            "F" => false,
            _ => return Err(Error::Invalid),
        };
        let number = self.transaction;
        let Store { ledger, connections, .. } = &mut *self.store;
        let client = connections.get_mut(&self.partition).ok_or(Error::Absent)?;
        let ended = client.close(number, ledger).ok_or(Error::Absent)?;
        if !commit || ended.overlay.len() == 0 {
            return Ok(OK.to_vec());
        }
        if !ended.notes.hold(&self.store.tree) {
            return Err(Error::Again);
        }
        self.store.commit(Actor::Client(self.partition), ended.overlay)?;
        Ok(OK.to_vec())
    }

    /// Checks a new watch and charges its cost; the watch is added after its reply.
    fn watch(&mut self, payload: &[u8]) -> Result<Vec<u8>, Error> {
        let parts = strings(payload).ok_or(Error::Invalid)?;
        let [text, token] = parts.as_slice() else {
            return Err(Error::Invalid);
        };
        let on = watched(self.partition, text)?;
        if token.len() > limits::TOKEN {
            return Err(Error::Invalid);
        }
        let Store { ledger, connections, .. } = &mut *self.store;
        let client = connections.get_mut(&self.partition).ok_or(Error::Absent)?;
        if matches!(on, Watched::Special(_)) && !client.privileged {
            return Err(Error::Access);
        }
        if client.watches.values().any(|w| w.on == on && *w.token == **token) {
            return Err(Error::Exists);
        }
        if client.watches.len() >= limits::WATCHES
            || !ledger.charge(self.partition, Watch::cost(on.as_str(), token))
        {
            return Err(Error::NoSpace);
        }
        Ok(OK.to_vec())
    }

    fn unwatch(&mut self, payload: &[u8]) -> Result<Vec<u8>, Error> {
        let parts = strings(payload).ok_or(Error::Invalid)?;
        let [text, token] = parts.as_slice() else {
            return Err(Error::Invalid);
        };
        let on = watched(self.partition, text)?;
        let mut watches = self.client()?.watches.iter();
        let found = watches.find(|(_, w)| w.on == on && *w.token == **token);
        let id = *found.ok_or(Error::Absent)?.0;
        self.store.unwatch(self.partition, &[id]);
        Ok(OK.to_vec())
    }

    /// Drops watches and transactions. A kernel asks for that because another kernel may have run
    /// before it.
    fn reset(&mut self) -> Result<Vec<u8>, Error> {
        let client = self.client()?;
        let watches: Vec<u64> = client.watches.keys().copied().collect();
        let transactions: Vec<u32> = client.transactions.keys().copied().collect();
        self.store.unwatch(self.partition, &watches);
        let Store { ledger, connections, .. } = &mut *self.store;
        let client = connections.get_mut(&self.partition).ok_or(Error::Absent)?;
        for number in transactions {
            client.close(number, ledger);
        }
        Ok(OK.to_vec())
    }
}

/// A window over a list of names, each ended by a zero byte; never keeps more than the window.
struct Window {
    from: usize,
    room: usize,
    /// Bytes of all names so far.
    passed: usize,
    bytes: Vec<u8>,
}

impl Window {
    const fn new(from: usize, room: usize) -> Self {
        Self { from, room, passed: 0, bytes: Vec::new() }
    }

    /// Adds the next name.
    fn pass(&mut self, name: &str) {
        let start = self.from.saturating_sub(self.passed).min(name.len() + 1);
        self.passed += name.len() + 1;
        let bytes = name.bytes().chain([0]).skip(start);
        self.bytes.extend(bytes.take(self.room - self.bytes.len()));
    }
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
