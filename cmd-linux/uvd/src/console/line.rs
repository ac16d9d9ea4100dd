//! The ring of a guest's console, as the Xen ABI has it (`struct xencons_interface`).
//!
//! Rule: the guest may write its end at any time and is not trusted. Our indices are kept here and
//! never read back. If the guest's index is invalid, the guest loses its output, and nobody else is
//! affected.

use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU32, Ordering};

use channels::Shared;
use pv_abi::xen::console;

use crate::link::Port;

/// Bytes of the ring for typed input.
const IN_BYTES: u32 = console::IN_BYTES as u32;
/// Bytes of the ring for printed output, which follows the input ring.
const OUT_BYTES: u32 = console::OUT_BYTES as u32;

/// Word offsets of the indices in the page.
mod word {
    use pv_abi::xen::console::ConsoleRing;
    use std::mem::offset_of;

    pub const IN_CONSUMED: usize = offset_of!(ConsoleRing, in_cons) / 4;
    pub const IN_PRODUCED: usize = offset_of!(ConsoleRing, in_prod) / 4;
    pub const OUT_CONSUMED: usize = offset_of!(ConsoleRing, out_cons) / 4;
    pub const OUT_PRODUCED: usize = offset_of!(ConsoleRing, out_prod) / 4;
}

/// A mapped console ring and its event port.
pub struct Line {
    shared: Shared,
    port: Box<dyn Port>,
    consumed: u32,
    produced: u32,
    /// Bytes that were ever typed, including those in the ring when it was taken over.
    typed: u64,
}

impl Line {
    /// Takes over a ring in the state in which an earlier server left it.
    pub fn new(shared: Shared, port: Box<dyn Port>) -> Self {
        let at = |word: usize| load(shared.words(), word);
        let (consumed, produced) = (at(word::OUT_CONSUMED), at(word::IN_PRODUCED));
        let mut line = Self { shared, port, consumed, produced, typed: 0 };
        line.typed = line.unread();
        line
    }

    /// Bytes that were ever typed.
    pub fn typed(&self) -> u64 {
        self.typed
    }

    /// Bytes of [`Self::typed`] that the guest's kernel has read.
    pub fn read(&self) -> u64 {
        self.typed.saturating_sub(self.unread())
    }

    /// Bytes in the ring that the guest has not read; if the guest's index is invalid, the ring
    /// counts as full.
    fn unread(&self) -> u64 {
        let consumed = load(self.shared.words(), word::IN_CONSUMED);
        u64::from(self.produced.wrapping_sub(consumed).min(IN_BYTES))
    }

    /// The descriptor, which is readable when the guest rang.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.port.fd()
    }

    /// Takes the events, and at most one ring of printed output.
    pub fn drain(&mut self, to: &mut Vec<u8>) {
        self.port.take();
        let produced = load(self.shared.words(), word::OUT_PRODUCED);
        let there = produced.wrapping_sub(self.consumed);
        if there == 0 {
            return;
        }
        if there <= OUT_BYTES {
            to.extend((0..there).map(|at| {
                let at = IN_BYTES + self.consumed.wrapping_add(at) % OUT_BYTES;
                byte(self.shared.words(), at)
            }));
        }
        self.consumed = produced;
        store(self.shared.words(), word::OUT_CONSUMED, produced);
        self.port.ring();
    }

    /// Types the bytes that fit; returns how many fitted.
    pub fn type_in(&mut self, bytes: &[u8]) -> usize {
        let words = self.shared.words();
        let used = self.produced.wrapping_sub(load(words, word::IN_CONSUMED));
        // If the guest put the indices out of step, it is the guest's loss.
        let room = IN_BYTES.saturating_sub(used);
        let count = bytes.len().min(room as usize);
        for &byte in &bytes[..count] {
            put(words, self.produced % IN_BYTES, byte);
            self.produced = self.produced.wrapping_add(1);
        }
        if count != 0 {
            store(words, word::IN_PRODUCED, self.produced);
            self.port.ring();
        }
        self.typed += count as u64;
        count
    }
}

