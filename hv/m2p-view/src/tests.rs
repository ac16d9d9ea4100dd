//! Tests the view beside a machine with two CPUs that walk its tables and cache the entries.

use super::*;
use proptest::prelude::*;
use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};

/// First frame of the view, and of the master table.
const FIRST: u64 = 16;
const MASTER: u64 = 1 << 20;
/// Frames of RAM: 600 GiB, and a part of a chunk.
const RAM: u64 = (600 << 18) + 100;

fn frame_of(entry: u64) -> u64 {
    Mfn::of_entry(entry).number()
}

/// The cache of a CPU: tables by region, pages by chunk.
#[derive(Default)]
struct Cpu {
    tables: HashMap<u64, u64>,
    pages: HashMap<u64, u64>,
}

struct Sim {
    pages: RefCell<HashMap<u64, &'static Page>>,
    /// Regions that are wholly own, and chunks that are own frame by frame.
    regions: RefCell<HashSet<u64>>,
    chunks: RefCell<HashMap<u64, Box<[bool; 512]>>>,
    cpus: [RefCell<Cpu>; 2],
    flushes: Cell<u32>,
}

impl Machine for Sim {
    fn frames(&self) -> u64 {
        RAM
    }
    fn master(&self) -> Mfn {
        Mfn::new(MASTER)
    }
    fn invalid(&self) -> Mfn {
        Mfn::new(MASTER + RAM.div_ceil(512))
    }
    fn own(&self, chunk: u64) -> [u64; 8] {
        let bit = |mfn: u64| u64::from(self.is_own(mfn));
        std::array::from_fn(|word| {
            let first = chunk << 9 | (word as u64) << 6;
            (0..64).map(|index| bit(first + index) << index).sum()
        })
    }
    fn page(&self, frame: Mfn) -> &Page {
        let frame = frame.number();
        assert!((FIRST..FIRST + FRAMES).contains(&frame) || frame >= MASTER, "frame {frame}");
        // Frames that need not be zero may hold anything.
        let content = if (FIRST..FIRST + ZEROED).contains(&frame) { 0 } else { INVALID };
        let new = || &*Box::leak(Box::new([const { AtomicU64::new(0) }; 512]));
        self.pages.borrow_mut().entry(frame).or_insert_with(|| {
            let page = new();
            page.iter().for_each(|word| word.store(content, Ordering::Relaxed));
            page
        })
    }
    fn flush(&self) {
        self.flushes.set(self.flushes.get() + 1);
        self.cpus.iter().for_each(|cpu| drop(cpu.take()));
    }
}

impl Sim {
    fn is_own(&self, mfn: u64) -> bool {
        match self.chunks.borrow().get(&(mfn >> 9)) {
            Some(chunk) => chunk[mfn as usize & 511],
            None => self.regions.borrow().contains(&(mfn >> 18)),
        }
    }

    fn new() -> Self {
        Self {
            pages: RefCell::default(),
            regions: RefCell::default(),
            chunks: RefCell::default(),
            cpus: Default::default(),
            flushes: Cell::new(0),
        }
    }

    fn set_own(&self, mfn: u64, own: bool) {
        let before = self.regions.borrow().contains(&(mfn >> 18));
        let mut chunks = self.chunks.borrow_mut();
        chunks.entry(mfn >> 9).or_insert_with(|| Box::new([before; 512]))[mfn as usize & 511] = own;
    }

    fn master_word(&self, mfn: u64) -> &AtomicU64 {
        &self.page(Mfn::new(MASTER + (mfn >> 9)))[mfn as usize & 511]
    }

    /// The value that a CPU reads in the entry of a frame. Returns `None` if it faults.
    fn read(&self, cpu: usize, mfn: u64) -> Option<u64> {
        let mut cpu = self.cpus[cpu].borrow_mut();
        let (chunk, region) = (mfn >> 9, mfn >> 18);
        let page = match cpu.pages.get(&chunk) {
            Some(page) => *page,
            None => {
                let page = self.walk(&mut cpu, mfn)?;
                *cpu.pages.entry(chunk).or_insert(page)
            }
        };
        assert!(page >= MASTER || page >= FIRST + 2 + TABLES as u64, "a table is shown: {region}");
        Some(self.page(Mfn::new(page))[mfn as usize & 511].load(Ordering::Relaxed))
    }

