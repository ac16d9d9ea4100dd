//! A simulated block device, which works on the same memory as the driver.

use crate::queue::Memory;
use crate::registers::{BARS, Range, Ranges, Registers};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};

/// A configuration space.
pub struct Space {
    pub words: [u32; 64],
    pub bars: [u64; BARS],
}

impl Space {
    /// That of a modern function as QEMU has it: a capability of MSI-X, and those of virtio.
    pub fn virtio() -> Self {
        let mut words = [0; 64];
        words[1] = 1 << 20;
        words[0x34 / 4] = 0x98;
        words[0x98 / 4] = 0x84 << 8 | 0x11;
        for (at, next, length, kind, offset) in [
            (0x84, 0x70, 20, 2, 0x3000),
            (0x70, 0x60, 16, 4, 0x2000),
            (0x60, 0x50, 16, 3, 0x1000),
            (0x50, 0xa4, 16, 1, 0),
            (0xa4, 0, 20, 5, 0),
        ] {
            let word: usize = at / 4;
            words[word] = 9 | next << 8 | length << 16 | kind << 24;
            (words[word + 1], words[word + 2], words[word + 3]) = (4, offset, 0x1000);
            if length == 20 {
                words[word + 4] = 4;
            }
        }
        Self { words, bars: [0, 0x1000, 0, 0, 0x4000, 0] }
    }

    pub fn read(&self, at: u16) -> u32 {
        self.words[usize::from(at) / 4]
    }
}

/// The ranges of [`Space::virtio`].
pub const RANGES: Ranges = Ranges {
    common: Range { bar: 4, offset: 0, bytes: 0x1000 },
    notify: Range { bar: 4, offset: 0x3000, bytes: 0x1000 },
    notify_step: 4,
    device: Range { bar: 4, offset: 0x2000, bytes: 0x1000 },
};

/// Machine address of the simulated memory.
pub const MEMORY: u64 = 0x12_3450_0000;

/// Memory for queues and data: its words.
pub fn memory(words: usize) -> Vec<AtomicU32> {
    (0..words).map(|_| AtomicU32::new(0xdead_beef)).collect()
}

/// A block device.
pub struct Device<'m> {
    pub memory: Memory<'m>,
    pub features: u64,
    /// Values of registers, by queue and offset; those of no queue are at queue 0.
    pub registers: BTreeMap<(u32, u32), u32>,
    /// Device configuration, as words.
    pub configuration: [u32; 16],
    pub disk: RefCell<Vec<u8>>,
    /// The requests that it got, by type.
    pub asked: RefCell<Vec<(u32, u64, usize)>>,
    /// The status byte of requests.
    pub answer: u8,
    /// Whether the device completes requests in reverse order.
    pub backwards: bool,
    /// Number of looks after which a reset is confirmed.
    pub reset_looks: Cell<u32>,
    seen: BTreeMap<u32, u16>,
}

impl<'m> Device<'m> {
    /// A device of 100 sectors with two queues.
    pub fn new(memory: Memory<'m>) -> Self {
        let mut configuration = [0; 16];
        (configuration[0], configuration[3], configuration[5]) = (100, 20, 4096);
        (configuration[8], configuration[9], configuration[11]) = (2 << 16, 50, 8);
        Self {
            memory,
            features: 1 << 32 | 1 << 28 | 1 << 13 | 1 << 12 | 1 << 9 | 1 << 6 | 1 << 2,
            registers: BTreeMap::from([((0, 0x18), 256), ((1, 0x18), 128), ((1, 0x1e), 1)]),
            configuration,
            disk: RefCell::new((0..100 * 512).map(|at| (at / 512) as u8).collect()),
            asked: RefCell::default(),
            answer: 0,
            backwards: false,
            reset_looks: Cell::new(0),
            seen: BTreeMap::new(),
        }
    }

    pub fn status(&self) -> u32 {
        self.registers.get(&(0, 0x14)).copied().unwrap_or(0)
    }

    fn queue(&self) -> u32 {
        self.registers.get(&(0, 0x16)).copied().unwrap_or(0)
    }

    fn load(&self, address: u64) -> u32 {
        let at = address.checked_sub(MEMORY).expect("an address of the memory");
        self.memory.words[at as usize / 4].load(Ordering::Acquire)
    }

    fn byte(&self, address: u64, write: Option<u8>) -> u8 {
        let at = (address - MEMORY) as usize;
        let (word, shift) = (&self.memory.words[at / 4], at % 4 * 8);
        let old = word.load(Ordering::Acquire);
        if let Some(byte) = write {
            word.store(old & !(0xff << shift) | u32::from(byte) << shift, Ordering::Release);
        }
        (old >> shift) as u8
    }

