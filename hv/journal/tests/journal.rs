//! The journal's limits and refusals, attach and detach, and pages that are damaged.

use std::cell::{Cell, RefCell};

use block_ring::{Broken, Index, REQUEST_WORDS, Ring, RingMemory, RingSize};
use journal::{
    Answer, Detaching, Found, Held, Journal, JournalPage, NotStarted, Unanswerable, WORDS, abandon,
    settle, words,
};
use pv_abi::xen::block::{FLUSH, INDIRECT, READ};

/// A page and a ring of 64 slots. After `budget` stores the server is dead: the rest are lost.
struct Memory {
    page: RefCell<Vec<u64>>,
    indices: RefCell<[u32; 4]>,
    slots: RefCell<Vec<[u64; REQUEST_WORDS]>>,
    budget: Cell<usize>,
}

const SIZE: RingSize = RingSize::of_order(1).unwrap();

impl Memory {
    fn new() -> Self {
        Self {
            page: RefCell::new(vec![0; WORDS]),
            indices: RefCell::new([0, 1, 0, 1]),
            slots: RefCell::new(vec![[0; REQUEST_WORDS]; 64]),
            budget: Cell::new(usize::MAX),
        }
    }

    fn ring(&self) -> Ring<'_, Self> {
        Ring::new(self, SIZE)
    }

    fn lives(&self) -> bool {
        let budget = self.budget.get();
        self.budget.set(budget.saturating_sub(1));
        budget > 0
    }

    fn send(&self, operation: u8, count: u32) {
        for _ in 0..count {
            let index = self.load_index(Index::RequestsProduced);
            let mut slots = self.slots.borrow_mut();
            let slot = &mut slots[SIZE.slot(index) as usize];
            *slot = [0; REQUEST_WORDS];
            (slot[0], slot[1]) = (u64::from(operation), u64::from(index));
            drop(slots);
            self.store_index(Index::RequestsProduced, index.wrapping_add(1));
        }
    }

    fn serving(&self) -> Journal {
        match settle(self, &self.ring(), 1) {
            Ok(Found::Serving(journal)) => journal,
            other => panic!("{other:?}"),
        }
    }
}

impl JournalPage for Memory {
    fn load(&self, word: usize) -> u64 {
        self.page.borrow()[word]
    }
    fn store(&self, word: usize, value: u64) {
        if self.lives() {
            self.page.borrow_mut()[word] = value;
        }
    }
}

impl RingMemory for Memory {
    fn load_index(&self, index: Index) -> u32 {
        self.indices.borrow()[index as usize]
    }
    fn store_index(&self, index: Index, value: u32) {
        if self.lives() {
            self.indices.borrow_mut()[index as usize] = value;
        }
    }
    fn load_word(&self, slot: u32, word: usize) -> u64 {
        self.slots.borrow()[slot as usize][word]
    }
    fn store_word(&self, slot: u32, word: usize, value: u64) {
        if self.lives() {
            self.slots.borrow_mut()[slot as usize][word] = value;
        }
    }
    fn fence(&self) {}
}

const fn ok(entry: u32) -> Answer {
    Answer { entry, status: 0 }
}

#[test]
fn a_ring_of_64_slots_has_32_requests_taken_at_a_time() {
    let memory = Memory::new();
    let ring = memory.ring();
    let mut journal = Journal::start(&memory, &ring, 1).unwrap();
    memory.send(READ, 40);
    assert_eq!(journal.take(&memory, &ring, 5), Ok(0x1f));
    assert_eq!(journal.take(&memory, &ring, 64), Ok(!0x1f));
    assert_eq!(journal.take(&memory, &ring, 64), Ok(0));
    let published = journal.answer(&memory, &ring, &[ok(7), ok(3)]).unwrap();
    assert_eq!((published.before, published.produced), (0, 2));
    // The answers are in the order given, each with its request's id.
    assert_eq!((memory.load_word(0, 0), memory.load_word(1, 0)), (7, 3));
    assert_eq!(journal.take(&memory, &ring, 64), Ok(1 << 3 | 1 << 7));
    assert_eq!(journal.request(&memory, 3).unwrap().id(), 32);
    assert_eq!(memory.serving(), journal);
    let all: Vec<_> = (0..32).map(ok).collect();
    let _ = journal.answer(&memory, &ring, &all).unwrap();
    assert_eq!((journal.taken(), journal.request(&memory, 3)), (0, None));
    assert_eq!(journal.take(&memory, &ring, 64), Ok(0x3f));
}

