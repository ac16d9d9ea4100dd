//! Work that takes the monitor longer than a turn of the ultravisor's loop.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::AtomicU32;

use control::command::{Answer, Code, Operation, Outcome, Query, Range, Target, Transaction};
use pv_abi::uv::database::{BOOT, COMMAND, ULTRAVISOR, state};
use resource_db::{Database, Owner};
use transaction::{Begun, Engine};

use crate::fake::{Host, LIMITS, agree, arena_of, create, picture, transaction};
use crate::queries::ask;

/// Frames of a host, and of one partition in it that takes many turns.
const FRAMES: u64 = 200_000;
const LARGE: u64 = 150_000;
/// Frames that an existing partition gets in addition.
const MORE: u64 = 60_000;
/// Maximum number of frames in one action of the monitor.
const PIECE: u64 = 256;

fn assign(partition: Target, frames: u64) -> Operation {
    Operation::AssignMemory { partition, frames }
}

fn large(name: &str) -> Transaction {
    transaction(vec![create(name), assign(Target::CreatedBy(0), LARGE)])
}

/// Begins a request in a turn of its own, and continues turn by turn. Returns the number of turns
/// and the answer.
fn in_turns(
    host: &mut Host,
    request: &Transaction,
    mut between: impl FnMut(&mut Host),
) -> (usize, Result<Answer, Code>) {
    host.next += 1;
    let id = host.next;
    let mut begun = host.engine.begin(&mut host.monitor, BOOT, 5, id, request);
    for turns in 1.. {
        assert!(turns < 10_000);
        match begun {
            Begun::Answered(reply) => {
                return (turns, reply.result.map_err(|refusal| refusal.code));
            }
            Begun::UnderWay => {
                between(host);
                if let Some((who, reply)) = host.engine.proceed(&mut host.monitor, 5) {
                    assert_eq!((who, reply.id), (BOOT, id));
                    begun = Begun::Answered(reply);
                }
            }
            Begun::Later if host.engine.is_busy() => {
                assert_eq!(host.engine.proceed(&mut host.monitor, 5), None);
            }
            Begun::Later => {
                begun = host.engine.begin(&mut host.monitor, BOOT, 5, id, request);
            }
        }
    }
    unreachable!()
}

fn short(words: &[std::sync::atomic::AtomicU32]) -> Host<'_> {
    let mut host = Host::of(words, FRAMES, LIMITS);
    host.monitor.short_turns = true;
    host
}

#[test]
fn a_large_partition_is_made_in_turns_and_queries_are_answered_meanwhile() {
    let words = arena_of(1024);
    let mut host = short(&words);
    let last = host.last();
    let (turns, result) = in_turns(&mut host, &large("large"), |host| {
        assert!(host.engine.is_busy());
        let answer = ask(host, &Query::Log { from: 0, most: 100 });
        let Answer::Log { rows, next, .. } = answer else { panic!("{answer:?}") };
        assert_eq!((rows.last().unwrap().sequence, next), (last, last + 1));
    });
    assert!(matches!(result, Ok(Answer::Applied(_))), "{result:?}");
    assert!(turns as u64 > LARGE / PIECE, "{turns} turns");
    assert!(host.monitor.largest <= PIECE);
    assert_eq!(host.last(), last + 1);
    agree(&host.engine, &host.monitor);
}

#[test]
fn what_is_refused_in_a_later_turn_is_taken_back_in_turns() {
    let words = arena_of(1024);
    let mut host = short(&words);
    let (_, made) = in_turns(&mut host, &large("large"), |_| {});
    let Ok(Answer::Applied(outcomes)) = made else { panic!("{made:?}") };
    let (Outcome::Partition(number), Outcome::Memory(ranges)) = (&outcomes[0], &outcomes[1]) else {
        panic!("{outcomes:?}");
    };
    let before = picture(&host.engine);
    let range = ranges.iter().max_by_key(|range| range.frames).unwrap();
    host.monitor.in_use.insert(range.first + range.frames - 1);
    let release = Operation::ReleaseMemory {
        partition: Target::Number(*number),
        ranges: vec![Range { ..*range }],
    };
    let mut waited = 0;
    let (turns, result) = in_turns(&mut host, &transaction(vec![release]), |_| waited += 1);
    assert_eq!(result, Err(Code::Busy));
    assert!(turns as u64 > range.frames / PIECE && waited > 0, "{turns} turns");
    assert!(host.monitor.largest <= PIECE);
    assert_eq!(picture(&host.engine), before);
    agree(&host.engine, &host.monitor);
}

