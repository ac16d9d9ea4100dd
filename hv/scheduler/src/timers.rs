//! Deadlines in a binary heap.
//!
//! A timer is a number below the queue's capacity and has one deadline at most. The heap keeps
//! the rule that no timer is before its parent, and `position` says where in the heap a timer is,
//! so that setting and cancelling cost a logarithm.

/// Marks a timer that is not set.
const NOWHERE: u16 = u16::MAX;

/// Timers `0..N`; `N` is at most 65535.
#[derive(Clone, Debug)]
pub struct TimerQueue<const N: usize> {
    /// Deadline of each timer that is set.
    deadline: [u64; N],
    /// Timers in heap order; the first `len` count.
    heap: [u16; N],
    /// Place of each timer in `heap`, or [`NOWHERE`].
    position: [u16; N],
    len: usize,
}

impl<const N: usize> Default for TimerQueue<N> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const N: usize> TimerQueue<N> {
    /// A queue with no timer set.
    #[must_use]
    pub const fn new() -> Self {
        assert!(N < NOWHERE as usize, "timer numbers are 16 bits");
        Self { deadline: [0; N], heap: [NOWHERE; N], position: [NOWHERE; N], len: 0 }
    }

    /// Sets a timer, whether or not it was set. Returns false for a number that is no timer.
    pub fn set(&mut self, timer: u16, deadline: u64) -> bool {
        let Some(slot) = self.deadline.get_mut(usize::from(timer)) else {
            return false;
        };
        *slot = deadline;
        let place = match self.place(timer) {
            Some(place) => place,
            None => {
                self.len += 1;
                self.put(self.len - 1, timer);
                self.len - 1
            }
        };
        let place = self.sift_up(place);
        self.sift_down(place);
        true
    }

    /// Cancels a timer. Returns whether it was set.
    pub fn cancel(&mut self, timer: u16) -> bool {
        let Some(place) = self.place(timer) else {
            return false;
        };
        self.len -= 1;
        let last = self.at(self.len);
        if let Some(position) = self.position.get_mut(usize::from(timer)) {
            *position = NOWHERE;
        }
        if last != timer {
            self.put(place, last);
            let place = self.sift_up(place);
            self.sift_down(place);
        }
        true
    }

    /// The deadline of a timer, if it is set.
    #[must_use]
    pub fn get(&self, timer: u16) -> Option<u64> {
        self.place(timer).map(|_| self.deadline_of(timer))
    }

    /// The earliest deadline and its timer.
    #[must_use]
    pub fn next(&self) -> Option<(u64, u16)> {
        (self.len > 0).then(|| (self.deadline_of(self.at(0)), self.at(0)))
    }

    /// Cancels and returns a timer whose deadline is not after `now`, earliest first.
    pub fn pop_expired(&mut self, now: u64) -> Option<u16> {
        let (deadline, timer) = self.next()?;
        (deadline <= now && self.cancel(timer)).then_some(timer)
    }

    /// How many timers are set.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether no timer is set.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn place(&self, timer: u16) -> Option<usize> {
        let place = *self.position.get(usize::from(timer))?;
        (place != NOWHERE).then_some(usize::from(place))
    }

    fn at(&self, place: usize) -> u16 {
        self.heap.get(place).copied().unwrap_or(NOWHERE)
    }

    fn deadline_of(&self, timer: u16) -> u64 {
        self.deadline.get(usize::from(timer)).copied().unwrap_or(u64::MAX)
    }

    /// Puts a timer at a place of the heap; `place` is below `N` and so fits 16 bits.
    fn put(&mut self, place: usize, timer: u16) {
        if let (Some(heap), Some(position)) =
            (self.heap.get_mut(place), self.position.get_mut(usize::from(timer)))
        {
            *heap = timer;
            *position = u16::try_from(place).unwrap_or(NOWHERE);
        }
    }

    fn is_before(&self, a: usize, b: usize) -> bool {
        self.deadline_of(self.at(a)) < self.deadline_of(self.at(b))
    }

    fn swap(&mut self, a: usize, b: usize) {
        let (first, second) = (self.at(a), self.at(b));
        self.put(a, second);
        self.put(b, first);
    }

    fn sift_up(&mut self, mut place: usize) -> usize {
        while place > 0 {
            let parent = (place - 1) / 2;
            if !self.is_before(place, parent) {
                break;
            }
            self.swap(place, parent);
            place = parent;
        }
        place
    }

    fn sift_down(&mut self, mut place: usize) {
        loop {
            let left = 2 * place + 1;
            let right = left + 1;
            let child = if right < self.len && self.is_before(right, left) { right } else { left };
            if child >= self.len || !self.is_before(child, place) {
                return;
            }
            self.swap(place, child);
            place = child;
        }
    }
}
