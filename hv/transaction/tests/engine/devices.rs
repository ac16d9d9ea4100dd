//! PCI functions: which partitions may have them, and how they change owners.

use control::command::{Answer, Code, Operation, Outcome, Query, Target};
use pv_abi::uv::database::{BOOT, COMMAND, FIRST_GUEST, IO_A, IO_B, UNASSIGNED, state};
use pv_abi::uv::devices::{DeviceFunction, MAX_FUNCTIONS};
use transaction::Limits;

use crate::fake::{FRAMES, FUNCTIONS, Host, LIMITS, agree, arena, arena_of, create, create_io};
use crate::fake::{picture, start_at, transaction};
use crate::queries::ask;

/// The functions of the test machine that can be assigned to a partition.
const DISK: u32 = 1;
const OTHER: u32 = 2;

const fn assign(function: u32, number: u32) -> Operation {
    Operation::AssignDevice { function, partition: Target::Number(number) }
}

const fn release(function: u32, number: u32) -> Operation {
    Operation::ReleaseDevice { function, partition: Target::Number(number) }
}

const fn become_state(number: u32, state: u32) -> Operation {
    Operation::SetState { partition: Target::Number(number), state }
}

const fn destroy(number: u32) -> Operation {
    Operation::DestroyPartition { partition: Target::Number(number) }
}

/// Builds an I/O partition that is ready to run, and returns its number.
pub fn io_built(host: &mut Host, name: &str) -> u32 {
    let memory = Operation::AssignMemory { partition: Target::CreatedBy(0), frames: 100 };
    let outcomes = host.ok(vec![create_io(name), memory]);
    let (Outcome::Partition(number), Outcome::Memory(ranges)) = (&outcomes[0], &outcomes[1]) else {
        panic!("{outcomes:?}");
    };
    let partition = Target::Number(*number);
    host.ok(vec![Operation::SetStart { partition, start: start_at(ranges[0].first) }]);
    *number
}

fn owner(host: &Host, function: u32) -> u32 {
    host.engine.database().reader().device(function).unwrap().owner
}

#[test]
fn a_function_goes_to_an_io_partition_and_back() {
    let words = arena();
    let mut host = Host::new(&words);
    assert_eq!(io_built(&mut host, "io-a"), IO_A);
    host.ok(vec![assign(DISK, IO_A), become_state(IO_A, state::RUNNING)]);
    assert_eq!(owner(&host, DISK), IO_A);
    // A partition that runs may get more.
    host.ok(vec![assign(OTHER, IO_A)]);
    let record = host.engine.records().0.pop().unwrap();
    assert_eq!(record.what, "assign function 2 (0000:00:03.0) to \"io-a\" (4)");
    assert_eq!(record.partitions, [IO_A]);
    // What it has already is given again without an effect.
    host.ok(vec![assign(OTHER, IO_A)]);
    assert_eq!(host.engine.database().reader().device(OTHER).unwrap().epoch, 1);

    let refusal = host.refused(vec![release(DISK, IO_A)]);
    assert_eq!((refusal.code, refusal.field.as_str()), (Code::WrongState, "state"));
    assert!(refusal.reason.contains("running"), "{refusal:?}");
    // Not where it is paused either: it could run on with the registers mapped.
    host.ok(vec![become_state(IO_A, state::PAUSED)]);
    assert_eq!(host.refused(vec![release(DISK, IO_A)]).code, Code::WrongState);

    host.ok(vec![become_state(IO_A, state::SHUTDOWN), release(DISK, IO_A)]);
    assert_eq!((owner(&host, DISK), owner(&host, OTHER)), (UNASSIGNED, IO_A));
    assert_eq!(host.engine.database().reader().device(DISK).unwrap().epoch, 2);
}

