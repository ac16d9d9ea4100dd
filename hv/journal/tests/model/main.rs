//! Every order of a guest, a device, and servers that die between any two stores of the journal.
//!
//! The stores are those of the crate: an operation runs on a copy of the memory, and the model
//! applies its stores one after another. Only a successor sees stores to the page, so they need no
//! interleaving with the guest's steps, only deaths between them.
//!
//! The checker must find each way to break the protocol; the test names it with the checker's
//! message.

#[path = "../memory/mod.rs"]
mod memory;

mod explore;
mod machine;

use explore::explore;
use machine::{Fault, Setup};
use pv_abi::xen::block::{FLUSH, READ, WRITE};

fn honest(operations: &[u8], deaths: u8) -> Setup {
    Setup {
        operations: operations.to_vec(),
        deaths,
        hostile: 0,
        two_paths: false,
        fault: Fault::None,
    }
}

fn check(setup: &Setup, at_least: usize) {
    match explore(setup) {
        Ok(states) => {
            println!("{states} states");
            assert!(states >= at_least, "{states} states");
        }
        Err(found) => panic!("{found}"),
    }
}

#[test]
fn each_request_has_one_answer_whoever_dies() {
    check(&honest(&[READ, WRITE, READ], 2), 10_000);
}

#[test]
fn a_successor_may_die_three_times() {
    check(&honest(&[READ, WRITE], 4), 5_000);
}

#[test]
fn a_flush_covers_what_was_answered_before_it() {
    check(&honest(&[WRITE, FLUSH, WRITE], 1), 10_000);
    check(&Setup { two_paths: true, ..honest(&[WRITE, FLUSH], 2) }, 2_000);
}

#[test]
fn a_front_end_that_moves_indices_harms_itself_alone() {
    check(&Setup { hostile: 1, ..honest(&[READ], 2) }, 5_000);
}

#[test]
#[ignore = "six million states take minutes"]
fn a_front_end_that_moves_indices_twice_or_among_two_requests() {
    check(&Setup { hostile: 2, ..honest(&[READ], 1) }, 1_000_000);
    check(&Setup { hostile: 1, ..honest(&[READ, WRITE], 1) }, 1_000_000);
}

/// Breaks the protocol, and returns the checker's message.
fn broken(fault: Fault) -> String {
    let setup = Setup { fault, ..honest(&[READ, WRITE, READ], 2) };
    explore(&setup).err().map_or_else(|| "nothing".to_owned(), |found| found.what)
}

#[test]
fn each_fault_of_the_protocol_is_found() {
    let cases = [
        (Fault::StateBeforeEntries, "held: Seal"),
        (Fault::NoSeal, "issued what was not sent"),
        (Fault::NoLines, "held: Line"),
        (Fault::PublishBeforeLines, "held: Line"),
        (Fault::NoPublish, "held: State"),
        (Fault::PublishAfterProduced, "broken: ResponsesMoved"),
        (Fault::ProducedBeforeSlots, "answer to nothing"),
        (Fault::StateBeforeProduced, "broken: ResponsesMoved"),
        (Fault::EndBeforeState, "held: State"),
        (Fault::NoClearing, "held: State"),
        (Fault::SettleDoesNotClear, "held: State"),
        (Fault::SettleWritesNoSlots, "answer to nothing"),
        (Fault::IssueFromRing, "issued what was not sent"),
        (Fault::NoReset, "late transfer"),
        (Fault::NoReissue, "asleep for ever"),
        (Fault::NoEventAtAttach, "asleep for ever"),
        (Fault::NoSecondLook, "asleep for ever"),
    ];
    let mut wrong = Vec::new();
    for (fault, expected) in cases {
        let what = broken(fault);
        println!("{fault:?}: {what}");
        if !what.starts_with(expected) {
            wrong.push(format!("{fault:?}: {what}, not {expected}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// The one reordering that harms nobody: no reader looks at the slots between the two stores.
#[test]
fn publish_may_come_after_the_slots() {
    check(&Setup { fault: Fault::PublishAfterSlots, ..honest(&[READ, WRITE], 2) }, 10_000);
}

#[test]
fn a_path_is_flushed_before_it_is_left() {
    let fault = Fault::OldPathNotFlushed;
    let setup = Setup { fault, two_paths: true, ..honest(&[WRITE, FLUSH], 1) };
    assert_eq!(explore(&setup).unwrap_err().what, "flush answered falsely");
}
