//! Inverse transactions.

use control::command::{Code, Operation, Outcome, Range, Target};
use pv_abi::uv::database::{FIRST_GUEST, asked, state};

use crate::fake::{Host, arena, create, create_as, picture};

/// The contents of the database without its version.
fn contents(host: &Host) -> Vec<u8> {
    picture(&host.engine).0
}

#[test]
fn what_was_changed_is_changed_back() {
    let words = arena();
    let mut host = Host::new(&words);
    let (number, _) = host.built("web");
    let partition = Target::Number(number);
    host.ok(vec![Operation::SetState { partition, state: state::RUNNING }]);
    let cpu = Operation::SetCpu {
        partition,
        weight: Some(512),
        cap: Some(20),
        affinity: Some(vec![1]),
        dedicated: Some(true),
    };
    for operation in [
        cpu,
        Operation::Rename { partition, name: "www".into() },
        Operation::SetMemoryTarget { partition, frames: 10 },
        Operation::SetVcpusOnline { partition, vcpus: 1 },
        Operation::AssignMemory { partition, frames: 3000 },
        Operation::SetState { partition, state: state::PAUSED },
        create("other"),
    ] {
        let before = contents(&host);
        host.ok(vec![operation.clone()]);
        let made = contents(&host);
        assert!(made != before);
        let sequence = host.last();
        host.undo(sequence).unwrap_or_else(|refusal| panic!("{operation:?}: {refusal:?}"));
        let undone = host.engine.records().0;
        let undone =
            undone.iter().find(|r| r.what.starts_with(&format!("undo {sequence}: "))).unwrap();
        assert!(undone.reason.contains("a mistake"), "{}", undone.reason);
        assert!(contents(&host) == before, "{operation:?}");
        let refusal = host.undo(sequence).unwrap_err();
        assert_eq!(refusal.code, Code::MovedOn, "{operation:?}");
        assert!(refusal.reason.contains(&format!("undo {sequence}")), "{}", refusal.reason);
    }
}

#[test]
fn an_undo_can_be_undone() {
    let words = arena();
    let mut host = Host::new(&words);
    let (number, _) = host.built("web");
    host.ok(vec![Operation::Rename { partition: Target::Number(number), name: "www".into() }]);
    let made = contents(&host);
    host.undo(host.last()).unwrap();
    host.undo(host.last()).unwrap();
    assert!(contents(&host) == made);
}

#[test]
fn where_the_world_has_moved_on_it_is_refused_with_what_happened() {
    let words = arena();
    let mut host = Host::new(&words);
    let (number, _) = host.built("web");
    let partition = Target::Number(number);
    let rename = |name: &str| Operation::Rename { partition, name: name.into() };
    host.ok(vec![rename("one")]);
    let first = host.last();
    host.ok(vec![rename("two")]);
    let refusal = host.undo(first).unwrap_err();
    assert_eq!(refusal.code, Code::MovedOn);
    assert!(
        refusal.reason.contains("name of partition \"two\" (16) was set to one, and is two now")
    );
    assert!(refusal.reason.contains("rename \"one\" (16) \"two\""), "{}", refusal.reason);
    let outcomes = host.ok(vec![Operation::AssignMemory { partition, frames: 9 }]);
    let assigned = host.last();
    let [Outcome::Memory(taken)] = &outcomes[..] else { panic!("{outcomes:?}") };
    let end = taken[0].first;
    let ranges = vec![Range { first: end, frames: 1 }];
    host.ok(vec![Operation::ReleaseMemory { partition, ranges }]);
    assert_eq!(host.undo(host.last()).unwrap_err().code, Code::NotUndoable);
    assert_eq!(host.undo(assigned).unwrap_err().code, Code::MovedOn);
    let created = host.engine.records().0;
    let created = created.iter().find(|r| r.what.starts_with("create")).unwrap().sequence;
    host.ok(vec![Operation::SetState { partition, state: state::RUNNING }]);
    assert_eq!(host.undo(host.last()).unwrap_err().code, Code::NotUndoable);
    let refusal = host.undo(created).unwrap_err();
    assert!(refusal.reason.contains("is running"), "{}", refusal.reason);
    host.ok(vec![Operation::Ask { partition, what: asked::POWER_OFF }]);
    assert_eq!(host.undo(host.last()).unwrap_err().code, Code::NotUndoable);
    let dying = Operation::SetState { partition, state: state::DYING };
    host.ok(vec![dying, Operation::DestroyPartition { partition }]);
    for sequence in host.last() - 1..=host.last() {
        let code = host.undo(sequence).unwrap_err().code;
        assert!([Code::MovedOn, Code::NotUndoable].contains(&code), "{code}");
    }
    // A new partition with the same number is not the one that was created.
    host.ok(vec![create_as("web", Some(number))]);
    assert_eq!(host.descriptor(FIRST_GUEST).number, number);
    let refusal = host.undo(created).unwrap_err();
    assert!(refusal.reason.contains("is now a different one"), "{}", refusal.reason);
    for sequence in [0, 1, host.last() + 1, u64::MAX] {
        assert!(host.undo(sequence).is_err());
    }
}

#[test]
fn a_target_that_was_set_beside_more_memory_goes_back() {
    let words = arena();
    let mut host = Host::new(&words);
    let (number, _) = host.built("web");
    let partition = Target::Number(number);
    host.ok(vec![Operation::SetMemoryTarget { partition, frames: 30 }]);
    let before = contents(&host);
    host.ok(vec![
        Operation::AssignMemory { partition, frames: 50 },
        Operation::SetMemoryTarget { partition, frames: 120 },
    ]);
    host.undo(host.last()).unwrap();
    assert!(contents(&host) == before, "target {}", host.descriptor(number).memory_target);
}

#[test]
fn a_dedication_is_undone_though_a_bystander_is_gone() {
    let words = arena();
    let mut host = Host::new(&words);
    let (number, _) = host.built("web");
    let outcomes = host.ok(vec![create("bystander")]);
    let Outcome::Partition(bystander) = outcomes[0] else { panic!("{outcomes:?}") };
    let cpu = Operation::SetCpu {
        partition: Target::Number(number),
        weight: None,
        cap: None,
        affinity: Some(vec![1]),
        dedicated: Some(true),
    };
    host.ok(vec![cpu]);
    let dedicated = host.last();
    host.ok(vec![Operation::DestroyPartition { partition: Target::Number(bystander) }]);
    host.undo(dedicated).unwrap();
    assert_eq!(host.descriptor(number).cpu_dedicated, 0);
}
