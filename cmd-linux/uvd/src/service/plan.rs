//! Plans an apply, and carries it out.
//!
//! Rule: the plan is a function of the definitions, the existing partitions and the wanted
//! definitions. If one change is not possible while its partition runs, the whole plan is refused,
//! and the refusal names the fields. A plan refuses what an apply would refuse, because both take
//! the same path up to the first change ([`batch::rehearse`]).
//!
//! Most of a thousand definitions are unchanged, so each is compared by its bytes first, and only
//! those that differ are decoded, checked and compared field by field.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::rc::Rc;

use control::command::{Code, Operation, PartitionRow};
use definition::Definition;
use foldhash::fast::RandomState;
use uvd_protocol::{Definitions, Failure, Packed, Planned, ServiceAnswer, way_out};

use super::batch::{self, Batch, Creation, DiskChanges};
use super::{Reporter, check_definition, live, partitions};
use crate::context::Context;
use crate::context::refusal::refused;
use crate::loader::Kernel;
use crate::rows::Rows;
use crate::state::{Edit, Kept, Record};

/// The most tries for a plan while the database changes.
const TRIES: u32 = 5;

/// Answers with the changes that an apply would make.
pub async fn answer(
    context: &Rc<Context>,
    definitions: &Definitions,
    prune: bool,
    reporter: &Reporter,
) -> Result<ServiceAnswer, Failure> {
    let version = partitions::update(context).await?;
    let Plan { changes, batch, .. } = planned(context, definitions, prune)?;
    batch::rehearse(context, &batch, reporter).await?;
    Ok(ServiceAnswer::Changes { version, changes })
}

/// The wanted state of an apply.
pub struct Wanted {
    /// The definitions of the wanted partitions.
    pub definitions: Definitions,
    /// Whether to destroy partitions that were applied before and that the definitions no longer
    /// have.
    pub prune: bool,
    /// The version of the database at which the client saw a plan.
    pub planned_at: Option<u64>,
    /// The reason, for the audit log.
    pub reason: String,
}

/// Applies the definitions. An earlier plan decides which kernels to unpack. The changes are
/// planned again within the turn, so that no other client of this `uvd` makes the plan stale. If
/// the client named no version, and changes by others made the plan stale, the plan is made again.
pub async fn apply(
    context: &Rc<Context>,
    wanted: &Wanted,
    reporter: &Reporter,
) -> Result<ServiceAnswer, Failure> {
    for _ in 1..TRIES {
        match apply_once(context, wanted, reporter).await {
            Err(Failure::Refused(refusal))
                if refusal.code == Code::StalePlan && wanted.planned_at.is_none() => {}
            done => return done,
        }
    }
    apply_once(context, wanted, reporter).await
}

async fn apply_once(
    context: &Rc<Context>,
    wanted: &Wanted,
    reporter: &Reporter,
) -> Result<ServiceAnswer, Failure> {
    let Wanted { definitions, prune, planned_at, reason } = wanted;
    let loaded = load(context, wanted, reporter).await?;
    let turn = batch::take_turn(context).await?;
    let version = partitions::update(context).await?;
    if let Some(planned) = planned_at
        && *planned != version
    {
        let reason = format!("planned at {planned}, is {version}");
        return Err(refused(Code::StalePlan, "database", "version", &reason, way_out::LOG));
    }
    let Plan { changes, batch, applied } = planned(context, definitions, *prune)?;
    let mut batch = Batch { planned_at: Some(version), reason: reason.clone(), ..batch };
    batch.edits.extend(context.state.borrow().with_applied(&applied));
    let destroyed: Vec<String> = batch.destroys.iter().map(|row| row.name.clone()).collect();
    let mut kernels = Vec::new();
    for creation in &batch.creates {
        match loaded.get(&creation.definition.name) {
            Some(kernel) => kernels.push(Kernel::clone(kernel)),
            None => {
                let one = Batch { creates: vec![creation.clone()], ..Batch::default() };
                kernels.extend(batch::load(&context.loader, &one, reporter).await?);
            }
        }
    }
    batch::carry_out_in(context, turn, (batch, kernels), reporter).await?;
    for name in &destroyed {
        context.consoles.borrow_mut().end(name, None);
        context.consoles.borrow_mut().retire(name);
    }
    let version = partitions::update(context).await?;
    Ok(ServiceAnswer::Changes { version, changes })
}

/// The changes that would be made in the present state, and the batch that makes them.
fn planned(context: &Context, definitions: &Definitions, prune: bool) -> Result<Plan, Failure> {
    let (state, rows) = (context.state.borrow(), context.guests.rows.borrow());
    plan((state.records(), state.kept()), &rows, definitions, prune)
}

