//! The front end's half of a ring of one page.

use crate::{Machine, Page};
use core::sync::atomic::{AtomicU32, Ordering, fence};
use pv_abi::xen::block::{RING_HEADER_BYTES, Response, SLOT_BYTES};

/// Slots of a ring of one page.
pub const SLOTS: u32 = 32;
const SLOT_WORDS: usize = SLOT_BYTES / 4;

/// A slot's contents, in words.
pub type Slot = [u32; SLOT_WORDS];

/// The front end's half of a ring, in a page of the machine.
#[derive(Clone, Copy, Debug)]
pub struct Ring {
    /// The ring's number.
    pub number: usize,
    /// Its page.
    pub page: usize,
    /// Requests in slots; all but the last ones are published.
    written: u32,
    /// Requests published.
    published: u32,
    /// Answers taken.
    taken: u32,
}

const REQ_PROD: usize = 0;
const REQ_EVENT: usize = 1;
const RSP_PROD: usize = 2;
const RSP_EVENT: usize = 3;

impl Ring {
    /// Makes an empty ring in a page.
    pub fn new(machine: &impl Machine, number: usize, page: usize) -> Self {
        let words = machine.page(page);
        words.iter().for_each(|word| word.store(0, Ordering::Relaxed));
        words[REQ_EVENT].store(1, Ordering::Relaxed);
        words[RSP_EVENT].store(1, Ordering::Release);
        Self { number, page, written: 0, published: 0, taken: 0 }
    }

    /// Number of requests that were written and have no answer yet.
    #[must_use]
    pub const fn in_flight(&self) -> u32 {
        self.written.wrapping_sub(self.taken)
    }

    /// Answers taken so far.
    #[must_use]
    pub const fn taken(&self) -> u32 {
        self.taken
    }

    /// Requests that were written so far.
    #[must_use]
    pub const fn written(&self) -> u32 {
        self.written
    }

    fn slot(words: &Page, index: u32) -> &[AtomicU32] {
        let begin = RING_HEADER_BYTES / 4 + (index % SLOTS) as usize * SLOT_WORDS;
        &words[begin..begin + SLOT_WORDS]
    }

    /// Writes a request into the next slot. The back end sees it after [`Ring::publish`].
    pub fn write(&mut self, machine: &impl Machine, request: &Slot) {
        let slot = Self::slot(machine.page(self.page), self.written);
        for (place, word) in slot.iter().zip(request) {
            place.store(*word, Ordering::Relaxed);
        }
        self.written = self.written.wrapping_add(1);
    }

    /// Shows all written requests to the back end, and sends it an event if it waits for one.
    pub fn publish(&mut self, machine: &impl Machine) {
        if self.published == self.written {
            return;
        }
        let words = machine.page(self.page);
        words[REQ_PROD].store(self.written, Ordering::Release);
        fence(Ordering::SeqCst);
        let event = words[REQ_EVENT].load(Ordering::Relaxed);
        let new = self.written;
        if new.wrapping_sub(event) < new.wrapping_sub(self.published) {
            machine.notify(self.number);
        }
        self.published = new;
    }

    /// `rsp_prod`, as the back end wrote it.
    pub fn produced(&self, machine: &impl Machine) -> u32 {
        machine.page(self.page)[RSP_PROD].load(Ordering::Acquire)
    }

    /// Takes the next answer, which `rsp_prod` covers.
    pub fn take(&mut self, machine: &impl Machine) -> Response {
        let slot = Self::slot(machine.page(self.page), self.taken);
        let words = [0, 1, 2, 3].map(|word: usize| slot[word].load(Ordering::Relaxed));
        self.taken = self.taken.wrapping_add(1);
        zerocopy::transmute!(words)
    }

    /// Asks for an event with the next answer. The caller looks at [`Ring::produced`] again
    /// afterwards.
    pub fn ask_for_event(&self, machine: &impl Machine) {
        let words = machine.page(self.page);
        words[RSP_EVENT].store(self.taken.wrapping_add(1), Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// Stores an index that may be wrong, and raises the back end's event.
    pub fn corrupt(&self, machine: &impl Machine, index: usize, value: u32) {
        machine.page(self.page)[index % 4].store(value, Ordering::Release);
        machine.notify(self.number);
    }

    /// Stores a word into the slot of the last written request.
    pub fn scribble(&self, machine: &impl Machine, word: usize, value: u32) {
        let slot = Self::slot(machine.page(self.page), self.written.wrapping_sub(1));
        slot[word % SLOT_WORDS].store(value, Ordering::Relaxed);
    }
}
