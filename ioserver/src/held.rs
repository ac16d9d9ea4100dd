//! Memory that functions may still reach, since their reset was not confirmed, and their pieces.
//!
//! Rule: both stay as they are until a later reset of the function is confirmed. Then the chunk is
//! free for another function, and the pieces fail.

use crate::clients::{Clients, End};
use crate::dma::Region;
use crate::function::Stopped;
use crate::machine::Machine;
use alloc::collections::BTreeMap;

/// What the functions had, by their indices.
#[derive(Debug, Default)]
pub struct Held(BTreeMap<u32, Stopped>);

impl Held {
    /// Keeps what a function had. Nothing of the function is here yet, since a function is driven
    /// only after a reset.
    pub fn keep(&mut self, index: u32, stopped: Stopped) {
        self.0.insert(index, stopped);
    }

    /// Returns whether something of a function is held.
    pub fn has(&self, index: u32) -> bool {
        self.0.contains_key(&index)
    }

    /// Frees the chunk of a function, and fails its pieces, after its reset was confirmed.
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
