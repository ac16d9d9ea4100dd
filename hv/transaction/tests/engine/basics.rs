//! The effects of requests, and the reasons for which they are refused.

use control::command::{
    Answer, Code, MAX_OPERATIONS, Operation, Outcome, Range, Settled, Target, Transaction,
};
use pv_abi::uv::calls::{MonitorEvent, cause};
use pv_abi::uv::database::{
    BOOT, COMMAND, FIRST_GUEST, MAX_MACHINE_VCPUS, MAX_VCPUS, ULTRAVISOR, channel_kind,
    instance_frames, kind, rights, state,
};
use resource_db::Database;
use transaction::{Action, Engine, Limits, Monitor};

use crate::fake::{
    FRAMES, Host, LIMITS, agree, arena, arena_of, create, create_as, host, picture, transaction,
};

#[test]
fn a_partition_is_built_started_stopped_and_destroyed() {
    let words = arena();
    let mut host = Host::new(&words);
    let before = host.engine.database().reader().ranges(0).collect::<Vec<_>>();
    let (number, memory) = host.built("web");
    assert_eq!(number, FIRST_GUEST);
    let partition = Target::Number(number);
    let ring = |kind, grant| Operation::CreateChannel {
        partition,
        peer: ULTRAVISOR,
        kind,
        frame: memory.first + u64::from(grant),
        frames: 1,
        grant,
    };
    let outcomes = host.ok(vec![ring(channel_kind::CONSOLE, 0), ring(channel_kind::STORE, 1)]);
    assert_eq!(outcomes[0], Outcome::Channel { index: 0, port: 1 });
    assert_eq!(outcomes[1], Outcome::Channel { index: 1, port: 2 });
    let descriptor = host.engine.database().reader().descriptor(number).unwrap();
    assert_eq!((descriptor.console_port, descriptor.store_port), (1, 2));
    assert_eq!(descriptor.instance_frames, instance_frames(2, 4));
    assert_eq!(descriptor.cpu_affinity, [0b1111, 0, 0, 0]);
    let set = |state| vec![Operation::SetState { partition, state }];
    host.ok(set(state::RUNNING));
    assert!(host.monitor.running.contains(&number));
    assert_eq!(
        host.refused(vec![Operation::DestroyPartition { partition }]).code,
        Code::WrongState
    );
    host.ok(set(state::PAUSED));
    host.ok(set(state::RUNNING));
    host.ok(set(state::DYING));
    host.ok(vec![Operation::DestroyPartition { partition }]);
    assert_eq!(host.engine.database().reader().ranges(0).collect::<Vec<_>>(), before);
}

#[test]
fn guests_do_not_run_where_they_could_read_all_memory() {
    let words = arena();
    let mut host = Host::of(&words, FRAMES, Limits { meltdown: true, ..LIMITS });
    let refusal = host.refused(vec![create("web")]);
    assert_eq!((refusal.code, refusal.field.as_str()), (Code::Meltdown, "cpu"));
    assert!(refusal.object.contains("web") && refusal.way_out.contains("accept=meltdown"));
    // The command partition is the host's own.
    for state in [state::PAUSED, state::RUNNING] {
        host.ok(vec![Operation::SetState { partition: Target::Number(COMMAND), state }]);
    }
}

#[test]
fn a_guest_of_before_does_not_run_on_there() {
    let words = arena();
    let mut host = Host::new(&words);
    let (number, _) = host.built("web");
    let limits = Limits { meltdown: true, ..LIMITS };
    let database = Database::open(&words).unwrap();
    let (engine, _) = Engine::recover(database, limits, &mut host.monitor, 9).unwrap();
    host.engine = engine;
    let set = |state| vec![Operation::SetState { partition: Target::Number(number), state }];
    assert_eq!(host.refused(set(state::RUNNING)).code, Code::Meltdown);
    host.ok(set(state::PAUSED));
}

#[test]
fn what_is_built_can_be_paused_before_its_first_instruction() {
    let words = arena();
    let mut host = Host::new(&words);
    host.ok(vec![create("bare")]);
    let set =
        |number, state| vec![Operation::SetState { partition: Target::Number(number), state }];
    assert_eq!(host.refused(set(FIRST_GUEST, state::PAUSED)).code, Code::NoStartState);
    let (number, _) = host.built("web");
    assert!(!host.monitor.complete.contains(&number));
    // A refused operation after the start undoes the start.
    let memory = Operation::AssignMemory { partition: Target::Number(number), frames: 1 };
    host.monitor.refuse_after = Some(1);
    let both = [set(number, state::PAUSED), vec![memory]].concat();
    host.refused(both);
    assert!(!host.monitor.running.contains(&number));
    host.ok(set(number, state::PAUSED));
    assert!(host.monitor.complete.contains(&number) && !host.monitor.running.contains(&number));
    host.ok(set(number, state::RUNNING));
    assert!(host.monitor.running.contains(&number));
}

