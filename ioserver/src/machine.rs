//! What serving clients needs of the monitor: pages of grants, ports, pins, copies.
//!
//! [`Monitor`] is the implementation that a partition uses; tests use another.

use crate::deaths::{Step, is_prepared, made};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use block_ring::{Index, REQUEST_WORDS, RingMemory};
use block_service::{Pin, Unreached};
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use core::sync::atomic::fence;
use journal::{JournalPage, words};
use partition_runtime::events::{self, Port};
use partition_runtime::grants::{self, Copies, GrantError, Mapping, Pinned};
use partition_runtime::heap;
use partition_runtime::hypercall::Errno;
use partition_runtime::window::Window;
use pv_abi::xen::block::RING_HEADER_BYTES;
use pv_abi::xen::grants::{GNTST_EAGAIN, GNTST_NO_SPACE};

/// What serving clients needs of the monitor.
pub trait Machine {
    /// Mapped pages: a ring of a client, or a journal's page.
    type Pages: RingMemory + JournalPage;

    /// Maps the pages of these grants of a domain, one after the other.
    ///
    /// # Errors
    /// The pages cannot be mapped; the text says why. Nothing is mapped then.
    fn map(&mut self, domain: u16, references: &[u32]) -> Result<Self::Pages, String>;
    /// Unmaps pages.
    fn unmap(&mut self, pages: Self::Pages);
    /// Binds a new port to a port of a domain.
    ///
    /// # Errors
    /// The port cannot be bound; the text says why.
    fn bind(&mut self, domain: u16, port: u32) -> Result<Port, String>;
    /// Closes a port.
    fn close(&mut self, port: Port);
    /// Raises the event at the other end of a port.
    fn notify(&mut self, port: Port);
    /// Pins pages of a domain, as [`block_service::Client::pin`] does.
    ///
    /// # Errors
    /// See [`Unreached`].
    fn pin(
        &mut self,
        domain: u16,
        grants: &[u32],
        disk_writes: bool,
        pins: &mut Vec<Pin>,
    ) -> Result<(), Unreached>;
    /// Drops pins.
    fn unpin(&mut self, pins: &[Pin]);
    /// Copies words of a domain's page, as [`block_service::Client::copy`] does.
    ///
    /// # Errors
    /// See [`Unreached`].
    fn copy(&mut self, domain: u16, grant: u32, to: &mut [u64]) -> Result<(), Unreached>;
    /// Returns whether the heap has room for this many bytes.
    fn has_room(&self, bytes: usize) -> bool;
}

/// The monitor.
pub struct Monitor {
    /// The window; `None` if the start block names none.
    pub window: Option<Window>,
    copies: Option<Copies>,
}

impl Monitor {
    /// Takes the partition's window.
    #[must_use]
    pub fn take() -> Self {
        Self { window: Window::take(), copies: Copies::take() }
    }
}

impl Machine for Monitor {
    type Pages = Pages;

    fn map(&mut self, domain: u16, references: &[u32]) -> Result<Pages, String> {
        let window = self.window.as_mut().ok_or("the start block names no window")?;
        let mapped = grants::map(window, domain, references);
        made(Step::Mapped);
        mapped.map(Pages).map_err(|error| match error {
            GrantError::Status(_, GNTST_NO_SPACE) => {
                "the table of mapped grants is full; detach a disk".into()
            }
            error => format!("a grant of domain {domain}: {error}"),
        })
    }

    fn unmap(&mut self, pages: Pages) {
        if let Some(window) = &mut self.window {
            grants::unmap(window, pages.0);
        }
    }

    fn bind(&mut self, domain: u16, port: u32) -> Result<Port, String> {
        let bound = events::bind_interdomain(domain, port);
        made(Step::Bound);
        bound.map_err(|errno| format!("port {port} of domain {domain} is not bound: {errno}"))
    }

    fn close(&mut self, port: Port) {
        // A port that is closed already needs nothing.
        let _ = events::close(port);
    }

    fn notify(&mut self, port: Port) {
        // If the client has closed its end, it needs no event.
        let _ = events::send(port);
        made(Step::Notified);
    }

    fn pin(
        &mut self,
        domain: u16,
        grants: &[u32],
        disk_writes: bool,
        pins: &mut Vec<Pin>,
    ) -> Result<(), Unreached> {
        let add = |pin: Pinned| pins.push(Pin { address: pin.address, handle: pin.handle });
        let pinned = grants::pin(domain, grants, disk_writes, add);
        made(Step::Pinned);
        pinned.map_err(unreached)
    }

    fn unpin(&mut self, pins: &[Pin]) {
        let pinned = |pin: &Pin| Pinned { address: pin.address, handle: pin.handle };
        grants::unpin(pins.iter().map(pinned));
        made(Step::Unpinned);
    }

