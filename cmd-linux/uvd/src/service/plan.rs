//! What an apply would do, and doing it.
//!
//! Rule: the plan is a function of what is defined, what is there and what should be; whatever
//! cannot be done while a partition runs is refused as a whole, with the fields. A plan refuses
//! what an apply would refuse: both go the same way up to the first change ([`batch::rehearse`]).

use std::cell::LazyCell;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::rc::Rc;

use definition::Definition;
use pv_abi::uv::command::{Operation, PartitionRow};
use uvd_protocol::{Failure, Planned, ServiceAnswer, way_out};

use super::batch::{self, Batch, Creation};
use super::{Reporter, live};
use crate::hub::{Hub, refused};
use crate::loader::Kernel;
use crate::rows::Rows;
use crate::state::{Edit, Record};

/// Tries for a plan while the database changes.
const TRIES: u32 = 5;

/// Answers what would be done.
pub async fn answer(
    hub: &Rc<Hub>,
    definitions: &[Definition],
    prune: bool,
    reporter: &Reporter,
) -> Result<ServiceAnswer, Failure> {
    let version = hub.current().await?;
    let (changes, batch) = planned(hub, definitions, prune)?;
    batch::rehearse(hub, &batch, reporter).await?;
    Ok(ServiceAnswer::Changes { version, changes })
}

/// What an apply makes so.
pub struct Wanted {
    /// The partitions that should be there, and how.
    pub definitions: Vec<Definition>,
    /// Those that were applied before and are not wanted any more go.
    pub prune: bool,
    /// The version of the database that somebody saw a plan of.
    pub planned_at: Option<u64>,
    /// Why, for the audit log.
    pub reason: String,
}

/// Makes it so. Kernels are unpacked by a plan of before; what is done is planned in the turn, so
/// that no other client of this `uvd` makes the plan stale. Without a version that somebody looked
/// at, a plan that is stale for others' changes is made anew.
pub async fn apply(
    hub: &Rc<Hub>,
    wanted: &Wanted,
    reporter: &Reporter,
) -> Result<ServiceAnswer, Failure> {
    for _ in 1..TRIES {
        match apply_once(hub, wanted, reporter).await {
            Err(Failure::Refused(refusal))
                if refusal.code == "stale-plan" && wanted.planned_at.is_none() => {}
            done => return done,
        }
    }
    apply_once(hub, wanted, reporter).await
}

async fn apply_once(
    hub: &Rc<Hub>,
    wanted: &Wanted,
    reporter: &Reporter,
) -> Result<ServiceAnswer, Failure> {
    let Wanted { definitions, prune, planned_at, reason } = wanted;
    let loaded = load(hub, wanted, reporter).await?;
    let turn = batch::take_turn(hub).await?;
    let version = hub.current().await?;
    if let Some(planned) = planned_at
        && *planned != version
    {
        let reason = format!("planned at {planned}, is {version}");
        return Err(refused("stale-plan", "database", "version", &reason, way_out::LOG));
    }
    let (changes, batch) = planned(hub, definitions, *prune)?;
    let batch = Batch { planned_at: Some(version), reason: reason.clone(), ..batch };
    let destroyed: Vec<String> = batch.destroys.iter().map(|row| row.name.clone()).collect();
    let mut kernels = Vec::new();
    for creation in &batch.creates {
        match loaded.get(&creation.definition.name) {
            Some(kernel) => kernels.push(Kernel::clone(kernel)),
            None => {
                let one = Batch { creates: vec![creation.clone()], ..Batch::default() };
                kernels.extend(batch::load(hub, &one, reporter).await?);
            }
        }
    }
    batch::carry_out_in(hub, turn, (batch, kernels), reporter).await?;
    for name in &destroyed {
        hub.consoles.borrow_mut().end(name, None);
        hub.consoles.borrow_mut().retire(name);
    }
    let version = hub.current().await?;
    Ok(ServiceAnswer::Changes { version, changes })
}

/// What would be done as things are now, and the batch that does it.
fn planned(
    hub: &Hub,
    definitions: &[Definition],
    prune: bool,
) -> Result<(Vec<Planned>, Batch), Failure> {
    let (state, rows) = (hub.state.borrow(), hub.rows.borrow());
    let changes = plan(state.records(), &rows, definitions, prune)?;
    let batch = batch(state.records(), &rows, &changes, definitions);
    Ok((changes, batch))
}

