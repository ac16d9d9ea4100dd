//! Keeps definitions in step with their partitions.
//!
//! A partition changes through its definition, but also by an undo, or by a client that sends a
//! request to the ultravisor itself. Rule: whatever changed the partition, its definition describes
//! its present state, so a plan shows what an apply would change.

use std::collections::{BTreeMap, BTreeSet};

use control::command::PartitionRow;
use definition::Definition;
use pv_abi::PAGE_SIZE;
use pv_abi::uv::database::{ULTRAVISOR, kind};

use crate::context::Context;
use crate::state::{Edit, Record};

/// Takes over the changes of partitions from one reading to the next.
pub fn follow(context: &Context, old: &BTreeMap<u32, PartitionRow>, rows: &[PartitionRow]) {
    let host = context.guests.rows.borrow().get(ULTRAVISOR).map(|row| row.cpu_affinity.clone());
    let all = host.unwrap_or_default();
    for row in rows.iter().filter(|row| row.kind == kind::GUEST) {
        let before = old.get(&row.number).filter(|old| old.created_at == row.created_at);
        let Some(before) = before else { continue };
        let mut state = context.state.borrow_mut();
        let named = |name: &str| state.records().get(name).cloned();
        let Some(record) = named(&before.name).or_else(|| named(&row.name)) else { continue };
        let mut definition = record.definition.clone();
        change(&mut definition, before, row, &all);
        if definition != record.definition {
            let forgotten = Edit::Forget(record.definition.name.clone());
            state.edit(&[forgotten, Edit::Put(Record { definition, ..record })]);
        }
        if before.name != row.name {
            context.consoles.borrow_mut().rename(&before.name, &row.name);
        }
    }
}

/// Takes over that disks of these partitions were detached. The copy of the database must have all
/// records that there were at the last reply: a copy that lacks the record of an attach would take
/// the disk from its definition.
pub fn follow_disks(context: &Context, numbers: &BTreeSet<u32>) {
    let mut state = context.state.borrow_mut();
    let has_disks = |name: &str| {
        state.records().get(name).is_some_and(|record| !record.definition.disks.is_empty())
    };
    let found = context.database.replica.borrow().disks(numbers, has_disks);
    for (name, devices) in found.into_values() {
        let Some(record) = state.records().get(&name).cloned() else { continue };
        let mut definition = record.definition.clone();
        definition.disks.retain(|disk| devices.contains(&disk.device));
        if definition != record.definition {
            state.edit(&[Edit::Put(Record { definition, ..record })]);
        }
    }
}

/// Puts the changes of a partition into its definition; `all` are the CPUs of the host.
fn change(what: &mut Definition, before: &PartitionRow, now: &PartitionRow, all: &[u32]) {
    if before.name != now.name {
        what.name.clone_from(&now.name);
    }
    if before.cpu_weight != now.cpu_weight {
        what.cpu.weight = now.cpu_weight;
    }
    if before.cpu_cap != now.cpu_cap {
        what.cpu.cap = now.cpu_cap;
    }
    if before.cpu_dedicated != now.cpu_dedicated {
        what.cpu.dedicated = now.cpu_dedicated;
    }
    if before.vcpus_online != now.vcpus_online {
        what.vcpus = now.vcpus_online;
    }
    if before.memory_target != now.memory_target {
        what.memory = now.memory_target * PAGE_SIZE as u64;
    }
    // An empty list stands for every CPU.
    let said = if what.cpu.affinity.is_empty() { all } else { &what.cpu.affinity };
    if before.cpu_affinity != now.cpu_affinity && said != now.cpu_affinity {
        let every = now.cpu_affinity == all;
        what.cpu.affinity = if every { Vec::new() } else { now.cpu_affinity.clone() };
    }
}