    fn address(&self, queue: u32, offset: u32) -> u64 {
        let word = |at| u64::from(self.registers[&(queue, at)]);
        word(offset) | word(offset + 4) << 32
    }

    /// The descriptors of a chain: address, bytes, flags.
    fn chain(&self, queue: u32, head: u16) -> Vec<(u64, u32, u32)> {
        let (mut table, mut at, mut chain) = (self.address(queue, 0x20), head, Vec::new());
        loop {
            let place = table + u64::from(at) * 16;
            let address = u64::from(self.load(place)) | u64::from(self.load(place + 4)) << 32;
            let (bytes, flags) = (self.load(place + 8), self.load(place + 12));
            if flags & 4 != 0 {
                assert_eq!((flags, bytes % 16, address % 16), (4, 0, 0));
                (table, at) = (address, 0);
                continue;
            }
            chain.push((address, bytes, flags & 2));
            if flags & 1 == 0 {
                return chain;
            }
            at = (flags >> 16) as u16;
        }
    }

    /// Carries out the requests that are available in a queue.
    fn work(&mut self, queue: u32) {
        let [ring, used] = [0x28, 0x30].map(|offset| self.address(queue, offset));
        let size = self.registers[&(queue, 0x18)] as u16;
        let end = (self.load(ring) >> 16) as u16;
        let seen = self.seen.get(&queue).copied().unwrap_or(0);
        let count = end.wrapping_sub(seen);
        let mut heads: Vec<u16> = (0..count)
            .map(|n| {
                let place = ring + 4 + u64::from(seen.wrapping_add(n) % size) * 2;
                u16::from(self.byte(place, None)) | u16::from(self.byte(place + 1, None)) << 8
            })
            .collect();
        if self.backwards {
            heads.reverse();
        }
        for (n, head) in (0..).zip(heads) {
            self.carry_out(&self.chain(queue, head));
            let place = used + 4 + u64::from(seen.wrapping_add(n) % size) * 8;
            let at = (place - MEMORY) as usize / 4;
            self.memory.words[at].store(head.into(), Ordering::Release);
            let index = (used - MEMORY) as usize / 4;
            let next = u32::from(seen.wrapping_add(n).wrapping_add(1)) << 16;
            self.memory.words[index].store(next, Ordering::Release);
        }
        self.seen.insert(queue, end);
    }

    fn carry_out(&self, chain: &[(u64, u32, u32)]) {
        let [(header, 16, 0), data @ .., (status, 1, 2)] = chain else { panic!("{chain:?}") };
        let kind = self.load(*header);
        let sector = u64::from(self.load(header + 8)) | u64::from(self.load(header + 12)) << 32;
        self.asked.borrow_mut().push((kind, sector, data.len()));
        let mut disk = self.disk.borrow_mut();
        let mut at = sector as usize * 512;
        for &(address, bytes, writes) in data.iter().filter(|_| kind < 2) {
            assert_eq!(writes == 2, kind == 0, "the direction of {kind}");
            for offset in 0..u64::from(bytes) {
                match kind {
                    0 => drop(self.byte(address + offset, Some(disk[at]))),
                    _ => disk[at] = self.byte(address + offset, None),
                }
                at += 1;
            }
        }
        if kind == 11 {
            let range = [0, 4, 8, 12].map(|offset| self.load(data[0].0 + offset));
            let (first, count) = (range[0] as usize * 512, range[2] as usize * 512);
            disk[first..first + count].fill(0);
        }
        self.byte(*status, Some(self.answer));
    }
}

impl Registers for Device<'_> {
    fn read(&self, range: Range, offset: u32, bytes: u32) -> u32 {
        if range == RANGES.device {
            let value = self.configuration[offset as usize / 4] >> (offset % 4 * 8);
            return if bytes == 4 { value } else { value & 0xffff };
        }
        assert_eq!(range, RANGES.common);
        match offset {
            0x04 => (self.features >> (32 * self.registers[&(0, 0)])) as u32,
            0x14 if self.status() == 0 && self.reset_looks.get() > 0 => {
                self.reset_looks.set(self.reset_looks.get() - 1);
                1
            }
            0x18.. => self.registers.get(&(self.queue(), offset)).copied().unwrap_or(0),
            _ => self.registers.get(&(0, offset)).copied().unwrap_or(0),
        }
    }

    fn write(&mut self, range: Range, offset: u32, _bytes: u32, value: u32) {
        if range == RANGES.notify {
            let queue = offset / 4;
            assert_eq!(queue, value);
            return self.work(queue);
        }
        let queue = if offset >= 0x18 { self.queue() } else { 0 };
        self.registers.insert((queue, offset), value);
        if (offset, value) == (0x14, 0) {
            self.registers.retain(|&(_, offset), _| offset == 0x18 || offset == 0x1e);
            self.seen.clear();
        }
    }
}
