//! The memory of a test: a journal's page and a ring, which notes every store.

use std::cell::RefCell;

use block_ring::{Index, REQUEST_WORDS, Ring, RingMemory, RingSize};
use journal::{JournalPage, words};

/// Slots of the tests' rings: few, so that indices wrap around the ring at once.
pub const SLOTS: u32 = 2;

/// The place of a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// A word of the page.
    Page(usize),
    /// An index of the ring.
    Index(Index),
    /// A word of a slot.
    Slot(u32, usize),
}

/// A store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Store {
    pub place: Place,
    pub value: u64,
}

/// Words of a request that are not 0 in the tests: operation, id, sector.
const USED: usize = 3;

/// The words of the page and the ring that the tests use; all others are 0. The ring has two slots,
/// so no more than two entries are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Words {
    page: [u64; 14],
    indices: [u32; 4],
    slots: [[u64; USED]; SLOTS as usize],
}

impl Words {
    /// A page of zeros, and a ring as a front end makes it (`io/ring.h`).
    pub fn new() -> Self {
        Self { page: [0; 14], indices: [0, 1, 0, 1], slots: [[0; USED]; SLOTS as usize] }
    }

    /// The place of a word of the page in `page`.
    fn at(word: usize) -> Option<usize> {
        const LAST: usize = words::REQUESTS + 2 * REQUEST_WORDS;
        match word {
            0..5 => Some(word),
            words::LINES => Some(5),
            words::SEALS..34 => Some(6 + word - words::SEALS),
            words::REQUESTS..LAST => {
                let (entry, word) = (
                    (word - words::REQUESTS) / REQUEST_WORDS,
                    (word - words::REQUESTS) % REQUEST_WORDS,
                );
                (word < USED).then_some(8 + entry * USED + word)
            }
            _ => None,
        }
    }

    pub fn load(&self, place: Place) -> u64 {
        match place {
            Place::Page(word) => Self::at(word).map_or(0, |at| self.page[at]),
            Place::Index(index) => u64::from(self.indices[index as usize]),
            Place::Slot(slot, word) => self.slots[slot as usize].get(word).copied().unwrap_or(0),
        }
    }

    pub fn index(&self, index: Index) -> u32 {
        self.indices[index as usize]
    }

    pub fn apply(&mut self, store: Store) {
        let word = match store.place {
            Place::Page(word) => Self::at(word).map(|at| &mut self.page[at]),
            Place::Index(index) => {
                self.indices[index as usize] = u32::try_from(store.value).unwrap();
                return;
            }
            Place::Slot(slot, word) => self.slots[slot as usize].get_mut(word),
        };
        match word {
            Some(word) => *word = store.value,
            None => assert_eq!(store.value, 0, "{store:?}"),
        }
    }
}

/// Words that an operation works on, and the stores that it made, in order.
pub struct Recorder {
    words: RefCell<Words>,
    stores: RefCell<Vec<Store>>,
}

impl Recorder {
    /// Runs an operation on a copy of the words; returns its result and its stores.
    pub fn record<T>(
        words: &Words,
        operation: impl FnOnce(&Self, &Ring<'_, Self>) -> T,
    ) -> (T, Vec<Store>) {
        let recorder = Self { words: RefCell::new(*words), stores: RefCell::new(Vec::new()) };
        let size = RingSize::of_slots(SLOTS).unwrap();
        let result = operation(&recorder, &Ring::new(&recorder, size));
        (result, recorder.stores.into_inner())
    }

    fn store(&self, place: Place, value: u64) {
        let store = Store { place, value };
        self.words.borrow_mut().apply(store);
        self.stores.borrow_mut().push(store);
    }
}

impl JournalPage for Recorder {
    fn load(&self, word: usize) -> u64 {
        self.words.borrow().load(Place::Page(word))
    }
    fn store(&self, word: usize, value: u64) {
        self.store(Place::Page(word), value);
    }
}

impl RingMemory for Recorder {
    fn load_index(&self, index: Index) -> u32 {
        self.words.borrow().index(index)
    }
    fn store_index(&self, index: Index, value: u32) {
        self.store(Place::Index(index), u64::from(value));
    }
    fn load_word(&self, slot: u32, word: usize) -> u64 {
        self.words.borrow().load(Place::Slot(slot, word))
    }
    fn store_word(&self, slot: u32, word: usize, value: u64) {
        self.store(Place::Slot(slot, word), value);
    }
    fn fence(&self) {}
}
