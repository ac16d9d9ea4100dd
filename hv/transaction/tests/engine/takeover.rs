//! I/O partitions that die: their functions move to the other one, which resets them. Only then are
//! resources of the dead partition given back.

use control::command::{Code, Medium, Operation, Target};
use pv_abi::uv::calls::{MonitorEvent, cause};
use pv_abi::uv::database::{
    COMMAND, FIRST_GUEST, IO_A, IO_B, IO_C, IO_D, MONITOR, ULTRAVISOR, UNASSIGNED, state,
};
use pv_abi::uv::endpoints::endpoint_state;

use crate::devices::io_built;
use crate::disks::{XVDA, attach};
use crate::fake::{Host, agree, arena, create, transaction};
use transaction::{Begun, Hung};

/// The functions of the test machine that can be given.
const DISK: u32 = 1;
const OTHER: u32 = 2;

fn become_state(number: u32, state: u32) -> Operation {
    Operation::SetState { partition: Target::Number(number), state }
}

pub fn assign(function: u32, number: u32) -> Operation {
    Operation::AssignDevice { function, partition: Target::Number(number) }
}

/// A running I/O partition with this name.
pub fn server(host: &mut Host, name: &str) -> u32 {
    let number = io_built(host, name);
    host.ok(vec![become_state(number, state::RUNNING)]);
    number
}

/// A host with two I/O partitions, of which the first has the functions that can be given, and a
/// guest with a disk on one of them.
pub fn two_servers(host: &mut Host) {
    assert_eq!((server(host, "io-a"), server(host, "io-b")), (IO_A, IO_B));
    host.ok(vec![assign(DISK, IO_A), assign(OTHER, IO_A), create("web")]);
    host.ok(vec![attach(FIRST_GUEST, XVDA, Medium::Disk { function: DISK })]);
}

/// The monitor reports the death of a partition at a time.
pub fn crash_of(host: &mut Host, number: u32, time: u64) {
    let (cause, detail, vcpu, address) = (cause::UNHANDLED_TRAP, 13, 0, 0x1000);
    host.monitor.running.remove(&number);
    let event = MonitorEvent { partition: number, cause, detail, vcpu, address, time };
    host.engine.monitor_did(&mut host.monitor, &event);
}

/// The watchdog says at a time that a partition hangs, which was heard 512 ms before.
pub fn hang_of(host: &mut Host, number: u32, time: u64) {
    let hung = Hung { number, since: time.saturating_sub(512_000_000), milliseconds: 512 };
    host.engine.give_up_hung(&mut host.monitor, hung, time);
}

pub fn owners(host: &Host) -> [u32; 2] {
    let reader = host.engine.database().reader();
    [DISK, OTHER].map(|function| reader.device(function).unwrap().owner)
}

pub fn is_there(host: &Host, number: u32) -> bool {
    host.engine.database().reader().descriptor(number).is_ok()
}

/// A report came that may be about a reset.
fn report(host: &mut Host, time: u64) {
    assert!(host.engine.expect_reset(time));
    host.engine.try_again(&mut host.monitor, time);
    agree(&host.engine, &host.monitor);
}

pub fn confirm_both(host: &mut Host) {
    host.monitor.confirm(DISK);
    host.monitor.confirm(OTHER);
}

fn words_of(host: &Host) -> Vec<String> {
    host.engine.records().0.into_iter().map(|record| record.what).collect()
}

