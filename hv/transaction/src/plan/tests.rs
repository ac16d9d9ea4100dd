//! Counts the work of a plan that asks for more than one transaction may change.

use alloc::vec::Vec;
use core::sync::atomic::AtomicU32;

use control::command::{Operation, Range};
use pv_abi::uv::database::{BOOT, DESCRIPTOR_MAGIC, MONITOR, kind, state};
use resource_db::PAGE_WORDS;
use zerocopy::FromZeros;

use super::*;
use crate::operations::{self, Caller};

/// Frames of the machine. Every other frame is free, so each free frame is an extent of its own.
const FRAMES: u64 = 40_000;
const LIMITS: Limits =
    Limits { cpus: 1, ranges: 1 << 20, meltdown: false, gpt: true, functions: &[] };
const ASKED: Target = Target::Number(FIRST_GUEST);

fn arena() -> Vec<AtomicU32> {
    (0..2048 * PAGE_WORDS).map(|_| AtomicU32::new(0)).collect()
}

/// A database whose free memory consists of single frames, and that has an empty partition.
fn scattered(words: &[AtomicU32]) -> Database<'_> {
    let mut database = Database::create(words, FRAMES, 0).unwrap();
    database.set_owner(0, FRAMES, Owner::ram(MONITOR)).unwrap();
    for frame in (1..FRAMES).step_by(2) {
        database.set_owner(frame, 1, Owner::FREE).unwrap();
    }
    let mut descriptor = PartitionDescriptor::new_zeroed();
    descriptor.magic = DESCRIPTOR_MAGIC;
    (descriptor.number, descriptor.kind) = (FIRST_GUEST, kind::GUEST);
    (descriptor.state, descriptor.owner) = (state::BUILDING, BOOT);
    database.write_descriptor(&descriptor).unwrap();
    database
}

fn assign(plan: &mut Plan, index: u32, frames: u64) -> Result<(), Refusal> {
    let caller = Caller { number: BOOT, limits: &LIMITS };
    operations::plan(plan, caller, index, &Operation::AssignMemory { partition: ASKED, frames })
}

#[test]
fn a_plan_takes_at_most_one_extent_more_than_it_may() {
    let words = arena();
    let database = scattered(&words);
    let index = Index::of(&database);
    // In one operation, and in the last of several.
    for before in [0, 1, 700, MAX_RANGES as u64] {
        let mut plan = Plan::new(&database, &index);
        if before > 0 {
            assign(&mut plan, 0, before).unwrap();
        }
        let refusal = assign(&mut plan, 1, FRAMES / 2 - before).unwrap_err();
        assert_eq!((refusal.code, refusal.field.as_str()), (Code::TooLarge, "ranges"));
        assert_eq!(plan.ranges(), MAX_RANGES + 1, "after {before}");
        assert_eq!(plan.actions.len(), MAX_RANGES + 1, "after {before}");
    }
}

#[test]
fn a_plan_may_take_as_many_extents_as_the_limit() {
    let words = arena();
    let database = scattered(&words);
    let index = Index::of(&database);
    let mut plan = Plan::new(&database, &index);
    assign(&mut plan, 0, MAX_RANGES as u64).unwrap();
    assert_eq!(plan.ranges(), MAX_RANGES);
    plan.check_room(&LIMITS).unwrap();
}

#[test]
fn more_frames_than_are_free_take_no_extent() {
    let words = arena();
    let database = scattered(&words);
    let index = Index::of(&database);
    let mut plan = Plan::new(&database, &index);
    let refusal = assign(&mut plan, 0, FRAMES / 2 + 1).unwrap_err();
    assert_eq!((refusal.code, plan.ranges()), (Code::NoMemory, 0));
}

/// The choice itself stops too; it does not choose all and drop most.
#[test]
fn a_choice_ends_one_extent_after_the_limit() {
    let free: Vec<Range> = (0..50_000).map(|n| Range { first: 2 * n, frames: 1 }).collect();
    for most in [0, 1, 1000] {
        let chosen = space::choose(&free, 50_000, most).unwrap();
        assert_eq!(chosen.len(), most + 1);
        assert!(chosen.capacity() <= 2 * (most + 4), "{} for {most}", chosen.capacity());
    }
}
