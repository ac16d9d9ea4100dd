//! A driver and a simulated device on the same memory.

use super::*;
use crate::fake::{Device, MEMORY, RANGES, memory};
use crate::registers::Range;
use proptest::prelude::*;
use std::cell::RefCell;
use std::sync::atomic::{AtomicU32, Ordering};

/// Words of memory: the first part for queues, and the last 64 KiB for data.
const WORDS: usize = 64 * 1024;
const DATA: usize = WORDS - 16 * 1024;

fn setup(words: &[AtomicU32]) -> Setup<'_> {
    let memory = Memory { words: &words[..DATA.min(words.len())], address: MEMORY };
    Setup { memory, queues: 2, interrupts: true }
}

fn device(words: &[AtomicU32]) -> Device<'_> {
    Device::new(Memory { words, address: MEMORY })
}

fn drive<'m>(words: &'m [AtomicU32], device: Device<'m>) -> Disk<'m, Device<'m>> {
    Disk::new(device, RANGES, setup(words), &mut || false).expect("it is a disk")
}

/// A segment in the data part: its first sector there, and the number of sectors.
fn segment(sector: u64, sectors: u32) -> Segment {
    Segment { address: MEMORY + DATA as u64 * 4 + sector * 512, bytes: sectors * 512 }
}

fn data(words: &[AtomicU32], sector: usize) -> u32 {
    words[DATA + sector * 128].load(Ordering::Relaxed)
}

#[test]
fn a_disk_is_read_written_flushed_and_discarded() {
    let words = memory(WORDS);
    let mut disk = drive(&words, device(&words));
    assert_eq!(disk.queues(), 2);
    let medium = *disk.medium();
    assert_eq!((medium.sectors, medium.block_bytes, medium.segments), (100, 4096, 20));
    assert!(medium.write_cache && !medium.read_only);
    assert_eq!((medium.discard_sectors, medium.discard_part), (50, 8));
    let requests = [
        (Request::Read(7), vec![segment(0, 1), segment(5, 2)]),
        (Request::Flush, vec![]),
        (Request::Write(90), vec![segment(5, 2)]),
        (Request::Discard(20, 30), vec![]),
    ];
    for (request, segments) in requests {
        for queue in [1, 0] {
            let slot = disk.submit(queue, request, &segments).expect("room");
            disk.kick(queue);
            assert_eq!(disk.completed(queue), Ok(Some((slot, Outcome::Done))), "{request:?}");
            assert_eq!(disk.completed(queue), Ok(None));
        }
    }
    assert_eq!(
        [0, 5, 6].map(|sector| data(&words, sector)),
        [0x0707_0707, 0x0808_0808, 0x0909_0909]
    );
    let contents = disk.registers.disk.borrow();
    assert_eq!((contents[90 * 512], contents[91 * 512], contents[92 * 512]), (8, 9, 92));
    assert_eq!((contents[19 * 512], contents[20 * 512], contents[50 * 512]), (19, 0, 50));
    let vectors = [0, 1].map(|queue| disk.registers.registers[&(queue, 0x1a)]);
    assert_eq!(vectors, [0, 1]);
}

#[test]
fn many_are_in_flight_and_end_in_any_order() {
    for indirect in [true, false] {
        let words = memory(WORDS);
        let mut device = device(&words);
        device.backwards = true;
        if !indirect {
            device.features &= !feature::INDIRECT;
        }
        let mut disk = drive(&words, device);
        // Long enough for the indices to wrap.
        for round in 0..1100_u64 {
            let mut expected = Vec::new();
            while let Ok(slot) = disk.submit(0, Request::Read(round % 90), &[segment(0, 1)]) {
                expected.push(slot);
            }
            assert_eq!(expected.len(), if indirect { 64 } else { 3 });
            let full = disk.submit(0, Request::Flush, &[]);
            assert_eq!(full, Err(Unsubmitted::Full));
            disk.kick(0);
            while let Some((slot, outcome)) = disk.completed(0).expect("an honest device") {
                assert_eq!((Some(slot), outcome), (expected.pop(), Outcome::Done));
            }
            assert!(expected.is_empty());
        }
    }
}

#[test]
fn what_is_not_on_the_disk_is_not_submitted() {
    let words = memory(WORDS);
    let mut device = device(&words);
    device.features |= feature::READ_ONLY;
    let mut disk = drive(&words, device);
    let odd = Segment { bytes: 511, ..segment(0, 1) };
    for (request, segments) in [
        (Request::Read(100), vec![segment(0, 1)]),
        (Request::Read(99), vec![segment(0, 2)]),
        (Request::Read(u64::MAX), vec![segment(0, 1)]),
        (Request::Read(0), vec![]),
        (Request::Read(0), vec![odd]),
        (Request::Read(0), vec![Segment { bytes: 0, ..odd }]),
        (Request::Read(0), vec![segment(0, 1); 21]),
        (Request::Write(0), vec![segment(0, 1)]),
        (Request::Flush, vec![segment(0, 1)]),
        (Request::Discard(0, 1), vec![]),
    ] {
        let refused = disk.submit(0, request, &segments);
        assert_eq!(refused, Err(Unsubmitted::Refused), "{request:?}");
    }
    assert_eq!(disk.submit(2, Request::Read(0), &[segment(0, 1)]), Err(Unsubmitted::Refused));
}

#[test]
fn the_status_of_a_request_is_told() {
    let words = memory(WORDS);
    let mut disk = drive(&words, device(&words));
    for (answer, outcome) in
        [(1, Outcome::Failed), (2, Outcome::Unsupported), (0xff, Outcome::Failed)]
    {
        disk.registers.answer = answer;
        let slot = disk.submit(0, Request::Flush, &[]).expect("room");
        disk.kick(0);
        assert_eq!(disk.completed(0), Ok(Some((slot, outcome))));
    }
}

