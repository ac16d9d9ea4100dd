//! A split queue (2.7), whose requests name machine addresses.
//!
//! ```text
//! memory: descriptors | available ring | used ring | per slot: header, status, indirect table
//! ```
//!
//! The memory of a queue is set aside once. Each request has a *slot*, with a header and a status of
//! its own and with all descriptors that the largest request needs: in an indirect table, or, where
//! the device has none, a run of the queue's own descriptors. So a request neither allocates nor
//! searches, and a slot is the id that the device returns.
//!
//! Rule: every value that the device writes is compared with the driver's own record before it is
//! used. The id of a used element must be a slot in flight, and one look takes at most as many
//! elements as are in flight.

use crate::registers::Fault;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering, fence};

/// Maximum number of segments of a request.
pub const SEGMENTS: usize = 64;
/// Descriptors of the largest request: header, segments, status.
const CHAIN: u16 = SEGMENTS as u16 + 2;
/// Maximum number of requests in flight.
pub const SLOTS: u16 = 64;

/// Words of a descriptor.
const DESCRIPTOR: usize = 4;
/// Words of a slot: 16 bytes of header, 16 bytes for a discard, the status, and room to keep indirect
/// tables at multiples of 16 bytes.
const HEADER: usize = 12;
const SLOT: usize = HEADER + CHAIN as usize * DESCRIPTOR;
/// The words of a slot's parts.
const DISCARD: usize = 4;
const STATUS: usize = 8;

/// Flags of a descriptor (2.7.5).
const NEXT: u32 = 1;
const WRITE: u32 = 2;
const INDIRECT: u32 = 4;
/// In the used ring's flags: the device wants no notification.
const NO_NOTIFY: u32 = 1;
/// In the available ring's flags: the driver wants no interrupt.
const NO_INTERRUPT: u32 = 1;

/// The status that the driver writes before the device does: no value of a device (5.2.6).
const NO_STATUS: u32 = 0xff;

/// A piece of memory of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// Machine address.
    pub address: u64,
    /// Number of bytes, not 0.
    pub bytes: u32,
}

/// The first words of a request to a block device (5.2.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Its type.
    pub kind: u32,
    /// The first sector.
    pub sector: u64,
    /// For a discard: the sector and the number of sectors.
    pub discard: Option<(u64, u32)>,
    /// Whether the device writes the segments.
    pub device_writes: bool,
}

/// Memory that a device can reach.
#[derive(Clone, Copy, Debug)]
pub struct Memory<'m> {
    /// Its words.
    pub words: &'m [AtomicU32],
    /// Machine address of the first word, a multiple of 4096.
    pub address: u64,
}

impl<'m> Memory<'m> {
    /// Splits off whole pages for `words` words.
    #[must_use]
    pub fn split(self, words: usize) -> Option<(Self, Self)> {
        let words = words.checked_next_multiple_of(1024)?;
        let (first, rest) = self.words.split_at_checked(words)?;
        let address = self.address.checked_add(words as u64 * 4)?;
        Some((Self { words: first, ..self }, Self { words: rest, address }))
    }

    fn store(&self, at: usize, value: u32) {
        if let Some(word) = self.words.get(at) {
            word.store(value, Ordering::Relaxed);
        }
    }

    fn load(&self, at: usize) -> u32 {
        self.words.get(at).map_or(0, |word| word.load(Ordering::Acquire))
    }

    const fn address_of(&self, at: usize) -> u64 {
        self.address + at as u64 * 4
    }
}

/// A queue of a device.
#[derive(Debug)]
pub struct Queue<'m> {
    memory: Memory<'m>,
    size: u16,
    indirect: bool,
    /// The word at which each part begins.
    available: usize,
    used: usize,
    slots_at: usize,
    /// Free slots.
    free: Vec<u16>,
    /// Whether each slot is in flight.
    in_flight: Vec<bool>,
    /// Copy of the available ring, of which two entries share a word.
    ring: Vec<u16>,
    next_available: u16,
    next_used: u16,
    /// The available ring's flags.
    flags: u32,
}

/// Words of a queue's parts, from the first to the last.
const fn parts(size: u16, slots: u16) -> [usize; 4] {
    let size = size as usize;
    let available = size * DESCRIPTOR;
    let used = (available + 1 + size / 2 + 1).next_multiple_of(4);
    let slots_at = (used + 1 + size * 2 + 1).next_multiple_of(4);
    [available, used, slots_at, slots_at + slots as usize * SLOT]
}