    fn walk(&self, cpu: &mut Cpu, mfn: u64) -> Option<u64> {
        let next = |frame: u64, index: u64| {
            let entry = self.page(Mfn::new(frame))[index as usize & 511].load(Ordering::Relaxed);
            assert!(entry & 2 == 0, "writable");
            (entry & 1 != 0).then_some(entry)
        };
        let table = match cpu.tables.get(&(mfn >> 18)) {
            Some(table) => *table,
            None => {
                let level_2 = next(frame_of(View::slot(Mfn::new(FIRST))), mfn >> 27)?;
                let entry = next(frame_of(level_2), mfn >> 18)?;
                if entry & LARGE != 0 {
                    return Some(frame_of(entry) + (mfn >> 9 & 511));
                }
                let table = frame_of(entry);
                assert!((FIRST + 2..FIRST + 2 + TABLES as u64).contains(&table));
                *cpu.tables.entry(mfn >> 18).or_insert(table)
            }
        };
        next(table, mfn >> 9).map(frame_of)
    }

    fn gain(&self, view: &mut View, mfns: &[u64]) {
        mfns.iter().for_each(|mfn| self.set_own(*mfn, true));
        if view.gained(self, &mfns.iter().copied().map(Mfn::new).collect::<Vec<_>>()) {
            self.flush();
        }
    }

    /// Gains all frames of a region at once.
    fn gain_region(&self, view: &mut View, region: u64) {
        let mfns: Vec<u64> = (region << 18..(region + 1) << 18).collect();
        let new: Vec<_> = mfns.into_iter().filter(|mfn| !self.is_own(*mfn)).map(Mfn::new).collect();
        self.regions.borrow_mut().insert(region);
        self.chunks.borrow_mut().retain(|chunk, _| chunk >> 9 != region);
        if view.gained(self, &new) {
            self.flush();
        }
    }

    fn lose(&self, view: &mut View, mfn: u64) {
        self.set_own(mfn, false);
        view.lost(self, Mfn::new(mfn));
        self.flush();
        self.master_word(mfn).store(INVALID, Ordering::Relaxed);
        // The next owner writes its own value.
        self.master_word(mfn).store(0xbad, Ordering::Relaxed);
    }