#[test]
fn a_retry_is_answered_and_not_repeated() {
    let words = arena();
    let (mut engine, mut monitor) = host(&words);
    let create = transaction(vec![create("web")]);
    let first = engine.execute(&mut monitor, COMMAND, 1, 7, &create);
    let again = engine.execute(&mut monitor, COMMAND, 2, 7, &create);
    assert_eq!(first, again);
    assert!(first.result.is_ok());
    // A request with the same id and another body comes from a client that started anew.
    let other = transaction(vec![]);
    assert_eq!(
        engine.execute(&mut monitor, COMMAND, 3, 7, &other).result,
        Ok(Answer::Applied(vec![]))
    );
}

#[test]
fn a_stale_plan_is_refused_with_what_changed() {
    let words = arena();
    let mut host = Host::new(&words);
    let planned_at = Some(host.engine.database().contents());
    host.ok(vec![create("web")]);
    let refusal =
        host.run(&Transaction { planned_at, ..transaction(vec![create("db")]) }).unwrap_err();
    assert_eq!(refusal.code, Code::StalePlan);
    assert!(refusal.reason.contains("create \"web\""), "{}", refusal.reason);
}

#[test]
fn only_boot_and_command_partition_are_heard() {
    let words = arena();
    let (mut engine, mut monitor) = host(&words);
    for who in [ULTRAVISOR, FIRST_GUEST, 0, u32::MAX] {
        let reply = engine.execute(&mut monitor, who, 0, 1, &transaction(vec![create("x")]));
        assert_eq!(reply.result.unwrap_err().code, Code::NotAllowed);
    }
}

/// A frame has room for thousands of small operations; the memory for them is bounded while they
/// are read.
#[test]
fn a_frame_full_of_operations_is_refused_and_not_kept() {
    let operations = vec![Operation::Complete { request: 0 }; 8000];
    let bytes = postcard::to_allocvec(&transaction(operations)).unwrap();
    assert!(bytes.len() < pv_abi::uv::channel::MAX_PAYLOAD);
    let read: Transaction = postcard::from_bytes(&bytes).unwrap();
    assert_eq!(read.operations.len(), MAX_OPERATIONS + 1);
    assert!(read.operations.capacity() <= 8192);
    let words = arena();
    let refusal = Host::new(&words).run(&read).unwrap_err();
    assert_eq!(refusal.code, Code::TooLarge);
}

#[test]
fn refusals_name_operation_field_and_limit() {
    let words = arena();
    let mut host = Host::new(&words);
    let (number, memory) = host.built("web");
    let partition = Target::Number(number);
    let with = |change: fn(&mut Operation)| {
        let mut operation = create("new");
        change(&mut operation);
        vec![
            Operation::AssignMemory { partition: Target::Number(FIRST_GUEST), frames: 1 },
            operation,
        ]
    };
    macro_rules! field {
        ($name:ident, $value:expr) => {
            with(|operation| {
                if let Operation::CreatePartition { $name, .. } = operation {
                    *$name = $value;
                }
            })
        };
    }
    for (operations, field) in [
        (field!(vcpus, 0), "vcpus"),
        (field!(vcpus, 33), "vcpus"),
        (field!(cpu_weight, 0), "cpu_weight"),
        (field!(cpu_cap, 201), "cpu_cap"),
        (field!(grant_frames, 65), "grant_frames"),
        (field!(cpu_affinity, vec![4]), "cpu_affinity"),
        (field!(rights, rights::LEAD), "rights"),
        (field!(rights, rights::BUILD), "rights"),
        (field!(kind, kind::ULTRAVISOR), "kind"),
        (field!(number, Some(8)), "number"),
        (field!(number, Some(FIRST_GUEST)), "number"),
        (field!(name, String::new()), "name"),
        (field!(name, "a\nb".into()), "name"),
        (field!(name, "web".into()), "name"),
        (field!(name, "x".repeat(32)), "name"),
    ] {
        let refusal = host.refused(operations);
        assert_eq!((refusal.operation, refusal.field.as_str()), (Some(1), field));
        assert!(!refusal.way_out.is_empty());
    }
    let all = |frames| vec![Operation::AssignMemory { partition, frames }];
    assert_eq!(host.refused(all(FRAMES)).code, Code::NoMemory);
    assert_eq!(host.refused(all(0)).code, Code::InvalidValue);
    assert_eq!(host.refused(all(u64::MAX)).code, Code::NoMemory);
    let release = |first, frames| {
        vec![Operation::ReleaseMemory { partition, ranges: vec![Range { first, frames }] }]
    };
    let instance = host.engine.database().reader().descriptor(number).unwrap().instance_first;
    for (first, frames) in [(instance, 1), (memory.first, 101), (0, 1), (u64::MAX, 2), (FRAMES, 1)]
    {
        assert_eq!(host.refused(release(first, frames)).code, Code::NotOwner);
    }
    assert_eq!(host.refused(release(memory.first, 0)).code, Code::InvalidValue);
    let twice = [release(memory.first + 1, 2), release(memory.first + 2, 2)].concat();
    assert_eq!(host.refused(twice).operation, Some(1));
    for target in [Target::Number(BOOT), Target::Number(ULTRAVISOR)] {
        let dying = Operation::SetState { partition: target, state: state::DYING };
        assert_eq!(host.refused(vec![dying]).code, Code::SystemPartition);
    }
    let nobody = Operation::DestroyPartition { partition: Target::CreatedBy(0) };
    assert_eq!(host.refused(vec![nobody]).code, Code::NoSuchPartition);
}

