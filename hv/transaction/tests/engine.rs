//! The engine against a monitor that keeps what it was told to enforce.
//!
//! After every request, done or refused at whatever action, database and monitor must agree.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::AtomicU32;

use proptest::prelude::*;
use pv_abi::uv::calls::{MonitorEvent, cause};
use pv_abi::uv::command::{Answer, Operation, Outcome, Range, Refusal, Start, Target, Transaction};
use pv_abi::uv::database::{
    BOOT, COMMAND, FIRST_GUEST, PartitionDescriptor, ULTRAVISOR, channel_kind, instance_frames,
    kind, rights, state,
};
use resource_db::{Database, Owner, PAGE_WORDS, Reader};
use transaction::{Action, Engine, Limits, Monitor};
use zerocopy::{FromZeros, IntoBytes};

const FRAMES: u64 = 8192;
const LIMITS: Limits = Limits { cpus: 4 };

struct Fake<'a> {
    reader: Reader<'a>,
    owners: Vec<Owner>,
    instances: BTreeSet<u32>,
    running: BTreeSet<u32>,
    channels: BTreeMap<u32, Vec<u8>>,
    /// Frames that something refers to.
    in_use: BTreeSet<u64>,
    refuse_after: Option<usize>,
}

impl Monitor for Fake<'_> {
    fn attempt(&mut self, action: Action) -> Result<(), i32> {
        match &mut self.refuse_after {
            Some(0) => {
                self.refuse_after = None;
                return Err(16);
            }
            Some(left) => *left -= 1,
            None => {}
        }
        self.perform(action)
    }

    fn frame_owner(&mut self, frame: u64) -> Option<(u32, bool)> {
        self.owners.get(frame as usize).map(|owner| (owner.number, owner.io))
    }

    fn in_use(&mut self, frame: u64) -> bool {
        self.in_use.contains(&frame)
    }

    fn perform(&mut self, action: Action) -> Result<(), i32> {
        match action {
            Action::Pages { first, frames } => {
                for frame in first..first + frames {
                    let owner = self.reader.owner(frame).unwrap();
                    if self.owners[frame as usize] != owner && self.in_use.contains(&frame) {
                        return Err(16);
                    }
                    self.owners[frame as usize] = owner;
                }
            }
            Action::Partition(number) => {
                if let Ok(descriptor) = self.reader.descriptor(number) {
                    let first = descriptor.instance_first;
                    for frame in first..first + descriptor.instance_frames {
                        assert_eq!(self.owners[frame as usize], Owner::ram(number));
                    }
                    self.instances.insert(number);
                } else {
                    assert!(!self.instances.contains(&number));
                }
            }
            Action::Channel(index) => {
                match self.reader.channel(index) {
                    Ok(entry) => self.channels.insert(index, entry.as_bytes()[4..].to_vec()),
                    Err(_) => self.channels.remove(&index),
                };
            }
            Action::Start(number) => {
                assert!(self.instances.contains(&number));
                self.running.insert(number);
            }
            Action::Stop(number) => drop(self.running.remove(&number)),
            Action::Destroy(number) => {
                self.running.remove(&number);
                self.instances.remove(&number);
            }
        }
        Ok(())
    }
}

fn arena() -> Vec<AtomicU32> {
    (0..128 * PAGE_WORDS).map(|_| AtomicU32::new(0)).collect()
}

fn system(number: u32, kind: u32, first: u64) -> PartitionDescriptor {
    let mut descriptor = PartitionDescriptor::new_zeroed();
    (descriptor.number, descriptor.kind, descriptor.state) = (number, kind, state::RUNNING);
    (descriptor.instance_first, descriptor.instance_frames) = (first, 64);
    descriptor.name[0] = b'0' + number as u8;
    descriptor
}

/// A host with ultravisor, boot and command partition, a hole, and the rest free.
fn host(words: &[AtomicU32]) -> (Engine<'_>, Fake<'_>) {
    let mut database = Database::create(words, FRAMES).unwrap();
    for (number, kind) in
        [(ULTRAVISOR, kind::ULTRAVISOR), (BOOT, kind::BOOT), (COMMAND, kind::COMMAND)]
    {
        let first = u64::from(number) * 64;
        database.set_owner(first, 64, Owner::ram(number)).unwrap();
        database.write_descriptor(&system(number, kind, first)).unwrap();
    }
    database.set_owner(1500, 100, Owner::io(8)).unwrap();
    let reader = Reader::new(words);
    let engine = Engine::genesis(database, LIMITS, 0, "genesis").unwrap();
    let fake = Fake {
        reader,
        owners: (0..FRAMES).map(|frame| reader.owner(frame).unwrap()).collect(),
        instances: [ULTRAVISOR, BOOT, COMMAND].into(),
        running: [ULTRAVISOR, BOOT, COMMAND].into(),
        channels: BTreeMap::new(),
        in_use: BTreeSet::new(),
        refuse_after: None,
    };
    (engine, fake)
}