    /// Reads as a kernel does, and checks that both CPUs read the same, allowed value.
    fn check(&self, view: &mut View, mfn: u64) {
        for cpu in 0..2 {
            let read = self.read(cpu, mfn).unwrap_or_else(|| {
                assert!(view.fill(self, Mfn::new(mfn)), "no entry for {mfn:#x}");
                self.read(cpu, mfn).expect("it was filled")
            });
            let entry = self.master_word(mfn).load(Ordering::Relaxed);
            let expected = if self.is_own(mfn) { entry } else { INVALID };
            assert_eq!(read, expected, "CPU {cpu}, frame {mfn:#x}, own: {}", self.is_own(mfn));
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Gain(u64),
    Lose(u64),
    Set(u64, u64),
    Read(u64),
    Region(u64),
}

/// Frames of some regions, two of them beyond the first 512, and of some chunks of these.
fn any_frame() -> impl Strategy<Value = u64> {
    let regions =
        prop_oneof![6 => 0..12u64, 1 => Just(511u64), 1 => 512..514u64, 1 => Just(599u64)];
    (regions, prop_oneof![Just(0u64), Just(1), Just(2), Just(511)], 0..3u64)
        .prop_map(|(region, chunk, frame)| (region << 18) | (chunk << 9) | (frame * 205))
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        20 => any_frame().prop_map(Step::Gain),
        20 => any_frame().prop_map(Step::Lose),
        20 => (any_frame(), 0..1000u64).prop_map(|(mfn, pfn)| Step::Set(mfn, pfn)),
        60 => any_frame().prop_map(Step::Read),
        1 => (0..2u64).prop_map(Step::Region),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn every_cpu_reads_own_entries_and_no_others(
        steps in prop::collection::vec(any_step(), 1..150),
    ) {
        let (sim, mut view) = (Sim::new(), View::new(Mfn::new(FIRST)));
        for step in steps {
            match step {
                Step::Gain(mfn) if !sim.is_own(mfn) => sim.gain(&mut view, &[mfn]),
                Step::Lose(mfn) if sim.is_own(mfn) => sim.lose(&mut view, mfn),
                Step::Set(mfn, pfn) if sim.is_own(mfn) => view.set(&sim, Mfn::new(mfn), pfn),
                Step::Region(region) => sim.gain_region(&mut view, region),
                Step::Read(mfn) => sim.check(&mut view, mfn),
                _ => {}
            }
            // Cached values from before are right, too.
            let seen: Vec<u64> = sim.cpus[0].borrow().pages.keys().copied().collect();
            for chunk in seen {
                (0..3).for_each(|frame| sim.check(&mut view, (chunk << 9) | (frame * 205)));
            }
        }
    }
}

#[test]
fn a_region_that_is_wholly_own_takes_no_table() {
    let (sim, mut view) = (Sim::new(), View::new(Mfn::new(FIRST)));
    sim.gain_region(&mut view, 3);
    sim.master_word(3 << 18 | 77).store(5, Ordering::Relaxed);
    sim.check(&mut view, 3 << 18 | 77);
    assert_eq!(view.tables.next, 0);
    // The partition loses one frame of it: that frame is not shown, and all others are.
    sim.lose(&mut view, 3 << 18 | 77);
    for mfn in [76, 77, 78, 600, (1 << 18) - 1] {
        sim.check(&mut view, 3 << 18 | mfn);
    }
    assert_eq!((view.tables.next, view.copies.next), (1, 1));
}

#[test]
fn a_copy_that_makes_room_is_read_in_its_old_place_no_more() {
    let (sim, mut view) = (Sim::new(), View::new(Mfn::new(FIRST)));
    let frames = (0..=COPIES as u64).map(|chunk| chunk << 9 | chunk);
    for mfn in frames.clone() {
        sim.gain(&mut view, &[mfn]);
        view.set(&sim, Mfn::new(mfn), 1000 + mfn);
        sim.check(&mut view, mfn);
    }
    frames.for_each(|mfn| sim.check(&mut view, mfn));
}

#[test]
fn an_entry_that_is_set_is_read_in_the_copy() {
    let (sim, mut view) = (Sim::new(), View::new(Mfn::new(FIRST)));
    sim.gain(&mut view, &[5]);
    for pfn in [7, 8, INVALID] {
        view.set(&sim, Mfn::new(5), pfn);
        sim.check(&mut view, 5);
        sim.check(&mut view, 6);
    }
}

#[test]
fn frames_past_the_table_have_no_entry() {
    let (sim, mut view) = (Sim::new(), View::new(Mfn::new(FIRST)));
    assert!(view.fill(&sim, Mfn::new(RAM - 1)));
    for mfn in [RAM, RAM + 511, RAM + 512, u64::MAX >> 3] {
        assert!(!view.fill(&sim, Mfn::new(mfn)), "{mfn:#x}");
    }
    // The rest of the last page belongs to no frame.
    assert_eq!(sim.read(0, RAM), Some(INVALID));
}

#[test]
fn a_look_at_everything_keeps_to_its_frames_and_flushes_at_most_three_times_a_fault() {
    let (sim, mut view) = (Sim::new(), View::new(Mfn::new(FIRST)));
    for region in (0..600).rev() {
        sim.gain(&mut view, &[region << 18, region << 18 | 1 << 9]);
        for chunk in 0..3 {
            let before = sim.flushes.get();
            assert!(view.fill(&sim, Mfn::new(region << 18 | chunk << 9)));
            assert!(sim.flushes.get() - before <= 3, "region {region}, chunk {chunk}");
            sim.check(&mut view, region << 18 | chunk << 9);
        }
    }
}

#[test]
fn frames_that_were_not_counted_are_shown() {
    let (sim, mut view) = (Sim::new(), View::new(Mfn::new(FIRST)));
    // Frames from before the partition's creation, of which the monitor told nothing.
    sim.regions.borrow_mut().insert(1);
    sim.master_word(1 << 18 | 9).store(4, Ordering::Relaxed);
    sim.check(&mut view, 1 << 18 | 9);
    sim.lose(&mut view, 1 << 18 | 9);
    sim.check(&mut view, 1 << 18 | 9);
    sim.gain(&mut view, &[1 << 18 | 9]);
    sim.check(&mut view, 1 << 18 | 9);
}
