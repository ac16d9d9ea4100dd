//! A front end and a back end at one ring, in every order (`RUSTFLAGS="--cfg loom"`).

use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};
use loom::thread;

use crate::{Cursor, Index, REQUEST_WORDS, RawRequest, Ring, RingMemory, RingSize};

/// A ring of two slots, with the words that a test uses.
struct Shared {
    indices: [AtomicU32; 4],
    words: [[AtomicU64; 3]; 2],
    server_event: AtomicBool,
    guest_event: AtomicBool,
}

impl Shared {
    fn new() -> Arc<Self> {
        let shared = Self {
            // A request came and was answered; nobody asked for the next event yet.
            indices: [1, 1, 1, 1].map(AtomicU32::new),
            words: [(); 2].map(|()| [(); 3].map(|()| AtomicU64::new(0))),
            server_event: AtomicBool::new(false),
            guest_event: AtomicBool::new(false),
        };
        Arc::new(shared)
    }
}

impl RingMemory for Shared {
    fn load_index(&self, index: Index) -> u32 {
        self.indices[index as usize].load(Ordering::Acquire)
    }
    fn store_index(&self, index: Index, value: u32) {
        self.indices[index as usize].store(value, Ordering::Release);
    }
    fn load_word(&self, slot: u32, word: usize) -> u64 {
        self.words[slot as usize].get(word).map_or(0, |word| word.load(Ordering::Relaxed))
    }
    fn store_word(&self, slot: u32, word: usize, value: u64) {
        self.words[slot as usize][word].store(value, Ordering::Relaxed);
    }
    fn fence(&self) {
        fence(Ordering::SeqCst);
    }
}

const SIZE: RingSize = RingSize::of_slots(2).unwrap();

/// The front end sends a request, and an event if the back end asked for one (`io/ring.h`).
fn send(shared: &Shared, index: u32) {
    let slot = SIZE.slot(index);
    shared.store_word(slot, 0, 0);
    shared.store_word(slot, 1, 100 + u64::from(index));
    shared.store_index(Index::RequestsProduced, index + 1);
    shared.fence();
    let event = shared.load_index(Index::RequestEvent);
    if (index + 1).wrapping_sub(event) < 1 {
        shared.server_event.store(true, Ordering::SeqCst);
    }
}

/// A request is seen whole; and if the back end goes to sleep without it, an event wakes it.
#[test]
fn loom_no_request_is_torn_or_slept_over() {
    loom::model(|| {
        let shared = Shared::new();
        let guest = {
            let shared = shared.clone();
            thread::spawn(move || send(&shared, 1))
        };
        let ring = Ring::new(&*shared, SIZE);
        let cursor = Cursor { consumed: 1, produced: 1 };
        let mut pending = cursor.pending(&ring).unwrap();
        if pending == 0 {
            ring.ask_for_event(cursor.consumed);
            pending = cursor.pending(&ring).unwrap();
        }
        if pending > 0 {
            assert_eq!(ring.fetch(1).id(), 101);
        }
        guest.join().unwrap();
        assert!(pending > 0 || shared.server_event.load(Ordering::SeqCst));
    });
}

/// A response is seen whole; and if the front end goes to sleep without it, an event wakes it.
#[test]
fn loom_no_response_is_torn_or_slept_over() {
    loom::model(|| {
        let shared = Shared::new();
        send(&shared, 1);
        let server = {
            let shared = shared.clone();
            thread::spawn(move || {
                let ring = Ring::new(&*shared, SIZE);
                let raw = ring.fetch(1);
                ring.write_response(1, &raw.response(-1));
                ring.publish(2);
                if ring.event_owed(1, 2) {
                    shared.guest_event.store(true, Ordering::SeqCst);
                }
            })
        };
        let seen = wait_for_response(&shared);
        server.join().unwrap();
        assert!(seen || shared.guest_event.load(Ordering::SeqCst));
    });
}

/// A successor that finds the response published sends the event that the dead server owed.
#[test]
fn loom_a_successor_wakes_a_front_end_that_sleeps() {
    loom::model(|| {
        let shared = Shared::new();
        send(&shared, 1);
        let ring = Ring::new(&*shared, SIZE);
        ring.write_response(1, &RawRequest([0; REQUEST_WORDS]).response(-1));
        ring.publish(2);
        // The server dies here; the front end runs on.
        let guest = {
            let shared = shared.clone();
            thread::spawn(move || wait_for_response(&shared))
        };
        let owed = ring.event_owed_at_attach(2);
        assert!(guest.join().unwrap() || owed);
    });
}

/// The front end looks for a response, and before it sleeps asks for an event and looks again.
fn wait_for_response(shared: &Shared) -> bool {
    for _ in 0..2 {
        if shared.load_index(Index::ResponsesProduced) > 1 {
            assert_eq!(shared.load_word(1, 1), 0xffff_0000);
            return true;
        }
        shared.store_index(Index::ResponseEvent, 2);
        shared.fence();
    }
    false
}
