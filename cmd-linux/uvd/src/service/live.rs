//! Changes a partition while it runs.
//!
//! Rule: the partition and its definition change together, in one transaction.

use std::rc::Rc;

use control::command::{Code, DiskNumber, Operation, PartitionRow, Target};
use definition::{Definition, Disk};
use pv_abi::PAGE_SIZE;
use pv_abi::uv::database::kind;
use uvd_protocol::{Failure, ServiceAnswer, Settings, way_out};

use super::batch::{self, Batch, DiskChanges};
use super::{Reporter, check_definition, find};
use crate::context::Context;
use crate::context::refusal::refused;
use crate::state::{Edit, Record};
use crate::turns::Turn;

/// Renames a partition, running or not.
pub async fn rename(
    context: &Rc<Context>,
    name: &str,
    to: &str,
    reporter: &Reporter,
) -> Result<ServiceAnswer, Failure> {
    let turn = batch::take_turn(context).await?;
    let row = find(context, name).await;
    let name = row.as_ref().map_or(name, |row| row.name.as_str()).to_string();
    let record = context.state.borrow().records().get(&name).cloned();
    if to == name && (row.is_ok() || record.is_some()) {
        return Ok(ServiceAnswer::Done);
    }
    if let Ok(row) = &row
        && row.kind != kind::GUEST
    {
        let object = format!("partition {name:?}");
        let reason = "is the host's own, which keep their names";
        let way_out = "name a guest partition; see `uvtool list`";
        return Err(refused(Code::SystemPartition, &object, "name", reason, way_out));
    }
    if context.state.borrow().records().contains_key(to) {
        let object = format!("partition {name:?}");
        let reason = format!("{to:?} is defined already");
        return Err(refused(Code::NameTaken, &object, "name", &reason, "use another name"));
    }
    let mut batch = Batch { reason: format!("rename {name} to {to}"), ..Batch::default() };
    match &row {
        Ok(row) => {
            let partition = Target::Number(row.number);
            batch.changes.push(Operation::Rename { partition, name: to.into() });
        }
        Err(failure) if record.is_none() => return Err(failure.clone()),
        Err(_) => {}
    }
    if let Some(mut record) = record {
        record.definition.name = to.into();
        batch.edits = vec![Edit::Forget(name.clone()), Edit::Put(record)];
    }
    batch::carry_out_in(context, turn, (batch, Vec::new()), reporter).await?;
    context.consoles.borrow_mut().rename(&name, to);
    Ok(ServiceAnswer::Done)
}

/// Changes the values that are set.
pub async fn set(
    context: &Rc<Context>,
    name: &str,
    settings: &Settings,
    reporter: &Reporter,
) -> Result<ServiceAnswer, Failure> {
    let turn = batch::take_turn(context).await?;
    let row = find(context, name).await;
    let name = row.as_ref().map_or(name, |row| row.name.as_str()).to_string();
    let record = context.state.borrow().records().get(&name).cloned();
    let object = format!("partition {name:?}");
    let Some(record) = record else {
        return set_undefined(context, turn, (&row?, settings), reporter).await;
    };
    let new = changed(&record.definition, settings);
    check(&object, &record.definition, &new, record.least_memory)?;
    let changes = match &row {
        Ok(row) => operations(row.number, &record.definition, &new),
        Err(_) => Vec::new(),
    };
    let batch = Batch {
        reason: format!("set {name}"),
        changes,
        edits: vec![Edit::Put(Record { definition: new, ..record })],
        ..Batch::default()
    };
    batch::carry_out_in(context, turn, (batch, Vec::new()), reporter).await?;
    Ok(ServiceAnswer::Done)
}

/// Attaches a disk to a partition, running or not.
pub async fn attach_disk(
    context: &Rc<Context>,
    name: &str,
    disk: &Disk,
    reporter: &Reporter,
) -> Result<ServiceAnswer, Failure> {
    let device = DiskNumber(disk.device);
    let change = |definition: &mut Definition| {
        if definition.disks.iter().any(|other| other.device == disk.device) {
            let object = format!("{device} of partition {:?}", definition.name);
            let (reason, way_out) = ("the partition has such a disk", "use another device");
            return Err(refused(Code::NumberTaken, &object, "device", reason, way_out));
        }
        definition.disks.push(disk.clone());
        Ok(())
    };
    let changes =
        |number, name| DiskChanges { number, name, detach: Vec::new(), attach: vec![disk.clone()] };
    change_disks(context, name, &format!("attach {device} to"), change, changes, reporter).await
}

/// Detaches a disk from a partition, running or not.
pub async fn detach_disk(
    context: &Rc<Context>,
    name: &str,
    device: u32,
    reporter: &Reporter,
) -> Result<ServiceAnswer, Failure> {
    let change = |definition: &mut Definition| {
        let before = definition.disks.len();
        definition.disks.retain(|disk| disk.device != device);
        if definition.disks.len() == before {
            let object = format!("{} of partition {:?}", DiskNumber(device), definition.name);
            let reason = "the partition has no such disk";
            let way_out = way_out::with_name(way_out::DISKS, &definition.name);
            return Err(refused(Code::NoSuchDisk, &object, "device", reason, &way_out));
        }
        Ok(())
    };
    let changes =
        |number, name| DiskChanges { number, name, detach: vec![device], attach: Vec::new() };
    let word = format!("detach {} from", DiskNumber(device));
    change_disks(context, name, &word, change, changes, reporter).await
}

