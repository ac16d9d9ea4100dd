//! The ultravisor ends between two stores to the arena, at every possible place, and another takes
//! over; that one may be cut off, too.
//!
//! The result must contain the requests that were carried out whole, in their order, and nothing of
//! the others.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU32, Ordering};

use control::command::{Answer, Code, Medium, Operation, Target, Transaction};
use pv_abi::uv::calls::{MonitorEvent, cause};
use pv_abi::uv::database::{BOOT, COMMAND, FIRST_GUEST, IO_A, IO_B, IO_C, state};
use pv_abi::uv::endpoints::endpoint_state;
use resource_db::{Database, cut};
use transaction::{Engine, Record};

use crate::devices::io_built;
use crate::disks::{XVDA, attach, with_disks};
use crate::fake::{Host, LIMITS, agree, arena_of, create, picture, start_at, transaction};
use crate::takeover::{
    assign, confirm_both, crash_of, hang_of, is_there, owners, server, two_servers,
};

/// How many of the places are tried: all with `CUT_ALL`, else one in this many, with another first
/// place for each scenario.
const STRIDE: u64 = 23;

/// A partition that is made in the usual way: created pending, built, completed and started.
struct Life {
    name: &'static str,
    /// The old partition that is destroyed when the new one starts.
    old: u32,
}

/// The database without versions, and the partitions that run.
type Looks = (Vec<u8>, Vec<u32>);

fn looks(host: &Host) -> Looks {
    (picture(&host.engine).0, host.monitor.running.iter().copied().collect())
}

impl Life {
    fn created(&self) -> Transaction {
        let memory = Operation::AssignMemory { partition: Target::CreatedBy(0), frames: 1500 };
        Transaction { pending: true, ..transaction(vec![create(self.name), memory]) }
    }

    fn finished(&self, request: u64) -> Transaction {
        let (new, old) = (Target::Number(self.old + 1), Target::Number(self.old));
        transaction(vec![
            Operation::Complete { request },
            Operation::SetState { partition: new, state: state::RUNNING },
            Operation::SetState { partition: old, state: state::DYING },
            Operation::DestroyPartition { partition: old },
        ])
    }

    /// Carries out all of these steps.
    fn live(&self, host: &mut Host) {
        host.run_as(COMMAND, &self.created()).unwrap();
        let request = host.next;
        let number = self.old + 1;
        let frame = host.map().into_iter().rfind(|range| range.owner.number == number).unwrap();
        let start = start_at(frame.first + frame.frames - 1);
        host.ok(vec![Operation::SetStart { partition: Target::Number(number), start }]);
        host.run_as(COMMAND, &self.finished(request)).unwrap();
    }
}

/// Takes over from an ultravisor that ended, with the same monitor.
fn take_over<'a>(host: &mut Host<'a>, words: &'a [AtomicU32]) {
    let database = Database::open(words).unwrap();
    let (engine, _) = Engine::recover(database, LIMITS, &mut host.monitor, 9).unwrap();
    host.engine = engine;
}

/// Runs `scenario` on a host made by `prepare`, and ends it before store number `at`. Returns
/// whether it was ended. `check` sees the host after recovery, with its state from before the
/// scenario.
fn end_at(
    at: u64,
    prepare: &dyn Fn(&mut Host),
    scenario: &dyn Fn(&mut Host),
    check: &dyn Fn(&mut Host, &Looks, u64),
    again: Option<u64>,
) -> bool {
    let words = arena_of(96);
    let mut host = Host::new(&words);
    prepare(&mut host);
    let before = looks(&host);
    cut::after(Some(at));
    let ended = catch_unwind(AssertUnwindSafe(|| scenario(&mut host))).is_err();
    cut::after(None);
    if !ended {
        return false;
    }
    if let Some(again) = again {
        cut::after(Some(again));
        let _ = catch_unwind(AssertUnwindSafe(|| take_over(&mut host, &words)));
        cut::after(None);
    }
    take_over(&mut host, &words);
    agree(&host.engine, &host.monitor);
    assert!(!host.engine.waits(), "ended before store {at}");
    check(&mut host, &before, at);
    // Later requests find database and log in order, and no arena page is lost.
    host.ok(vec![create("later")]);
    true
}

/// Ends `scenario` at every place, or at one in [`STRIDE`], and once more during the recovery from
/// that. The scenario makes more than `least` stores.
fn end_everywhere(
    (offset, least): (u64, u64),
    prepare: &dyn Fn(&mut Host),
    scenario: &dyn Fn(&mut Host),
    check: &dyn Fn(&mut Host, &Looks, u64),
) {
    let stride = if std::env::var_os("CUT_ALL").is_some() { 1 } else { STRIDE };
    let (mut at, mut ends) = (offset % stride, 0);
    while end_at(at, prepare, scenario, check, None) {
        // The recovery is cut at another place each time.
        end_at(at, prepare, scenario, check, Some(at.wrapping_mul(7) % 997));
        at += stride;
        ends += 1;
    }
    assert!(ends > least / stride, "{ends} places");
}

