//! The endpoints in the store: their directories, and who is asked when a node changes.
//!
//! ```text
//! /local/domain/CLIENT/device/vbd/DEVICE             the front end's, owned by the client
//! /local/domain/SERVER/backend/vbd/CLIENT/DEVICE     the back end's, readable by the client
//! ```
//!
//! Rule: only the state of a front end is observed. A front end writes its other nodes before its
//! state, and they are read when the state is looked at.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use pv_abi::uv::database::ULTRAVISOR;
use pv_abi::xen::xenbus::INITIALISING;
use store::{Error, Path, Permissions, Store, home};

use crate::features::Features;
use crate::negotiation::{Action, Cause, Event, Negotiation, Order, Standing};
use crate::offer::Frontend;

/// An endpoint, as the database has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Its number, by which orders and reports name it.
    pub number: u32,
    /// The partition that uses it.
    pub client: u32,
    /// The number of the virtual device; 51712 is `xvda`.
    pub device: u32,
    /// The partition that the client grants its pages to and binds its ports to.
    pub server: u32,
    /// The features that the endpoint offers.
    pub features: Features,
    /// The number of the rings that are attached next.
    pub incarnation: u64,
}

/// An effect outside of the store, which the caller brings about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Send an order to the server of the endpoint.
    Order(Order),
    /// Record the next incarnation in the database.
    Incarnation(u64),
    /// Log why the back end closes.
    Record(Cause),
    /// The endpoint is gone.
    Gone,
}

#[derive(Debug)]
struct Entry {
    client: u32,
    device: u32,
    negotiation: Negotiation,
    front: String,
    back: String,
}

/// All endpoints whose negotiation the ultravisor plays.
#[derive(Debug, Default)]
pub struct Endpoints {
    entries: BTreeMap<u32, Entry>,
    /// The numbers of the endpoints by client and device.
    devices: BTreeMap<(u32, u32), u32>,
    /// The numbers of the endpoints by the path of the front end's state.
    observed: BTreeMap<Path, u32>,
}

/// The nodes of one front end.
struct Directory<'s> {
    store: &'s Store,
    path: &'s str,
}

impl Frontend for Directory<'_> {
    fn read(&self, node: &str) -> Option<&[u8]> {
        self.store.read(&Path::new(&format!("{}/{node}", self.path)).ok()?)
    }
}

impl Endpoints {
    /// Adds an endpoint and makes its directories.
    ///
    /// # Errors
    /// [`Error::Exists`] if there is an endpoint with this number, or its client has this device.
    /// Other errors are those of the store, which then has nothing of the endpoint.
    pub fn add(&mut self, store: &mut Store, endpoint: &Endpoint) -> Result<(), Error> {
        let Endpoint { number, client, device, server, features, incarnation } = *endpoint;
        let taken = self.devices.contains_key(&(client, device));
        if taken || self.entries.contains_key(&number) {
            return Err(Error::Exists);
        }
        let front = format!("{}/device/vbd/{device}", home(client));
        let back = format!("{}/backend/vbd/{client}/{device}", home(server));
        let (negotiation, actions) = Negotiation::begin(features, incarnation);
        let made = make_directories(store, endpoint, &front, &back);
        let entry = Entry { client, device, negotiation, front, back };
        let state = entry.state_path()?;
        if let Err(error) = made {
            entry.remove_nodes(store);
            return Err(error);
        }
        store.observe(state.clone());
        self.observed.insert(state, number);
        self.devices.insert((client, device), number);
        entry.carry_out(store, actions);
        self.entries.insert(number, entry);
        Ok(())
    }

    /// The number of the endpoint whose front end's state is at an observed path; `None` if the
    /// path does not belong to an endpoint.
    #[must_use]
    pub fn at(&self, path: &Path) -> Option<u32> {
        self.observed.get(path).copied()
    }

    /// The numbers of a client's endpoints.
    pub fn of_client(&self, client: u32) -> impl Iterator<Item = u32> {
        self.devices.range((client, 0)..=(client, u32::MAX)).map(|(_, &number)| number)
    }

    /// The features that an endpoint offers; `None` if the endpoint does not exist.
    #[must_use]
    pub fn features(&self, number: u32) -> Option<&Features> {
        Some(self.entries.get(&number)?.negotiation.features())
    }

