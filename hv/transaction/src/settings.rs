//! Changes to existing partitions: CPU shares, name, memory target, virtual CPUs.
//!
//! Rule: a setting that only the partition's kernel acts on is written into the descriptor and
//! nowhere else; the store follows the database.

use alloc::boxed::Box;
use alloc::format;

use control::command::{Code, Operation, Outcome, Refusal, Target};
use pv_abi::uv::database::{PartitionDescriptor, asked, kind, state};

use crate::cpus;
use crate::create::{check_name, set_name};
use crate::operations::{Caller, in_state, invalid, modifiable, not_itself, within};
use crate::plan::Plan;
use crate::refusal::{label, name_of, refusal};

/// Returns the target partition. Refuses a partition that the monitor made, or that is given up.
fn living(plan: &Plan, target: Target) -> Result<Box<PartitionDescriptor>, Refusal> {
    let target = modifiable(plan, target)?;
    let living = [state::BUILDING, state::RUNNING, state::PAUSED, state::SHUTDOWN, state::CRASHED];
    in_state(&target, &living, "changing it")?;
    Ok(target)
}

/// Plans [`Operation::SetCpu`].
pub(crate) fn set_cpu(
    plan: &mut Plan,
    caller: Caller,
    operation: &Operation,
) -> Result<Outcome, Refusal> {
    let Operation::SetCpu { partition, weight, cap, affinity, dedicated } = operation else {
        return Ok(Outcome::Done);
    };
    let mut target = living(plan, *partition)?;
    let object = label(&target);
    if let Some(weight) = *weight {
        within(&object, "cpu_weight", weight, 1, 65_535)?;
        target.cpu_weight = weight;
    }
    if let Some(cap) = *cap {
        within(&object, "cpu_cap", cap, 0, target.vcpus.saturating_mul(100))?;
        target.cpu_cap = cap;
    }
    if let Some(wanted) = affinity {
        target.cpu_affinity = cpus::mask(&object, wanted, caller.limits.cpus)?;
    }
    if let Some(dedicated) = *dedicated {
        target.cpu_dedicated = dedicated.into();
    }
    check_dedicated(&object, &target, caller)?;
    let number = target.number;
    plan.set_descriptor(target);
    plan.activate(number);
    if affinity.is_some() || dedicated.is_some() {
        cpus::settle(plan, &object)?;
    }
    Ok(Outcome::Done)
}

/// Checks that a partition with dedicated CPUs names them.
pub(crate) fn check_dedicated(
    object: &str,
    target: &PartitionDescriptor,
    caller: Caller,
) -> Result<(), Refusal> {
    let named = target.cpu_affinity != cpus::all(caller.limits.cpus);
    if target.cpu_dedicated == 0 || named {
        return Ok(());
    }
    let limit = "cpu_affinity with some of the CPUs, not all";
    Err(invalid(object, "cpu_dedicated", "every CPU", limit))
}

/// Plans [`Operation::Rename`]. The partitions of the host keep their names, by which people and
/// the log know them.
pub(crate) fn rename(plan: &mut Plan, partition: Target, name: &str) -> Result<Outcome, Refusal> {
    let mut target = living(plan, partition)?;
    if name_of(&target) != name {
        if target.kind != kind::GUEST {
            let reason = "partitions of the host keep their names";
            let way_out = "name a guest; `uvtool list` shows the guests";
            return Err(refusal(Code::SystemPartition, label(&target), "name", reason, way_out));
        }
        check_name(plan, &label(&target), target.kind, name)?;
        set_name(&mut target, name);
        plan.set_descriptor(target);
    }
    Ok(Outcome::Done)
}

/// Plans [`Operation::SetMemoryTarget`].
pub(crate) fn memory_target(
    plan: &mut Plan,
    partition: Target,
    frames: u64,
) -> Result<Outcome, Refusal> {
    let mut target = living(plan, partition)?;
    if frames == 0 || frames > target.memory_frames {
        let limit = format!("1 to {} frames, as many as it has", target.memory_frames);
        return Err(invalid(&label(&target), "memory_target", frames, &limit));
    }
    target.memory_target = frames;
    plan.set_descriptor(target);
    Ok(Outcome::Done)
}

/// Plans [`Operation::SetVcpusOnline`].
pub(crate) fn vcpus_online(
    plan: &mut Plan,
    partition: Target,
    vcpus: u32,
) -> Result<Outcome, Refusal> {
    let mut target = living(plan, partition)?;
    within(&label(&target), "vcpus_online", vcpus, 1, target.vcpus)?;
    target.vcpus_online = vcpus;
    plan.set_descriptor(target);
    Ok(Outcome::Done)
}

/// Plans [`Operation::Ask`].
pub(crate) fn ask(
    plan: &mut Plan,
    caller: Caller,
    partition: Target,
    what: u32,
) -> Result<Outcome, Refusal> {
    let mut target = modifiable(plan, partition)?;
    not_itself(caller, &target)?;
    in_state(&target, &[state::RUNNING], "asking its kernel")?;
    within(&label(&target), "asked", what, asked::POWER_OFF, asked::REBOOT)?;
    target.asked = what;
    plan.set_descriptor(target);
    Ok(Outcome::Done)
}
