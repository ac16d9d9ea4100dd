//! Generated transactions, and faults at every step of them.

use std::sync::atomic::AtomicU32;

use control::command::{Operation, Range, Target, Transaction};
use proptest::prelude::*;
use pv_abi::uv::database::{BOOT, COMMAND, FIRST_GUEST, ULTRAVISOR, state};
use resource_db::{Database, Owner};
use transaction::Engine;

use crate::fake::{FRAMES, Host, LIMITS, agree, arena, create, picture, start_at, transaction};

fn target() -> impl Strategy<Value = Target> {
    prop_oneof![
        (0..3u32).prop_map(Target::CreatedBy),
        (FIRST_GUEST..FIRST_GUEST + 4).prop_map(Target::Number),
        (0..9u32).prop_map(Target::Number),
    ]
}

fn operation() -> impl Strategy<Value = Operation> {
    let range = (0..FRAMES, 1..300u64).prop_map(|(first, frames)| Range { first, frames });
    prop_oneof![
        3 => "[a-e]".prop_map(|name| create(&name)),
        3 => (target(), 1..2500u64).prop_map(|(partition, frames)| Operation::AssignMemory {
            partition,
            frames,
        }),
        1 => (target(), prop::collection::vec(range, 1..3)).prop_map(|(partition, ranges)| {
            Operation::ReleaseMemory { partition, ranges }
        }),
        1 => (target(), 1..4u32, 0..FRAMES, 0..9u32).prop_map(|(partition, kind, frame, grant)| {
            Operation::CreateChannel { partition, peer: ULTRAVISOR, kind, frame, frames: 1, grant }
        }),
        1 => (target(), 0..FRAMES).prop_map(|(partition, frame)| Operation::SetStart {
            partition,
            start: start_at(frame),
        }),
        3 => (target(), 0..8u32)
            .prop_map(|(partition, state)| Operation::SetState { partition, state }),
        2 => target().prop_map(|partition| Operation::DestroyPartition { partition }),
    ]
}

