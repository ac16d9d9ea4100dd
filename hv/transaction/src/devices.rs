//! PCI functions, which I/O partitions drive.
//!
//! Rule: a function changes hands only while the partition that had it does not run. Until then
//! that partition's page tables may map the registers of the function.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use control::command::{Code, Outcome, PciAddress, Refusal, Target, refused_words};
use pv_abi::uv::database::{UNASSIGNED, kind, state};
use pv_abi::uv::devices::DeviceFunction;

use crate::operations::{Caller, in_state, modifiable};
use crate::plan::Plan;
use crate::refusal::{label, refusal};

/// The text by which refusals and the log name a function.
pub(crate) fn label_of(functions: &[DeviceFunction], index: u32) -> String {
    match functions.get(index as usize) {
        Some(function) => format!("function {index} ({})", PciAddress(function.address)),
        None => format!("function {index}"),
    }
}

/// Plans [`Operation::AssignDevice`](control::command::Operation::AssignDevice).
pub(crate) fn assign(
    plan: &mut Plan,
    caller: Caller,
    index: u32,
    partition: Target,
) -> Result<Outcome, Refusal> {
    let object = label_of(caller.limits.functions, index);
    let owner = owner_of(plan, caller, index)?;
    let target = modifiable(plan, partition)?;
    if target.kind != kind::IO {
        return Err(refusal(
            Code::InvalidValue,
            object,
            "partition",
            format!("{} is not an I/O partition", label(&target)),
            "name an I/O partition; `uvtool list --all` shows the kinds",
        ));
    }
    in_state(&target, &[state::BUILDING, state::RUNNING, state::PAUSED], "a function")?;
    if owner == target.number {
        return Ok(Outcome::Done);
    }
    can_be_given(caller, &object, index)?;
    if owner != UNASSIGNED {
        let has = has_it(plan, owner);
        let way_out =
            "destroy that partition first, or release the function if the partition never ran";
        return Err(refusal(Code::DeviceTaken, object, "owner", has, way_out));
    }
    plan.set_device(index, target.number);
    Ok(Outcome::Done)
}

/// Plans [`Operation::ReleaseDevice`](control::command::Operation::ReleaseDevice).
pub(crate) fn release(
    plan: &mut Plan,
    caller: Caller,
    index: u32,
    partition: Target,
) -> Result<Outcome, Refusal> {
    let owner = owner_of(plan, caller, index)?;
    let target = modifiable(plan, partition)?;
    if owner != target.number {
        let object = label_of(caller.limits.functions, index);
        let has = format!("not {}: {}", label(&target), has_it(plan, owner));
        let way_out = "name the partition that has it; see `uvtool resources`";
        return Err(refusal(Code::NotOwner, object, "owner", has, way_out));
    }
    let still = [state::BUILDING, state::SHUTDOWN, state::CRASHED];
    in_state(&target, &still, "releasing a function")?;
    plan.set_device(index, UNASSIGNED);
    Ok(Outcome::Done)
}

/// The owner of a function, as the plan leaves it. Refuses an index that no function has.
pub(crate) fn owner_of(plan: &Plan, caller: Caller, index: u32) -> Result<u32, Refusal> {
    plan.device(index).ok_or_else(|| {
        let count = plan.devices();
        let object = label_of(caller.limits.functions, index);
        let reason = match count.checked_sub(1) {
            Some(last) => format!("the machine has the functions 0 to {last}"),
            None => "the machine has no PCI functions".into(),
        };
        let way_out = "use a number that `uvtool resources` shows";
        refusal(Code::NoSuchDevice, object, "number", reason, way_out)
    })
}

fn has_it(plan: &Plan, owner: u32) -> String {
    match plan.descriptor(owner) {
        _ if owner == UNASSIGNED => "no partition has it".into(),
        Some(descriptor) => format!("{} has it", label(&descriptor)),
        None => format!("partition {owner} has it"),
    }
}

/// The monitor's record of a function. Refuses a function that the monitor gives to no partition.
pub(crate) fn can_be_given(
    caller: Caller,
    object: &str,
    index: u32,
) -> Result<&'static DeviceFunction, Refusal> {
    let Some(function) = caller.limits.functions.get(index as usize) else {
        let reason = "the monitor has no record of it";
        return Err(refused(object, reason.into()));
    };
    match function.refused {
        0 => Ok(function),
        bits => Err(refused(object, refused_words(bits).collect::<Vec<_>>().join("; "))),
    }
}

fn refused(object: &str, reason: String) -> Refusal {
    let way_out = "use another function; `uvtool resources` shows which can be given";
    refusal(Code::DeviceRefused, object, "function", reason, way_out)
}