fn agree(engine: &Engine, fake: &Fake) {
    let reader = engine.database().reader();
    let owners: Vec<_> = (0..FRAMES).map(|frame| reader.owner(frame).unwrap()).collect();
    assert_eq!(owners, fake.owners);
    let numbers: BTreeSet<u32> = engine.database().numbers().collect();
    assert!(fake.instances.is_subset(&numbers));
    for number in &numbers {
        let descriptor = reader.descriptor(*number).unwrap();
        let lives = matches!(descriptor.state, state::RUNNING | state::PAUSED);
        assert!(!lives || fake.instances.contains(number));
        assert_eq!(descriptor.state == state::RUNNING, fake.running.contains(number));
        let owned = owners.iter().filter(|owner| **owner == Owner::ram(*number)).count() as u64;
        if *number >= FIRST_GUEST {
            assert_eq!(owned, descriptor.memory_frames + descriptor.instance_frames);
        }
    }
    let channels: BTreeMap<_, _> =
        engine.database().channels().map(|(i, c)| (i, c.as_bytes()[4..].to_vec())).collect();
    assert_eq!(channels, fake.channels);
}

/// All that the database says, without generations.
fn picture(engine: &Engine) -> (Vec<u8>, u64) {
    let (reader, database) = (engine.database().reader(), engine.database());
    let mut bytes = Vec::new();
    for number in database.numbers() {
        let mut descriptor = reader.descriptor(number).unwrap();
        descriptor.generation = 0;
        bytes.extend_from_slice(&descriptor.as_bytes()[..256]);
    }
    for (index, channel) in database.channels() {
        bytes.extend_from_slice(&index.to_le_bytes());
        bytes.extend_from_slice(&channel.as_bytes()[4..]);
    }
    for range in reader.ranges(0) {
        bytes.extend_from_slice(format!("{range:?}").as_bytes());
    }
    (bytes, database.contents())
}

fn create(name: &str) -> Operation {
    Operation::CreatePartition {
        number: None,
        kind: kind::GUEST,
        rights: 0,
        name: name.into(),
        vcpus: 2,
        cpu_weight: 256,
        cpu_cap: 0,
        cpu_affinity: vec![],
        cpu_dedicated: false,
        grant_frames: 4,
    }
}

fn start_at(frame: u64) -> Start {
    Start {
        entry: 0x20_0000,
        stack: 0x30_0000,
        start_info: 0x40_0000,
        page_table: frame,
        console_frame: 0,
        store_frame: 0,
    }
}

fn transaction(operations: Vec<Operation>) -> Transaction {
    Transaction { planned_at: None, pending: false, reason: "test".into(), operations }
}

struct Host<'a> {
    engine: Engine<'a>,
    monitor: Fake<'a>,
    next: u64,
}

impl<'a> Host<'a> {
    fn new(words: &'a [AtomicU32]) -> Self {
        let (engine, monitor) = host(words);
        Self { engine, monitor, next: 1 }
    }

    fn run(&mut self, transaction: &Transaction) -> Result<Vec<Outcome>, Box<Refusal>> {
        self.next += 1;
        let reply = self.engine.execute(&mut self.monitor, BOOT, 5, self.next, transaction);
        self.monitor.refuse_after = None;
        agree(&self.engine, &self.monitor);
        match reply.result.map_err(Box::new)? {
            Answer::Applied(outcomes) => Ok(outcomes),
            other => panic!("{other:?}"),
        }
    }

    fn ok(&mut self, operations: Vec<Operation>) -> Vec<Outcome> {
        self.run(&transaction(operations)).unwrap()
    }

    fn refused(&mut self, operations: Vec<Operation>) -> Box<Refusal> {
        let before = picture(&self.engine);
        let refusal = self.run(&transaction(operations)).unwrap_err();
        assert_eq!(picture(&self.engine), before);
        refusal
    }