#[test]
fn the_functions_move_at_once_and_the_memory_waits_for_their_resets() {
    let words = arena();
    let mut host = Host::new(&words);
    two_servers(&mut host);
    let frames = host.descriptor(IO_A).memory_frames;
    crash_of(&mut host, IO_A, 1_000_000_000);
    agree(&host.engine, &host.monitor);
    assert_eq!(owners(&host), [IO_B, IO_B]);
    let dying = host.descriptor(IO_A);
    assert_eq!((dying.state, dying.memory_frames), (state::DYING, frames));
    assert_eq!((dying.cause, dying.cause_detail), (cause::UNHANDLED_TRAP, 13));
    let disk = host.engine.database().endpoint(0).unwrap();
    assert_eq!((disk.state, disk.incarnation), (endpoint_state::ATTACHED, 0));

    let records = host.engine.records().0;
    let [.., died, dying, moved] = &records[..] else { panic!("{records:?}") };
    assert_eq!((died.who, died.partitions.as_slice()), (MONITOR, &[IO_A][..]));
    assert_eq!((dying.who, dying.what.as_str()), (ULTRAVISOR, "give up partition \"io-a\" (4)"));
    assert!(dying.reason.starts_with("trap 13 without a handler"), "{}", dying.reason);
    assert_eq!(moved.what, "move 2 functions of partition \"io-a\" (4) to partition \"io-b\" (5)");
    assert_eq!((moved.who, moved.partitions.as_slice()), (ULTRAVISOR, &[IO_A, IO_B][..]));

    // Its successor comes first; its builder hears of it when it is gone.
    assert!(!host.engine.take_server_ended());

    // It is asked again soon, and at a report at once.
    let next = host.engine.next_try(0).unwrap();
    assert_eq!(next, 1_001_000_000);
    report(&mut host, 1_000_100_000);
    assert!(is_there(&host, IO_A));
    host.monitor.confirm(DISK);
    report(&mut host, 1_000_200_000);
    assert_eq!(host.descriptor(IO_A).memory_frames, frames, "one reset is owed still");
    // Its number is not free.
    assert_eq!(host.refused(vec![create_with_number(IO_A)]).code, Code::NumberTaken);
    host.monitor.confirm(OTHER);
    report(&mut host, 1_014_000_000);
    assert!(!is_there(&host, IO_A) && !host.engine.waits());
    assert!(host.engine.take_server_ended() && !host.engine.take_server_ended());
    assert_eq!(owners(&host), [IO_B, IO_B]);
    let line = "partition \"io-a\" (4) is gone: noticed after 0.000 ms, fenced after 0.000 ms, 2 functions to \
                partition \"io-b\" (5) after 0.000 ms, reset confirmed after 14.000 ms, gone after 14.000 ms";
    assert_eq!(host.engine.records().0.pop().unwrap().what, line);
    assert_eq!(host.engine.take_news(), [line]);
    assert!(!host.engine.expect_reset(2_000_000_000));
}

fn create_with_number(number: u32) -> Operation {
    let mut operation = crate::fake::create_io("again");
    if let Operation::CreatePartition { number: wanted, .. } = &mut operation {
        *wanted = Some(number);
    }
    operation
}

#[test]
fn a_reset_that_is_confirmed_before_the_monitor_is_asked_is_not_waited_for() {
    let words = arena();
    let mut host = Host::new(&words);
    two_servers(&mut host);
    host.monitor.confirms = true;
    for (short_turns, name) in [(false, "new"), (true, "newer")] {
        host.monitor.short_turns = short_turns;
        let dies = owners(&host)[0];
        let lives = IO_A + IO_B - dies;
        crash_of(&mut host, dies, 100);
        for _ in 0..100 {
            if !host.engine.is_busy() {
                host.engine.try_again(&mut host.monitor, 100);
            }
            host.engine.proceed(&mut host.monitor, 100);
        }
        agree(&host.engine, &host.monitor);
        assert!(!is_there(&host, dies) && !host.engine.waits());
        assert_eq!(owners(&host), [lives, lives]);
        host.monitor.short_turns = false;
        // Its successor takes the number, and over from the other when that dies.
        assert_eq!(server(&mut host, name), dies);
    }
}

#[test]
fn a_server_that_dies_while_it_takes_over_leaves_the_functions_to_nobody() {
    let words = arena();
    let mut host = Host::new(&words);
    two_servers(&mut host);
    crash_of(&mut host, IO_A, 100);
    assert_eq!(owners(&host), [IO_B, IO_B]);
    host.monitor.confirm(DISK);
    crash_of(&mut host, IO_B, 200);
    agree(&host.engine, &host.monitor);
    assert_eq!(owners(&host), [UNASSIGNED, UNASSIGNED]);
    let last = words_of(&host).pop().unwrap();
    assert_eq!(last, "move 2 functions of partition \"io-b\" (5) to nobody");
    // Both may still be written: nothing of either is given back, however often it is tried.
    let mut time = 200;
    for _ in 0..40 {
        time = host.engine.next_try(time).unwrap();
        host.engine.try_again(&mut host.monitor, time);
    }
    assert!(time > 5_000_000_000 && is_there(&host, IO_A) && is_there(&host, IO_B));
    assert!(host.engine.next_try(time).unwrap() - time > 100_000_000, "it is asked too often");
    let disk = host.engine.database().endpoint(0).unwrap();
    assert_eq!(disk.state, endpoint_state::ATTACHED);
    // Other numbers get successors, the first of which pays the debts of both.
    assert!(host.engine.take_server_ended());
    assert_eq!((server(&mut host, "io-c"), server(&mut host, "io-d")), (IO_C, IO_D));
    assert_eq!(host.refused(vec![crate::fake::create_io("io-e")]).code, Code::NumberTaken);
    host.ok(vec![assign(DISK, IO_C), assign(OTHER, IO_C)]);
    assert!(host.monitor.owes(IO_A));
    host.monitor.confirm(DISK);
    report(&mut host, time);
    assert!(is_there(&host, IO_A) && is_there(&host, IO_B), "both are owed a reset still");
    host.monitor.confirm(OTHER);
    report(&mut host, time + 1);
    assert!(!is_there(&host, IO_A) && !is_there(&host, IO_B) && !host.engine.waits());
    assert!(host.engine.take_server_ended());
    // The next one that dies hands over to the other, and the first numbers are free again.
    crash_of(&mut host, IO_C, time + 2);
    assert_eq!(owners(&host), [IO_D, IO_D]);
    assert_eq!(server(&mut host, "io-a"), IO_A);
}