fn load(words: &[AtomicU32], at: usize) -> u32 {
    words.get(at).map_or(0, |word| word.load(Ordering::Acquire))
}

fn store(words: &[AtomicU32], at: usize, value: u32) {
    if let Some(word) = words.get(at) {
        word.store(value, Ordering::Release);
    }
}

fn byte(words: &[AtomicU32], at: u32) -> u8 {
    let word = words.get(at as usize / 4).map_or(0, |word| word.load(Ordering::Relaxed));
    word.to_le_bytes()[at as usize % 4]
}

/// Writes a byte of the ring that only this side writes.
fn put(words: &[AtomicU32], at: u32, byte: u8) {
    if let Some(word) = words.get(at as usize / 4) {
        let mut bytes = word.load(Ordering::Relaxed).to_le_bytes();
        bytes[at as usize % 4] = byte;
        word.store(u32::from_le_bytes(bytes), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{Bell, memory};

    /// A line, the guest's page and the guest's bell.
    fn pair() -> (Line, Shared, Bell) {
        let page = memory(1);
        let (ours, theirs) = (Shared::map(&page, 0, 1).unwrap(), Shared::map(&page, 0, 1).unwrap());
        let (bell, far) = Bell::pair();
        (Line::new(ours, Box::new(far)), theirs, bell)
    }

    fn print(words: &[AtomicU32], text: &[u8]) {
        let from = load(words, word::OUT_PRODUCED);
        for (at, byte) in (from..).zip(text) {
            put(words, IN_BYTES + at % OUT_BYTES, *byte);
        }
        store(words, word::OUT_PRODUCED, from.wrapping_add(text.len() as u32));
    }

    #[test]
    fn what_is_printed_comes_out_around_the_end_of_the_ring() {
        let (mut line, guest, _bell) = pair();
        let mut all = Vec::new();
        for round in 0..9u32 {
            let text: Vec<u8> = (0..500).map(|at| (at * 7 + round) as u8).collect();
            print(guest.words(), &text);
            all.clear();
            line.drain(&mut all);
            assert_eq!(all, text);
        }
    }

    #[test]
    fn what_is_typed_stays_until_there_is_room() {
        let (mut line, guest, _bell) = pair();
        assert_eq!(line.type_in(&[b'x'; 1500]), 1024);
        assert_eq!(line.type_in(b"y"), 0);
        assert_eq!((line.typed(), line.read()), (1024, 0));
        store(guest.words(), word::IN_CONSUMED, 3);
        assert_eq!(line.type_in(b"abcdef"), 3);
        assert_eq!(byte(guest.words(), 2), b'c');
        assert_eq!(byte(guest.words(), 3), b'x');
        assert_eq!((line.typed(), line.read()), (1027, 3));
    }

    #[test]
    fn indices_out_of_step_lose_output_and_nothing_else() {
        let (mut line, guest, _bell) = pair();
        let mut all = Vec::new();
        store(guest.words(), word::OUT_PRODUCED, 5000);
        store(guest.words(), word::IN_CONSUMED, 77);
        line.drain(&mut all);
        assert!(all.is_empty());
        assert_eq!(line.type_in(b"a"), 0);
        print(guest.words(), b"again");
        line.drain(&mut all);
        assert_eq!(all, b"again");
    }

    #[test]
    fn a_new_server_goes_on_where_the_last_one_was() {
        let (mut line, guest, _bell) = pair();
        let mut all = Vec::new();
        print(guest.words(), b"first");
        line.drain(&mut all);
        print(guest.words(), b"second");
        let (_, far) = Bell::pair();
        let mut next = Line::new(line.shared, Box::new(far));
        all.clear();
        next.drain(&mut all);
        assert_eq!(all, b"second");
    }
}
