//! Creates a partition: its number, name, rights and sizes.
//!
//! Rule: only a caller that may give a right can give it, and nobody can give the rights of the
//! ultravisor or the boot partition.

use alloc::boxed::Box;
use alloc::format;

use control::command::{Code, Operation, Outcome, Refusal};
use pv_abi::uv::database::{
    BOOT, COMMAND, FIRST_GUEST, IO_PARTITIONS, MAX_GRANT_FRAMES, MAX_MACHINE_VCPUS, MAX_VCPUS,
    PartitionDescriptor, instance_frames, kind, rights, state,
};
use zerocopy::FromZeros;

use crate::cpus;
use crate::operations::{Caller, invalid, may_run, no_memory, within};
use crate::plan::Plan;
use crate::refusal::{label, refusal};
use crate::settings::check_dedicated;

/// Plans the creation of a partition, in state *building*, with the memory of its instance.
pub(crate) fn create(
    plan: &mut Plan,
    caller: Caller,
    index: u32,
    operation: &Operation,
) -> Result<Outcome, Refusal> {
    let Operation::CreatePartition {
        number,
        kind,
        rights,
        name,
        vcpus,
        cpu_weight,
        cpu_cap,
        cpu_affinity,
        cpu_dedicated,
        grant_frames,
    } = operation
    else {
        return Ok(Outcome::Done);
    };
    let object = format!("new partition \"{}\"", name.escape_default());
    check_name(plan, &object, *kind, name)?;
    check_rights(caller, &object, *kind, *rights)?;
    may_run(caller, &object, *kind)?;
    let number = check_number(plan, &object, *number, *kind)?;
    within(&object, "vcpus", *vcpus, 1, MAX_VCPUS)?;
    check_room(plan, &object, *vcpus)?;
    within(&object, "cpu_weight", *cpu_weight, 1, 65_535)?;
    within(&object, "cpu_cap", *cpu_cap, 0, vcpus.saturating_mul(100))?;
    within(&object, "grant_frames", *grant_frames, 1, MAX_GRANT_FRAMES)?;
    let mut descriptor = Box::new(PartitionDescriptor::new_zeroed());
    descriptor.cpu_affinity = cpus::mask(&object, cpu_affinity, caller.limits.cpus)?;
    (descriptor.cpu_allowed, descriptor.cpu_dedicated) =
        (descriptor.cpu_affinity, (*cpu_dedicated).into());
    check_dedicated(&object, &descriptor, caller)?;
    let frames = instance_frames(*vcpus, *grant_frames);
    let Some(instance) = plan.take_run(frames, number) else {
        let longest = plan.free_frames().1;
        return Err(no_memory("instance", frames, longest, " in one run"));
    };
    descriptor.magic = pv_abi::uv::database::DESCRIPTOR_MAGIC;
    descriptor.number = number;
    descriptor.kind = *kind;
    descriptor.state = state::BUILDING;
    descriptor.rights = *rights;
    set_name(&mut descriptor, name);
    (descriptor.vcpus, descriptor.grant_frames) = (*vcpus, *grant_frames);
    descriptor.vcpus_online = *vcpus;
    (descriptor.cpu_weight, descriptor.cpu_cap) = (*cpu_weight, *cpu_cap);
    (descriptor.instance_first, descriptor.instance_frames) = (instance.first, instance.frames);
    descriptor.owner = caller.number;
    descriptor.created_at = plan.next_version();
    let dedicated = descriptor.cpu_dedicated != 0;
    plan.set_descriptor(descriptor);
    plan.activate(number);
    plan.created.insert(index, number);
    if dedicated || plan.any_dedicated() {
        cpus::settle(plan, &object)?;
    }
    Ok(Outcome::Partition(number))
}

/// Writes a name that was checked into a descriptor.
pub(crate) fn set_name(descriptor: &mut PartitionDescriptor, name: &str) {
    descriptor.name = name_bytes(name);
}

fn name_bytes(name: &str) -> [u8; 32] {
    let mut bytes = [0; 32];
    for (to, from) in bytes.iter_mut().zip(name.bytes()) {
        *to = from;
    }
    bytes
}

/// Checks that a partition of this kind may have this name.
pub(crate) fn check_name(plan: &Plan, object: &str, of: u32, name: &str) -> Result<(), Refusal> {
    let fits = if of == kind::GUEST { rules::guest_name(name) } else { rules::name(name) };
    if let Err(wrong) = fits {
        return Err(refusal(Code::InvalidValue, object, "name", wrong.problem, wrong.way_out));
    }
    match plan.named(&name_bytes(name)).and_then(|number| plan.descriptor(number)) {
        None => Ok(()),
        Some(other) => Err(refusal(
            Code::NameTaken,
            object,
            "name",
            format!("{} has it", label(&other)),
            "choose another name, or destroy that partition",
        )),
    }
}

fn check_rights(caller: Caller, object: &str, of: u32, wanted: u32) -> Result<(), Refusal> {
    let allowed = match (caller.number, of) {
        (BOOT, kind::COMMAND) => rights::HOST_POWER | rights::SERIAL,
        _ => 0,
    };
    if wanted & !allowed == 0 {
        return Ok(());
    }
    let limit = format!("{allowed:#x}");
    Err(invalid(object, "rights", format!("{wanted:#x}"), &limit))
}

/// Checks that the machine has room for `vcpus` more virtual CPUs.
fn check_room(plan: &Plan, object: &str, vcpus: u32) -> Result<(), Refusal> {
    let left = MAX_MACHINE_VCPUS.saturating_sub(plan.vcpus());
    if vcpus <= left {
        return Ok(());
    }
    Err(refusal(
        Code::NoVcpus,
        object,
        "vcpus",
        format!(
            "{vcpus} are requested; {left} of the {MAX_MACHINE_VCPUS} for all partitions are left"
        ),
        "ask for fewer, or destroy a partition",
    ))
}

fn check_number(plan: &Plan, object: &str, wanted: Option<u32>, of: u32) -> Result<u32, Refusal> {
    let known: &[u32] = match of {
        kind::COMMAND => &[COMMAND],
        kind::IO => &IO_PARTITIONS.map(|(number, _)| number),
        kind::GUEST => &[],
        _ => return Err(invalid(object, "kind", of, "command, I/O or guest")),
    };
    let free = |number: &u32| plan.is_free(*number);
    let number = match wanted {
        Some(number) if of == kind::GUEST => {
            within(object, "number", number, FIRST_GUEST, plan.number_end().saturating_sub(1))?;
            Some(number)
        }
        Some(number) if known.contains(&number) => Some(number),
        Some(number) => return Err(invalid(object, "number", number, &format!("{known:?}"))),
        None if of == kind::GUEST => plan.free_number(),
        None => known.iter().copied().find(free),
    };
    number.filter(free).ok_or_else(|| {
        refusal(
            Code::NumberTaken,
            object,
            "number",
            "every number it could have is in use",
            "leave the number open, or destroy a partition",
        )
    })
}