/// Number of slots of a queue.
const fn slots(size: u16, indirect: bool) -> u16 {
    let most = if indirect { size } else { size / CHAIN };
    if most < SLOTS { most } else { SLOTS }
}

impl<'m> Queue<'m> {
    /// Words of memory that a queue of this size needs.
    #[must_use]
    pub const fn words(size: u16, indirect: bool) -> usize {
        parts(size, slots(size, indirect))[3]
    }

    /// Makes a queue of `size` descriptors, a power of two; `indirect` says that the device takes
    /// indirect tables.
    ///
    /// # Errors
    /// [`Fault::NoMemory`] if the memory is too small, [`Fault::Queue`] if the size is none.
    pub fn new(memory: Memory<'m>, size: u16, indirect: bool) -> Result<Self, Fault> {
        let count = slots(size, indirect);
        if !size.is_power_of_two() || size < 2 || count == 0 {
            return Err(Fault::Queue);
        }
        let [available, used, slots_at, end] = parts(size, count);
        if memory.words.len() < end {
            return Err(Fault::NoMemory);
        }
        memory.words.iter().for_each(|word| word.store(0, Ordering::Relaxed));
        let free = (0..count).rev().collect();
        let in_flight = alloc::vec![false; count.into()];
        let ring = alloc::vec![0; size.into()];
        let (next_available, next_used) = (0, 0);
        Ok(Self {
            memory,
            size,
            indirect,
            available,
            used,
            slots_at,
            free,
            in_flight,
            ring,
            next_available,
            next_used,
            flags: 0,
        })
    }

    /// Machine addresses of descriptors, available ring and used ring.
    #[must_use]
    pub const fn addresses(&self) -> [u64; 3] {
        let memory = &self.memory;
        [memory.address, memory.address_of(self.available), memory.address_of(self.used)]
    }

