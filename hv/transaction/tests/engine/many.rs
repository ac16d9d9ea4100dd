//! A thousand partitions in one transaction.

use control::command::{Code, Operation, Range, Request, Target, Transaction};
use pv_abi::uv::channel::MAX_PAYLOAD;
use pv_abi::uv::database::{COMMAND, FIRST_GUEST, instance_frames, state};
use resource_db::Database;
use transaction::{Engine, Limits};

use crate::fake::{Host, agree, arena_of, create, picture, start_at, transaction};

const GUESTS: u32 = 1000;
/// Partitions of a pending transaction.
const BATCH: u32 = 32;
/// Arena pages of a host with 8 GiB.
const PAGES: usize = 8192;
const LIMITS: Limits = Limits { ranges: 64 * 1024, ..crate::fake::LIMITS };

/// Creates the partitions in batches that stay pending, as a client does. Returns the ids of its
/// requests.
fn created(host: &mut Host) -> Vec<u64> {
    let mut requests = Vec::new();
    for first in (0..GUESTS).step_by(BATCH as usize) {
        let mut operations = Vec::new();
        for n in first..(first + BATCH).min(GUESTS) {
            let partition = Target::CreatedBy(operations.len() as u32);
            let mut one = create(&format!("guest-{n:04}-with-a-long-name"));
            if let Operation::CreatePartition { vcpus, .. } = &mut one {
                *vcpus = 1;
            }
            operations.push(one);
            operations.push(Operation::AssignMemory { partition, frames: 8 });
        }
        host.next += 1;
        let pending = Transaction { pending: true, ..transaction(operations) };
        let reply = host.engine.execute(&mut host.monitor, COMMAND, 5, host.next, &pending);
        reply.result.unwrap();
        requests.push(host.next);
    }
    let frames: Vec<_> = host.map().into_iter().filter(|r| r.owner.number >= FIRST_GUEST).collect();
    for range in frames {
        let end = range.first + range.frames - 1;
        let partition = Target::Number(range.owner.number);
        let start = Operation::SetStart { partition, start: start_at(end) };
        host.next += 1;
        let start = transaction(vec![start]);
        // A partition may have several ranges; its last range is used.
        let _ = host.engine.execute(&mut host.monitor, COMMAND, 5, host.next, &start);
    }
    requests
}

/// The transaction that completes the pending ones, sets a target for each partition, and starts
/// them.
fn finished(requests: &[u64]) -> Transaction {
    let mut operations: Vec<Operation> =
        requests.iter().map(|&request| Operation::Complete { request }).collect();
    for number in FIRST_GUEST..FIRST_GUEST + GUESTS {
        let partition = Target::Number(number);
        operations.push(Operation::SetMemoryTarget { partition, frames: 7 });
        operations.push(Operation::SetState { partition, state: state::RUNNING });
    }
    transaction(operations)
}

fn host(words: &[std::sync::atomic::AtomicU32]) -> Host<'_> {
    let each = instance_frames(2, 4) + 8;
    Host::of(words, 2000 + u64::from(GUESTS) * each, LIMITS)
}

#[test]
fn a_thousand_partitions_start_as_a_whole_or_not_at_all() {
    let words = arena_of(PAGES);
    let mut host = host(&words);
    let before = picture(&host.engine).0;
    let requests = created(&mut host);
    let all = finished(&requests);
    let body = control::command::Body::Transaction(all.clone());
    let request = Request { protocol: control::command::PROTOCOL, id: u64::MAX, body };
    assert!(postcard::to_allocvec(&request).unwrap().len() < MAX_PAYLOAD);
    // The monitor refuses the last start.
    let half = picture(&host.engine).0;
    host.monitor.refuse_after = Some(GUESTS as usize - 1);
    host.run_as(COMMAND, &all).unwrap_err();
    assert!(picture(&host.engine).0 == half);
    assert_eq!(host.monitor.running.len(), 3);
    host.run_as(COMMAND, &all).unwrap();
    assert_eq!(host.monitor.running.len(), 3 + GUESTS as usize);
    assert_eq!(host.open(), [0u64; 0], "nothing of it is pending any more");
    // Another ultravisor takes over, and rolls all of them back.
    let database = Database::open(&words).unwrap();
    (host.engine, _) = Engine::recover(database, LIMITS, &mut host.monitor, 9).unwrap();
    agree(&host.engine, &host.monitor);
    assert_eq!(host.monitor.running.len(), 3 + GUESTS as usize);
    let mut operations = Vec::new();
    for number in FIRST_GUEST..FIRST_GUEST + GUESTS {
        let partition = Target::Number(number);
        operations.push(Operation::SetState { partition, state: state::DYING });
        operations.push(Operation::DestroyPartition { partition });
    }
    host.run_as(COMMAND, &transaction(operations)).unwrap();
    assert!(picture(&host.engine).0 == before);
}

#[test]
fn a_thousand_partitions_that_are_half_made_are_rolled_back() {
    let words = arena_of(PAGES);
    let mut host = host(&words);
    let before = picture(&host.engine).0;
    created(&mut host);
    let database = Database::open(&words).unwrap();
    (host.engine, _) = Engine::recover(database, LIMITS, &mut host.monitor, 9).unwrap();
    agree(&host.engine, &host.monitor);
    assert!(picture(&host.engine).0 == before);
}

#[test]
fn what_would_not_fit_log_or_answer_is_refused_by_the_plan() {
    // A quarter of a log of twelve pages has no room for so many ranges.
    let words = arena_of(96);
    let mut host = Host::new(&words);
    let memory = Operation::AssignMemory { partition: Target::CreatedBy(0), frames: 2500 };
    host.ok(vec![create("holes"), memory]);
    let mine = host.map().into_iter().filter(|range| range.owner.number == FIRST_GUEST);
    let first = mine.max_by_key(|range| range.frames).unwrap().first;
    let partition = Target::Number(FIRST_GUEST);
    let ranges = (0..800).map(|n| Range { first: first + 2 * n, frames: 1 }).collect();
    let many = transaction(vec![Operation::ReleaseMemory { partition, ranges }]);
    let refusal = host.engine.dry_run(COMMAND, 1, &many).result.unwrap_err();
    assert_eq!((refusal.code, refusal.field.as_str()), (Code::TooLarge, "record"));
    assert_eq!(host.refused(vec![many.operations[0].clone()]).code, Code::TooLarge);
    // Channels and memory in pieces have long outcomes.
    let words = arena_of(PAGES);
    let mut host = Host::of(&words, 20_000, LIMITS);
    let partition = host.built("web").0;
    let one = Operation::AssignMemory { partition: Target::Number(partition), frames: 1 };
    let many = transaction(vec![one; 4000]);
    let before = picture(&host.engine);
    let refusal = host.run(&many).unwrap_err();
    assert_eq!(refusal.code, Code::TooLarge, "{refusal:?}");
    assert!(picture(&host.engine) == before);
}
