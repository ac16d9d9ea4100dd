//! The ring's sizes and indices, beside a front end that may write anything.

use std::cell::Cell;

use block_ring::{Broken, Cursor, Index, Ring, RingMemory, RingSize};

/// A ring whose words a test writes.
#[derive(Default)]
struct Memory {
    indices: [Cell<u32>; 4],
    words: [[Cell<u64>; 14]; 32],
}

impl RingMemory for Memory {
    fn load_index(&self, index: Index) -> u32 {
        self.indices[index as usize].get()
    }
    fn store_index(&self, index: Index, value: u32) {
        self.indices[index as usize].set(value);
    }
    fn load_word(&self, slot: u32, word: usize) -> u64 {
        self.words[slot as usize][word].get()
    }
    fn store_word(&self, slot: u32, word: usize, value: u64) {
        self.words[slot as usize][word].set(value);
    }
    fn fence(&self) {}
}

#[test]
fn rings_have_32_slots_for_each_power_of_two_pages() {
    let slots: Vec<_> =
        (0..6).map(|order| RingSize::of_order(order).map(RingSize::slots)).collect();
    assert_eq!(slots, [Some(32), Some(64), Some(128), Some(256), Some(512), None]);
    assert_eq!(RingSize::of_slots(3), None);
    assert_eq!(RingSize::of_slots(0), None);
    assert_eq!(RingSize::of_slots(1024), None);
    assert_eq!(RingSize::of_order(0).unwrap().slot(u32::MAX), 31);
}

#[test]
fn every_index_is_right_or_breaks_the_ring() {
    let memory = Memory::default();
    let ring = Ring::new(&memory, RingSize::of_order(0).unwrap());
    for start in [0u32, 5, u32::MAX - 10] {
        for outstanding in [0u32, 3, 32] {
            let cursor = Cursor { produced: start, consumed: start.wrapping_add(outstanding) };
            for ahead in -40i32..80 {
                let produced = start.wrapping_add_signed(ahead);
                memory.store_index(Index::RequestsProduced, produced);
                let legal = ahead >= outstanding.cast_signed() && ahead <= 32;
                match cursor.pending(&ring) {
                    Ok(pending) => {
                        assert!(legal);
                        assert_eq!(pending, ahead.cast_unsigned() - outstanding);
                    }
                    Err(Broken::RequestsWithdrawn { .. }) => {
                        assert!(ahead < outstanding.cast_signed());
                    }
                    Err(Broken::TooManyRequests { .. }) => assert!(ahead > 32),
                    Err(other) => panic!("{other:?}"),
                }
            }
        }
    }
}

#[test]
fn a_front_end_that_waits_gets_an_event() {
    let memory = Memory::default();
    let ring = Ring::new(&memory, RingSize::of_order(0).unwrap());
    // rsp_event is one above what the front end consumed.
    for (event, before, produced, owed, owed_at_attach) in [
        (1, 0, 1, true, true),
        (1, 0, 5, true, true),
        (1, 1, 5, false, true),
        (6, 0, 5, false, false),
        (u32::MAX, u32::MAX - 1, 2, true, true),
        (3, u32::MAX - 1, 2, false, false),
    ] {
        memory.store_index(Index::ResponseEvent, event);
        assert_eq!(ring.event_owed(before, produced), owed, "{event} {before} {produced}");
        assert_eq!(ring.event_owed_at_attach(produced), owed_at_attach, "{event} {produced}");
    }
    ring.ask_for_event(u32::MAX);
    assert_eq!(memory.load_index(Index::RequestEvent), 0);
}

#[test]
fn a_response_writes_16_bytes_of_its_slot() {
    let memory = Memory::default();
    let ring = Ring::new(&memory, RingSize::of_order(0).unwrap());
    for word in 0..14 {
        memory.store_word(3, word, u64::MAX);
    }
    let mut raw = ring.fetch(35);
    raw.0[0] = 1;
    raw.0[1] = 0x1234;
    ring.write_response(3, &raw.response(-2));
    ring.publish(4);
    assert_eq!(memory.load_word(3, 0), 0x1234);
    assert_eq!(memory.load_word(3, 1), 0xfffe_0001);
    assert_eq!(memory.load_word(3, 2), u64::MAX);
    assert_eq!((ring.responses_in_ring(), memory.load_index(Index::ResponsesProduced)), (4, 4));
}