    /// Number of requests in flight.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight.len() - self.free.len()
    }

    /// Number of requests that can be submitted now.
    #[must_use]
    pub fn room(&self) -> usize {
        self.free.len()
    }

    /// Submits a request. Returns its slot, or `None` if no slot is free or there are more than
    /// [`SEGMENTS`] segments. The memory of the segments is the device's until the slot is returned
    /// by [`Queue::completed`].
    pub fn submit(&mut self, header: &Header, segments: &[Segment]) -> Option<u16> {
        if segments.len() > SEGMENTS {
            return None;
        }
        let slot = self.free.pop()?;
        self.write_slot(slot, header, segments);
        let head = if self.indirect { slot } else { slot * CHAIN };
        self.publish(head);
        self.in_flight[usize::from(slot)] = true;
        Some(slot)
    }

    /// The first word of a slot.
    const fn slot(&self, slot: u16) -> usize {
        self.slots_at + slot as usize * SLOT
    }

    fn write_slot(&self, slot: u16, header: &Header, segments: &[Segment]) {
        let (memory, at) = (&self.memory, self.slot(slot));
        for (index, word) in
            [header.kind, 0, header.sector as u32, (header.sector >> 32) as u32].iter().enumerate()
        {
            memory.store(at + index, *word);
        }
        memory.store(at + STATUS, NO_STATUS);
        let mut chain = Chain { memory, first: 0, next: 0 };
        chain.first =
            if self.indirect { at + HEADER } else { usize::from(slot * CHAIN) * DESCRIPTOR };
        // Where descriptors of the queue are chained, they are numbered from the queue's first.
        let base = if self.indirect { 0 } else { slot * CHAIN };
        chain.add(base, Segment { address: memory.address_of(at), bytes: 16 }, 0);
        if let Some((sector, sectors)) = header.discard {
            let words = [sector as u32, (sector >> 32) as u32, sectors, 0];
            for (index, word) in words.iter().enumerate() {
                memory.store(at + DISCARD + index, *word);
            }
            chain.add(base, Segment { address: memory.address_of(at + DISCARD), bytes: 16 }, 0);
        }
        let flags = if header.device_writes { WRITE } else { 0 };
        for segment in segments {
            chain.add(base, *segment, flags);
        }
        chain.end(Segment { address: memory.address_of(at + STATUS), bytes: 1 });
        if self.indirect {
            let table = memory.address_of(at + HEADER);
            let bytes = u32::from(chain.next) * 16;
            let place = usize::from(slot) * DESCRIPTOR;
            write_descriptor(memory, place, Segment { address: table, bytes }, INDIRECT);
        }
    }

    /// Makes a chain available to the device.
    fn publish(&mut self, head: u16) {
        let place = usize::from(self.next_available & (self.size - 1));
        self.ring[place] = head;
        let pair = place & !1;
        let [low, high] = [self.ring[pair], self.ring[pair + 1]];
        // The ring lies behind the word with flags and index.
        let place = self.available + 1 + pair / 2;
        self.memory.store(place, u32::from(low) | u32::from(high) << 16);
        self.next_available = self.next_available.wrapping_add(1);
        self.store_index();
    }

    /// Stores the available ring's index with its flags. The device sees chain and ring before it.
    fn store_index(&self) {
        if let Some(word) = self.memory.words.get(self.available) {
            word.store(u32::from(self.next_available) << 16 | self.flags, Ordering::Release);
        }
    }

    /// Asks the device not to interrupt at completions (2.7.7).
    pub fn silence(&mut self) {
        self.flags = NO_INTERRUPT;
        self.store_index();
    }

    /// Lets the device interrupt again. Returns whether it has completed something meanwhile, for
    /// which no interrupt comes.
    pub fn listen(&mut self) -> bool {
        self.flags = 0;
        self.store_index();
        // The device looks at the flags after it has stored the used ring's index.
        fence(Ordering::SeqCst);
        (self.memory.load(self.used) >> 16) as u16 != self.next_used
    }

    /// Returns whether the device wants a notification of the submitted requests.
    #[must_use]
    pub fn wants_notification(&self) -> bool {
        // The device looks at the index before it says that it wants none.
        fence(Ordering::SeqCst);
        self.memory.load(self.used) & NO_NOTIFY == 0
    }

    /// The next request that the device has completed, and the status that it wrote.
    ///
    /// # Errors
    /// [`Fault::UsedRing`]: the device is broken, and every request stays in flight until it was
    /// reset.
    pub fn completed(&mut self) -> Result<Option<(u16, u8)>, Fault> {
        let index = (self.memory.load(self.used) >> 16) as u16;
        let ready = index.wrapping_sub(self.next_used);
        if ready == 0 {
            return Ok(None);
        }
        if usize::from(ready) > self.in_flight() {
            return Err(Fault::UsedRing);
        }
        let place = usize::from(self.next_used & (self.size - 1));
        let id = self.memory.load(self.used + 1 + place * 2);
        let slot = self.slot_of(id).ok_or(Fault::UsedRing)?;
        self.next_used = self.next_used.wrapping_add(1);
        self.in_flight[usize::from(slot)] = false;
        self.free.push(slot);
        let status = self.memory.load(self.slot(slot) + STATUS);
        Ok(Some((slot, (status & 0xff) as u8)))
    }

    /// The slot in flight whose chain begins at descriptor `id`.
    fn slot_of(&self, id: u32) -> Option<u16> {
        let id = u16::try_from(id).ok()?;
        let step = if self.indirect { 1 } else { CHAIN };
        let slot = id / step;
        let known = id.is_multiple_of(step) && *self.in_flight.get(usize::from(slot))?;
        known.then_some(slot)
    }
}

/// A chain of descriptors in the making.
struct Chain<'c, 'm> {
    memory: &'c Memory<'m>,
    /// The word of its first descriptor.
    first: usize,
    /// Number of descriptors so far.
    next: u16,
}

impl Chain<'_, '_> {
    /// Adds a descriptor that another one follows; `base` is the number of the chain's first.
    fn add(&mut self, base: u16, segment: Segment, flags: u32) {
        let next = u32::from(base + self.next + 1) << 16;
        self.write(segment, flags | NEXT | next);
    }

    /// Adds the last descriptor: the status.
    fn end(&mut self, segment: Segment) {
        self.write(segment, WRITE);
    }

    fn write(&mut self, segment: Segment, flags: u32) {
        let at = self.first + usize::from(self.next) * DESCRIPTOR;
        write_descriptor(self.memory, at, segment, flags);
        self.next += 1;
    }
}

fn write_descriptor(memory: &Memory<'_>, at: usize, segment: Segment, flags: u32) {
    let Segment { address, bytes } = segment;
    for (index, word) in [address as u32, (address >> 32) as u32, bytes, flags].iter().enumerate() {
        memory.store(at + index, *word);
    }
}
