//! Numbers with keys: a binary heap, the least key first, with cancellation.
//!
//! A number is below the heap's capacity and has at most one key. No number has a lesser key than
//! its parent. `position` gives the place of a number in the heap, so that setting and cancelling
//! take logarithmic time. Keys compare like wrapping counters: all keys in the heap lie within 2^63
//! of each other. An empty heap is all zeros, so a static heap takes no room in an image.

use crate::entity::before;

/// The latest deadline that may be a key together with present times.
pub const FAR: u64 = i64::MAX as u64;

/// Deadlines of timers, none later than [`FAR`].
pub type TimerQueue<const N: usize> = Heap<N>;

/// Keys of the numbers `0..N`; `N` is below 65535.
#[derive(Clone, Debug)]
pub struct Heap<const N: usize> {
    /// Key of each number that is set.
    key: [u64; N],
    /// Numbers in heap order; only the first `len` are valid.
    heap: [u16; N],
    /// One more than the place of each number in `heap`, or 0.
    position: [u16; N],
    len: usize,
}

impl<const N: usize> Default for Heap<N> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const N: usize> Heap<N> {
    /// A heap with no number set.
    #[must_use]
    pub const fn new() -> Self {
        assert!(N < u16::MAX as usize, "numbers are 16 bits");
        Self { key: [0; N], heap: [0; N], position: [0; N], len: 0 }
    }

    /// Sets the key of a number, whether or not it had one. Returns false if the number is past the
    /// capacity.
    pub fn set(&mut self, number: u16, key: u64) -> bool {
        let Some(slot) = self.key.get_mut(usize::from(number)) else {
            return false;
        };
        *slot = key;
        let place = match self.place(number) {
            Some(place) => place,
            None => {
                self.len += 1;
                self.put(self.len - 1, number);
                self.len - 1
            }
        };
        let place = self.sift_up(place);
        self.sift_down(place);
        true
    }

    /// Cancels a number. Returns whether it was set.
    pub fn cancel(&mut self, number: u16) -> bool {
        let Some(place) = self.place(number) else {
            return false;
        };
        self.len -= 1;
        let last = self.at(self.len);
        if let Some(position) = self.position.get_mut(usize::from(number)) {
            *position = 0;
        }
        if last != number {
            self.put(place, last);
            let place = self.sift_up(place);
            self.sift_down(place);
        }
        true
    }

    /// The key of a number, if it is set.
    #[must_use]
    pub fn get(&self, number: u16) -> Option<u64> {
        self.place(number).map(|_| self.key_of(number))
    }

    /// The least key, and a number that has it.
    #[must_use]
    pub fn next(&self) -> Option<(u64, u16)> {
        let number = *self.heap.first().filter(|_| self.len > 0)?;
        Some((self.key_of(number), number))
    }

    /// Removes a number whose key is not after `now`, the earliest first.
    pub fn pop_expired(&mut self, now: u64) -> Option<u16> {
        let (_, number) = self.next().filter(|(key, _)| !before(now, *key))?;
        self.cancel(number);
        Some(number)
    }

    /// The numbers in the heap: the first has the least key, and none comes before its parent.
    pub fn iter(&self) -> impl Iterator<Item = u16> {
        self.heap.iter().take(self.len).copied()
    }

    /// How many numbers are set.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Returns whether the heap is empty.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn at(&self, place: usize) -> u16 {
        self.heap.get(place).copied().unwrap_or(0)
    }

    fn place(&self, number: u16) -> Option<usize> {
        usize::from(*self.position.get(usize::from(number))?).checked_sub(1)
    }

    fn key_of(&self, number: u16) -> u64 {
        self.key.get(usize::from(number)).copied().unwrap_or(0)
    }

    fn put(&mut self, place: usize, number: u16) {
        if let Some(slot) = self.heap.get_mut(place) {
            *slot = number;
        }
        // `new` makes sure that `N`, and so every place, fits in 16 bits.
        let position = self.position.get_mut(usize::from(number));
        if let (Some(position), Ok(place)) = (position, u16::try_from(place + 1)) {
            *position = place;
        }
    }

    fn swap(&mut self, a: usize, b: usize) {
        let (x, y) = (self.at(a), self.at(b));
        self.put(a, y);
        self.put(b, x);
    }

    fn is_before(&self, a: usize, b: usize) -> bool {
        before(self.key_of(self.at(a)), self.key_of(self.at(b)))
    }

    fn sift_up(&mut self, mut place: usize) -> usize {
        while place > 0 && self.is_before(place, (place - 1) / 2) {
            self.swap(place, (place - 1) / 2);
            place = (place - 1) / 2;
        }
        place
    }

    fn sift_down(&mut self, mut place: usize) {
        loop {
            let mut least = place;
            for child in [2 * place + 1, 2 * place + 2] {
                if child < self.len && self.is_before(child, least) {
                    least = child;
                }
            }
            if least == place {
                return;
            }
            self.swap(place, least);
            place = least;
        }
    }
}
