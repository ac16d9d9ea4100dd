//! A function moves from one running I/O partition to another, once the first has let go of it.

use control::command::{Code, Operation, Target};
use control::io::MAX_FUNCTIONS;
use pv_abi::uv::database::{COMMAND, FIRST_GUEST, IO_A, IO_B, ULTRAVISOR, state};

use crate::fake::{Host, agree, arena};
use crate::takeover::{crash_of, two_servers};

const DISK: u32 = 1;
const OTHER: u32 = 2;

pub fn move_to(function: u32, number: u32) -> Operation {
    Operation::MoveDevice { function, partition: Target::Number(number) }
}

/// The owner of a function, and who gets it next.
pub fn places(host: &Host, function: u32) -> (u32, u64) {
    let entry = host.engine.database().reader().device(function).unwrap();
    (entry.owner, entry.next[0])
}

/// A report of the owner: it has let go, or cannot.
pub fn report(host: &mut Host, function: u32, owner: u32, left: Result<(), &str>) {
    host.engine.left(function, owner, left.map_err(Into::into));
    while host.engine.is_busy() {
        host.engine.proceed(&mut host.monitor, 5);
    }
    agree(&host.engine, &host.monitor);
}

#[test]
fn a_function_moves_when_its_owner_has_let_go() {
    let words = arena();
    let mut host = Host::new(&words);
    two_servers(&mut host);
    host.ok(vec![move_to(DISK, IO_B)]);
    assert_eq!(places(&host, DISK), (IO_A, u64::from(IO_B)));
    let record = host.engine.records().0.pop().unwrap();
    assert_eq!(record.what, "move function 1 (0000:00:02.0) to \"io-b\" (5)");
    assert_eq!(record.partitions, [IO_A, IO_B]);
    // A report of another partition, or about another function, moves nothing.
    report(&mut host, DISK, IO_B, Ok(()));
    report(&mut host, OTHER, IO_A, Ok(()));
    assert_eq!(places(&host, DISK), (IO_A, u64::from(IO_B)));
    host.monitor.let_go.insert(DISK);
    report(&mut host, DISK, IO_A, Ok(()));
    assert_eq!((places(&host, DISK), places(&host, OTHER)), ((IO_B, 0), (IO_A, 0)));
    assert_eq!(host.monitor.devices[&DISK], IO_B);
    let record = host.engine.records().0.pop().unwrap();
    let what =
        "function 1 (0000:00:02.0) of partition \"io-a\" (4) is moved to partition \"io-b\" (5)";
    assert_eq!((record.who, record.what.as_str()), (ULTRAVISOR, what));
    assert_eq!(record.partitions, [IO_A, IO_B]);
    // The report comes again.
    report(&mut host, DISK, IO_A, Ok(()));
    assert_eq!(host.engine.records().0.pop().unwrap().what, what);
}

#[test]
fn a_function_stays_that_its_owner_keeps_or_the_monitor_does_not_give() {
    let words = arena();
    let mut host = Host::new(&words);
    two_servers(&mut host);
    host.ok(vec![move_to(DISK, IO_B)]);
    report(&mut host, DISK, IO_A, Err("no reset"));
    assert_eq!(places(&host, DISK), (IO_A, 0));
    let record = host.engine.records().0.pop().unwrap();
    assert_eq!(record.what, "function 1 (0000:00:02.0) stays with partition \"io-a\" (4)");
    assert_eq!(record.reason, "no reset");
    // Its owner says that it has let go, and page tables map the registers still.
    host.ok(vec![move_to(DISK, IO_B)]);
    report(&mut host, DISK, IO_A, Ok(()));
    assert_eq!(places(&host, DISK), (IO_A, 0));
    let record = host.engine.records().0.pop().unwrap();
    assert!(record.reason.contains("page tables map its registers"), "{}", record.reason);
    // The other one died meanwhile.
    host.ok(vec![move_to(DISK, IO_B)]);
    host.monitor.let_go.insert(DISK);
    host.monitor.confirms = true;
    crash_of(&mut host, IO_B, 7);
    report(&mut host, DISK, IO_A, Ok(()));
    assert_eq!(places(&host, DISK), (IO_A, 0));
}

#[test]
fn a_move_ends_with_the_death_of_the_owner() {
    let words = arena();
    let mut host = Host::new(&words);
    two_servers(&mut host);
    host.ok(vec![move_to(DISK, IO_B)]);
    crash_of(&mut host, IO_A, 7);
    agree(&host.engine, &host.monitor);
    assert_eq!((places(&host, DISK), places(&host, OTHER)), ((IO_B, 0), (IO_B, 0)));
}

#[test]
fn a_move_is_undone_before_and_after_its_end() {
    let words = arena();
    let mut host = Host::new(&words);
    two_servers(&mut host);
    host.ok(vec![move_to(DISK, IO_B)]);
    let asked = host.last();
    host.undo(asked).unwrap();
    assert_eq!(places(&host, DISK), (IO_A, 0));
    // The undo is undone, so it moves after all.
    let called_off = host.last();
    host.undo(called_off).unwrap();
    assert_eq!(places(&host, DISK), (IO_A, u64::from(IO_B)));
    let asked = host.last();
    host.monitor.let_go.insert(DISK);
    report(&mut host, DISK, IO_A, Ok(()));
    let moved = host.last();
    host.undo(asked).unwrap();
    assert_eq!(places(&host, DISK), (IO_B, u64::from(IO_A)));
    assert_eq!(host.undo(moved).unwrap_err().code, Code::MovedOn);
    report(&mut host, DISK, IO_B, Ok(()));
    assert_eq!(places(&host, DISK), (IO_A, 0));
    let back = host.last();
    host.undo(back).unwrap();
    assert_eq!(places(&host, DISK), (IO_A, u64::from(IO_B)));
}

#[test]
fn a_move_that_cannot_be_is_refused_with_a_way_out() {
    let words = arena();
    let mut host = Host::new(&words);
    two_servers(&mut host);
    for (operation, code, field) in [
        (move_to(DISK, FIRST_GUEST), Code::InvalidValue, "partition"),
        (move_to(DISK, COMMAND), Code::InvalidValue, "partition"),
        (move_to(DISK, 99), Code::NoSuchPartition, "number"),
        (move_to(0, IO_B), Code::DeviceRefused, "function"),
        (move_to(9, IO_B), Code::NoSuchDevice, "number"),
    ] {
        let refusal = host.refused(vec![operation.clone()]);
        assert_eq!((refusal.code, refusal.field.as_str()), (code, field), "{operation:?}");
        assert!(!refusal.way_out.is_empty());
    }
    // To move it where it is is no move.
    host.ok(vec![move_to(DISK, IO_A)]);
    let pause = |state| vec![Operation::SetState { partition: Target::Number(IO_B), state }];
    host.ok(pause(state::PAUSED));
    assert_eq!(host.refused(vec![move_to(DISK, IO_B)]).code, Code::WrongState);
    const { assert!(MAX_FUNCTIONS > 4, "the test machine cannot have too many") };
}