#[test]
fn a_large_partition_is_given_back_in_turns_and_others_are_made_in_between() {
    let words = arena_of(1024);
    let mut host = short(&words);
    let (_, made) = in_turns(&mut host, &large("large"), |_| {});
    let Ok(Answer::Applied(outcomes)) = made else { panic!("{made:?}") };
    let Outcome::Partition(number) = outcomes[0] else { panic!("{outcomes:?}") };
    host.ok(vec![Operation::DestroyPartition { partition: Target::Number(number) }]);
    let (mut turns, mut made) = (0, 0);
    while host.engine.waits() || host.engine.is_busy() {
        turns += 1;
        assert!(turns < 10_000);
        if host.engine.is_busy() {
            assert_eq!(host.engine.proceed(&mut host.monitor, 6), None);
            continue;
        }
        if made < 2 {
            made += 1;
            let small = transaction(vec![create(&format!("small-{made}"))]);
            let (_, result) = in_turns(&mut host, &small, |_| {});
            assert!(result.is_ok(), "{result:?}");
        }
        if !host.engine.is_busy() {
            host.engine.try_again(&mut host.monitor, 6);
        }
    }
    // The first batch was done with the request.
    assert!(turns as u64 > LARGE / PIECE / 2 && made == 2, "{turns} turns, {made} made");
    assert!(host.monitor.largest <= PIECE);
    agree(&host.engine, &host.monitor);
    assert!(host.map().iter().all(|range| range.owner != Owner::ram(number)));
}

#[test]
fn a_start_goes_on_turn_by_turn_and_is_refused_at_its_begin_alone() {
    let words = arena_of(1024);
    let mut host = short(&words);
    let (number, _) = host.built("web");
    let partition = Target::Number(number);
    let start = transaction(vec![Operation::SetState { partition, state: state::RUNNING }]);
    (host.monitor.start_parts, host.monitor.refuse_after) = (10, Some(0));
    let (_, result) = in_turns(&mut host, &start, |_| {});
    assert!(result.is_err() && host.monitor.start_parts == 10, "{result:?}");
    host.monitor.refuse_after = Some(5);
    let (turns, result) = in_turns(&mut host, &start, |_| {});
    assert!(matches!(result, Ok(Answer::Applied(_))), "{result:?}");
    assert!(turns > 10 && host.monitor.refuse_after.is_some(), "{turns} turns");
    agree(&host.engine, &host.monitor);
}

/// A host with a partition whose additional memory is pending.
fn grown<'a>(words: &'a [AtomicU32]) -> (Host<'a>, u32) {
    let mut host = short(words);
    let (number, _) = host.built("web");
    let more =
        Transaction { pending: true, ..transaction(vec![assign(Target::Number(number), MORE)]) };
    host.run_as(COMMAND, &more).unwrap();
    (host, number)
}

#[test]
fn what_a_session_left_pending_is_rolled_back_in_turns_and_then_it_is_answered() {
    let words = arena_of(1024);
    let (mut host, number) = grown(&words);
    let id = host.next;
    let mut begun = host.engine.begin_open(&mut host.monitor, COMMAND, 5, id + 1);
    host.monitor.largest = 0;
    let mut turns = 0;
    while matches!(begun, Begun::UnderWay) {
        turns += 1;
        assert!(turns < 10_000 && host.engine.is_busy());
        if let Some((who, reply)) = host.engine.proceed(&mut host.monitor, 5) {
            assert_eq!(who, COMMAND);
            begun = Begun::Answered(reply);
        }
    }
    let Begun::Answered(reply) = begun else { panic!("{begun:?}") };
    assert_eq!((reply.id, reply.result), (id + 1, Ok(Answer::Opened { rolled_back: vec![id] })));
    assert!(turns >= MORE / PIECE && host.monitor.largest <= PIECE, "{turns} turns");
    assert_eq!(host.descriptor(number).memory_frames, 100);
    agree(&host.engine, &host.monitor);
    assert!(!host.engine.is_busy());
    // A retry is answered at once.
    let again = host.engine.begin_open(&mut host.monitor, COMMAND, 6, id + 1);
    assert!(matches!(again, Begun::Answered(_)), "{again:?}");
}