    /// A partition with memory and a start state, still building.
    fn built(&mut self, name: &str) -> (u32, Range) {
        let memory = Operation::AssignMemory { partition: Target::CreatedBy(0), frames: 100 };
        let outcomes = self.ok(vec![create(name), memory]);
        let (Outcome::Partition(number), Outcome::Memory(ranges)) = (&outcomes[0], &outcomes[1])
        else {
            panic!("{outcomes:?}");
        };
        let partition = Target::Number(*number);
        self.ok(vec![Operation::SetStart { partition, start: start_at(ranges[0].first) }]);
        (*number, ranges[0])
    }
}

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
    assert_eq!(host.refused(vec![Operation::DestroyPartition { partition }]).code, "wrong-state");
    host.ok(set(state::PAUSED));
    host.ok(set(state::RUNNING));
    host.ok(set(state::DYING));
    host.ok(vec![Operation::DestroyPartition { partition }]);
    assert_eq!(host.engine.database().reader().ranges(0).collect::<Vec<_>>(), before);
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
    // The same id with another content is a client that started anew.
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
    assert_eq!(refusal.code, "stale-plan");
    assert!(refusal.reason.contains("create \"web\""), "{}", refusal.reason);
}

#[test]
fn only_boot_and_command_partition_are_heard() {
    let words = arena();
    let (mut engine, mut monitor) = host(&words);
    for who in [ULTRAVISOR, FIRST_GUEST, 0, u32::MAX] {
        let reply = engine.execute(&mut monitor, who, 0, 1, &transaction(vec![create("x")]));
        assert_eq!(reply.result.unwrap_err().code, "not-allowed");
    }
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
    assert_eq!(host.refused(all(FRAMES)).code, "no-memory");
    assert_eq!(host.refused(all(0)).code, "invalid-value");
    assert_eq!(host.refused(all(u64::MAX)).code, "no-memory");
    let release = |first, frames| {
        vec![Operation::ReleaseMemory { partition, ranges: vec![Range { first, frames }] }]
    };
    let instance = host.engine.database().reader().descriptor(number).unwrap().instance_first;
    for (first, frames) in [(instance, 1), (memory.first, 101), (0, 1), (u64::MAX, 2), (FRAMES, 1)]
    {
        assert_eq!(host.refused(release(first, frames)).code, "not-owner");
    }
    assert_eq!(host.refused(release(memory.first, 0)).code, "invalid-value");
    let twice = [release(memory.first, 2), release(memory.first + 1, 2)].concat();
    assert_eq!(host.refused(twice).operation, Some(1));
    for target in [Target::Number(BOOT), Target::Number(ULTRAVISOR)] {
        let dying = Operation::SetState { partition: target, state: state::DYING };
        assert_eq!(host.refused(vec![dying]).code, "system-partition");
    }
    let nobody = Operation::DestroyPartition { partition: Target::CreatedBy(0) };
    assert_eq!(host.refused(vec![nobody]).code, "no-such-partition");
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
    assert_eq!(host.refused(vec![Operation::Complete { request }]).code, "not-pending");
    assert_eq!(host.engine.client_failed(&mut host.monitor, BOOT, 9), 0);
    assert!(host.engine.database().reader().descriptor(FIRST_GUEST).is_ok());
    let stop = Operation::SetState { partition: Target::Number(FIRST_GUEST), state: state::DYING };
    let late = Transaction { pending: true, ..transaction(vec![stop]) };
    assert_eq!(host.run(&late).unwrap_err().code, "not-undoable");
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
    assert_eq!((row.outcome.as_str(), row.time), ("monitor", 77));
    assert!(row.what.contains("trap 13"), "{}", row.what);
}

#[test]
fn the_log_keeps_the_newest_records_in_order() {
    let words = arena();
    let mut host = Host::new(&words);
    for n in 0..400 {
        let (number, name) = (FIRST_GUEST, format!("guest-{n}"));
        host.ok(vec![create(&name)]);
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
    assert_eq!(picture(&engine), before);
    agree(&engine, &monitor);
    let reply = engine.execute(&mut monitor, BOOT, 2, 2, &transaction(vec![create("web")]));
    assert!(reply.result.is_ok());
    agree(&engine, &monitor);
    let sequences: Vec<_> = engine.records().0.iter().map(|record| record.sequence).collect();
    assert_eq!(sequences, [1, 2, 3]);
}

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

/// Puts frames that a partition really has into an operation, so that more of them are done.
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
                prop_assert_eq!(picture(&host.engine), before);
            } else {
                prop_assert_eq!(host.engine.database().contents(), before.1 + 1);
            }
        }
        host.engine.client_failed(&mut host.monitor, BOOT, 0);
        agree(&host.engine, &host.monitor);
    }
}