fn with_old(host: &mut Host) {
    let (old, _) = host.built("old");
    let partition = Target::Number(old);
    host.ok(vec![Operation::SetState { partition, state: state::RUNNING }]);
}

#[test]
fn a_partition_takes_anothers_place_or_nothing_happened() {
    let life = Life { name: "new", old: FIRST_GUEST };
    end_everywhere(
        (0, 1000),
        &with_old,
        &|host| {
            life.live(host);
        },
        &|host, before, at| {
            let now = looks(host);
            let whole = host.monitor.running.contains(&(FIRST_GUEST + 1));
            if whole {
                let gone = host.engine.database().reader().descriptor(FIRST_GUEST).is_err();
                assert!(gone, "ended before store {at}: the old one is there still");
                let new = host.descriptor(FIRST_GUEST + 1);
                assert_eq!(new.state, state::RUNNING);
            } else {
                assert!(now == *before, "ended before store {at}: neither whole nor as before");
            }
        },
    );
}

#[test]
fn a_function_moves_with_the_request_or_stays() {
    let prepare = |host: &mut Host| {
        for name in ["io-a", "io-b"] {
            let number = io_built(host, name);
            let partition = Target::Number(number);
            host.ok(vec![Operation::SetState { partition, state: state::RUNNING }]);
        }
        host.ok(vec![
            Operation::AssignDevice { function: 1, partition: Target::Number(IO_A) },
            Operation::AssignDevice { function: 2, partition: Target::Number(IO_A) },
        ]);
        host.monitor.confirms = true;
    };
    let (from, to) = (Target::Number(IO_A), Target::Number(IO_B));
    // Function 1 moves with the request; function 2 moves when its partition is given up.
    let scenario = |host: &mut Host| {
        host.ok(vec![
            Operation::SetState { partition: from, state: state::SHUTDOWN },
            Operation::ReleaseDevice { function: 1, partition: from },
            Operation::AssignDevice { function: 1, partition: to },
            Operation::DestroyPartition { partition: from },
        ]);
    };
    end_everywhere((3, 400), &prepare, &scenario, &|host, before, at| {
        let reader = host.engine.database().reader();
        let owners = [1, 2].map(|function| reader.device(function).unwrap().owner);
        if owners == [IO_B, IO_B] {
            let gone = reader.descriptor(IO_A).is_err();
            assert!(gone, "ended before store {at}: it has lost its functions and is there");
        } else {
            assert!(looks(host) == *before, "ended before store {at}: {owners:?}");
        }
    });
}

#[test]
fn a_takeover_is_carried_on_wherever_the_ultravisor_ends() {
    taken_over_wherever_cut(&|host| crash_of(host, IO_A, 7));
}

#[test]
fn one_that_hangs_is_given_up_once_wherever_the_ultravisor_ends() {
    taken_over_wherever_cut(&|host| hang_of(host, IO_A, 7));
}

/// Ends an I/O partition with `end`, and the ultravisor in the middle of it, at one store after
/// another. Checks that the functions move exactly once, although the end is reported again.
fn taken_over_wherever_cut(end: &dyn Fn(&mut Host)) {
    // The second cut is in the recovery from the first.
    let seconds = [None, Some(3), Some(40), Some(170), Some(400)];
    let mut most = 0;
    let stride = if std::env::var_os("CUT_ALL").is_some() { 1 } else { STRIDE };
    for (offset, second) in (0..).step_by(5).zip(seconds) {
        let mut at = if second.is_none() { 0 } else { offset % stride };
        loop {
            let words = arena_of(96);
            let mut host = Host::new(&words);
            two_servers(&mut host);
            host.monitor.confirms = true;
            let memory = host.descriptor(IO_B).memory_frames;
            cut::after(Some(at));
            let ended = catch_unwind(AssertUnwindSafe(|| end(&mut host))).is_err();
            cut::after(second);
            let again = catch_unwind(AssertUnwindSafe(|| take_over(&mut host, &words)));
            cut::after(None);
            if again.is_err() {
                take_over(&mut host, &words);
            }
            // The monitor reports a death again until it hears that it is recorded, and the watchdog of
            // the next ultravisor finds again what hangs.
            end(&mut host);
            agree(&host.engine, &host.monitor);
            let reader = host.engine.database().reader();
            let owners = [1, 2].map(|function| reader.device(function).unwrap().owner);
            assert_eq!(owners, [IO_B, IO_B], "ended before store {at}");
            assert!(reader.descriptor(IO_A).is_err(), "ended before store {at}");
            assert!(!host.engine.waits(), "ended before store {at}");
            assert_eq!(host.descriptor(IO_B).memory_frames, memory);
            let disk = host.engine.database().endpoint(0).unwrap();
            assert_eq!((disk.state, disk.incarnation), (endpoint_state::ATTACHED, 0), "{at}");
            let records = host.engine.records().0;
            let moved = |record: &&Record| record.what.starts_with("move ") && record.is_applied();
            assert_eq!(records.iter().filter(moved).count(), 1, "ended before store {at}");
            host.ok(vec![create("later")]);
            if !ended {
                break;
            }
            most = most.max(at);
            // The first round is exhaustive, since the place after the move is a small one.
            at += if second.is_none() { 1 } else { stride };
        }
    }
    assert!(most > 300, "{most}");
}

