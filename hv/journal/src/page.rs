//! The page: its words, loaded and stored one at a time.

use block_ring::{REQUEST_WORDS, RawRequest, RingSize};
use pv_abi::PAGE_SIZE;

/// Number of entries.
pub const ENTRIES: u32 = 32;
/// Number of words of the page.
pub const WORDS: usize = PAGE_SIZE / 8;

/// The places of the words in the page.
pub mod words {
    /// Magic number.
    pub const MAGIC: usize = 0;
    /// Version and size of the ring.
    pub const FORM: usize = 1;
    /// Incarnation and phase.
    pub const LIFE: usize = 2;
    /// Taken entries and requests consumed.
    pub const STATE: usize = 3;
    /// Answers that are being published.
    pub const PUBLISH: usize = 4;
    /// First word of the lines, two in a word.
    pub const LINES: usize = 16;
    /// First word of the seals.
    pub const SEALS: usize = 32;
    /// First word of the entries.
    pub const REQUESTS: usize = 64;
}

const _: () = {
    assert!(words::LINES + ENTRIES as usize / 2 == words::SEALS);
    assert!(words::SEALS + ENTRIES as usize == words::REQUESTS);
    assert!(words::REQUESTS + ENTRIES as usize * REQUEST_WORDS == WORDS);
};

/// "uvjournl" in the byte order of the machine.
const MAGIC: u64 = u64::from_le_bytes(*b"uvjournl");
const VERSION: u32 = 2;

/// The memory of the page. Only one server has it at a time.
pub trait JournalPage {
    /// Loads a word; `word` is less than [`WORDS`].
    fn load(&self, word: usize) -> u64;
    /// Stores a word at once. A reader that sees the store sees every store before it, to the page
    /// and to the ring.
    fn store(&self, word: usize, value: u64);
    /// Stores words from `first` on, one after the other as [`JournalPage::store`] does.
    fn store_all(&self, first: usize, values: &[u64]) {
        (first..).zip(values).for_each(|(word, &value)| self.store(word, value));
    }
    /// Loads words from `first` on, one after the other.
    fn load_all<const N: usize>(&self, first: usize) -> [u64; N] {
        core::array::from_fn(|at| self.load(first + at))
    }
}

/// A word of two halves.
const fn join(high: u32, low: u32) -> u64 {
    (high as u64) << 32 | low as u64
}

/// The halves of a word, the high one first.
fn split(word: u64) -> (u32, u32) {
    let [a, b, c, d, e, f, g, h] = word.to_le_bytes();
    (u32::from_le_bytes([e, f, g, h]), u32::from_le_bytes([a, b, c, d]))
}

/// The header of a page that serves rings of a size.
const fn form(size: RingSize) -> u64 {
    join(size.slots(), VERSION)
}

/// Stores the header.
pub(crate) fn store_header(page: &impl JournalPage, size: RingSize) {
    page.store(words::FORM, form(size));
    page.store(words::MAGIC, MAGIC);
}

/// Says whether the page was ever started.
pub(crate) fn has_header(page: &impl JournalPage) -> bool {
    page.load(words::MAGIC) != 0
}

/// Whether the header is that of a page for rings of this size.
pub(crate) fn header_fits(page: &impl JournalPage, size: RingSize) -> bool {
    page.load(words::MAGIC) == MAGIC && page.load(words::FORM) == form(size)
}

/// Phase of an incarnation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// No incarnation has started: the word is zero.
    Fresh,
    /// The last incarnation has ended.
    Free,
    /// A client is served.
    Serving,
    /// The client is going.
    Detaching,
}

/// The word LIFE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Life {
    pub(crate) incarnation: u64,
    pub(crate) phase: Phase,
}

impl Life {
    pub(crate) const INCARNATION_MAX: u64 = u64::MAX >> 2;

    pub(crate) fn load(page: &impl JournalPage) -> Self {
        let word = page.load(words::LIFE);
        let phase = match word & 3 {
            0 => Phase::Fresh,
            1 => Phase::Serving,
            2 => Phase::Detaching,
            _ => Phase::Free,
        };
        Self { incarnation: word >> 2, phase }
    }

