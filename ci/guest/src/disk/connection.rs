//! The negotiation with the back end, in the store.

use super::machine::Ground;
use super::store::Store;
use super::wait_for;
use crate::{calls, memory};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use block_front::{Machine, Offer, Ring, Rubbish, state_of, write_nodes};
use pv_abi::xen::domid;
use pv_abi::xen::events::AllocUnbound;
use pv_abi::xen::xenbus::{CLOSED, CLOSING, CONNECTED, INIT_WAIT, INITIALISED, INITIALISING};

/// A disk of the guest.
pub struct Connection {
    store: Store,
    /// The front end's directory, and the back end's.
    front: String,
    back: String,
    /// The partition that grants and ports are for.
    pub partner: u16,
}

impl Connection {
    /// Waits for the disk of number `device`, or, without a number, for the first disk.
    pub fn find(device: Option<u32>) -> Result<Self, String> {
        let mut store = Store::open()?;
        store.watch("device")?;
        let wanted = device.map(|device| format!("{device}"));
        let is_wanted = |name: &String| wanted.as_ref().is_none_or(|wanted| wanted == name);
        let name = wait_for("the appearance of a disk", || {
            store.take_events()?;
            Ok(store.list("device/vbd")?.into_iter().find(is_wanted))
        })?;
        let front = format!("device/vbd/{name}");
        let back = wait_for("the appearance of a back end", || {
            store.take_events()?;
            store.read(&format!("{front}/backend"))
        })?;
        let partner = store.read(&format!("{front}/backend-id"))?.unwrap_or_default();
        let partner = partner.parse().map_err(|_| format!("backend-id is {partner:?}"))?;
        store.watch(&format!("{back}/state"))?;
        Ok(Self { store, front, back, partner })
    }

    /// The state that the back end shows.
    pub fn state(&mut self) -> Result<u32, String> {
        let value = self.store.read(&format!("{}/state", self.back))?;
        Ok(state_of(value.as_deref()))
    }

    /// Shows a state.
    pub fn show(&mut self, state: u32) -> Result<(), String> {
        self.store.write(&format!("{}/state", self.front), &format!("{state}"))
    }

    /// Waits until the back end shows one of these states.
    pub fn wait_for_state(&mut self, states: &[u32]) -> Result<u32, String> {
        let mut last = 0;
        let what = format!("a back end in one of the states {states:?}");
        let waited = wait_for(&what, || {
            self.store.take_events()?;
            last = self.state()?;
            Ok(states.contains(&last).then_some(last))
        });
        waited.map_err(|text| format!("{text}: it is in state {last}"))
    }

    /// Fails if the back end is no longer connected.
    pub fn must_be_connected(&mut self) -> Result<(), String> {
        if self.store.take_events()? {
            let state = self.state()?;
            if state != CONNECTED {
                return Err(format!("the back end went to state {state}"));
            }
        }
        Ok(())
    }

    fn read_offer(&mut self) -> Result<Offer, String> {
        let (store, back) = (&mut self.store, &self.back);
        Offer::read(|node| store.read(&format!("{back}/{node}")).ok().flatten())
    }

    /// Offers rings, with rubbish among the nodes if there is any. The back end shows *waiting*.
    pub fn offer(
        &mut self,
        ground: &mut Ground,
        rings: usize,
        rubbish: Option<&Rubbish>,
    ) -> Result<Vec<Ring>, String> {
        // Linux's back end tells its size only once it is connected, and one ring needs no offer.
        let count = if rings > 1 { self.read_offer()?.rings.min(rings).max(1) } else { 1 };
        let all: Vec<Ring> = (0..count).map(|number| Ring::new(ground, number, number)).collect();
        let mut named = Vec::new();
        for ring in &all {
            let mut port = AllocUnbound { dom: domid::SELF, remote_dom: self.partner, port: 0 };
            calls::alloc_unbound(&mut port).map_err(|error| format!("a port: {error}"))?;
            memory::unmask(port.port);
            ground.ports.push(port.port);
            named.push((ground.grant(ring.page, true), port.port));
        }
        for (node, value) in write_nodes(&named) {
            self.store.write(&format!("{}/{node}", self.front), &value)?;
        }
        if let Some(Rubbish { node, value }) = rubbish {
            self.store.write(&format!("{}/{node}", self.front), value)?;
            if *node == "state" {
                return Ok(all);
            }
        }
        self.show(INITIALISED)?;
        Ok(all)
    }

    /// Offers rings and waits until they are served.
    pub fn connect(
        &mut self,
        ground: &mut Ground,
        rings: usize,
    ) -> Result<(Offer, Vec<Ring>), String> {
        self.connect_with(ground, rings, None)
    }

    /// As [`Connection::connect`], with one node more.
    pub fn connect_with(
        &mut self,
        ground: &mut Ground,
        rings: usize,
        node: Option<&Rubbish>,
    ) -> Result<(Offer, Vec<Ring>), String> {
        self.wait_for_state(&[INIT_WAIT])?;
        let all = self.offer(ground, rings, node)?;
        self.wait_for_state(&[CONNECTED, CLOSING, CLOSED]).and_then(|state| match state {
            CONNECTED => Ok(()),
            other => Err(format!("the back end goes to state {other} and does not connect")),
        })?;
        let offer = self.read_offer()?;
        self.show(CONNECTED)?;
        Ok((offer, all))
    }

    /// Closes as a driver does that goes.
    pub fn close(&mut self, ground: &Ground) -> Result<(), String> {
        self.show(CLOSING)?;
        self.wait_for_state(&[CLOSING, CLOSED])?;
        self.show(CLOSED)?;
        self.wait_for_state(&[CLOSED])?;
        nothing_is_used(ground)
    }

    /// Begins again from any state. Afterwards nothing is offered, and no grant is in use.
    pub fn begin_again(&mut self, ground: &mut Ground) -> Result<(), String> {
        self.show(CLOSED)?;
        self.wait_for_state(&[CLOSED])?;
        for node in ["multi-queue-num-queues", "ring-page-order", "protocol", "queue-0", "ring-ref"]
        {
            self.store.remove(&format!("{}/{node}", self.front))?;
        }
        self.show(INITIALISING)?;
        self.wait_for_state(&[INIT_WAIT])?;
        nothing_is_used(ground)?;
        core::mem::take(&mut ground.ports).into_iter().for_each(calls::close);
        Ok(())
    }
}

/// Checks that no grant is in use, and ends all of them.
fn nothing_is_used(ground: &Ground) -> Result<(), String> {
    match ground.used_page() {
        Some(page) => Err(format!("the grant of page {page} is in use after the end")),
        None if ground.clear() => Ok(()),
        None => Err("a grant was used after the end".into()),
    }
}