/// Replaces the frames in an operation by frames that a partition really has, so that more
/// operations succeed.
fn aim(engine: &Engine, operation: Operation) -> Operation {
    let owned = |target: &Target, at: u64| match target {
        Target::Number(number) => {
            let mine: Vec<_> = engine
                .database()
                .reader()
                .ranges(0)
                .filter(|range| range.owner == Owner::ram(*number))
                .collect();
            mine.last().map_or(at, |range| range.first + at % range.frames)
        }
        Target::CreatedBy(_) => at,
    };
    match operation {
        Operation::SetStart { partition, start } => {
            let frame = owned(&partition, start.page_table);
            Operation::SetStart { partition, start: start_at(frame) }
        }
        Operation::CreateChannel { partition, peer, kind, frame, frames, grant } => {
            let frame = owned(&partition, frame);
            Operation::CreateChannel { partition, peer, kind, frame, frames, grant }
        }
        Operation::ReleaseMemory { partition, ranges } => {
            let first = owned(&partition, ranges[0].first);
            Operation::ReleaseMemory { partition, ranges: vec![Range { first, frames: 1 }] }
        }
        other => other,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn all_or_nothing_wherever_the_monitor_refuses(
        requests in prop::collection::vec(
            (prop::collection::vec(operation(), 1..5), prop::option::weighted(0.4, 0..6usize), any::<bool>()),
            1..25,
        )
    ) {
        let words = arena();
        let mut host = Host::new(&words);
        for (operations, refuse_after, pending) in requests {
            let operations = operations.into_iter().map(|o| aim(&host.engine, o)).collect();
            host.monitor.refuse_after = refuse_after;
            let before = picture(&host.engine);
            let request = Transaction { pending, ..transaction(operations) };
            if host.run(&request).is_err() {
                prop_assert!(picture(&host.engine) == before);
            } else {
                prop_assert!(host.engine.database().contents() > before.1);
            }
        }
        host.engine.client_failed(&mut host.monitor, BOOT, 0);
        agree(&host.engine, &host.monitor);
    }
}

/// Ten partitions with memory, one of them with a dedicated CPU.
fn ten() -> Transaction {
    let mut operations = Vec::new();
    for n in 0..10 {
        let mut one = create(&format!("guest-{n}"));
        if let (0, Operation::CreatePartition { cpu_affinity, cpu_dedicated, .. }) = (n, &mut one) {
            (*cpu_affinity, *cpu_dedicated) = (vec![1], true);
        }
        let created = operations.len() as u32;
        let memory =
            |frames| Operation::AssignMemory { partition: Target::CreatedBy(created), frames };
        operations.extend([one, memory(100), memory(30)]);
    }
    Transaction { pending: true, ..transaction(operations) }
}

/// The transaction after the ten partitions are built: it completes and starts them, and destroys
/// an old one.
fn finish(request: u64, old: u32) -> Transaction {
    let mut operations = vec![Operation::Complete { request }];
    for n in 0..10 {
        let partition = Target::Number(FIRST_GUEST + 1 + n);
        operations.push(Operation::SetState { partition, state: state::RUNNING });
    }
    let partition = Target::Number(old);
    operations.push(Operation::SetState { partition, state: state::DYING });
    operations.push(Operation::DestroyPartition { partition });
    transaction(operations)
}

/// A host with an old partition that runs, before ten others are made.
fn before_ten(words: &[AtomicU32]) -> (Host<'_>, u32) {
    let mut host = Host::new(words);
    let (old, _) = host.built("old");
    let partition = Target::Number(old);
    host.ok(vec![Operation::SetState { partition, state: state::RUNNING }]);
    (host, old)
}

/// Sets a start state for each of the ten, from the boot partition.
fn build(host: &mut Host) {
    for number in FIRST_GUEST + 1..FIRST_GUEST + 11 {
        let frame = host.map().into_iter().rfind(|range| range.owner.number == number).unwrap();
        let start = start_at(frame.first + frame.frames - 1);
        host.ok(vec![Operation::SetStart { partition: Target::Number(number), start }]);
    }
}

#[test]
fn ten_partitions_come_as_a_whole_or_not_at_all_wherever_they_are_refused() {
    let mut steps = 0;
    loop {
        let words = arena();
        let (mut host, old) = before_ten(&words);
        let before = (picture(&host.engine).0, host.map());
        host.monitor.refuse_after = Some(steps);
        let refused = host.run_as(COMMAND, &ten()).is_err() || {
            let request = host.next;
            let left = host.monitor.refuse_after.take();
            build(&mut host);
            host.monitor.refuse_after = left;
            host.run_as(COMMAND, &finish(request, old)).is_err()
        };
        if !refused {
            assert_eq!(host.monitor.running.len(), 3 + 10);
            assert!(host.engine.database().reader().descriptor(old).is_err());
            break;
        }
        // The session ends: pending work is rolled back, and all is as it was.
        host.open();
        assert!((picture(&host.engine).0, host.map()) == before, "refused at action {steps}");
        assert!(host.monitor.running.contains(&old) && !host.engine.waits());
        steps += 1;
    }
    assert!(steps > 40, "{steps}");
}

#[test]
fn a_session_that_dies_after_any_step_leaves_nothing() {
    for steps in 0..13 {
        let words = arena();
        let (mut host, old) = before_ten(&words);
        let before = (picture(&host.engine).0, host.map());
        if steps > 0 {
            host.run_as(COMMAND, &ten()).unwrap();
        }
        let request = host.next;
        for number in (FIRST_GUEST + 1..FIRST_GUEST + 11).take(steps) {
            let start = start_at(host.descriptor(number).instance_first + 48);
            // Builds as many as exist.
            let _ = host.run(&transaction(vec![Operation::SetStart {
                partition: Target::Number(number),
                start,
            }]));
        }
        if steps == 12 {
            host.run(&transaction(vec![])).unwrap();
            build(&mut host);
            host.run_as(COMMAND, &finish(request, old)).unwrap();
            assert_eq!(host.open(), [0u64; 0]);
            assert_eq!(host.monitor.running.len(), 13, "all ten");
            continue;
        }
        host.open();
        assert!((picture(&host.engine).0, host.map()) == before, "after step {steps}");
        assert!(!host.engine.waits());
    }
}

#[test]
fn an_ultravisor_that_ends_before_any_action_is_followed_by_one_that_finishes_or_undoes() {
    end_at_each_action(false);
}

#[test]
fn an_ultravisor_that_ends_after_any_action_is_followed_by_one_that_finishes_or_undoes() {
    // After the last action only the log's final entry about it is missing.
    end_at_each_action(true);
}

fn end_at_each_action(at_once: bool) {
    let mut steps = usize::from(at_once);
    loop {
        let words = arena();
        let (mut host, old) = before_ten(&words);
        let before = (picture(&host.engine).0, host.map());
        host.monitor.cut_after = Some((steps, at_once));
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            host.run_as(COMMAND, &ten()).unwrap();
            let request = host.next;
            build(&mut host);
            host.run_as(COMMAND, &finish(request, old)).unwrap();
        }));
        let cut = done.is_err();
        host.monitor.cut_after = None;
        let database = Database::open(&words).unwrap();
        let (engine, _) = Engine::recover(database, LIMITS, &mut host.monitor, 9).unwrap();
        host.engine = engine;
        agree(&host.engine, &host.monitor);
        assert!(!host.engine.waits());
        let whole = host.monitor.running.len() == 13;
        if whole {
            assert!(host.engine.database().reader().descriptor(old).is_err());
        } else {
            assert!((picture(&host.engine).0, host.map()) == before, "ended at action {steps}");
        }
        // Later requests find the log in order.
        host.ok(vec![create("later")]);
        if !cut {
            assert!(whole);
            break;
        }
        steps += 1;
    }
    assert!(steps > 40, "{steps}");
}