/// Both I/O partitions die, of which one still owes the other's resets, and a third one takes over.
/// What is done already is left alone.
fn a_third_takes_over(host: &mut Host) {
    crash_of(host, IO_A, 7);
    crash_of(host, IO_B, 8);
    let partition = Target::Number(IO_C);
    let there = host.engine.database().reader().descriptor(IO_C).map(|there| there.state);
    if there == Ok(state::BUILDING) {
        host.ok(vec![Operation::DestroyPartition { partition }]);
    }
    if there != Ok(state::RUNNING) {
        assert_eq!(server(host, "io-c"), IO_C);
    }
    host.ok(vec![assign(1, IO_C), assign(2, IO_C)]);
    confirm_both(host);
    host.engine.expect_reset(9);
    while host.engine.waits() {
        let next = host.engine.next_try(9).unwrap_or(9);
        host.engine.try_again(&mut host.monitor, next);
    }
}

#[test]
fn two_deaths_are_made_good_wherever_the_ultravisor_ends() {
    let check = |host: &mut Host, at: u64| {
        agree(&host.engine, &host.monitor);
        assert_eq!(owners(host), [IO_C; 2], "ended before store {at}");
        assert!(!is_there(host, IO_A) && !is_there(host, IO_B), "ended before store {at}");
        let disk = host.engine.database().endpoint(0).unwrap();
        assert_eq!((disk.state, disk.incarnation), (endpoint_state::ATTACHED, 0), "{at}");
        host.ok(vec![create("later")]);
    };
    let stride = if std::env::var_os("CUT_ALL").is_some() { 1 } else { STRIDE };
    let mut at = 5 % stride;
    loop {
        let words = arena_of(96);
        let mut host = Host::new(&words);
        two_servers(&mut host);
        cut::after(Some(at));
        let ended = catch_unwind(AssertUnwindSafe(|| a_third_takes_over(&mut host))).is_err();
        cut::after(None);
        if ended {
            take_over(&mut host, &words);
            a_third_takes_over(&mut host);
        }
        check(&mut host, at);
        if !ended {
            break;
        }
        at += stride;
    }
    assert!(at > 1000, "{at}");
}

#[test]
fn a_disk_is_one_partitions_or_the_others() {
    let (web, db) = (FIRST_GUEST, FIRST_GUEST + 1);
    let disk = || Medium::Disk { function: 1 };
    let prepare = |host: &mut Host| {
        with_disks(host);
        host.ok(vec![attach(web, XVDA, disk())]);
    };
    // The disk goes with its partition, and then to the other.
    let scenario = |host: &mut Host| {
        host.ok(vec![Operation::DestroyPartition { partition: Target::Number(web) }]);
        host.ok(vec![attach(db, XVDA, disk())]);
    };
    end_everywhere((11, 400), &prepare, &scenario, &|host, before, at| {
        let database = host.engine.database();
        let entry = database.endpoint(0).unwrap();
        let there = database.reader().descriptor(web).is_ok();
        match entry.client {
            client if client == web => assert!(looks(host) == *before, "store {at}"),
            client => assert!(!there && (client == db || client == 0), "store {at}: {client}"),
        }
    });
}

#[test]
fn what_the_monitor_did_is_told_whole_or_not_at_all() {
    let event = MonitorEvent {
        partition: FIRST_GUEST,
        cause: cause::UNHANDLED_TRAP,
        detail: 13,
        vcpu: 0,
        address: 0x1000,
        time: 7,
    };
    let crash = |host: &mut Host| {
        host.monitor.running.remove(&FIRST_GUEST);
        host.engine.monitor_did(&mut host.monitor, &event);
    };
    let mut at = 0;
    loop {
        let words = arena_of(96);
        let mut host = Host::new(&words);
        with_old(&mut host);
        cut::after(Some(at));
        let ended = catch_unwind(AssertUnwindSafe(|| crash(&mut host))).is_err();
        cut::after(None);
        if !ended {
            break;
        }
        take_over(&mut host, &words);
        // The monitor reports an event again until it hears that it is recorded.
        host.engine.monitor_did(&mut host.monitor, &event);
        agree(&host.engine, &host.monitor);
        let records = host.engine.records().0;
        let told = records.iter().filter(|record| record.settled.word() == "monitor");
        assert_eq!(told.count(), 1, "ended before store {at}");
        let (cause, detail) =
            (host.descriptor(FIRST_GUEST).cause, host.descriptor(FIRST_GUEST).cause_detail);
        assert_eq!((cause, detail), (cause::UNHANDLED_TRAP, 13), "ended before store {at}");
        at += 1;
    }
    assert!(at > 100, "{at}");
}