#[test]
fn answers_that_must_not_be_given_store_nothing() {
    let memory = Memory::new();
    let ring = memory.ring();
    let mut journal = Journal::start(&memory, &ring, 1).unwrap();
    memory.send(READ, 1);
    memory.send(FLUSH, 1);
    journal.take(&memory, &ring, 64).unwrap();
    let page = memory.page.borrow().clone();
    let error = Answer { entry: 1, status: -1 };
    for (answers, refused) in [
        (&[][..], Unanswerable::Count),
        (&[ok(0); 33], Unanswerable::Count),
        (&[ok(0), ok(2)], Unanswerable::NotTaken { entry: 2 }),
        (&[ok(0), ok(0)], Unanswerable::NotTaken { entry: 0 }),
        (&[ok(99)], Unanswerable::NotTaken { entry: 99 }),
        (&[ok(0), error], Unanswerable::FailedFlush { entry: 1 }),
    ] {
        assert_eq!(journal.answer(&memory, &ring, answers), Err(refused));
    }
    assert_eq!((&*memory.page.borrow(), journal.taken()), (&page, 3));
    let failed = Answer { entry: 0, status: -1 };
    assert!(journal.answer(&memory, &ring, &[failed, ok(1)]).is_ok());
}

#[test]
fn an_indirect_request_for_a_flush_is_refused_like_any_other() {
    let memory = Memory::new();
    let ring = memory.ring();
    let mut journal = Journal::start(&memory, &ring, 1).unwrap();
    memory.send(INDIRECT, 1);
    memory.slots.borrow_mut()[0][0] |= u64::from(FLUSH) << 8;
    journal.take(&memory, &ring, 64).unwrap();
    assert_eq!(journal.request(&memory, 0).unwrap().response_operation(), FLUSH);
    assert!(journal.answer(&memory, &ring, &[Answer { entry: 0, status: -1 }]).is_ok());
}

/// Attach, detach and the next attach, with a server that dies after each number of stores.
#[test]
fn an_incarnation_never_sees_what_the_last_one_took() {
    for deaths in 0..200 {
        let memory = Memory::new();
        let ring = memory.ring();
        let mut journal = Journal::start(&memory, &ring, 1).unwrap();
        memory.send(READ, 3);
        journal.take(&memory, &ring, 64).unwrap();
        memory.budget.set(deaths);
        let detaching = journal.detach(&memory);
        detaching.finish(&memory);
        // The client makes its ring anew.
        let is_ended = memory.budget.get() > 0;
        if is_ended {
            *memory.indices.borrow_mut() = [0, 1, 0, 1];
            Journal::start(&memory, &ring, 2).unwrap();
        }
        let is_alive = memory.budget.get() > 0;
        memory.budget.set(usize::MAX);
        let incarnation = if is_ended { 2 } else { 1 };
        match settle(&memory, &ring, incarnation) {
            // Dead before the first store.
            Ok(Found::Serving(found)) if deaths == 0 => assert_eq!(found.taken(), 7),
            Ok(Found::Detaching(found)) => assert_eq!((deaths, found.incarnation()), (1, 1)),
            Ok(Found::Vacant) => assert!(deaths >= 2),
            Ok(Found::Serving(found)) => assert_eq!((found.taken(), found.incarnation()), (0, 2)),
            other => panic!("{other:?} after {deaths} stores"),
        }
        if is_alive {
            return;
        }
    }
    panic!("attach and detach need more than 200 stores");
}

