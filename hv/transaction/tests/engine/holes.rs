//! Memory in very many pieces: counted, refused, and released piece by piece.

use control::command::{Code, Operation, Range, Refusal, Target};
use pv_abi::uv::database::{BOOT, FIRST_GUEST, state};
use transaction::Limits;

use crate::fake::{Host, LIMITS, agree, arena_of, create, picture, transaction};

/// Frames of the partition with the holes.
const MEMORY: u64 = 92_000;
/// Frames that one request releases, each between two that stay.
const HOLES: u64 = 1000;
/// Arena pages: this many give a log with room for a thousand ranges in a record.
const PAGES: usize = 2048;

fn limits(ranges: u32) -> Limits {
    Limits { ranges, ..LIMITS }
}

/// A host with a partition of [`MEMORY`] frames. Also returns the first of them.
fn with_memory(words: &[std::sync::atomic::AtomicU32], ranges: u32) -> (Host<'_>, u64) {
    let mut host = Host::of(words, 100_000, limits(ranges));
    let memory = Operation::AssignMemory { partition: Target::CreatedBy(0), frames: MEMORY };
    host.ok(vec![create("holes"), memory]);
    let largest = host.map().into_iter().filter(|range| range.owner.number == FIRST_GUEST);
    (host, largest.max_by_key(|range| range.frames).unwrap().first)
}

/// Releases every other frame of a part of the memory.
fn release(host: &mut Host, first: u64) -> Result<(), Box<Refusal>> {
    let ranges = (0..HOLES).map(|n| Range { first: first + 2 * n, frames: 1 }).collect();
    let partition = Target::Number(FIRST_GUEST);
    let request = transaction(vec![Operation::ReleaseMemory { partition, ranges }]);
    // Database and monitor are compared only at the end, since a comparison takes long with so many
    // ranges.
    host.next += 1;
    let reply = host.engine.execute(&mut host.monitor, BOOT, 5, host.next, &request);
    reply.result.map(drop).map_err(Box::new)
}

fn destroy(host: &mut Host) {
    host.ok(vec![Operation::DestroyPartition { partition: Target::Number(FIRST_GUEST) }]);
}

/// Tries again until nothing is due. Returns how often.
fn try_again(host: &mut Host, time: u64) -> usize {
    let mut times = 0;
    loop {
        if host.engine.is_busy() {
            assert_eq!(host.engine.proceed(&mut host.monitor, time), None);
        } else if host.engine.next_try(time).is_some_and(|due| due <= time) {
            host.engine.try_again(&mut host.monitor, time);
        } else {
            break;
        }
        times += 1;
        assert!(times < 200_000, "it goes on for ever");
    }
    agree(&host.engine, &host.monitor);
    times
}

#[test]
fn forty_five_thousand_holes_are_given_back_in_pieces() {
    let words = arena_of(PAGES);
    let before = Host::of(&words, 100_000, limits(1 << 20)).map();
    let words = arena_of(PAGES);
    let (mut host, first) = with_memory(&words, 1 << 20);
    for n in 0..45 {
        release(&mut host, first + 1 + n * 2 * HOLES).unwrap();
    }
    host.monitor.short_turns = true;
    destroy(&mut host);
    assert!(host.engine.waits(), "all in one turn of the ultravisor's loop");
    let times = try_again(&mut host, 6);
    assert!(times > 1, "{times}");
    assert!(!host.engine.waits());
    assert_eq!(host.map(), before);
    let records = host.engine.records().0;
    let most = records.iter().map(|record| record.changes.len()).max().unwrap();
    assert!(most <= 1100, "{most} changes in a record");
}

#[test]
fn ranges_are_counted_for_each_partition_and_for_the_host() {
    let words = arena_of(PAGES);
    let (mut host, first) = with_memory(&words, 16 * 1024);
    let mut done = 0;
    let refusal = loop {
        let before = picture(&host.engine);
        match release(&mut host, first + 1 + done * 2 * HOLES) {
            Ok(()) => done += 1,
            Err(refusal) => {
                assert!(picture(&host.engine) == before);
                break refusal;
            }
        }
        assert!(done < 45, "nothing is counted");
    };
    assert_eq!(done, 2, "2,048 ranges of a partition on a host of 16,384");
    assert_eq!((refusal.code, refusal.field.as_str()), (Code::TooManyRanges, "ranges"));
    assert!(refusal.object.contains("holes") && refusal.reason.contains("2048"), "{refusal:?}");
    // Two ways out: release whole ranges, or all of them.
    let whole = host.map().into_iter().filter(|range| range.owner.number == FIRST_GUEST);
    let whole = whole.filter(|range| range.frames == 1).nth(3).unwrap().first;
    let ranges = vec![Range { first: whole, frames: 1 }];
    let partition = Target::Number(FIRST_GUEST);
    host.ok(vec![Operation::ReleaseMemory { partition, ranges }]);
    destroy(&mut host);
    try_again(&mut host, 6);
    assert!(!host.engine.waits());
}