#[test]
fn a_reset_that_is_not_confirmed_is_told() {
    let words = memory(WORDS);
    let device = device(&words);
    device.reset_looks.set(5);
    let mut looks = 0;
    let mut wait = || {
        looks += 1;
        looks < 3
    };
    let refused = Disk::new(device, RANGES, setup(&words), &mut wait);
    assert_eq!(refused.err(), Some(Fault::Reset));
    let mut disk = drive(&words, self::device(&words));
    disk.registers.reset_looks.set(5);
    assert_eq!(disk.reset(&mut || true), Ok(()));
    assert_eq!(disk.submit(0, Request::Flush, &[]), Err(Unsubmitted::Refused), "no queue is left");
}

#[test]
fn a_device_that_cannot_be_driven_is_reset_and_named() {
    let words = memory(WORDS);
    let refused = |change: &dyn Fn(&mut Device<'_>)| {
        let mut device = device(&words);
        change(&mut device);
        Disk::new(device, RANGES, setup(&words), &mut || false).err()
    };
    assert_eq!(refused(&|device| device.features &= !feature::VERSION_1), Some(Fault::Features));
    let queue = |device: &mut Device<'_>, at, value| {
        device.registers.insert((0, at), value);
    };
    assert_eq!(refused(&|device| queue(device, 0x18, 0)), Some(Fault::Queue));
    assert_eq!(
        refused(&|device| queue(device, 0x1e, 0x400)),
        Some(Fault::Outside("notify offset"))
    );
    assert_eq!(
        refused(&|device| device.configuration[5] = 3),
        Some(Fault::Configuration("blk_size"))
    );
    let memory = Memory { words: &words[..1024], address: MEMORY };
    let small = Setup { memory, ..setup(&words) };
    let refused = Disk::new(device(&words), RANGES, small, &mut || false);
    assert_eq!(refused.err(), Some(Fault::NoMemory));
}

/// Registers that hold anything.
#[derive(Debug)]
struct Wild(RefCell<Vec<u32>>);

impl Registers for Wild {
    fn read(&self, _: Range, _: u32, bytes: u32) -> u32 {
        let value = self.0.borrow_mut().pop().unwrap_or(0);
        if bytes == 4 { value } else { value & ((1 << (8 * bytes)) - 1) }
    }

    fn write(&mut self, range: Range, offset: u32, bytes: u32, _: u32) {
        assert!(range.holds(offset, bytes), "a write outside of the range");
    }
}

proptest! {
    #[test]
    fn wild_registers_end_in_an_error_or_a_disk(
        values in prop::collection::vec(prop_oneof![any::<u32>(), 0..300_u32, Just(0)], 0..80),
    ) {
        let words = memory(WORDS / 2);
        let setup = Setup { memory: Memory { words: &words, address: MEMORY }, ..setup(&words) };
        let wild = Wild(RefCell::new(values));
        let _ = Disk::new(wild, RANGES, setup, &mut || false);
    }

    /// Whatever is in the queue's memory, a completion names a request in flight.
    #[test]
    fn a_wild_used_ring_completes_only_what_is_in_flight(
        indirect in any::<bool>(),
        submitted in 0_usize..70,
        wild in prop::collection::vec((0_usize..3000, any::<u32>()), 0..200),
        index in 0_u32..80,
        ids in prop::collection::vec(0_u32..200, 80),
    ) {
        let words = memory(32 * 1024);
        let memory = Memory { words: &words, address: MEMORY };
        let mut queue = Queue::new(memory, 256, indirect).unwrap();
        let used = ((queue.addresses()[2] - MEMORY) / 4) as usize;
        let header = Header { kind: 0, sector: 0, discard: None, device_writes: true };
        let mut flying: Vec<u16> =
            (0..submitted).filter_map(|_| queue.submit(&header, &[segment(0, 1)])).collect();
        for (at, value) in wild {
            words[at].store(value, Ordering::Relaxed);
        }
        for (at, id) in ids.into_iter().enumerate() {
            words[used + 1 + at * 2].store(id, Ordering::Relaxed);
        }
        words[used].store(index << 16, Ordering::Relaxed);
        for _ in 0..100 {
            match queue.completed() {
                Ok(Some((slot, _))) => {
                    let at = flying.iter().position(|one| *one == slot);
                    prop_assert!(at.is_some(), "slot {slot} is not in flight");
                    flying.swap_remove(at.unwrap());
                }
                Ok(None) => break,
                Err(fault) => {
                    prop_assert_eq!(fault, Fault::UsedRing);
                    break;
                }
            }
        }
        prop_assert_eq!(queue.in_flight(), flying.len());
    }
}

#[test]
fn a_silent_disk_says_what_it_completed_when_it_may_interrupt_again() {
    let words = memory(WORDS);
    let mut disk = drive(&words, device(&words));
    let flags = |disk: &Disk<'_, Device<'_>>| {
        let word = |queue: &Queue<'_>| (queue.addresses()[1] - MEMORY) as usize / 4;
        let words = disk.queues.iter().map(|queue| words[word(queue)].load(Ordering::Relaxed));
        words.map(|word| word & 0xffff).collect::<Vec<_>>()
    };
    disk.silence();
    disk.submit(1, Request::Read(7), &[segment(0, 1)]).expect("room");
    assert_eq!(flags(&disk), [1, 1], "no queue is to interrupt");
    assert!(!disk.listen(), "nothing is completed");
    assert_eq!(flags(&disk), [0, 0]);
    disk.silence();
    disk.kick(1);
    assert!(disk.listen(), "it was completed in silence");
    assert!(matches!(disk.completed(1), Ok(Some((_, Outcome::Done)))));
    assert!(!disk.listen());
}