/// Loads the kernels of the partitions that would be created now. Returns them by name.
async fn load(
    context: &Rc<Context>,
    wanted: &Wanted,
    reporter: &Reporter,
) -> Result<BTreeMap<String, Kernel>, Failure> {
    partitions::update(context).await?;
    let Plan { batch, .. } = planned(context, &wanted.definitions, wanted.prune)?;
    batch::check_sizes(&batch)?;
    let kernels = batch::load(&context.loader, &batch, reporter).await?;
    let names = batch.creates.into_iter().map(|creation| creation.definition.name);
    Ok(names.zip(kernels).collect())
}

/// A plan.
#[derive(Debug, Default)]
pub struct Plan {
    /// The changes, one line for each partition.
    pub changes: Vec<Planned>,
    /// The batch that makes the changes.
    pub batch: Batch,
    /// Names of partitions that are as wanted, but were not applied from a file before.
    pub applied: Vec<String>,
}

/// Makes the plan.
pub fn plan(
    (records, kept): (&BTreeMap<String, Record>, &HashMap<String, Kept, RandomState>),
    rows: &Rows,
    definitions: &Definitions,
    prune: bool,
) -> Result<Plan, Failure> {
    let mut names = HashSet::with_capacity_and_hasher(kept.len(), RandomState::default());
    let mut plan = Plan::default();
    // A plan of a thousand partitions is not copied while it grows.
    plan.changes.reserve(kept.len());
    for packed in definitions.iter() {
        let packed = packed.map_err(|error| Failure::Malformed(error.to_string()))?;
        let name = packed.name;
        if !names.insert(name) {
            let object = format!("partition {name:?}");
            let way_out = "give each partition a name of its own";
            return Err(refused(Code::NameTaken, &object, "name", "is defined twice", way_out));
        }
        match kept.get(name).filter(|kept| kept.bytes == packed.bytes && rows.has(name)) {
            Some(kept) => plan.same(name, kept.applied),
            None => plan.one(records, rows, packed)?,
        }
    }
    if prune {
        let gone = records
            .iter()
            .filter(|(name, record)| record.applied && !names.contains(name.as_str()));
        gone.for_each(|(name, _)| plan.destroy(rows, name));
    }
    Ok(plan)
}

impl Plan {
    /// Adds a partition that is as wanted.
    fn same(&mut self, name: &str, applied: bool) {
        self.changes.push(Planned::Same { name: name.into() });
        if !applied {
            self.applied.push(name.into());
        }
    }

    /// Adds a partition to destroy.
    fn destroy(&mut self, rows: &Rows, name: &str) {
        self.changes.push(Planned::Destroy { name: name.into() });
        self.batch.destroys.extend(rows.named(name).cloned());
        self.batch.edits.push(Edit::Forget(name.into()));
    }

    /// Adds a partition that may be new, or differ.
    fn one(
        &mut self,
        records: &BTreeMap<String, Record>,
        rows: &Rows,
        packed: Packed<'_>,
    ) -> Result<(), Failure> {
        let new = packed.read().map_err(|error| Failure::Malformed(error.to_string()))?;
        check_definition(&new)?;
        let (planned, old) = (one(records, rows, &new)?, records.get(&new.name));
        match &planned {
            Planned::Create { .. } => {
                let creation = Creation { definition: new.clone(), paused: false };
                self.batch.creates.push(creation);
                self.batch.edits.push(Edit::Put(Record::new(new, true)));
            }
            Planned::Change { .. } => {
                if let (Some(old), Some(row)) = (old, rows.named(&new.name)) {
                    self.batch.changes.extend(operations(row, old, &new));
                    self.batch.disks.extend(DiskChanges::between(
                        row.number,
                        &old.definition,
                        &new,
                    ));
                    let record = Record { definition: new, applied: true, ..old.clone() };
                    self.batch.edits.push(Edit::Put(record));
                }
            }
            Planned::Destroy { .. } | Planned::Same { .. } => {
                self.applied.extend(old.filter(|old| !old.applied).map(|_| new.name));
            }
        }
        self.changes.push(planned);
        Ok(())
    }
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
            let reason = "a partition of this name exists that was not defined here";
            return Err(refused(Code::NameTaken, &object, "name", reason, &way_out));
        }
        return Ok(Planned::Create { definition: Box::new(new.clone()) });
    };
    if !there {
        return Ok(Planned::Create { definition: Box::new(new.clone()) });
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
    Err(refused(Code::NeedsRestart, &object, &names.join(", "), &reason, &way_out))
}

fn operations(row: &PartitionRow, old: &Record, new: &Definition) -> Vec<Operation> {
    live::operations(row.number, &old.definition, new)
}

#[cfg(test)]
mod tests;