#[test]
fn what_a_failed_client_left_pending_is_rolled_back_in_turns() {
    let words = arena_of(1024);
    let (mut host, number) = grown(&words);
    host.monitor.largest = 0;
    assert_eq!(host.engine.client_failed(&mut host.monitor, COMMAND, 9), 1);
    let mut turns = 0;
    while host.engine.is_busy() {
        turns += 1;
        assert_eq!(host.engine.proceed(&mut host.monitor, 9), None);
    }
    assert!(turns >= MORE / PIECE && host.monitor.largest <= PIECE, "{turns} turns");
    assert_eq!(host.descriptor(number).memory_frames, 100);
    agree(&host.engine, &host.monitor);
}

#[test]
fn a_restarted_ultravisor_takes_back_in_turns_what_was_begun_and_what_was_pending() {
    let words = arena_of(1024);
    let (mut host, number) = grown(&words);
    let before = host.map();
    // The next ultravisor ends with half of the memory handed over.
    host.monitor.cut_after = Some((200, true));
    let memory = assign(Target::CreatedBy(0), 2 * MORE);
    let request = transaction(vec![create("large"), memory]);
    let cut = catch_unwind(AssertUnwindSafe(|| host.run(&request)));
    assert!(cut.is_err() && host.map() != before);
    host.monitor.largest = 0;
    let database = Database::open(&words).unwrap();
    let (engine, undone) = Engine::recover(database, LIMITS, &mut host.monitor, 9).unwrap();
    host.engine = engine;
    assert_eq!(undone, 2);
    let (mut turns, last) = (0, host.engine.log_bounds().1);
    while host.engine.is_busy() {
        turns += 1;
        assert!(turns < 10_000);
        assert_eq!(host.engine.proceed(&mut host.monitor, 9), None);
    }
    assert!(host.engine.log_bounds().1 > last, "the record that is taken back was shown");
    assert!(turns >= (MORE + MORE) / PIECE && host.monitor.largest <= PIECE, "{turns} turns");
    assert_eq!(host.descriptor(number).memory_frames, 100);
    agree(&host.engine, &host.monitor);
}

#[test]
fn who_needs_a_name_and_memory_that_are_being_given_back_waits_for_them_turn_by_turn() {
    let words = arena_of(1024);
    let mut host = short(&words);
    let (_, made) = in_turns(&mut host, &large("first"), |_| {});
    let Ok(Answer::Applied(outcomes)) = made else { panic!("{made:?}") };
    let Outcome::Partition(number) = outcomes[0] else { panic!("{outcomes:?}") };
    host.ok(vec![Operation::DestroyPartition { partition: Target::Number(number) }]);
    let (turns, result) = in_turns(&mut host, &large("first"), |_| {});
    assert!(matches!(result, Ok(Answer::Applied(_))), "{result:?}");
    assert!(turns as u64 > LARGE / PIECE, "{turns} turns");
    // Memory that nobody releases is not waited for.
    let (_, result) = in_turns(&mut host, &large("first"), |_| {});
    assert_eq!(result, Err(Code::NameTaken));
}

#[test]
fn memory_is_to_be_scrubbed_when_it_was_free_at_the_start_or_is_given_back() {
    let words = arena_of(1024);
    let mut host = Host::of(&words, FRAMES, LIMITS);
    let free = |host: &Host| -> u64 {
        host.map().iter().filter(|range| range.owner == Owner::FREE).map(|r| r.frames).sum()
    };
    assert_eq!(host.engine.unscrubbed(), free(&host));
    while let Some((_, payer)) = host.engine.next_unscrubbed(1000) {
        assert_eq!(payer, ULTRAVISOR);
    }
    let (number, _) = host.built("web");
    assert_eq!(host.engine.unscrubbed(), 0);
    let before = free(&host);
    host.ok(vec![Operation::DestroyPartition { partition: Target::Number(number) }]);
    assert_eq!(host.engine.unscrubbed(), free(&host) - before);
    // A new owner gets memory scrubbed, even before its turn to be scrubbed.
    host.built("mail");
    assert!(host.engine.unscrubbed() <= free(&host) - before);
    // The client that had it created pays for it.
    while let Some((_, payer)) = host.engine.next_unscrubbed(1000) {
        assert_eq!(payer, BOOT);
    }
}