#[test]
fn a_machine_has_room_for_so_many_virtual_cpus() {
    let words = arena_of(1024);
    let mut host = Host::new(&words);
    let large = |name: String| {
        let mut operation = create(&name);
        if let Operation::CreatePartition { vcpus, .. } = &mut operation {
            *vcpus = MAX_VCPUS;
        }
        operation
    };
    let few = (MAX_MACHINE_VCPUS / MAX_VCPUS / 2) as usize;
    let some = |set: char| (0..few).map(|n| large(format!("{set}{n}"))).collect::<Vec<_>>();
    // Operations of the same transaction count, too.
    let refusal = host.refused([some('a'), some('b')].concat());
    assert_eq!((refusal.code, refusal.field.as_str()), (Code::NoVcpus, "vcpus"));
    host.ok(some('a'));
    assert_eq!(host.refused(some('b')).operation, Some(few as u32 - 1));
    host.ok(some('b')[1..].to_vec());
    let refusal = host.refused(vec![large("last".into())]);
    assert!(refusal.reason.contains("of the 1024 for all partitions"), "{}", refusal.reason);
    let first = Target::Number(FIRST_GUEST);
    host.ok(vec![Operation::SetState { partition: first, state: state::DYING }]);
    host.ok(vec![Operation::DestroyPartition { partition: first }]);
    host.ok(vec![large("last".into())]);
}

#[test]
fn what_is_pending_goes_when_its_owner_fails() {
    let words = arena();
    let mut host = Host::new(&words);
    let before = host.engine.database().reader().ranges(0).collect::<Vec<_>>();
    let memory = Operation::AssignMemory { partition: Target::CreatedBy(0), frames: 500 };
    let build = Transaction { pending: true, ..transaction(vec![create("half"), memory]) };
    host.run(&build).unwrap();
    assert_eq!(host.engine.client_failed(&mut host.monitor, BOOT, 9), 1);
    agree(&host.engine, &host.monitor);
    assert_eq!(host.engine.database().reader().ranges(0).collect::<Vec<_>>(), before);
    let outcomes: Vec<_> =
        host.engine.records().0.iter().map(|record| record.settled.word()).collect();
    assert!(outcomes.contains(&"rolled back"), "{outcomes:?}");
}

#[test]
fn what_is_completed_stays() {
    let words = arena();
    let mut host = Host::new(&words);
    let build = Transaction { pending: true, ..transaction(vec![create("whole")]) };
    host.run(&build).unwrap();
    let request = host.next;
    host.ok(vec![Operation::Complete { request }]);
    assert_eq!(host.refused(vec![Operation::Complete { request }]).code, Code::NotPending);
    assert_eq!(host.engine.client_failed(&mut host.monitor, BOOT, 9), 0);
    assert!(host.engine.database().reader().descriptor(FIRST_GUEST).is_ok());
    let stop = Operation::SetState { partition: Target::Number(FIRST_GUEST), state: state::DYING };
    let late = Transaction { pending: true, ..transaction(vec![stop]) };
    assert_eq!(host.run(&late).unwrap_err().code, Code::NotUndoable);
}

#[test]
fn what_the_monitor_does_by_itself_is_written_down() {
    let words = arena();
    let mut host = Host::new(&words);
    let (number, _) = host.built("web");
    let running = Operation::SetState { partition: Target::Number(number), state: state::RUNNING };
    host.ok(vec![running]);
    let event = MonitorEvent {
        partition: number,
        cause: cause::UNHANDLED_TRAP,
        detail: 13,
        vcpu: 1,
        address: 0xdead,
        time: 77,
    };
    host.monitor.running.remove(&number);
    host.engine.monitor_did(&mut host.monitor, &event);
    agree(&host.engine, &host.monitor);
    let descriptor = host.engine.database().reader().descriptor(number).unwrap();
    assert_eq!((descriptor.state, descriptor.cause_detail), (state::CRASHED, 13));
    let row = host.engine.records().0.last().unwrap().row();
    assert_eq!((row.outcome, row.time), (Settled::Monitor, 77));
    assert!(row.what.contains("trap 13"), "{}", row.what);
}