/// The kernels of what is to be created as things are, by name.
async fn load(
    hub: &Rc<Hub>,
    wanted: &Wanted,
    reporter: &Reporter,
) -> Result<BTreeMap<String, Kernel>, Failure> {
    hub.current().await?;
    let (_, batch) = planned(hub, &wanted.definitions, wanted.prune)?;
    batch::check_sizes(&batch)?;
    let kernels = batch::load(hub, &batch, reporter).await?;
    let names = batch.creates.into_iter().map(|creation| creation.definition.name);
    Ok(names.zip(kernels).collect())
}

/// What would be done, a line for each partition.
pub fn plan(
    records: &BTreeMap<String, Record>,
    rows: &Rows,
    definitions: &[Definition],
    prune: bool,
) -> Result<Vec<Planned>, Failure> {
    let mut names = HashSet::with_capacity(definitions.len());
    let mut planned = Vec::with_capacity(definitions.len());
    for definition in definitions {
        if !names.insert(definition.name.as_str()) {
            let object = format!("partition {:?}", definition.name);
            let way_out = "give each partition a name of its own";
            return Err(refused("name-taken", &object, "name", "is defined twice", way_out));
        }
        planned.push(one(records, rows, definition)?);
    }
    if prune {
        let gone = records
            .iter()
            .filter(|(name, record)| record.applied && !names.contains(name.as_str()));
        planned.extend(gone.map(|(name, _)| Planned::Destroy { name: name.clone() }));
    }
    Ok(planned)
}

fn one(
    records: &BTreeMap<String, Record>,
    rows: &Rows,
    new: &Definition,
) -> Result<Planned, Failure> {
    let name = new.name.clone();
    let there = rows.named(&name).is_some();
    let Some(record) = records.get(&name) else {
        if there {
            let object = format!("partition {name:?}");
            let way_out = way_out::with_name(way_out::DESTROY, &name);
            let reason = "there is one that was not defined here";
            return Err(refused("name-taken", &object, "name", reason, &way_out));
        }
        return Ok(Planned::Create { definition: new.clone() });
    };
    if !there {
        return Ok(Planned::Create { definition: new.clone() });
    }
    if new.memory < record.least_memory {
        let object = format!("partition {name:?}");
        return Err(batch::too_little_memory(&object, new.memory, record.least_memory));
    }
    let fields = definition::changes(&record.definition, new);
    if fields.is_empty() {
        return Ok(Planned::Same { name });
    }
    let fixed: Vec<_> = fields.iter().filter(|field| !field.live).collect();
    let Some(first) = fixed.first() else {
        return Ok(Planned::Change { name, fields });
    };
    let names: Vec<&str> = fixed.iter().map(|field| field.field.as_str()).collect();
    let reason = format!(
        "is {}, should be {}, and does not change while the partition is there",
        first.from, first.to
    );
    let way_out = way_out::with_name(way_out::DESTROY_TO_APPLY, &name);
    let object = format!("partition {name:?}");
    Err(refused("needs-restart", &object, &names.join(", "), &reason, &way_out))
}

/// The batch that does what was planned.
fn batch(
    records: &BTreeMap<String, Record>,
    rows: &Rows,
    planned: &[Planned],
    definitions: &[Definition],
) -> Batch {
    let mut batch = Batch::default();
    let by_name = LazyCell::new(|| {
        definitions.iter().map(|one| (one.name.as_str(), one)).collect::<HashMap<_, _>>()
    });
    for one in planned {
        match one {
            Planned::Create { definition } => {
                let creation = Creation { definition: definition.clone(), paused: false };
                batch.creates.push(creation);
                batch.edits.push(Edit::Put(Record::new(definition.clone(), true)));
            }
            Planned::Change { name, .. } => {
                let new = by_name.get(name.as_str()).copied();
                let (old, row) = (records.get(name), rows.named(name));
                let (Some(new), Some(old), Some(row)) = (new, old, row) else {
                    continue;
                };
                batch.changes.extend(operations(row, old, new));
                let record = Record { definition: new.clone(), applied: true, ..old.clone() };
                batch.edits.push(Edit::Put(record));
            }
            Planned::Destroy { name } => {
                batch.destroys.extend(rows.named(name).cloned());
                batch.edits.push(Edit::Forget(name.clone()));
            }
            Planned::Same { name } => {
                let record = records.get(name).filter(|record| !record.applied);
                let applied = record.map(|record| Record { applied: true, ..record.clone() });
                batch.edits.extend(applied.map(Edit::Put));
            }
        }
    }
    batch
}

fn operations(row: &PartitionRow, old: &Record, new: &Definition) -> Vec<Operation> {
    live::operations(row.number, &old.definition, new)
}

#[cfg(test)]
mod tests;
