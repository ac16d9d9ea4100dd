//! A machine of 64 frames, whose translation caches keep every translation they could have seen.
//!
//! Each partition has one CPU. It may have cached every translation that was reachable from the
//! partition's loaded bases at any time since its last flush.

use crate::numbers::frame_of;
use frames::{Frame, Kind, Type};
use page_tables::{Base, ENTRIES, Machine, Mfn, Table, bits};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering};

pub const FRAMES: u64 = 64;
pub const PARTITIONS: usize = 4;
/// Level-4 entry 256 of both partitions.
pub const OWN_SLOT: u64 = 60 << 12 | bits::P | bits::RW;
/// The owner of the tables in the monitor's slots.
pub const MONITOR: u32 = 3;

#[derive(Default)]
pub struct Cpu {
    pub last_flush: u32,
    /// Frames with a cached writable translation.
    pub writable: BTreeSet<u64>,
    /// Tables, with level, that a cached walk may go through.
    pub tables: BTreeSet<(u64, u8)>,
    pub flushes: u32,
}

pub struct Sim {
    pub frames: Vec<Frame>,
    pub tables: Vec<Table>,
    pub clock: AtomicU32,
    pub cpus: Mutex<[Cpu; PARTITIONS]>,
    /// Steps until `should_yield` returns true; negative for never.
    pub budget: AtomicI64,
    /// Bases that were taken, by frame.
    pub bases: Mutex<BTreeMap<u64, Base>>,
    /// The words that validation writes to a table of level 4.
    pub slots: [u64; 16],
    shared_slots: [u64; 16],
    pub broken: AtomicBool,
    /// The value of `memory_end`.
    pub memory_end: AtomicU64,
    /// Entries of device memory, by device.
    pub device_entries: [AtomicI64; 8],
}

impl Sim {
    /// Partition 1 owns frames 1 to 28, partition 2 frames 29 to 56, the monitor the rest.
    pub fn new() -> Self {
        let frames: Vec<Frame> = (0..FRAMES).map(|_| Frame::default()).collect();
        for (mfn, frame) in frames.iter().enumerate() {
            let owner = match mfn {
                0 => continue,
                1..=28 => 1,
                29..=56 => 2,
                _ => MONITOR,
            };
            let kind = if mfn == 63 { Kind::Private } else { Kind::Ram };
            frame.set_owner(0, owner, kind).unwrap();
        }
        let slots = core::array::from_fn(|i| OWN_SLOT | (i as u64) << 52);
        let mut shared_slots = slots;
        shared_slots[0] = 0;
        Self {
            frames,
            tables: (0..FRAMES).map(|_| [const { AtomicU64::new(0) }; ENTRIES]).collect(),
            clock: AtomicU32::new(1000),
            cpus: Mutex::default(),
            budget: AtomicI64::new(-1),
            bases: Mutex::default(),
            slots,
            shared_slots,
            broken: AtomicBool::new(false),
            memory_end: AtomicU64::new(0),
            device_entries: Default::default(),
        }
    }

    pub fn raw(&self, mfn: u64, index: usize) -> u64 {
        self.tables[mfn as usize][index].load(Ordering::SeqCst)
    }

    pub fn poke(&self, mfn: u64, index: usize, value: u64) {
        self.tables[mfn as usize][index].store(value, Ordering::SeqCst);
    }

    pub fn word(&self, mfn: u64) -> frames::Word {
        self.frames[mfn as usize].word()
    }

    pub fn flush_now(&self, partition: u32) {
        self.flush_before_retype(partition, u32::MAX);
    }

    pub fn flushes(&self, partition: u32) -> u32 {
        self.cpus.lock().unwrap()[partition as usize].flushes
    }

    /// Lets `partition`'s CPU cache everything reachable from `bases`.
    pub fn cache(&self, partition: u32, bases: &[u64]) {
        let mut cpus = self.cpus.lock().unwrap();
        for &base in bases {
            self.cache_below(&mut cpus[partition as usize], base, 4);
        }
    }

    fn cache_below(&self, cpu: &mut Cpu, table: u64, level: u8) {
        cpu.tables.insert((table, level));
        for index in 0..ENTRIES {
            let entry = self.raw(table, index);
            if entry & bits::P == 0 || (level == 4 && page_tables::MONITOR_SLOTS.contains(&index)) {
                continue;
            }
            if level > 1 {
                self.cache_below(cpu, frame_of(entry), level - 1);
            } else if entry & bits::RW != 0 {
                cpu.writable.insert(frame_of(entry));
            }
        }
    }

    /// Checks that no cached translation contradicts the present state of a frame.
    pub fn check_caches(&self) {
        for cpu in self.cpus.lock().unwrap().iter() {
            for &mfn in &cpu.writable {
                let word = self.word(mfn);
                let safe = word.count() == 0 || word.ty() == Type::Writable;
                assert!(safe, "frame {mfn} is {word:?} with a writable translation cached");
            }
            for &(mfn, level) in &cpu.tables {
                let word = self.word(mfn);
                let safe = word.count() == 0 || word.ty().level() == Some(level);
                assert!(safe, "frame {mfn} is {word:?} while walked at level {level}");
            }
        }
    }
}

impl Machine for Sim {
    fn memory_end(&self) -> u64 {
        self.memory_end.load(Ordering::SeqCst)
    }

    fn frame(&self, mfn: Mfn) -> Option<&Frame> {
        self.frames.get(usize::try_from(mfn.number()).ok()?)
    }

    fn table(&self, mfn: Mfn) -> &Table {
        &self.tables[mfn.number() as usize]
    }

    fn flush_before_retype(&self, owner: u32, stamp: u32) {
        let cpu = &mut self.cpus.lock().unwrap()[owner as usize];
        if cpu.last_flush <= stamp {
            cpu.last_flush = self.clock.fetch_add(1, Ordering::SeqCst) + 1;
            cpu.flushes += 1;
            cpu.writable.clear();
            cpu.tables.clear();
        }
    }

    fn stamp(&self) -> u32 {
        self.clock.load(Ordering::SeqCst)
    }

    fn monitor_slots(&self) -> &[u64; 16] {
        &self.shared_slots
    }

    fn should_yield(&self) -> bool {
        let left = self.budget.load(Ordering::Relaxed);
        if left > 0 {
            self.budget.store(left - 1, Ordering::Relaxed);
        }
        left == 0
    }

    fn count_device_entry(&self, device: u8, there: bool) {
        let change = if there { 1 } else { -1 };
        let before = self.device_entries[usize::from(device)].fetch_add(change, Ordering::SeqCst);
        assert!(before + change >= 0, "an entry is gone that was never there");
    }

    fn broken(&self, mfn: Mfn) {
        self.broken.store(true, Ordering::SeqCst);
        panic!("a reference on {mfn:?} that was never taken was given back");
    }
}