#[test]
fn a_server_built_anew_takes_over_from_the_last_one() {
    let words = arena();
    let mut host = Host::new(&words);
    two_servers(&mut host);
    crash_of(&mut host, IO_A, 100);
    confirm_both(&mut host);
    report(&mut host, 200);
    assert!(!is_there(&host, IO_A));
    // It is not there yet when the other dies, too.
    crash_of(&mut host, IO_B, 300);
    assert_eq!(owners(&host), [UNASSIGNED, UNASSIGNED]);
    assert_eq!(server(&mut host, "new"), IO_A);
    host.ok(vec![assign(DISK, IO_A), assign(OTHER, IO_A)]);
    assert_eq!(host.descriptor(IO_B).state, state::DYING);
    confirm_both(&mut host);
    report(&mut host, 400);
    assert!(!is_there(&host, IO_B) && !host.engine.waits());
}

#[test]
fn a_server_that_does_not_run_gets_no_function() {
    for other in [state::BUILDING, state::PAUSED, state::SHUTDOWN] {
        let words = arena();
        let mut host = Host::new(&words);
        two_servers(&mut host);
        if other == state::BUILDING {
            host.ok(vec![
                become_state(IO_B, state::DYING),
                Operation::DestroyPartition { partition: Target::Number(IO_B) },
            ]);
            io_built(&mut host, "io-b");
        } else {
            host.ok(vec![become_state(IO_B, other)]);
        }
        crash_of(&mut host, IO_A, 100);
        agree(&host.engine, &host.monitor);
        assert_eq!(owners(&host), [UNASSIGNED, UNASSIGNED], "state {other}");
        // A partition that others shut down did not die.
        assert_eq!(host.descriptor(IO_B).state, other);
    }
}

#[test]
fn a_server_that_a_request_destroys_hands_over_as_one_that_died() {
    let words = arena();
    let mut host = Host::new(&words);
    two_servers(&mut host);
    let partition = Target::Number(IO_A);
    host.ok(vec![become_state(IO_A, state::DYING), Operation::DestroyPartition { partition }]);
    assert_eq!(owners(&host), [IO_B, IO_B]);
    assert!(is_there(&host, IO_A));
    confirm_both(&mut host);
    report(&mut host, 50);
    assert!(!is_there(&host, IO_A));
}

#[test]
fn a_server_that_shuts_itself_down_is_given_up_too() {
    let words = arena();
    let mut host = Host::new(&words);
    two_servers(&mut host);
    host.monitor.running.remove(&IO_B);
    let (cause, detail, vcpu, address, time) = (cause::SHUTDOWN, 0, 0, 0, 9);
    let event = MonitorEvent { partition: IO_B, cause, detail, vcpu, address, time };
    host.engine.monitor_did(&mut host.monitor, &event);
    assert!(!is_there(&host, IO_B) && !host.engine.waits());
    let what = words_of(&host);
    assert!(what.last().unwrap().starts_with("partition \"io-b\" (5) is gone: "), "{what:?}");
    assert!(!what.iter().any(|what| what.starts_with("move ")), "it had no function");
    // Told again, it is known.
    host.engine.monitor_did(&mut host.monitor, &event);
    assert_eq!(words_of(&host).len(), what.len());
}

