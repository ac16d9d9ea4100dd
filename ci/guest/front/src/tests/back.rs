//! A machine in memory, with a back end that can be made to do one thing wrong.

use crate::{Machine, PAGE_WORDS, Page};
use block_ring::{Cursor, Features, Index, Kind, RawRequest, RingMemory, RingSize, decode};
use fuzz_programs::Random;
use pv_abi::xen::block::{STATUS_ERROR, STATUS_OK, Segment};
use std::cell::{Cell, RefCell};
use std::sync::atomic::{AtomicU32, Ordering, fence};

/// The mistake that the back end makes: once, or four times if a later write can hide it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrong {
    LosesWrite,
    WritesElsewhere,
    ReadsElsewhere,
    AnswersTwice,
    OtherOperation,
    Fails,
    StrangeId,
    TooManyAnswers,
    KeepsGrant,
    WritesLate,
    WritesBeside,
    ChangesWritten,
    ForgetsRequest,
}

/// A machine in memory: pages, their grants, and a clock.
pub struct Bench {
    pages: Vec<Box<Page>>,
    /// For each page, whether it is granted, and if so, whether for writing.
    granted: RefCell<Vec<Option<bool>>>,
    used: RefCell<Vec<bool>>,
    pub time: Cell<u64>,
    pub events: Cell<u32>,
}

/// The grant of page 0.
const FIRST: u32 = 8;

impl Bench {
    pub fn new(pages: usize) -> Self {
        let page = || Box::new(std::array::from_fn(|_| AtomicU32::new(0)));
        Self {
            pages: (0..pages).map(|_| page()).collect(),
            granted: RefCell::new(vec![None; pages]),
            used: RefCell::new(vec![false; pages]),
            time: Cell::new(0),
            events: Cell::new(0),
        }
    }

    /// Uses a grant; returns its page.
    fn use_grant(&self, gref: u32, write: bool) -> Option<usize> {
        let page = gref.checked_sub(FIRST)? as usize;
        let granted = (*self.granted.borrow().get(page)?)?;
        if write && !granted {
            return None;
        }
        self.used.borrow_mut()[page] = true;
        Some(page)
    }

    fn free_grant(&self, gref: u32) {
        self.used.borrow_mut()[(gref - FIRST) as usize] = false;
    }
}

impl Machine for Bench {
    fn pages(&self) -> usize {
        self.pages.len()
    }

    fn page(&self, page: usize) -> &Page {
        &self.pages[page]
    }

    fn grant(&self, page: usize, writable: bool) -> u32 {
        self.granted.borrow_mut()[page] = Some(writable);
        FIRST + page as u32
    }

    fn in_use(&self, page: usize) -> bool {
        self.used.borrow()[page]
    }

    fn revoke(&self, page: usize) -> bool {
        let free = !self.in_use(page);
        if free {
            assert!(self.granted.borrow_mut()[page].take().is_some(), "revoked twice");
        }
        free
    }

    fn notify(&self, _ring: usize) {
        self.events.set(self.events.get() + 1);
    }

    fn now(&self) -> u64 {
        self.time.get()
    }
}

/// The memory of a ring as the back end sees it.
struct Memory<'b>(&'b Page);

const fn place(slot: u32, word: usize) -> usize {
    16 + slot as usize * 28 + word * 2
}

impl RingMemory for Memory<'_> {
    fn load_index(&self, index: Index) -> u32 {
        self.0[index as usize].load(Ordering::Acquire)
    }

    fn store_index(&self, index: Index, value: u32) {
        self.0[index as usize].store(value, Ordering::Release);
    }

    fn load_word(&self, slot: u32, word: usize) -> u64 {
        let half =
            |half: usize| u64::from(self.0[place(slot, word) + half].load(Ordering::Relaxed));
        half(0) | half(1) << 32
    }

    fn store_word(&self, slot: u32, word: usize, value: u64) {
        self.0[place(slot, word)].store(value as u32, Ordering::Relaxed);
        self.0[place(slot, word) + 1].store((value >> 32) as u32, Ordering::Relaxed);
    }

    fn fence(&self) {
        fence(Ordering::SeqCst);
    }
}

/// A back end.
pub struct Back {
    features: Features,
    disk: Vec<u32>,
    /// The page of each ring, with the back end's place in the ring.
    rings: Vec<(usize, Cursor)>,
    /// Requests that were taken.
    held: Vec<(usize, RawRequest)>,
    random: Random,
    wrong: Option<Wrong>,
    /// Requests that are done right before something is wrong.
    patience: u32,
    times: u32,
    late: Option<usize>,
    broke_index: bool,
    pub refused: u32,
}

impl Back {
    pub fn new(sectors: usize, rings: &[usize], seed: u64, wrong: Option<Wrong>) -> Self {
        let features = Features {
            sectors: sectors as u64,
            read_only: false,
            discard: true,
            indirect_segments: 64,
        };
        let mut random = Random::new(seed);
        let begin = Cursor { consumed: 0, produced: 0 };
        Self {
            features,
            disk: (0..sectors * 128).map(|_| random.bits() as u32).collect(),
            rings: rings.iter().map(|page| (*page, begin)).collect(),
            held: Vec::new(),
            random,
            wrong,
            patience: 200,
            times: 4,
            late: None,
            broke_index: false,
            refused: 0,
        }
    }

    /// Whether the wrong thing is due now.
    fn wrongs(&mut self, wrong: Wrong) -> bool {
        let due = self.wrong == Some(wrong) && self.patience == 0;
        if due {
            self.times = self.times.saturating_sub(1);
            let can_hide = matches!(wrong, Wrong::LosesWrite | Wrong::WritesElsewhere);
            self.wrong = (can_hide && self.times > 0).then_some(wrong);
        }
        due
    }

