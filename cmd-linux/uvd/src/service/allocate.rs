//! The host's allocation policy: whether there is enough, and which CPUs.
//!
//! Rule: what cannot be is refused before anything is sent, with what is asked and what is there;
//! what is sent may still be refused, for the ultravisor decides.

use std::collections::{BTreeMap, BTreeSet};

use definition::Definition;
use pv_abi::PAGE_SIZE;
use pv_abi::uv::command::{Answer, Body, PartitionRow, Query};
use pv_abi::uv::database::instance_frames;
use uvd_protocol::{Failure, way_out};

use crate::hub::{Hub, refused, unexpected};

/// Frames that a partition takes, its monitor instance included.
fn frames(what: &Definition) -> u64 {
    what.max_memory / PAGE_SIZE as u64 + instance_frames(what.max_vcpus, what.grant_frames)
}

/// Checks that all of them fit next to those that are there; the CPUs that each gets, none: all.
pub async fn check(hub: &Hub, definitions: &[&Definition]) -> Result<Vec<Vec<u32>>, Failure> {
    names(definitions, hub.rows.borrow().values())?;
    let free = hub.replica.borrow().free_frames();
    memory(definitions, free.unwrap_or(u64::MAX))?;
    // What the machine has is asked for only where CPUs are to be chosen: all the page map is read.
    if !definitions.iter().any(|one| is_to_be_given_cpus(one)) {
        return choose(definitions, hub.rows.borrow().values(), &[]);
    }
    let cpus = match hub.ask(Body::Query(Query::Resources)).await?.answer {
        Answer::Resources(resources) => {
            resources.cpus.iter().filter(|cpu| cpu.online).map(|cpu| cpu.index).collect::<Vec<_>>()
        }
        _ => return Err(unexpected("resources")),
    };
    choose(definitions, hub.rows.borrow().values(), &cpus)
}

fn names<'r>(
    definitions: &[&Definition],
    rows: impl Iterator<Item = &'r PartitionRow>,
) -> Result<(), Failure> {
    let wanted: BTreeSet<&str> = definitions.iter().map(|one| one.name.as_str()).collect();
    let taken: BTreeMap<&str, &PartitionRow> = rows
        .filter(|row| wanted.contains(row.name.as_str()))
        .map(|row| (row.name.as_str(), row))
        .collect();
    for definition in definitions {
        if let Some(row) = taken.get(definition.name.as_str()) {
            let object = format!("partition {:?}", definition.name);
            let reason = format!("partition {} has it", row.number);
            let way_out = way_out::with_name(way_out::DESTROY, &row.name);
            return Err(refused("name-taken", &object, "name", &reason, &way_out));
        }
    }
    Ok(())
}

fn memory(definitions: &[&Definition], free: u64) -> Result<(), Failure> {
    let asked: u64 = definitions.iter().map(|one| frames(one)).sum();
    if asked <= free {
        return Ok(());
    }
    let object = match definitions {
        [one] => format!("partition {:?}", one.name),
        many => format!("{} partitions", many.len()),
    };
    let reason = format!("{} needed, {} free", mebibytes(asked, true), mebibytes(free, false));
    let way_out = format!(
        "ask for {} less, or destroy a partition first; {}",
        mebibytes(asked - free, true),
        way_out::RESOURCES
    );
    Err(refused("no-memory", &object, "memory", &reason, &way_out))
}

fn mebibytes(frames: u64, up: bool) -> String {
    let mebibyte = (1 << 20) / PAGE_SIZE as u64;
    let whole = if up { frames.div_ceil(mebibyte) } else { frames / mebibyte };
    format!("{whole} MiB")
}

/// Whether one wants CPUs for itself and leaves open which.
fn is_to_be_given_cpus(one: &Definition) -> bool {
    one.cpu.dedicated && one.cpu.affinity.is_empty()
}

/// CPUs for each definition. One that wants CPUs for itself and names none gets as many as it
/// has virtual ones, the last of those that nobody has for itself, and never all.
fn choose<'r>(
    definitions: &[&Definition],
    rows: impl Iterator<Item = &'r PartitionRow>,
    cpus: &[u32],
) -> Result<Vec<Vec<u32>>, Failure> {
    let dedicated = rows.filter(|row| row.cpu_dedicated);
    let mut taken: Vec<u32> = dedicated.flat_map(|row| row.cpu_affinity.clone()).collect();
    for one in definitions.iter().filter(|one| one.cpu.dedicated) {
        taken.extend(&one.cpu.affinity);
    }
    let mut chosen = Vec::new();
    for one in definitions {
        if !is_to_be_given_cpus(one) {
            chosen.push(one.cpu.affinity.clone());
            continue;
        }
        let free: Vec<u32> = cpus.iter().copied().filter(|cpu| !taken.contains(cpu)).collect();
        let wanted = one.vcpus as usize;
        if free.len() <= wanted {
            return Err(no_cpus(one, free.len(), cpus.len()));
        }
        let own = free[free.len() - wanted..].to_vec();
        taken.extend(&own);
        chosen.push(own);
    }
    Ok(chosen)
}

fn no_cpus(one: &Definition, free: usize, all: usize) -> Failure {
    let object = format!("partition {:?}", one.name);
    let reason = format!(
        "{} CPUs of its own asked; {free} of {all} are nobody's own, and one stays for the others",
        one.vcpus
    );
    let way_out = "ask for fewer virtual CPUs, or without `dedicated`";
    refused("no-cpus", &object, "cpu.dedicated", &reason, way_out)
}

#[cfg(test)]
mod tests;