#[test]
fn each_refusal_names_the_function_and_a_way_out() {
    let words = arena();
    let mut host = Host::new(&words);
    io_built(&mut host, "io-a");
    io_built(&mut host, "io-b");
    host.ok(vec![create("web"), assign(DISK, IO_A)]);
    let cases = [
        (assign(4, IO_A), Code::NoSuchDevice, "function 4", "the functions 0 to 3"),
        (release(u32::MAX, IO_A), Code::NoSuchDevice, "function 4294967295", "0 to 3"),
        (assign(0, IO_A), Code::DeviceRefused, "function 0 (0000:00:00.0)", "it is a bridge"),
        (assign(3, IO_A), Code::DeviceRefused, "function 3 (0000:00:04.0)", "another function"),
        (assign(DISK, IO_B), Code::DeviceTaken, "function 1 (", "\"io-a\" (4) has it"),
        (assign(OTHER, FIRST_GUEST), Code::InvalidValue, "function 2 (", "is not an I/O partition"),
        (assign(OTHER, COMMAND), Code::InvalidValue, "function 2 (", "is not an I/O partition"),
        (assign(OTHER, BOOT), Code::SystemPartition, "partition", "the monitor made it"),
        (assign(OTHER, 77), Code::NoSuchPartition, "partition 77", "no partition"),
        (release(OTHER, IO_A), Code::NotOwner, "function 2 (", "no partition has it"),
        (release(DISK, IO_B), Code::NotOwner, "function 1 (", "\"io-a\" (4) has it"),
    ];
    host.refuses(cases);
    host.ok(vec![become_state(IO_A, state::DYING)]);
    assert_eq!(host.refused(vec![assign(OTHER, IO_A)]).code, Code::WrongState);
    // A transaction that may be rolled back long after does not give functions.
    let pending =
        control::command::Transaction { pending: true, ..transaction(vec![assign(OTHER, IO_B)]) };
    assert_eq!(host.run_as(COMMAND, &pending).unwrap_err().code, Code::NotUndoable);
}

#[test]
fn a_machine_without_functions_says_so() {
    let words = arena();
    let mut host = Host::of(&words, FRAMES, Limits { functions: &[], ..LIMITS });
    io_built(&mut host, "io-a");
    let refusal = host.refused(vec![assign(0, IO_A)]);
    assert_eq!(refusal.reason, "the machine has no PCI functions");
}

#[test]
fn one_transaction_moves_a_function_from_a_partition_that_crashed() {
    let words = arena();
    let mut host = Host::new(&words);
    for name in ["io-a", "io-b"] {
        let number = io_built(&mut host, name);
        host.ok(vec![become_state(number, state::RUNNING)]);
    }
    host.ok(vec![assign(DISK, IO_A), assign(OTHER, IO_B)]);
    let moved =
        || vec![become_state(IO_A, state::SHUTDOWN), release(DISK, IO_A), assign(DISK, IO_B)];
    // The monitor refuses each action in turn.
    for refused in 0..2 {
        host.monitor.refuse_after = Some(refused);
        host.refused(moved());
        assert_eq!(owner(&host, DISK), IO_A, "{refused}");
    }
    host.ok(moved());
    assert_eq!((owner(&host, DISK), owner(&host, OTHER)), (IO_B, IO_B));
    // One change of the owner, not two.
    assert_eq!(host.engine.database().reader().device(DISK).unwrap().epoch, 2);
}

#[test]
fn what_a_destroyed_partition_had_is_free_before_its_memory_is() {
    let words = arena();
    let mut host = Host::new(&words);
    io_built(&mut host, "io-a");
    host.ok(vec![assign(DISK, IO_A), assign(OTHER, IO_A)]);
    host.ok(vec![destroy(IO_A)]);
    assert_eq!((owner(&host, DISK), owner(&host, OTHER)), (UNASSIGNED, UNASSIGNED));
    assert!(!host.engine.waits());
    let what: Vec<String> = host.engine.records().0.into_iter().map(|record| record.what).collect();
    let at =
        what.iter().position(|what| what == "move 2 functions of partition \"io-a\" (4) to nobody");
    assert!(what[at.unwrap() + 1].starts_with("give back "), "{what:?}");
    // The next partition gets them.
    io_built(&mut host, "io-a");
    host.ok(vec![assign(DISK, IO_A)]);
}

#[test]
fn a_function_comes_free_in_the_turn_in_which_another_wants_it() {
    let words = arena();
    let mut host = Host::new(&words);
    io_built(&mut host, "io-a");
    io_built(&mut host, "io-b");
    host.ok(vec![assign(DISK, IO_A)]);
    // The partition is dying, and given up while the next request is planned.
    host.monitor.short_turns = true;
    host.ok(vec![become_state(IO_A, state::DYING), destroy(IO_A)]);
    host.ok(vec![assign(DISK, IO_B)]);
    assert_eq!(owner(&host, DISK), IO_B);
}