    /// Takes requests, and answers some of them in any order.
    pub fn run(&mut self, bench: &Bench) {
        if let Some(page) = self.late.take() {
            bench.page(page)[77].store(0x1a7e, Ordering::Relaxed);
        }
        for ring in 0..self.rings.len() {
            let (page, mut cursor) = self.rings[ring];
            let memory = Memory(bench.page(page));
            let view = block_ring::Ring::new(&memory, RingSize::of_order(0).unwrap());
            for _ in 0..cursor.pending(&view).expect("indices that can be") {
                self.held.push((ring, view.fetch(cursor.consumed)));
                cursor.consumed = cursor.consumed.wrapping_add(1);
            }
            view.ask_for_event(cursor.consumed);
            self.rings[ring].1 = cursor;
        }
        for _ in 0..self.random.below(self.held.len() as u64 + 1) {
            let index = self.random.below(self.held.len() as u64) as usize;
            let (ring, raw) = self.held.swap_remove(index);
            self.patience = self.patience.saturating_sub(1);
            if self.wrongs(Wrong::ForgetsRequest) {
                continue;
            }
            let status = self.perform(bench, &raw);
            self.answer(bench, ring, &raw, status);
            if self.broke_index {
                return;
            }
        }
    }

    fn answer(&mut self, bench: &Bench, ring: usize, raw: &RawRequest, status: i16) {
        let mut answer = raw.response(status);
        if self.wrongs(Wrong::OtherOperation) {
            answer.operation ^= 1;
        }
        if self.wrongs(Wrong::StrangeId) {
            answer.id ^= 1 << 40;
        }
        let times = if self.wrongs(Wrong::AnswersTwice) { 2 } else { 1 };
        self.broke_index = self.wrongs(Wrong::TooManyAnswers);
        let more = if self.broke_index { 33 } else { 0 };
        let (page, cursor) = &mut self.rings[ring];
        let memory = Memory(bench.page(*page));
        let view = block_ring::Ring::new(&memory, RingSize::of_order(0).unwrap());
        for _ in 0..times {
            view.write_response(cursor.produced, &answer);
            let before = cursor.produced;
            cursor.produced = before.wrapping_add(1);
            view.publish(cursor.produced.wrapping_add(more));
            let _ = view.event_owed(before, cursor.produced);
        }
    }

    fn perform(&mut self, bench: &Bench, raw: &RawRequest) -> i16 {
        if self.wrongs(Wrong::Fails) {
            return STATUS_ERROR;
        }
        let Ok(checked) = decode(raw, &self.features) else {
            self.refused += 1;
            return STATUS_ERROR;
        };
        let (write, sector, segments): (bool, u64, Vec<Segment>) = match checked.kind {
            Kind::Flush => return STATUS_OK,
            Kind::Discard { sector, sectors } => {
                let words = sector as usize * 128..(sector + sectors) as usize * 128;
                self.disk[words].fill(0);
                return STATUS_OK;
            }
            Kind::Transfer(transfer) => {
                let segments = transfer.segments.as_slice().to_vec();
                (transfer.write, transfer.sector, segments)
            }
            Kind::Indirect(indirect) => {
                let Some(page) = bench.use_grant(indirect.pages()[0], false) else {
                    return STATUS_ERROR;
                };
                let half = |at: usize| u64::from(bench.page(page)[at].load(Ordering::Relaxed));
                let words = (0..PAGE_WORDS / 2).map(|at| half(2 * at) | half(2 * at + 1) << 32);
                let words: Vec<u64> = words.collect();
                bench.free_grant(indirect.pages()[0]);
                if indirect.check(words.iter().copied(), &self.features).is_err() {
                    self.refused += 1;
                    return STATUS_ERROR;
                }
                let count = usize::from(indirect.segments);
                let segments = words[..count].iter().map(|word| block_ring::decode_segment(*word));
                (indirect.write, indirect.sector, segments.collect())
            }
        };
        self.transfer(bench, write, sector, &segments)
    }

    fn transfer(&mut self, bench: &Bench, write: bool, sector: u64, segments: &[Segment]) -> i16 {
        if write && self.wrongs(Wrong::LosesWrite) {
            return STATUS_OK;
        }
        let elsewhere = if write { Wrong::WritesElsewhere } else { Wrong::ReadsElsewhere };
        let elsewhere = sector > 0 && self.wrongs(elsewhere);
        let mut at = (sector as usize - usize::from(elsewhere)) * 128;
        for segment in segments {
            let Some(number) = bench.use_grant(segment.gref, !write) else {
                return STATUS_ERROR;
            };
            let page = bench.page(number);
            let (first, last) = (usize::from(segment.first_sect), usize::from(segment.last_sect));
            let words = &page[first * 128..(last + 1) * 128];
            for (word, stored) in words.iter().zip(&mut self.disk[at..]) {
                if write {
                    *stored = word.load(Ordering::Relaxed);
                } else {
                    word.store(*stored, Ordering::Relaxed);
                }
            }
            at += words.len();
            if !write && first > 0 && self.wrongs(Wrong::WritesBeside) {
                page[first * 128 - 1].store(3, Ordering::Relaxed);
            }
            if write && self.wrongs(Wrong::ChangesWritten) {
                page[first * 128 + 9].store(3, Ordering::Relaxed);
            }
            if !write && self.wrongs(Wrong::WritesLate) {
                self.late = Some(number);
            }
            if !self.wrongs(Wrong::KeepsGrant) {
                bench.free_grant(segment.gref);
            }
        }
        STATUS_OK
    }
}