/// Changes the disks of a partition and of its definition, as far as there are such.
async fn change_disks(
    context: &Rc<Context>,
    name: &str,
    word: &str,
    change: impl FnOnce(&mut Definition) -> Result<(), Failure>,
    changes: impl FnOnce(u32, String) -> DiskChanges,
    reporter: &Reporter,
) -> Result<ServiceAnswer, Failure> {
    let turn = batch::take_turn(context).await?;
    let row = find(context, name).await;
    let name = row.as_ref().map_or(name, |row| row.name.as_str()).to_string();
    let record = context.state.borrow().records().get(&name).cloned();
    let mut batch = Batch { reason: format!("{word} {name}"), ..Batch::default() };
    match (&row, record) {
        (Err(failure), None) => return Err(failure.clone()),
        (_, Some(mut record)) => {
            change(&mut record.definition)?;
            check_definition(&record.definition)?;
            batch.edits.push(Edit::Put(record));
        }
        (Ok(_), None) => {}
    }
    batch.disks.extend(row.ok().map(|row| changes(row.number, name)));
    batch::carry_out_in(context, turn, (batch, Vec::new()), reporter).await?;
    Ok(ServiceAnswer::Done)
}

/// Changes the CPU settings of a partition without a definition, such as the command partition.
async fn set_undefined(
    context: &Rc<Context>,
    turn: Turn,
    (row, settings): (&PartitionRow, &Settings),
    reporter: &Reporter,
) -> Result<ServiceAnswer, Failure> {
    let Settings { memory, vcpus, weight, cap, affinity, dedicated, on } = settings.clone();
    let others = [
        ("memory", memory.is_some()),
        ("vcpus", vcpus.is_some()),
        ("on", on != Default::default()),
    ];
    if let Some((field, _)) = others.iter().find(|(_, given)| *given) {
        let object = format!("partition {:?}", row.name);
        let reason = "was not defined here, so its use of CPUs is all that is changed";
        return Err(refused(Code::NotDefined, &object, field, reason, way_out::DEFINITIONS));
    }
    let partition = Target::Number(row.number);
    let batch = Batch {
        reason: format!("set {}", row.name),
        changes: vec![Operation::SetCpu { partition, weight, cap, affinity, dedicated }],
        ..Batch::default()
    };
    batch::carry_out_in(context, turn, (batch, Vec::new()), reporter).await?;
    Ok(ServiceAnswer::Done)
}

/// The definition with the changes in `settings`.
fn changed(old: &Definition, settings: &Settings) -> Definition {
    let mut new = old.clone();
    new.memory = settings.memory.unwrap_or(old.memory);
    new.vcpus = settings.vcpus.unwrap_or(old.vcpus);
    new.cpu.weight = settings.weight.unwrap_or(old.cpu.weight);
    new.cpu.cap = settings.cap.unwrap_or(old.cpu.cap);
    new.cpu.affinity = settings.affinity.clone().unwrap_or(old.cpu.affinity.clone());
    new.cpu.dedicated = settings.dedicated.unwrap_or(old.cpu.dedicated);
    new.on.poweroff = settings.on.poweroff.unwrap_or(old.on.poweroff);
    new.on.reboot = settings.on.reboot.unwrap_or(old.on.reboot);
    new.on.crash = settings.on.crash.unwrap_or(old.on.crash);
    new
}

/// Checks the rules that hold whether the partition runs or not.
fn check(
    object: &str,
    old: &Definition,
    new: &Definition,
    least_memory: u64,
) -> Result<(), Failure> {
    let refuse = |field, reason: &str, way_out: &str| {
        Err(refused(Code::InvalidValue, object, field, reason, way_out))
    };
    if let Err(unfit) = new.check() {
        let more = unfit.field == "memory" && new.memory > new.max_memory
            || unfit.field == "vcpus" && new.vcpus > new.max_vcpus;
        let way_out = match unfit.field {
            _ if more => way_out::with_name(way_out::DESTROY_TO_GROW, &old.name),
            "cpu.dedicated" => "name the CPUs with --cpus, too".into(),
            _ => unfit.way_out,
        };
        return refuse(unfit.field, &unfit.problem, &way_out);
    }
    if new.memory != old.memory && new.memory < least_memory {
        return Err(batch::too_little_memory(object, new.memory, least_memory));
    }
    Ok(())
}

/// The operations that turn a partition of the old definition into one of the new definition.
pub fn operations(number: u32, old: &Definition, new: &Definition) -> Vec<Operation> {
    let partition = Target::Number(number);
    let mut operations = Vec::new();
    if old.cpu != new.cpu {
        operations.push(Operation::SetCpu {
            partition,
            weight: (old.cpu.weight != new.cpu.weight).then_some(new.cpu.weight),
            cap: (old.cpu.cap != new.cpu.cap).then_some(new.cpu.cap),
            affinity: (old.cpu.affinity != new.cpu.affinity).then(|| new.cpu.affinity.clone()),
            dedicated: (old.cpu.dedicated != new.cpu.dedicated).then_some(new.cpu.dedicated),
        });
    }
    if old.memory != new.memory {
        let frames = new.memory / PAGE_SIZE as u64;
        operations.push(Operation::SetMemoryTarget { partition, frames });
    }
    if old.vcpus != new.vcpus {
        operations.push(Operation::SetVcpusOnline { partition, vcpus: new.vcpus });
    }
    operations
}