    fn copy(&mut self, domain: u16, grant: u32, to: &mut [u64]) -> Result<(), Unreached> {
        let copies = self.copies.as_mut().ok_or(Unreached::NoGrant)?;
        copies.copy(domain, grant, to).map_err(unreached)
    }

    fn has_room(&self, bytes: usize) -> bool {
        heap::has_room(bytes)
    }
}

/// Decides about a request whose grants were not reached: it waits if the client is not at fault.
const fn unreached(error: GrantError) -> Unreached {
    match error {
        GrantError::Status(_, GNTST_NO_SPACE | GNTST_EAGAIN) | GrantError::Call(Errno::EAGAIN) => {
            Unreached::NoRoom
        }
        _ => Unreached::NoGrant,
    }
}

/// Pages of grants.
#[derive(Debug)]
pub struct Pages(Mapping);

/// The place of an index, in words of 32 bits.
const fn place(index: Index) -> usize {
    match index {
        Index::RequestsProduced => 0,
        Index::RequestEvent => 1,
        Index::ResponsesProduced => 2,
        Index::ResponseEvent => 3,
    }
}

/// The place of a word of a slot, in words of 64 bits.
const fn word_of(slot: u32, word: usize) -> usize {
    RING_HEADER_BYTES / 8 + slot as usize * REQUEST_WORDS + word
}

// Indices are accessed as words of 32 bits, slots as words of 64 bits.
impl RingMemory for Pages {
    fn load_index(&self, index: Index) -> u32 {
        self.0.words().get(place(index)).map_or(0, |word| word.load(Acquire))
    }

    fn store_index(&self, index: Index, value: u32) {
        if let Some(word) = self.0.words().get(place(index)) {
            word.store(value, Release);
        }
        if index == Index::ResponsesProduced {
            made(Step::Published);
        }
    }

    fn load_word(&self, slot: u32, word: usize) -> u64 {
        self.0.long_words().get(word_of(slot, word)).map_or(0, |word| word.load(Relaxed))
    }

    fn load_slot(&self, slot: u32) -> [u64; REQUEST_WORDS] {
        let words = self.0.long_words().get(word_of(slot, 0)..).unwrap_or_default();
        let slot = words.first_chunk::<REQUEST_WORDS>();
        slot.map_or([0; REQUEST_WORDS], |slot| slot.each_ref().map(|word| word.load(Relaxed)))
    }

    fn store_word(&self, slot: u32, word: usize, value: u64) {
        if let Some(word) = self.0.long_words().get(word_of(slot, word)) {
            word.store(value, Relaxed);
        }
        made(Step::Slots);
    }

    fn fence(&self) {
        fence(SeqCst);
    }
}

impl JournalPage for Pages {
    fn load(&self, word: usize) -> u64 {
        self.0.long_words().get(word).map_or(0, |word| word.load(Acquire))
    }

    fn load_all<const N: usize>(&self, first: usize) -> [u64; N] {
        let words = self.0.long_words().get(first..).unwrap_or_default();
        let there = words.first_chunk::<N>();
        there.map_or([0; N], |there| there.each_ref().map(|word| word.load(Acquire)))
    }

    fn store_all(&self, first: usize, values: &[u64]) {
        let words = self.0.long_words().get(first..).unwrap_or_default();
        if is_prepared() {
            (first..).zip(values).for_each(|(word, &value)| self.store(word, value));
        } else {
            words.iter().zip(values).for_each(|(there, &value)| there.store(value, Release));
        }
    }

    fn store(&self, word: usize, value: u64) {
        let Some(there) = self.0.long_words().get(word) else { return };
        let before = there.load(Relaxed);
        there.store(value, Release);
        if !is_prepared() {
            return;
        }
        made(match word {
            words::STATE if (before >> 32).count_ones() < (value >> 32).count_ones() => Step::Taken,
            words::STATE => Step::Cleared,
            words::PUBLISH if value as u32 != 0 => Step::Publishing,
            words::PUBLISH => Step::Answered,
            words::LINES..words::SEALS => Step::Lines,
            words::REQUESTS.. => Step::Fetched,
            _ => return,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pv_abi::xen::grants::GNTST_BAD_GNTREF;

    #[test]
    fn what_passes_is_no_mistake_of_the_client() {
        for status in [GNTST_EAGAIN, GNTST_NO_SPACE] {
            assert_eq!(unreached(GrantError::Status(1, status)), Unreached::NoRoom);
        }
        assert_eq!(unreached(GrantError::Call(Errno::EAGAIN)), Unreached::NoRoom);
        let wrong = GrantError::Status(1, GNTST_BAD_GNTREF);
        assert_eq!(unreached(wrong), Unreached::NoGrant);
    }
}
