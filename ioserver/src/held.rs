//! What functions whose reset was not confirmed may still reach.
//!
//! Rule: it stays as it is until a later reset of the function is confirmed. Then its chunk is another
//! function's, and its pieces have failed.

use crate::clients::{Clients, End};
use crate::dma::Region;
use crate::function::Stopped;
use crate::machine::Machine;
use alloc::collections::BTreeMap;

/// What is held, by the indices of the functions.
#[derive(Debug, Default)]
pub struct Held(BTreeMap<u32, Stopped>);

impl Held {
    /// Keeps what a function had. The function has nothing here yet, since it is driven only after a
    /// reset.
    pub fn keep(&mut self, index: u32, stopped: Stopped) {
        self.0.insert(index, stopped);
    }

    /// Returns whether something of a function is held.
    pub fn has(&self, index: u32) -> bool {
        self.0.contains_key(&index)
    }

    /// Frees what a function had, after its reset was confirmed.
    pub fn settle<M: Machine>(
        &mut self,
        index: u32,
        region: &mut Region,
        clients: &mut Clients<M>,
    ) {
        if let Some(Stopped { chunk, pieces }) = self.0.remove(&index) {
            region.give_back(&chunk);
            clients.function_ended(index, End::Failed, pieces.into_iter());
        }
    }
}
