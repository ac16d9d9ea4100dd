//! The store's ring as programs write to it, with any messages, in step or out of step.
//!
//! Rule: waits here are short, and replies are not trusted.
#![expect(unsafe_code, reason = "a ring in shared memory")]

use crate::{calls, memory};
use core::mem::offset_of;
use core::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use fuzz_programs::{Message, Requests, Skew, Transaction};
use partition_runtime::hypercall::yield_now;
use pv_abi::xen::store::{Header, RING_BYTES, StoreRing, TRANSACTION_START};

/// How often a step yields the CPU to get space, or more to read.
const PATIENCE: u32 = 40;
/// The number of remembered transactions.
const OPEN: usize = 8;
const HEADER: usize = size_of::<Header>();

/// The ring, and the guest's positions in both streams.
#[derive(Default)]
pub struct StoreLine {
    /// Address of the ring; 0 if there is none.
    ring: u64,
    port: u32,
    /// How often the step may still wait.
    patience: u32,
    /// The number of zeros that complete a shortened message.
    owed: u32,
    /// Numbers of the transactions that were opened last.
    open: [u32; OPEN],
    opened: usize,
    /// The header of the incoming reply, and how much of it has arrived.
    header: [u8; HEADER],
    have: usize,
    /// Bytes of the reply's body still to come, and the number in it.
    left: u32,
    number: u32,
}

impl StoreLine {
    /// Opens the ring that start info names.
    pub fn open() -> Self {
        let start = memory::start();
        if start.store_mfn == 0 || start.store_evtchn == 0 {
            return Self::default();
        }
        let ring = memory::address_of_machine_frame(start.store_mfn);
        Self { ring, port: start.store_evtchn, ..Self::default() }
    }

    fn wait(&self) {
        calls::send(self.port);
        yield_now();
    }

    fn byte(&self, offset: usize) -> &'static AtomicU8 {
        // SAFETY: the ring's page stays mapped writable; the offset lies within it.
        unsafe { &*core::ptr::with_exposed_provenance(self.ring as usize + offset) }
    }

    fn index(&self, offset: usize) -> &'static AtomicU32 {
        // SAFETY: as above; the indices are aligned.
        unsafe { &*core::ptr::with_exposed_provenance(self.ring as usize + offset) }
    }

    /// Writes the messages of a step; returns how many bytes were written.
    pub fn perform(&mut self, requests: &Requests) -> u64 {
        if self.ring == 0 {
            return 0;
        }
        self.patience = PATIENCE;
        let owed = core::mem::take(&mut self.owed);
        let mut written = self.write_bytes(core::iter::repeat_n(0, owed as usize));
        for _ in 0..requests.times {
            for message in &requests.messages {
                written += self.message(message);
            }
        }
        let produced = self.index(offset_of!(StoreRing, req_prod));
        let consumed = self.index(offset_of!(StoreRing, rsp_cons));
        match requests.skew {
            Skew::None => {}
            Skew::Produced(by) => drop(produced.fetch_add(by, Ordering::AcqRel)),
            Skew::Consumed(by) => drop(consumed.fetch_add(by, Ordering::AcqRel)),
        }
        calls::send(self.port);
        if requests.read {
            self.read();
        }
        written
    }

    fn message(&mut self, message: &Message) -> u64 {
        if self.patience == 0 {
            return 0;
        }
        let transaction = match message.transaction {
            Transaction::Number(number) => number,
            Transaction::Open(which) => self.open[usize::from(which) % OPEN],
        };
        let bytes = message.bytes(transaction);
        let left = core::mem::take(&mut self.owed);
        let zeros = core::iter::repeat_n(0, left as usize);
        let all = left as usize + bytes.len();
        let written = self.write_bytes(zeros.chain(bytes));
        // Bytes that did not fit are owed, too; zeros will do for them.
        let missing = (all as u64 - written) as u32;
        self.owed = message.owed().map_or(0, |owed| owed + missing);
        written
    }

    /// Puts bytes as long as there is space, within limited patience; returns how many.
    fn write_bytes(&mut self, bytes: impl Iterator<Item = u8>) -> u64 {
        let consumed = self.index(offset_of!(StoreRing, req_cons));
        let produced = self.index(offset_of!(StoreRing, req_prod));
        let mut count = 0;
        for byte in bytes {
            let at = produced.load(Ordering::Relaxed);
            while at.wrapping_sub(consumed.load(Ordering::Acquire)) as usize >= RING_BYTES {
                if self.patience == 0 {
                    return count;
                }
                self.patience -= 1;
                self.wait();
            }
            let place = offset_of!(StoreRing, req) + at as usize % RING_BYTES;
            self.byte(place).store(byte, Ordering::Relaxed);
            produced.store(at.wrapping_add(1), Ordering::Release);
            count += 1;
        }
        count
    }

    /// Reads the available replies.
    fn read(&mut self) {
        let consumed = self.index(offset_of!(StoreRing, rsp_cons));
        while self.patience > 0 {
            self.patience -= 1;
            let at = consumed.load(Ordering::Relaxed);
            let produced = self.index(offset_of!(StoreRing, rsp_prod)).load(Ordering::Acquire);
            let count = (produced.wrapping_sub(at) as usize).min(RING_BYTES);
            for index in 0..count {
                let place = (at as usize).wrapping_add(index) % RING_BYTES;
                let byte = self.byte(offset_of!(StoreRing, rsp) + place).load(Ordering::Relaxed);
                self.follow(byte);
            }
            consumed.store(at.wrapping_add(count as u32), Ordering::Release);
            if count == 0 {
                break;
            }
            self.wait();
        }
    }

    /// Follows the stream of replies, for the numbers of transactions.
    fn follow(&mut self, byte: u8) {
        if self.have < HEADER {
            self.header[self.have] = byte;
            self.have += 1;
            if self.have == HEADER {
                let [.., a, b, c, d] = self.header;
                (self.left, self.number) = (u32::from_le_bytes([a, b, c, d]), 0);
            }
        } else {
            self.left -= 1;
            if byte.is_ascii_digit() {
                self.number = self.number.wrapping_mul(10).wrapping_add(u32::from(byte - b'0'));
            }
        }
        if self.have == HEADER && self.left == 0 {
            self.have = 0;
            let [a, b, c, d, ..] = self.header;
            if u32::from_le_bytes([a, b, c, d]) == TRANSACTION_START {
                self.open[self.opened % OPEN] = self.number;
                self.opened = self.opened.wrapping_add(1);
            }
        }
    }
}