#[test]
fn many_functions_go_in_batches_that_fit_the_log() {
    static MANY: [DeviceFunction; MAX_FUNCTIONS] = [FUNCTIONS[1]; MAX_FUNCTIONS];
    let words = arena_of(96);
    let mut host = Host::of(&words, FRAMES, Limits { functions: &MANY, ..LIMITS });
    io_built(&mut host, "io-a");
    for first in (0..MAX_FUNCTIONS as u32).step_by(32) {
        host.ok((first..first + 32).map(|function| assign(function, IO_A)).collect());
    }
    host.ok(vec![destroy(IO_A)]);
    assert!((0..MAX_FUNCTIONS as u32).all(|function| owner(&host, function) == UNASSIGNED));
    assert!(!host.engine.waits());
    // All functions are shown, in as many answers as it takes.
    let (mut shown, mut answers) = (0, 0);
    loop {
        let Answer::Devices { rows, more } = ask(&host, &Query::Devices { first: shown }) else {
            panic!();
        };
        assert!((shown..).zip(&rows).all(|(index, row)| row.index == index));
        (shown, answers) = (shown + rows.len() as u32, answers + 1);
        if !more {
            break;
        }
    }
    assert_eq!((shown, answers), (MAX_FUNCTIONS as u32, 3));
}

#[test]
fn a_function_is_shown_with_its_owner() {
    let words = arena();
    let mut host = Host::new(&words);
    io_built(&mut host, "io-a");
    host.ok(vec![assign(DISK, IO_A)]);
    let Answer::Devices { rows, more } = ask(&host, &Query::Devices { first: 1 }) else {
        panic!();
    };
    assert_eq!((rows.len(), more), (3, false));
    let (disk, shared) = (&rows[0], &rows[2]);
    assert_eq!((disk.index, disk.address, disk.owner, disk.vectors), (1, 0x10, IO_A, 3));
    assert_eq!((disk.bars.len(), disk.bars[0].register, disk.bars[0].bytes), (1, 1, 4096));
    assert_eq!((shared.owner, shared.refused), (UNASSIGNED, FUNCTIONS[3].refused));
}

#[test]
fn an_undo_returns_a_function_where_it_was() {
    let words = arena();
    let mut host = Host::new(&words);
    io_built(&mut host, "io-a");
    io_built(&mut host, "io-b");
    let contents = |host: &Host| picture(&host.engine).0;
    let before = contents(&host);
    host.ok(vec![assign(DISK, IO_A)]);
    let (assigned, sequence) = (contents(&host), host.last());
    host.undo(sequence).unwrap();
    assert!(contents(&host) == before);
    // An undo can be undone, and an old one not done twice.
    host.undo(host.last()).unwrap();
    assert!(contents(&host) == assigned);
    let refusal = host.undo(sequence).unwrap_err();
    assert_eq!(refusal.code, Code::MovedOn);
    assert!(refusal.reason.contains("since then"), "{}", refusal.reason);

    host.ok(vec![release(DISK, IO_A), assign(DISK, IO_B)]);
    let moved = host.last();
    host.undo(moved).unwrap();
    assert!(contents(&host) == assigned);
    // Its partition runs: the same rule as for a release.
    host.ok(vec![assign(OTHER, IO_B)]);
    let given = host.last();
    host.ok(vec![become_state(IO_B, state::RUNNING)]);
    assert_eq!(host.undo(given).unwrap_err().code, Code::WrongState);
    // A partition that took the number of the old one gets nothing by an undo.
    host.ok(vec![release(DISK, IO_A)]);
    let released = host.last();
    host.ok(vec![destroy(IO_A)]);
    io_built(&mut host, "io-a");
    assert_eq!(host.undo(released).unwrap_err().code, Code::MovedOn);
    // What was created with a function goes with it.
    host.ok(vec![become_state(IO_A, state::DYING), destroy(IO_A)]);
    let function = Operation::AssignDevice { function: DISK, partition: Target::CreatedBy(0) };
    host.ok(vec![create_io("io-a"), function]);
    host.undo(host.last()).unwrap();
    assert_eq!(owner(&host, DISK), UNASSIGNED);
    agree(&host.engine, &host.monitor);
}