#[test]
fn a_page_is_started_once_for_each_incarnation() {
    let memory = Memory::new();
    let ring = memory.ring();
    assert_eq!(settle(&memory, &ring, 1), Ok(Found::Vacant));
    let journal = Journal::start(&memory, &ring, 4).unwrap();
    let in_use = Err(NotStarted::InUse { incarnation: 4 });
    assert_eq!(Journal::start(&memory, &ring, 5), in_use);
    let detaching: Detaching = journal.detach(&memory);
    assert_eq!(Journal::start(&memory, &ring, 5), in_use);
    detaching.finish(&memory);
    let not_later = Err(NotStarted::Incarnation { last: 4 });
    assert_eq!(Journal::start(&memory, &ring, 4), not_later);
    assert_eq!(Journal::start(&memory, &ring, 1 << 62), not_later);
    assert_eq!(Journal::start(&memory, &ring, 5).unwrap().incarnation(), 5);
}

/// A word, the damage to it, and the successor's verdict.
type Damage = (usize, fn(u64) -> u64, Held);

#[test]
fn a_damaged_page_is_held_and_named() {
    let entry = words::REQUESTS + 2 * REQUEST_WORDS;
    let cases: [Damage; 10] = [
        (words::MAGIC, |_| 0, Held::Header),
        (words::FORM, |word| word ^ 1, Held::Header),
        (words::LIFE, |_| 0, Held::Header),
        (words::LIFE, |_| 9 << 2 | 1, Held::Incarnation { found: 9 }),
        (words::STATE, |_| 0, Held::State { taken: 0, outstanding: u32::MAX - 4 }),
        (words::STATE, |word| word | 1 << 63, Held::State { taken: 0x8000_0007, outstanding: 3 }),
        (words::PUBLISH, |word| word + 33, Held::Line { at: 3 }),
        (words::PUBLISH, |word| word + (1 << 32), Held::State { taken: 7, outstanding: 2 }),
        (entry, |word| word ^ 1 << 20, Held::Seal { entry: 2 }),
        (words::SEALS + 1, |word| word ^ 1 << 40, Held::Seal { entry: 1 }),
    ];
    for (word, damage, held) in cases {
        let memory = Memory::new();
        let ring = memory.ring();
        let mut journal = Journal::start(&memory, &ring, 1).unwrap();
        memory.send(READ, 8);
        journal.take(&memory, &ring, 5).unwrap();
        let _ = journal.answer(&memory, &ring, &[ok(0), ok(1), ok(2), ok(3), ok(4)]).unwrap();
        journal.take(&memory, &ring, 3).unwrap();
        // Lines of its own, so that a count alone is what does not fit.
        memory.page.borrow_mut()[words::LINES] = 0x0000_0001_0000_0000;
        memory.page.borrow_mut()[words::LINES + 1] = 0x0000_0009_0000_0002;
        let value = memory.load(word);
        memory.store(word, damage(value));
        let page = memory.page.borrow().clone();
        assert_eq!(settle(&memory, &ring, 1), Err(held));
        assert_eq!(*memory.page.borrow(), page, "{held:?}");
        // The way out.
        let detaching = abandon(&memory, 1);
        assert_eq!(settle(&memory, &ring, 1), Ok(Found::Detaching(detaching)));
        detaching.finish(&memory);
        assert!(Journal::start(&memory, &ring, 2).is_ok());
    }
}

#[test]
fn a_client_that_moves_responses_is_broken_and_detached() {
    let memory = Memory::new();
    let ring = memory.ring();
    let mut journal = Journal::start(&memory, &ring, 1).unwrap();
    memory.send(READ, 2);
    journal.take(&memory, &ring, 2).unwrap();
    let _ = journal.answer(&memory, &ring, &[ok(1)]).unwrap();
    memory.store_index(Index::ResponsesProduced, 77);
    // In service nobody looks at it.
    memory.send(READ, 1);
    assert_eq!(journal.take(&memory, &ring, 2), Ok(2));
    let moved = Broken::ResponsesMoved { found: 77, stored: 1 };
    assert_eq!(settle(&memory, &ring, 1), Ok(Found::Broken(moved, journal)));
}