#[test]
fn a_host_has_room_for_so_many_ranges_of_all_together() {
    let words = arena_of(PAGES);
    let mut host = Host::of(&words, 100_000, limits(16 * 1024));
    let mut refused = None;
    'all: for n in 0..20u32 {
        let memory = Operation::AssignMemory { partition: Target::CreatedBy(0), frames: 4000 };
        host.ok(vec![create(&format!("guest-{n}")), memory]);
        let (number, partition) = (FIRST_GUEST + n, Target::Number(FIRST_GUEST + n));
        let mine = host.map().into_iter().filter(|range| range.owner.number == number);
        let first = mine.max_by_key(|range| range.frames).unwrap().first;
        for half in 0..2 {
            let frames = (0..900).map(|n| first + 1 + 2 * n + half * 1800);
            let ranges = frames.map(|first| Range { first, frames: 1 }).collect();
            let request = transaction(vec![Operation::ReleaseMemory { partition, ranges }]);
            host.next += 1;
            let reply = host.engine.execute(&mut host.monitor, BOOT, 5, host.next, &request);
            if let Err(refusal) = reply.result {
                refused = Some(refusal);
                break 'all;
            }
        }
    }
    let refusal = refused.expect("the host's ranges are not counted");
    assert_eq!((refusal.code, refusal.object.as_str()), (Code::TooManyRanges, "page map"));
}

#[test]
fn alternate_frames_that_another_keeps_mapped_are_all_that_is_kept() {
    // A smaller log has no room for so many ranges in a record.
    let words = arena_of(512);
    let (mut host, first) = with_memory(&words, 1 << 20);
    let before = host.engine.database().free_pages();
    let held = (0..12_000).map(|n| first + 10 + 2 * n);
    host.monitor.in_use.extend(held.clone());
    destroy(&mut host);
    try_again(&mut host, 6);
    assert_eq!(host.descriptor(FIRST_GUEST).state, state::DYING);
    let kept: u64 =
        host.map().iter().filter(|r| r.owner.number == FIRST_GUEST).map(|r| r.frames).sum();
    assert_eq!(kept, 12_000);
    // Nothing is written while nothing changes.
    let last = host.last();
    let mut time = 7;
    for _ in 0..5 {
        time = host.engine.next_try(time).unwrap();
        try_again(&mut host, time);
    }
    assert_eq!(host.last(), last);
    // The frames are released when nobody maps them any more, first some, then all.
    for frame in held.take(4_000) {
        host.monitor.in_use.remove(&frame);
    }
    time += 2_000_000_000;
    try_again(&mut host, time);
    let kept: u64 =
        host.map().iter().filter(|r| r.owner.number == FIRST_GUEST).map(|r| r.frames).sum();
    assert_eq!(kept, 8_000);
    host.monitor.in_use.clear();
    try_again(&mut host, time + 2_000_000_000);
    assert!(!host.engine.waits());
    assert!(host.engine.database().reader().descriptor(FIRST_GUEST).is_err());
    assert!(host.engine.database().free_pages() >= before);
}

#[test]
fn where_nothing_can_be_split_whole_ranges_are_kept() {
    let words = arena_of(PAGES);
    let (mut host, first) = with_memory(&words, 64);
    host.monitor.in_use.extend((0..1000).map(|n| first + 10 + 2 * n));
    destroy(&mut host);
    try_again(&mut host, 6);
    assert!(host.map().len() < 80, "{}", host.map().len());
    host.monitor.in_use.clear();
    try_again(&mut host, 2_000_000_000);
    assert!(!host.engine.waits());
}

#[test]
fn what_is_being_given_back_is_free_for_who_asks_for_it() {
    let words = arena_of(PAGES);
    let (mut host, first) = with_memory(&words, 1 << 20);
    for n in 0..12 {
        release(&mut host, first + 1 + n * 2 * HOLES).unwrap();
    }
    host.monitor.short_turns = true;
    destroy(&mut host);
    assert!(host.engine.waits());
    let memory = Operation::AssignMemory { partition: Target::CreatedBy(0), frames: MEMORY };
    host.ok(vec![create("next"), memory]);
}