    pub(crate) fn store(self, page: &impl JournalPage) {
        let phase = match self.phase {
            Phase::Fresh => 0,
            Phase::Serving => 1,
            Phase::Detaching => 2,
            Phase::Free => 3,
        };
        page.store(words::LIFE, self.incarnation << 2 | phase);
    }
}

/// The word STATE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) taken: u32,
    pub(crate) consumed: u32,
}

impl State {
    pub(crate) fn load(page: &impl JournalPage) -> Self {
        let (taken, consumed) = split(page.load(words::STATE));
        Self { taken, consumed }
    }

    pub(crate) fn store(self, page: &impl JournalPage) {
        page.store(words::STATE, join(self.taken, self.consumed));
    }
}

/// The word PUBLISH.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Publish {
    pub(crate) base: u32,
    pub(crate) count: u32,
}

impl Publish {
    pub(crate) fn load(page: &impl JournalPage) -> Self {
        let (base, count) = split(page.load(words::PUBLISH));
        Self { base, count }
    }

    pub(crate) fn store(self, page: &impl JournalPage) {
        page.store(words::PUBLISH, join(self.base, self.count));
    }
}

/// A line: an answer that is being published.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) entry: u16,
    pub(crate) status: i16,
}

impl Line {
    /// Loads a line; `at` is less than [`ENTRIES`].
    pub(crate) fn load(page: &impl JournalPage, at: usize) -> Self {
        let (odd, even) = split(page.load(words::LINES + at / 2));
        let [a, b, c, d] = if at.is_multiple_of(2) { even } else { odd }.to_le_bytes();
        Self { entry: u16::from_le_bytes([a, b]), status: i16::from_le_bytes([c, d]) }
    }

    /// Stores two lines into the word of lines `2 * pair` and the next.
    pub(crate) fn store_pair(page: &impl JournalPage, pair: usize, even: Self, odd: Self) {
        page.store(words::LINES + pair, join(odd.bits(), even.bits()));
    }

    fn bits(self) -> u32 {
        let ([a, b], [c, d]) = (self.entry.to_le_bytes(), self.status.to_le_bytes());
        u32::from_le_bytes([a, b, c, d])
    }
}

/// Stores a request with its seal.
pub(crate) fn store_entry(
    page: &impl JournalPage,
    entry: u32,
    raw: &RawRequest,
    incarnation: u64,
    index: u32,
) {
    page.store_all(word_of(entry), &raw.0);
    page.store(words::SEALS + entry as usize, join(index, checksum(raw, incarnation, index)));
}

/// Loads the request of an entry.
pub(crate) fn load_entry(page: &impl JournalPage, entry: u32) -> RawRequest {
    RawRequest(page.load_all(word_of(entry)))
}

/// Loads what a response needs of the request of an entry: the first two words.
pub(crate) fn load_head(page: &impl JournalPage, entry: u32) -> RawRequest {
    let mut words = [0; REQUEST_WORDS];
    (words[0], words[1]) = (page.load(word_of(entry)), page.load(word_of(entry) + 1));
    RawRequest(words)
}

/// Says whether the seal of an entry fits the request and the incarnation.
pub(crate) fn seal_fits(page: &impl JournalPage, entry: u32, incarnation: u64) -> bool {
    let (index, sum) = split(page.load(words::SEALS + entry as usize));
    checksum(&load_entry(page, entry), incarnation, index) == sum
}

const fn word_of(entry: u32) -> usize {
    words::REQUESTS + entry as usize * REQUEST_WORDS
}

/// A checksum of 32 bits, for every request: a CRC without instructions for it looks every byte up in
/// tables. Each step is a bijection of the sum before it, and of the word, so the sums of two requests
/// that differ in one word differ; they are folded to 32 bits, so one case of damage in 2^32 goes
/// unnoticed.
fn checksum(raw: &RawRequest, incarnation: u64, index: u32) -> u32 {
    // Odd, with bits everywhere: 2^64 divided by the golden ratio.
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
    let step = |sum: u64, word: &u64| {
        let sum = (sum ^ word).wrapping_mul(FACTOR);
        sum ^ sum >> 32
    };
    let first = step(incarnation, &index.into());
    let (high, low) = split(raw.0.iter().fold(first, step));
    high ^ low
}
