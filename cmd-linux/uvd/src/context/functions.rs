//! The PCI functions of the machine, which definitions name by their addresses.
//!
//! The functions stay the same while the host runs, so they are asked for once, when the first disk
//! needs them.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use control::command::{Answer, Body, DeviceRow, Query};
use definition::Function;
use uvd_protocol::Failure;

use super::refusal::unexpected;
use super::requests::Requests;

/// The index of each function, by its address.
pub type Indices = Rc<BTreeMap<u32, u32>>;

/// See the module's head.
#[derive(Default)]
pub struct Functions(RefCell<Option<Indices>>);

impl Functions {
    /// Returns the index of each function. Only the first call asks the ultravisor.
    ///
    /// # Errors
    /// The ultravisor does not answer.
    pub async fn get(&self, requests: &Requests) -> Result<Indices, Failure> {
        if let Some(known) = self.0.borrow().as_ref() {
            return Ok(Rc::clone(known));
        }
        let rows = read(requests).await?;
        let all = Rc::new(rows.iter().map(|row| (row.address, row.index)).collect());
        self.0.replace(Some(Rc::clone(&all)));
        Ok(all)
    }
}

/// Asks the ultravisor for the functions, with their present owners.
///
/// # Errors
/// The ultravisor does not answer.
pub async fn read(requests: &Requests) -> Result<Vec<DeviceRow>, Failure> {
    let mut all: Vec<DeviceRow> = Vec::new();
    let mut first = 0;
    loop {
        let Answer::Devices { rows, more } =
            requests.ask(Body::Query(Query::Devices { first })).await?.answer
        else {
            return Err(unexpected("PCI functions"));
        };
        let Some(last) = rows.last().map(|row| row.index).filter(|last| *last >= first) else {
            return Ok(all);
        };
        all.extend(rows);
        first = last.saturating_add(1);
        if !more {
            return Ok(all);
        }
    }
}

/// The index of a function. Returns `None` if no function has its address.
pub fn index(indices: &Indices, function: Function) -> Option<u32> {
    match function {
        Function::Address(address) => indices.get(&address).copied(),
        Function::Index(index) => Some(index),
    }
}
