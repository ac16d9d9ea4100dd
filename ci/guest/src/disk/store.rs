//! A client of the store: one request at a time, each waits for its reply.
#![expect(unsafe_code, reason = "a ring in shared memory")]

use super::wait_for;
use crate::{calls, memory};
use alloc::string::String;
use alloc::vec::Vec;
use block_front::PATIENCE;
use core::mem::offset_of;
use core::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use pv_abi::xen::store::{
    DIRECTORY, ERROR, Header, READ, RING_BYTES, RM, StoreRing, WATCH, WATCH_EVENT, WRITE,
};
use zerocopy::IntoBytes;

/// The guest's end of the store's ring.
pub struct Store {
    address: u64,
    port: u32,
    /// A watched node changed since this was last cleared.
    pub changed: bool,
}

impl Store {
    /// Opens the ring that start info names.
    pub fn open() -> Result<Self, String> {
        let start = memory::start();
        if start.store_mfn == 0 || start.store_evtchn == 0 {
            return Err("there is no store".into());
        }
        memory::unmask(start.store_evtchn);
        let address = memory::address_of_machine_frame(start.store_mfn);
        Ok(Self { address, port: start.store_evtchn, changed: false })
    }

    fn byte(&self, offset: usize) -> &'static AtomicU8 {
        // SAFETY: the ring's page is mapped writable for as long as the guest runs.
        unsafe { &*core::ptr::with_exposed_provenance(self.address as usize + offset) }
    }

    fn index(&self, offset: usize) -> &'static AtomicU32 {
        // SAFETY: as above; the indices are aligned.
        unsafe { &*core::ptr::with_exposed_provenance(self.address as usize + offset) }
    }

    /// Writes as many bytes as fit; returns how many.
    fn write_some(&self, bytes: &[u8]) -> usize {
        let consumed = self.index(offset_of!(StoreRing, req_cons)).load(Ordering::Acquire);
        let produced = self.index(offset_of!(StoreRing, req_prod));
        let at = produced.load(Ordering::Relaxed);
        let room = RING_BYTES.saturating_sub(at.wrapping_sub(consumed) as usize);
        let count = room.min(bytes.len());
        for (byte, place) in bytes[..count].iter().zip(at as usize..) {
            self.byte(offset_of!(StoreRing, req) + place % RING_BYTES)
                .store(*byte, Ordering::Relaxed);
        }
        produced.store(at.wrapping_add(count as u32), Ordering::Release);
        calls::send(self.port);
        count
    }

    /// Reads as many bytes as there are, up to the room in `bytes`; returns how many.
    fn read_some(&self, bytes: &mut [u8]) -> usize {
        let count = self.waiting().min(bytes.len());
        let consumed = self.index(offset_of!(StoreRing, rsp_cons));
        let at = consumed.load(Ordering::Relaxed);
        for (byte, place) in bytes[..count].iter_mut().zip(at as usize..) {
            let place = self.byte(offset_of!(StoreRing, rsp) + place % RING_BYTES);
            *byte = place.load(Ordering::Relaxed);
        }
        if count > 0 {
            consumed.store(at.wrapping_add(count as u32), Ordering::Release);
            calls::send(self.port);
        }
        count
    }

    /// Number of bytes that can be read.
    fn waiting(&self) -> usize {
        let produced = self.index(offset_of!(StoreRing, rsp_prod)).load(Ordering::Acquire);
        let consumed = self.index(offset_of!(StoreRing, rsp_cons)).load(Ordering::Relaxed);
        (produced.wrapping_sub(consumed) as usize).min(RING_BYTES)
    }

    fn read_exact(&self, bytes: &mut [u8]) -> Result<(), String> {
        let mut have = 0;
        wait_for("an answer of the store", || {
            have += self.read_some(&mut bytes[have..]);
            Ok((have == bytes.len()).then_some(()))
        })
    }

    /// Reads a message: its kind and its body.
    fn message(&self) -> Result<(u32, Vec<u8>), String> {
        let mut header = Header::default();
        self.read_exact(header.as_mut_bytes())?;
        let mut body = alloc::vec![0; (header.len as usize).min(pv_abi::PAGE_SIZE)];
        self.read_exact(&mut body)?;
        Ok((header.kind, body))
    }

    /// Makes a request. Returns the body of the reply, or the store's refusal.
    fn request(&mut self, kind: u32, parts: &[&str]) -> Result<Result<Vec<u8>, String>, String> {
        let length = parts.iter().map(|part| part.len()).sum::<usize>() as u32;
        let header = Header { kind, req_id: 1, tx_id: 0, len: length };
        let mut bytes = Vec::from(header.as_bytes());
        parts.iter().for_each(|part| bytes.extend_from_slice(part.as_bytes()));
        let mut sent = 0;
        wait_for("room in the store's ring", || {
            sent += self.write_some(&bytes[sent..]);
            // A server that waits for room of its own would never make any here.
            while self.waiting() > 0 && sent < bytes.len() {
                self.message()?;
                self.changed = true;
            }
            Ok((sent == bytes.len()).then_some(()))
        })?;
        let end = memory::now() + PATIENCE;
        while memory::now() < end {
            match self.message()? {
                (WATCH_EVENT, _) => self.changed = true,
                (ERROR, body) => return Ok(Err(text(&body))),
                (_, body) => return Ok(Ok(body)),
            }
        }
        Err("the store sends only events, and no reply".into())
    }

    fn must(&mut self, kind: u32, parts: &[&str]) -> Result<Vec<u8>, String> {
        let [path, ..] = parts else { return Err("no path".into()) };
        let refused = |name| alloc::format!("the store refuses {path:?}: {name}");
        self.request(kind, parts)?.map_err(refused)
    }

    /// The value of a node; `None` if it cannot be read.
    pub fn read(&mut self, path: &str) -> Result<Option<String>, String> {
        Ok(self.request(READ, &[path, "\0"])?.ok().map(|body| text(&body)))
    }

    /// The names below a node.
    pub fn list(&mut self, path: &str) -> Result<Vec<String>, String> {
        let body = self.request(DIRECTORY, &[path, "\0"])?.unwrap_or_default();
        Ok(text(&body).split('\0').filter(|name| !name.is_empty()).map(String::from).collect())
    }

    /// Writes a node.
    pub fn write(&mut self, path: &str, value: &str) -> Result<(), String> {
        self.must(WRITE, &[path, "\0", value]).map(drop)
    }

    /// Removes a node, if there is one.
    pub fn remove(&mut self, path: &str) -> Result<(), String> {
        self.request(RM, &[path, "\0"]).map(drop)
    }

    /// Watches a node.
    pub fn watch(&mut self, path: &str) -> Result<(), String> {
        self.must(WATCH, &[path, "\0", "disk", "\0"]).map(drop)
    }

    /// Takes the events that there are. Returns whether a watched node may have changed.
    pub fn take_events(&mut self) -> Result<bool, String> {
        while self.waiting() > 0 {
            self.message()?;
            self.changed = true;
        }
        Ok(core::mem::take(&mut self.changed))
    }
}

fn text(body: &[u8]) -> String {
    let end = body.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    String::from_utf8_lossy(&body[..end]).into_owned()
}