#[test]
fn a_server_that_hangs_is_stopped_and_hands_over_as_one_that_died() {
    let words = arena();
    let mut host = Host::new(&words);
    two_servers(&mut host);
    hang_of(&mut host, IO_A, 2_000_000_000);
    agree(&host.engine, &host.monitor);
    assert!(!host.monitor.running.contains(&IO_A));
    assert_eq!(owners(&host), [IO_B, IO_B]);
    let dying = host.descriptor(IO_A);
    assert_eq!((dying.state, dying.cause), (state::DYING, cause::SILENT));
    let records = host.engine.records().0;
    let [.., given_up, moved] = &records[..] else { panic!("{records:?}") };
    assert_eq!(given_up.what, "give up partition \"io-a\" (4)");
    assert_eq!((given_up.who, given_up.reason.as_str()), (ULTRAVISOR, "hung: silent for 512 ms"));
    assert_eq!(given_up.time, 2_000_000_000);
    assert_eq!(moved.what, "move 2 functions of partition \"io-a\" (4) to partition \"io-b\" (5)");
    // The watchdog may say it again, and the monitor may tell a crash that came in between.
    let told = records.len();
    hang_of(&mut host, IO_A, 2_050_000_000);
    crash_of(&mut host, IO_A, 2_060_000_000);
    assert_eq!(words_of(&host).len(), told);
    confirm_both(&mut host);
    report(&mut host, 2_100_000_000);
    assert!(!is_there(&host, IO_A) && !host.engine.waits());
    let line = host.engine.take_news().pop().unwrap();
    assert!(line.starts_with("partition \"io-a\" (4) is gone: noticed after 512.000 ms"), "{line}");
}

#[test]
fn only_an_io_partition_that_runs_hangs() {
    let words = arena();
    let mut host = Host::new(&words);
    two_servers(&mut host);
    host.ok(vec![become_state(IO_A, state::PAUSED)]);
    let before = words_of(&host).len();
    for number in [IO_A, FIRST_GUEST, ULTRAVISOR, FIRST_GUEST + 7] {
        hang_of(&mut host, number, 9);
    }
    assert_eq!((words_of(&host).len(), host.descriptor(IO_A).state), (before, state::PAUSED));
    assert!(!host.engine.waits());
}

#[test]
fn a_server_that_hangs_while_a_record_is_under_way_is_given_up_after_it() {
    let words = arena();
    let mut host = Host::new(&words);
    two_servers(&mut host);
    host.monitor.confirms = true;
    host.monitor.short_turns = true;
    let request = transaction(vec![create("later"), create("last")]);
    let begun = host.engine.begin(&mut host.monitor, COMMAND, 5, 77, &request);
    assert!(matches!(begun, Begun::UnderWay), "{begun:?}");
    hang_of(&mut host, IO_A, 6);
    hang_of(&mut host, IO_A, 7);
    assert_eq!(host.descriptor(IO_A).state, state::RUNNING);
    while host.engine.is_busy() || host.engine.waits() {
        if !host.engine.is_busy() {
            host.engine.try_again(&mut host.monitor, 8);
        }
        host.engine.proceed(&mut host.monitor, 8);
    }
    agree(&host.engine, &host.monitor);
    assert!(!is_there(&host, IO_A) && owners(&host) == [IO_B, IO_B]);
    let given_up = words_of(&host).into_iter().filter(|what| what.starts_with("give up"));
    assert_eq!(given_up.count(), 1);
}

#[test]
fn a_server_that_the_monitor_does_not_stop_goes_on_to_run() {
    let words = arena();
    let mut host = Host::new(&words);
    two_servers(&mut host);
    host.monitor.refuse_stops = 1;
    hang_of(&mut host, IO_A, 9);
    agree(&host.engine, &host.monitor);
    let target = host.descriptor(IO_A);
    assert_eq!((target.state, target.cause), (state::RUNNING, cause::NONE));
    assert!(host.monitor.running.contains(&IO_A));
    hang_of(&mut host, IO_A, 10);
    assert_eq!(host.descriptor(IO_A).state, state::DYING);
}

#[test]
fn a_move_that_the_monitor_refuses_is_tried_again() {
    let words = arena();
    let mut host = Host::new(&words);
    two_servers(&mut host);
    host.monitor.confirms = true;
    host.monitor.refuse_devices = 1;
    crash_of(&mut host, IO_A, 100);
    assert_eq!(owners(&host), [IO_A, IO_A]);
    assert!(host.monitor.owes(IO_A) && is_there(&host, IO_A));
    let next = host.engine.next_try(100).unwrap();
    host.engine.try_again(&mut host.monitor, next);
    agree(&host.engine, &host.monitor);
    assert_eq!(owners(&host), [IO_B, IO_B]);
    let mut time = next;
    while let Some(next) = host.engine.next_try(time).filter(|_| host.engine.waits()) {
        time = next;
        host.engine.try_again(&mut host.monitor, time);
    }
    assert!(!is_there(&host, IO_A));
}