#[test]
fn a_number_comes_again_when_all_others_were_used() {
    let words = arena();
    let mut host = Host::new(&words);
    let end = host.engine.database().number_end();
    let mut given = Vec::new();
    for n in 0..2 * (end - FIRST_GUEST) {
        let outcomes = host.ok(vec![create(&format!("guest-{n}"))]);
        let [Outcome::Partition(number)] = outcomes[..] else { panic!("{outcomes:?}") };
        given.push(number);
        host.ok(vec![Operation::DestroyPartition { partition: Target::Number(number) }]);
    }
    let all: Vec<u32> = (FIRST_GUEST..end).collect();
    assert_eq!(given, [all.clone(), all].concat());
}

#[test]
fn the_log_keeps_the_newest_records_in_order() {
    let words = arena();
    let mut host = Host::new(&words);
    for n in 0..400 {
        let (number, name) = (FIRST_GUEST, format!("guest-{n}"));
        host.ok(vec![create_as(&name, Some(number))]);
        host.ok(vec![Operation::DestroyPartition { partition: Target::Number(number) }]);
    }
    let (records, next) = host.engine.records();
    assert_eq!(next, 1202);
    assert!(records.len() > 20);
    assert_eq!(records.last().unwrap().sequence, 1201);
    for pair in records.windows(2) {
        assert_eq!(pair[0].sequence + 1, pair[1].sequence);
    }
    assert!(records.iter().all(|record| record.settled.word() == "committed"));
}

#[test]
fn a_transaction_that_was_cut_off_is_undone_at_the_next_start() {
    let words = arena();
    let (mut engine, mut monitor) = host(&words);
    let before = picture(&engine);
    struct Cut;
    impl Monitor for Cut {
        fn perform(&mut self, _: Action) -> Result<(), i32> {
            std::panic::resume_unwind(Box::new(()));
        }
        fn frame_owner(&mut self, _: u64) -> Option<(u32, bool)> {
            None
        }
        fn in_use(&mut self, _: u64) -> bool {
            false
        }
    }
    let cut = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        engine.execute(&mut Cut, BOOT, 1, 1, &transaction(vec![create("web")]))
    }));
    assert!(cut.is_err());
    assert_ne!(picture(&engine), before);
    let database = Database::open(&words).unwrap();
    let (mut engine, undone) = Engine::recover(database, LIMITS, &mut monitor, 0).unwrap();
    assert_eq!(undone, 1);
    // The database is as it was, and earlier plans and copies are stale.
    assert_eq!(picture(&engine), (before.0, before.1 + 1));
    agree(&engine, &monitor);
    let reply = engine.execute(&mut monitor, BOOT, 2, 2, &transaction(vec![create("web")]));
    assert!(reply.result.is_ok());
    agree(&engine, &monitor);
    let sequences: Vec<_> = engine.records().0.iter().map(|record| record.sequence).collect();
    assert_eq!(sequences, [1, 2, 3, 4]);
}

/// Memory and tables of a machine of 8 GiB: one arena page per 256 frames.
#[test]
fn a_thousand_minimal_guests_fit_eight_gibibytes() {
    const MACHINE: u64 = 2 << 20;
    const GUESTS: u32 = 1000;
    let words = arena_of(MACHINE as usize / 256);
    let mut host = Host::of(&words, MACHINE, LIMITS);
    for n in 0..GUESTS {
        let mut guest = create(&format!("guest-{n}"));
        if let Operation::CreatePartition { vcpus, .. } = &mut guest {
            *vcpus = 1;
        }
        let partition = Target::CreatedBy(0);
        let outcomes = host.ok(vec![guest, Operation::AssignMemory { partition, frames: 1024 }]);
        let [Outcome::Partition(number), Outcome::Memory(ranges)] = &outcomes[..] else {
            panic!("{outcomes:?}")
        };
        let (partition, memory) = (Target::Number(*number), ranges[0].first);
        let channel = |kind, peer, grant| Operation::CreateChannel {
            partition,
            peer,
            kind,
            frame: memory + u64::from(grant),
            frames: 1,
            grant,
        };
        let rings = [(channel_kind::CONSOLE, COMMAND, 1), (channel_kind::STORE, ULTRAVISOR, 2)];
        host.ok(rings.map(|(kind, peer, grant)| channel(kind, peer, grant)).to_vec());
    }
    assert_eq!(host.engine.database().channels().count(), 2 * GUESTS as usize);
    assert!(host.engine.index_agrees());
}