    /// How far an endpoint has come; `None` if the endpoint does not exist.
    #[must_use]
    pub fn standing(&self, number: u32) -> Option<Standing> {
        Some(self.entries.get(&number)?.negotiation.standing())
    }

    /// Whether a server may hold rings of an endpoint.
    #[must_use]
    pub fn holds_rings(&self, number: u32) -> bool {
        self.entries.get(&number).is_some_and(|entry| entry.negotiation.holds_rings())
    }

    /// Whether an endpoint waits for [`Event::Again`].
    #[must_use]
    pub fn is_refused(&self, number: u32) -> bool {
        self.entries.get(&number).is_some_and(|entry| entry.negotiation.is_refused())
    }

    /// Gives an event to an endpoint, and returns the effects that the caller has to bring about
    /// outside of the store. If the endpoint does not exist, does nothing.
    #[must_use]
    pub fn handle(&mut self, store: &mut Store, number: u32, event: Event) -> Vec<Effect> {
        let Some(entry) = self.entries.get_mut(&number) else {
            return Vec::new();
        };
        let front = Directory { store, path: &entry.front };
        let actions = entry.negotiation.handle(event, &front);
        let effects = entry.carry_out(store, actions);
        if effects.contains(&Effect::Gone) {
            self.forget(store, number);
        }
        effects
    }

    fn forget(&mut self, store: &mut Store, number: u32) {
        let Some(entry) = self.entries.remove(&number) else {
            return;
        };
        self.devices.remove(&(entry.client, entry.device));
        if let Ok(state) = entry.state_path() {
            self.observed.remove(&state);
        }
        entry.remove_nodes(store);
        if self.of_client(entry.client).next().is_none() {
            remove(store, entry.back.rsplit_once('/').map_or("", |(above, _)| above));
        }
    }
}

impl Entry {
    /// The path of the front end's state.
    fn state_path(&self) -> Result<Path, Error> {
        Path::new(&format!("{}/state", self.front))
    }

    /// Writes and removes nodes, and returns the effects of the other actions.
    fn carry_out(&self, store: &mut Store, actions: Vec<Action>) -> Vec<Effect> {
        let mut effects = Vec::new();
        for action in actions {
            match action {
                // Both a path and a value that are made here are short and well-formed.
                Action::Write { node, value } => {
                    let _ = write(store, &self.back, node, &value.to_string());
                }
                Action::RemoveOfFrontend { node } => {
                    remove(store, &format!("{}/{node}", self.front));
                }
                Action::Order(order) => effects.push(Effect::Order(order)),
                Action::Incarnation(number) => effects.push(Effect::Incarnation(number)),
                Action::Record(cause) => effects.push(Effect::Record(cause)),
                Action::Gone => effects.push(Effect::Gone),
            }
        }
        effects
    }

    fn remove_nodes(&self, store: &mut Store) {
        if let Ok(front) = Path::new(&self.front) {
            store.ignore(&front);
        }
        remove(store, &self.front);
        remove(store, &self.back);
    }
}

/// Makes both directories, with the nodes that name each other.
fn make_directories(
    store: &mut Store,
    endpoint: &Endpoint,
    front: &str,
    back: &str,
) -> Result<(), Error> {
    let Endpoint { client, device, server, .. } = *endpoint;
    store.make(&Path::new(front)?, &Permissions::private(client))?;
    store.make(&Path::new(back)?, &Permissions::readable_by(ULTRAVISOR, client))?;
    write(store, back, "frontend", front)?;
    write(store, back, "frontend-id", &client.to_string())?;
    write(store, front, "backend", back)?;
    write(store, front, "backend-id", &server.to_string())?;
    write(store, front, "virtual-device", &device.to_string())?;
    write(store, front, "device-type", "disk")?;
    write(store, front, "state", &INITIALISING.to_string())
}

fn write(store: &mut Store, directory: &str, node: &str, value: &str) -> Result<(), Error> {
    store.write(&Path::new(&format!("{directory}/{node}"))?, value.as_bytes())
}

fn remove(store: &mut Store, path: &str) {
    if let Ok(path) = Path::new(path) {
        // A node that does not exist need not be removed.
        let _ = store.remove(&path);
    }
}
