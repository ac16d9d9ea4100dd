//! Clients that end and come back, and memory that others still use when its partition is
//! destroyed.

use control::command::{Answer, Body, Code, Operation, Outcome, Range, Target, Transaction};
use pv_abi::uv::database::{BOOT, COMMAND, FIRST_GUEST, ULTRAVISOR, channel_kind, state};

use crate::fake::{Host, LIMITS, agree, arena, arena_of, create, create_as, start_at, transaction};

fn pending(operations: Vec<Operation>) -> Transaction {
    Transaction { pending: true, ..transaction(operations) }
}

fn half(name: &str) -> Transaction {
    let memory = Operation::AssignMemory { partition: Target::CreatedBy(0), frames: 100 };
    pending(vec![create(name), memory])
}

fn range_of(outcomes: &[Outcome]) -> Range {
    match outcomes {
        [.., Outcome::Memory(ranges)] => ranges[0],
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_new_session_rolls_back_what_was_pending() {
    let words = arena();
    let mut host = Host::new(&words);
    let before = host.map();
    host.run_as(COMMAND, &half("a")).unwrap();
    let first = host.next;
    // The boot partition has begun to build in it; that is rolled back too.
    let memory = range_of(&host.run_as(COMMAND, &half("b")).unwrap());
    let partition = Target::Number(FIRST_GUEST + 1);
    let channel = Operation::CreateChannel {
        partition,
        peer: COMMAND,
        kind: channel_kind::CONSOLE,
        frame: memory.first,
        frames: 1,
        grant: 0,
    };
    host.ok(vec![channel, Operation::SetStart { partition, start: start_at(memory.first + 1) }]);
    // Pending work of another client is not rolled back.
    host.run(&half("c")).unwrap();
    assert_eq!(host.open(), [first + 1, first]);
    assert!(host.engine.database().reader().descriptor(FIRST_GUEST).is_err());
    assert_eq!(host.engine.database().channels().count(), 0);
    assert!(host.engine.database().reader().descriptor(FIRST_GUEST + 2).is_ok());
    assert_eq!(host.open(), [0u64; 0]);
    host.engine.client_failed(&mut host.monitor, BOOT, 9);
    assert_eq!(host.map(), before);
    assert!(!host.engine.waits());
}

#[test]
fn a_client_gives_up_what_it_names_and_the_rest_stays_pending() {
    let words = arena();
    let mut host = Host::new(&words);
    let before = host.map();
    let mut ids = Vec::new();
    for name in ["a", "b", "c"] {
        host.run_as(COMMAND, &half(name)).unwrap();
        ids.push(host.next);
    }
    host.run(&half("d")).unwrap();
    let of_another = host.next;
    let wanted = [ids[0], ids[2], of_another, 999_999];
    let reply = host.engine.roll_back_requests(&mut host.monitor, (COMMAND, 5), 1 << 40, &wanted);
    assert_eq!(reply.result, Ok(Answer::RolledBack { requests: vec![ids[2], ids[0]] }));
    let again = host.engine.roll_back_requests(&mut host.monitor, (COMMAND, 6), 1 << 40, &wanted);
    assert_eq!(again, reply, "a retry");
    let there = |number: u32| host.engine.database().reader().descriptor(number).is_ok();
    assert_eq!([0, 1, 2, 3].map(|at| there(FIRST_GUEST + at)), [false, true, false, true]);
    let of_guest = host.engine.roll_back_requests(&mut host.monitor, (FIRST_GUEST, 6), 1, &[1]);
    assert!(of_guest.result.is_err());
    assert_eq!(host.open(), [ids[1]]);
    host.engine.client_failed(&mut host.monitor, BOOT, 9);
    assert_eq!(host.map(), before);
    agree(&host.engine, &host.monitor);
}

/// The name consists of control characters, each of which is shown as five characters.
#[test]
fn a_refusal_of_the_longest_name_fits_a_frame() {
    let words = arena();
    let mut host = Host::new(&words);
    let name = "\u{1}".repeat(5000);
    let renames = Operation::Rename { partition: Target::Number(COMMAND), name: name.clone() };
    for operation in [create(&name), renames] {
        let refused = host.run_as(COMMAND, &transaction(vec![operation])).unwrap_err();
        let reply = control::command::Reply { id: 1, version: 1, result: Err(*refused) };
        let bytes = postcard::to_allocvec(&reply).unwrap().len();
        assert!(bytes <= pv_abi::uv::channel::MAX_PAYLOAD, "{bytes}");
    }
}

#[test]
fn a_retry_is_answered_in_a_later_session_too_unless_it_was_rolled_back() {
    let words = arena();
    let mut host = Host::new(&words);
    let made = transaction(vec![create("made")]);
    let first = host.engine.execute(&mut host.monitor, COMMAND, 1, 7, &made);
    let left = host.engine.execute(&mut host.monitor, COMMAND, 1, 8, &half("left"));
    let opened = host.engine.open(&mut host.monitor, COMMAND, 2, 9);
    assert_eq!(opened.result, Ok(Answer::Opened { rolled_back: vec![8] }));
    assert_eq!(host.engine.open(&mut host.monitor, COMMAND, 3, 9), opened);
    assert_eq!(host.engine.execute(&mut host.monitor, COMMAND, 4, 7, &made), first);
    let again = host.engine.execute(&mut host.monitor, COMMAND, 5, 8, &half("left"));
    assert!(again.result.is_ok() && again.version > left.version);
    assert_eq!(host.engine.open(&mut host.monitor, COMMAND, 6, 10).id, 10);
    agree(&host.engine, &host.monitor);
    assert!(host.engine.open(&mut host.monitor, FIRST_GUEST, 6, 1).result.is_err());
}

#[test]
fn a_plan_changes_nothing_and_says_what_it_would_do() {
    let words = arena();
    let host = Host::new(&words);
    let (log, before) = (host.last(), host.map());
    let reply = host.engine.dry_run(COMMAND, 1, &half("web"));
    let expected = ["create \"web\" (16), 2 vCPUs", "assign 100 frames to \"web\" (16)"];
    let Ok(Answer::Planned { what }) = reply.result else { panic!("{reply:?}") };
    assert_eq!(what, expected);
    let stale = Transaction { planned_at: Some(99), ..half("web") };
    assert_eq!(host.engine.dry_run(COMMAND, 1, &stale).result.unwrap_err().code, Code::StalePlan);
    assert_eq!((host.last(), host.map()), (log, before));
    agree(&host.engine, &host.monitor);
    // The body of a request has exactly one reading.
    assert_ne!(Body::Plan(half("web")), Body::Transaction(half("web")));
}

#[test]
fn what_is_still_mapped_keeps_a_partition_dying_until_it_is_not() {
    let words = arena();
    let mut host = Host::new(&words);
    let before = host.map();
    let (number, memory) = host.built("web");
    let partition = Target::Number(number);
    let console = Operation::CreateChannel {
        partition,
        peer: COMMAND,
        kind: channel_kind::CONSOLE,
        frame: memory.first + 7,
        frames: 1,
        grant: 0,
    };
    host.ok(vec![console, Operation::SetState { partition, state: state::RUNNING }]);
    host.monitor.in_use.extend([memory.first + 7, memory.first + 50]);
    let dying = Operation::SetState { partition, state: state::DYING };
    host.ok(vec![dying, Operation::DestroyPartition { partition }]);
    // All frames but two are released at once, and the log says who holds those.
    let left = host.descriptor(number);
    assert_eq!((left.state, left.memory_frames, left.instance_frames), (state::DYING, 2, 0));
    assert_eq!(host.engine.database().channels().count(), 0);
    let records = host.engine.records().0;
    let told = records.iter().find(|record| record.what.contains("2 are still mapped"));
    let told = told.unwrap();
    assert!(told.what.contains("by partition \"3\" (3)"), "{}", told.what);
    assert_eq!(told.partitions, [number]);
    let refused = host.refused(vec![Operation::Rename { partition, name: "x".into() }]);
    assert_eq!(refused.code, Code::WrongState);
    // A second request has no further effect.
    host.ok(vec![Operation::DestroyPartition { partition }]);
    let (mut time, log) = (5, host.last());
    for _ in 0..4 {
        time = host.engine.try_again(&mut host.monitor, time).unwrap();
    }
    assert_eq!(host.last(), log, "waiting is not logged");
    host.monitor.in_use.remove(&(memory.first + 50));
    time = host.engine.try_again(&mut host.monitor, time).unwrap();
    assert_eq!(host.descriptor(number).memory_frames, 1);
    agree(&host.engine, &host.monitor);
    host.monitor.in_use.clear();
    assert_eq!(host.engine.try_again(&mut host.monitor, time), None);
    agree(&host.engine, &host.monitor);
    assert_eq!(host.map(), before);
    assert!(host.engine.database().reader().descriptor(number).is_err());
}

#[test]
fn memory_that_was_lent_comes_back_when_it_is_free() {
    let words = arena();
    let mut host = Host::new(&words);
    let (number, _) = host.built("web");
    let partition = Target::Number(number);
    let before = host.map();
    let more = pending(vec![Operation::AssignMemory { partition, frames: 50 }]);
    let memory = range_of(&host.run_as(COMMAND, &more).unwrap());
    host.monitor.in_use.insert(memory.first + 3);
    assert_eq!(host.open(), [host.next - 1]);
    assert_eq!(host.descriptor(number).memory_frames, 150);
    let due = host.engine.try_again(&mut host.monitor, 5).unwrap();
    assert_eq!(host.descriptor(number).memory_frames, 150);
    host.monitor.in_use.clear();
    assert_eq!(host.engine.try_again(&mut host.monitor, due), None);
    agree(&host.engine, &host.monitor);
    assert_eq!(host.map(), before);
}

#[test]
fn what_was_created_goes_at_once_beside_memory_that_cannot() {
    let words = arena();
    let mut host = Host::new(&words);
    let (number, _) = host.built("web");
    let partition = Target::Number(number);
    let before = host.map();
    let both = pending(vec![create("new"), Operation::AssignMemory { partition, frames: 50 }]);
    let memory = range_of(&host.run_as(COMMAND, &both).unwrap());
    host.monitor.in_use.insert(memory.first);
    host.open();
    assert!(host.engine.database().reader().descriptor(number + 1).is_err());
    assert_eq!(host.descriptor(number).memory_frames, 150);
    host.monitor.in_use.clear();
    assert_eq!(host.engine.try_again(&mut host.monitor, 5), None);
    agree(&host.engine, &host.monitor);
    assert_eq!(host.map(), before);
}

/// Destroys two partitions with open pending transactions. Two new partitions get their numbers;
/// the first has this memory. Returns the first number.
fn taken_anew(host: &mut Host, frames: u64) -> u32 {
    let (number, _) = host.built("web");
    let partition = Target::Number(number);
    let more = pending(vec![Operation::AssignMemory { partition, frames: 50 }]);
    host.run_as(COMMAND, &more).unwrap();
    host.run_as(COMMAND, &half("half")).unwrap();
    for number in [number, number + 1] {
        let partition = Target::Number(number);
        host.ok(vec![Operation::DestroyPartition { partition }]);
    }
    let memory = Operation::AssignMemory { partition: Target::CreatedBy(0), frames };
    host.ok(vec![create_as("new", Some(number)), memory]);
    host.ok(vec![create_as("newer", Some(number + 1))]);
    number
}

#[test]
fn a_number_that_was_given_back_is_not_rolled_back_again() {
    let words = arena();
    let mut host = Host::new(&words);
    let number = taken_anew(&mut host, 500);
    let before = host.map();
    assert_eq!(host.open().len(), 2);
    assert_eq!(host.map(), before);
    assert_eq!(host.descriptor(number).memory_frames, 500);
    assert_eq!(host.descriptor(number + 1).state, state::BUILDING);
}

#[test]
fn many_frames_in_use_are_found_together() {
    let words = arena();
    let mut host = Host::new(&words);
    let before = host.map();
    let (number, memory) = host.built("web");
    host.monitor.in_use.extend(memory.first + 10..memory.first + 90);
    host.ok(vec![Operation::DestroyPartition { partition: Target::Number(number) }]);
    assert_eq!(host.descriptor(number).memory_frames, 80);
    assert!(host.last() < 12, "{}", host.last());
    host.monitor.in_use.clear();
    assert_eq!(host.engine.try_again(&mut host.monitor, u64::MAX), None);
    assert_eq!(host.map(), before);
}

#[test]
fn an_event_of_the_partition_before_is_not_the_next_ones() {
    use pv_abi::uv::calls::{MonitorEvent, cause};
    let words = arena();
    let mut host = Host::new(&words);
    let (number, _) = host.built("web");
    let event = MonitorEvent {
        partition: number,
        cause: cause::SHUTDOWN,
        detail: 0,
        vcpu: 0,
        address: 0,
        time: 1,
    };
    let log = host.last();
    host.engine.monitor_did(&mut host.monitor, &event);
    assert_eq!((host.descriptor(number).state, host.last()), (state::BUILDING, log));
}

#[test]
fn what_a_client_leaves_pending_is_bounded() {
    // A small log sets a lower bound than the fixed number.
    assert!((10..64).contains(&most_pending(128)));
    assert_eq!(most_pending(1024), 64);
}

/// How many transactions a client may leave pending with an arena of `pages` pages.
fn most_pending(pages: usize) -> usize {
    let words = arena_of(pages);
    let mut host = Host::new(&words);
    let before = host.map();
    assert_eq!(host.run_as(COMMAND, &pending(vec![])).unwrap_err().code, Code::Empty);
    let more = |host: &mut Host| {
        let memory = Operation::AssignMemory { partition: Target::Number(COMMAND), frames: 1 };
        let reason = "because ".repeat(40);
        host.run_as(COMMAND, &Transaction { reason, ..pending(vec![memory]) })
    };
    let mut left = 0;
    let refusal = loop {
        match more(&mut host) {
            Ok(_) => left += 1,
            Err(refusal) => break refusal,
        }
    };
    assert_eq!(refusal.code, Code::TooManyPending);
    // Another client has its own limit.
    assert!(left < 64 || host.run(&half("others")).is_ok());
    // Completing one makes room for one.
    let done = Operation::Complete { request: 2 + 1 };
    host.run_as(COMMAND, &transaction(vec![done])).unwrap();
    more(&mut host).unwrap();
    assert_eq!(more(&mut host).unwrap_err().code, Code::TooManyPending);
    assert_eq!(host.open().len(), left);
    host.engine.client_failed(&mut host.monitor, BOOT, 9);
    let own = |map: &[resource_db::OwnedRange]| -> u64 {
        map.iter().filter(|range| range.owner.number == COMMAND).map(|range| range.frames).sum()
    };
    assert_eq!(own(&host.map()), own(&before) + 1);
    left
}

#[test]
fn what_would_stay_after_a_rollback_is_not_left_pending() {
    let words = arena();
    let mut host = Host::new(&words);
    let (number, memory) = host.built("another");
    let channel = |partition, frame| Operation::CreateChannel {
        partition,
        peer: COMMAND,
        kind: channel_kind::CONSOLE,
        frame,
        frames: 1,
        grant: 0,
    };
    let there = Target::Number(number);
    for operation in [
        channel(there, memory.first),
        Operation::SetStart { partition: there, start: start_at(memory.first) },
        Operation::DestroyPartition { partition: there },
    ] {
        let refusal = host.run(&pending(vec![create("new"), operation])).unwrap_err();
        assert_eq!((refusal.code, refusal.operation), (Code::NotUndoable, Some(1)));
    }
    // In a partition that is removed by the rollback, both are allowed.
    let outcomes = host.run(&half("half")).unwrap();
    let first = range_of(&outcomes).first;
    let new = Target::Number(number + 1);
    let start = Operation::SetStart { partition: new, start: start_at(first) };
    host.run(&pending(vec![channel(new, first + 1), start])).unwrap();
    host.engine.client_failed(&mut host.monitor, BOOT, 9);
    agree(&host.engine, &host.monitor);
    assert!(host.engine.database().reader().descriptor(number + 1).is_err());
    assert_eq!(host.engine.database().channels().count(), 0);
}

#[test]
fn committed_memory_is_not_taken_by_a_rollback() {
    let words = arena();
    let mut host = Host::new(&words);
    let (number, _) = host.built("web");
    let partition = Target::Number(number);
    let more = pending(vec![Operation::AssignMemory { partition, frames: 50 }]);
    let range = range_of(&host.run_as(COMMAND, &more).unwrap());
    let request = host.next;
    // The same frames could be assigned again, and the rollback would then take them.
    let release = Operation::ReleaseMemory { partition, ranges: vec![range] };
    assert_eq!(host.refused(vec![release.clone()]).code, Code::Pending);
    let both = vec![Operation::Complete { request }, release];
    host.run_as(COMMAND, &transaction(both)).unwrap();
    host.ok(vec![Operation::AssignMemory { partition, frames: 50 }]);
    assert_eq!(host.open(), [0u64; 0]);
    assert_eq!(host.descriptor(number).memory_frames, 150);
}

#[test]
fn a_restart_does_not_roll_back_what_has_the_number_now() {
    let words = arena();
    let mut host = Host::new(&words);
    taken_anew(&mut host, 1000);
    let before = host.map();
    let database = resource_db::Database::open(&words).unwrap();
    let recovered = transaction::Engine::recover(database, LIMITS, &mut host.monitor, 9);
    host.engine = recovered.unwrap().0;
    agree(&host.engine, &host.monitor);
    assert_eq!(host.map(), before);
}

#[test]
fn frames_that_a_channel_or_the_start_state_names_are_not_released() {
    let words = arena();
    let mut host = Host::new(&words);
    let (number, memory) = host.built("web");
    let partition = Target::Number(number);
    let ring = |kind, frame, grant| Operation::CreateChannel {
        partition,
        peer: ULTRAVISOR,
        kind,
        frame,
        frames: 1,
        grant,
    };
    let (console, store) = (memory.first + 7, memory.first + 9);
    host.ok(vec![ring(channel_kind::CONSOLE, console, 0), ring(channel_kind::STORE, store, 1)]);
    for frame in [memory.first, console, store] {
        let ranges = vec![Range { first: frame, frames: 1 }];
        let refusal = host.refused(vec![Operation::ReleaseMemory { partition, ranges }]);
        assert_eq!((refusal.code, refusal.field.as_str()), (Code::Named, "frames"));
    }
    let ranges = vec![Range { first: memory.first + 10, frames: 20 }];
    host.ok(vec![Operation::ReleaseMemory { partition, ranges }]);
}

#[test]
fn what_the_monitor_does_not_take_back_is_kept_and_tried_again() {
    let words = arena();
    let mut host = Host::new(&words);
    let (number, _) = host.built("web");
    let partition = Target::Number(number);
    let more = Operation::AssignMemory { partition, frames: 50 };
    let range = range_of(&host.ok(vec![more.clone()]));
    host.ok(vec![Operation::ReleaseMemory { partition, ranges: vec![range] }]);
    // The guest uses a frame before the monitor refuses the next action.
    let weight = Operation::SetCpu {
        partition,
        weight: Some(99),
        cap: None,
        affinity: None,
        dedicated: None,
    };
    host.monitor.refuse_after = Some(1);
    host.monitor.use_at_refusal = Some(range.first + 3);
    let request = transaction(vec![more.clone(), weight]);
    let reply = host.engine.execute(&mut host.monitor, BOOT, 5, 900, &request);
    assert_eq!(reply.result.unwrap_err().code, Code::Busy);
    assert_eq!(host.monitor.owners[range.first as usize + 3].number, number);
    assert!(host.engine.waits(), "it is forgotten");
    let mut time = host.engine.try_again(&mut host.monitor, 6).unwrap();
    let said = |host: &Host, words: &str| {
        host.engine.records().0.iter().filter(|record| record.what.contains(words)).count()
    };
    assert_eq!(said(&host, "does not take back frames"), 1);
    // Nobody gets the frames meanwhile.
    let reply = host.engine.execute(&mut host.monitor, BOOT, 5, 901, &transaction(vec![more]));
    let Ok(Answer::Applied(outcomes)) = reply.result else { panic!("{reply:?}") };
    let other = range_of(&outcomes);
    assert!(other.first >= range.first + range.frames || range.first >= other.first + 50);
    time = host.engine.try_again(&mut host.monitor, time).unwrap();
    host.monitor.in_use.clear();
    assert_eq!(host.engine.try_again(&mut host.monitor, time), None);
    assert_eq!(said(&host, "does not take back frames"), 1, "told once");
    assert_eq!(said(&host, "the monitor took back frames"), 1);
    agree(&host.engine, &host.monitor);
}