#[test]
fn a_retry_after_the_takeover_gets_the_reply_that_was_lost() {
    let request = transaction(vec![create("once")]);
    let mut at = 0;
    let (mut carried_out_before, mut after) = (0, 0);
    loop {
        let words = arena_of(96);
        let mut host = Host::new(&words);
        cut::after(Some(at));
        let done = catch_unwind(AssertUnwindSafe(|| {
            host.engine.execute(&mut host.monitor, COMMAND, 1, 77, &request)
        }));
        cut::after(None);
        let ended = done.is_err();
        take_over(&mut host, &words);
        let there = host.engine.database().numbers().any(|number| number == FIRST_GUEST);
        if there {
            carried_out_before += 1
        } else {
            after += 1
        }
        let reply = host.engine.execute(&mut host.monitor, COMMAND, 2, 77, &request);
        assert!(matches!(reply.result, Ok(Answer::Applied(_))), "store {at}: {reply:?}");
        let guests = host.engine.database().numbers().filter(|n| *n >= FIRST_GUEST).count();
        assert_eq!(guests, 1, "ended before store {at}: carried out twice, or not at all");
        // A request with the same id and another body is another request.
        let other = transaction(vec![create("other")]);
        assert!(host.engine.execute(&mut host.monitor, COMMAND, 3, 77, &other).result.is_ok());
        assert_eq!(
            host.engine.database().numbers().filter(|n| *n >= FIRST_GUEST).count(),
            2,
            "ended before store {at}"
        );
        if !ended {
            break;
        }
        at += 1;
    }
    assert!(carried_out_before > 1 && after > 100, "{carried_out_before} and {after}");
}

#[test]
fn what_is_pending_is_found_however_long_the_log_has_gone_on() {
    let words = arena_of(96);
    let mut host = Host::new(&words);
    let memory = Operation::AssignMemory { partition: Target::CreatedBy(0), frames: 70 };
    let half = Transaction { pending: true, ..transaction(vec![create("half"), memory]) };
    let before = looks(&host);
    host.run_as(COMMAND, &half).unwrap();
    let request = host.next;
    // Refused requests of another client fill the log, several times over.
    for _ in 0..2000 {
        host.run_as(
            BOOT,
            &transaction(vec![Operation::DestroyPartition {
                partition: Target::Number(FIRST_GUEST + 7),
            }]),
        )
        .unwrap_err();
    }
    let (oldest, next) = host.engine.log_bounds();
    assert!(oldest > 1000, "{oldest}: the log has not wrapped");
    assert!(host.engine.records_from(oldest).count() as u64 == next - oldest);
    take_over(&mut host, &words);
    assert!(looks(&host) == before, "what was pending is there for ever");
    let completed = host.run_as(COMMAND, &transaction(vec![Operation::Complete { request }]));
    assert_eq!(completed.unwrap_err().code, Code::NotPending);
}

#[test]
fn pages_of_the_arena_are_not_lost() {
    let words = arena_of(96);
    let mut host = Host::new(&words);
    let free = host.engine.database().free_pages();
    let life = Life { name: "new", old: FIRST_GUEST };
    with_old(&mut host);
    drop(host);
    let image: Vec<u32> = words.iter().map(|word| word.load(Ordering::Relaxed)).collect();
    let mut at = 5;
    loop {
        let words: Vec<AtomicU32> = image.iter().map(|&word| AtomicU32::new(word)).collect();
        let prepared = arena_of(96);
        let mut host = Host::new(&prepared);
        with_old(&mut host);
        prepared.iter().zip(&words).for_each(|(to, from)| {
            to.store(from.load(Ordering::Relaxed), Ordering::Relaxed);
        });
        cut::after(Some(at));
        let ended = catch_unwind(AssertUnwindSafe(|| life.live(&mut host))).is_err();
        cut::after(None);
        take_over(&mut host, &prepared);
        for number in [FIRST_GUEST, FIRST_GUEST + 1] {
            let partition = Target::Number(number);
            let all = vec![
                Operation::SetState { partition, state: state::DYING },
                Operation::DestroyPartition { partition },
            ];
            let _ = host.run(&transaction(all));
        }
        assert_eq!(host.engine.database().free_pages(), free, "ended before store {at}");
        if !ended {
            break;
        }
        at += 61;
    }
}
