//! Plans each operation, and refuses those that are not allowed.
//!
//! Rule: every value of the request is checked here, against the database and the limits, before
//! anything is written. The monitor makes its own checks of the values on which its safety depends.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use control::command::{Code, Operation, Outcome, Range, Refusal, Start, Target};
use pv_abi::PAGE_SIZE;
use pv_abi::uv::calls::cause;
use pv_abi::uv::database::{PartitionDescriptor, asked, kind, state};
use resource_db::Owner;

use crate::engine::Limits;
use crate::plan::{MAX_RANGES, Plan};
use crate::refusal::{label, refusal};
use crate::{Action, channels, cpus, create, devices, disks, moves, settings};

/// The caller of a request, and the limits for it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Caller<'l> {
    /// Its number.
    pub(crate) number: u32,
    /// The limits of the machine.
    pub(crate) limits: &'l Limits,
}

/// Plans operation number `index`.
pub(crate) fn plan(
    plan: &mut Plan,
    caller: Caller,
    index: u32,
    operation: &Operation,
) -> Result<(), Refusal> {
    let outcome = match operation {
        Operation::CreatePartition { .. } => create::create(plan, caller, index, operation)?,
        Operation::AssignMemory { partition, frames } => assign(plan, *partition, *frames)?,
        Operation::ReleaseMemory { partition, ranges } => release(plan, *partition, ranges)?,
        Operation::CreateChannel { partition, peer, kind, frame, frames, grant } => {
            let share = Range { first: *frame, frames: u64::from(*frames) };
            let (partition, peer, kind, grant) = (*partition, *peer, *kind, *grant);
            let wanted = channels::Wanted { partition, peer, kind, share, grant };
            channels::create(plan, caller, &wanted)?
        }
        Operation::SetStart { partition, start } => set_start(plan, *partition, *start)?,
        Operation::SetState { partition, state } => set_state(plan, caller, *partition, *state)?,
        Operation::DestroyPartition { partition } => {
            let target = modifiable(plan, *partition)?;
            not_itself(caller, &target)?;
            not_created_here(plan, &target)?;
            destroy(plan, target)?
        }
        Operation::SetCpu { .. } => settings::set_cpu(plan, caller, operation)?,
        Operation::Rename { partition, name } => settings::rename(plan, *partition, name)?,
        Operation::SetMemoryTarget { partition, frames } => {
            settings::memory_target(plan, *partition, *frames)?
        }
        Operation::SetVcpusOnline { partition, vcpus } => {
            settings::vcpus_online(plan, *partition, *vcpus)?
        }
        Operation::Ask { partition, what } => settings::ask(plan, caller, *partition, *what)?,
        Operation::Complete { request } => {
            plan.completed.push(*request);
            Outcome::Done
        }
        Operation::AssignDevice { function, partition } => {
            devices::assign(plan, caller, *function, *partition)?
        }
        Operation::ReleaseDevice { function, partition } => {
            devices::release(plan, caller, *function, *partition)?
        }
        Operation::AttachDisk { .. } => disks::attach(plan, caller, operation)?,
        Operation::DetachDisk { partition, device } => disks::detach(plan, *partition, *device)?,
        Operation::MoveDevice { function, partition } => {
            moves::plan(plan, caller, *function, *partition)?
        }
    };
    plan.outcomes.push(outcome);
    if plan.ranges() > MAX_RANGES {
        return Err(refusal(
            Code::TooLarge,
            "transaction",
            "ranges",
            format!("it changes more than {MAX_RANGES} ranges of memory"),
            "split it into several transactions",
        ));
    }
    Ok(())
}

/// The refusal of a value outside the limits of its field.
pub(crate) fn invalid(
    object: &str,
    field: &str,
    asked: impl core::fmt::Display,
    limit: &str,
) -> Refusal {
    let way_out = format!("use {limit}");
    refusal(
        Code::InvalidValue,
        object,
        field,
        format!("{asked} is requested, {limit} is allowed"),
        way_out,
    )
}

pub(crate) fn within(
    object: &str,
    field: &str,
    asked: u32,
    from: u32,
    to: u32,
) -> Result<(), Refusal> {
    if (from..=to).contains(&asked) {
        return Ok(());
    }
    Err(invalid(object, field, asked, &format!("{from} to {to}")))
}

/// Returns the target partition. Refuses a partition that the monitor made.
pub(crate) fn modifiable(plan: &Plan, target: Target) -> Result<Box<PartitionDescriptor>, Refusal> {
    let descriptor = plan.target(target)?;
    if matches!(descriptor.kind, kind::PSEUDO | kind::ULTRAVISOR | kind::BOOT) {
        return Err(refusal(
            Code::SystemPartition,
            label(&descriptor),
            "kind",
            "the monitor made it, transactions do not change it",
            "name the command partition, an I/O partition or a guest",
        ));
    }
    Ok(descriptor)
}

pub(crate) fn not_itself(caller: Caller, target: &PartitionDescriptor) -> Result<(), Refusal> {
    if caller.number != target.number {
        return Ok(());
    }
    Err(refusal(
        Code::OwnPartition,
        label(target),
        "state",
        "a partition cannot stop or destroy itself by a transaction",
        "shut it down from inside",
    ))
}

/// Refuses to run a partition that is not the host's own if ring 3 can read all memory.
pub(crate) fn may_run(caller: Caller, object: &str, kind: u32) -> Result<(), Refusal> {
    if !caller.limits.meltdown || matches!(kind, kind::COMMAND | kind::IO) {
        return Ok(());
    }
    Err(refusal(
        Code::Meltdown,
        object,
        "cpu",
        "the CPU has Meltdown: a partition could read all memory of the machine",
        "use another CPU, or add accept=meltdown to the options of the module \"ultravisor\" in \
         GRUB's entry",
    ))
}

fn not_created_here(plan: &Plan, target: &PartitionDescriptor) -> Result<(), Refusal> {
    if !plan.created.values().any(|&number| number == target.number) {
        return Ok(());
    }
    Err(refusal(
        Code::CreatedHere,
        label(target),
        "number",
        "this transaction creates it",
        "destroy it in a transaction of its own, or do not create it",
    ))
}

pub(crate) fn in_state(
    target: &PartitionDescriptor,
    allowed: &[u32],
    doing: &str,
) -> Result<(), Refusal> {
    if allowed.contains(&target.state) {
        return Ok(());
    }
    // No operation brings a partition back into the state *building*.
    let is_way = |state: &&u32| allowed.len() == 1 || **state != state::BUILDING;
    let names: Vec<_> = allowed.iter().filter(is_way).map(|&state| state_name(state)).collect();
    let names = names.join(" or ");
    Err(refusal(
        Code::WrongState,
        label(target),
        "state",
        format!("it is {}; {doing} needs it {names}", state_name(target.state)),
        way_to(target, allowed),
    ))
}

/// Suggests a command to an operator whose operation needs the partition in another state.
/// `allowed` decides only whether that is a pause; no other command is checked against it.
fn way_to(target: &PartitionDescriptor, allowed: &[u32]) -> String {
    let number = target.number;
    match target.state {
        state::PAUSED => format!("let it run with `uvtool unpause {number}`"),
        state::RUNNING if allowed.contains(&state::PAUSED) => {
            format!("pause it with `uvtool pause {number}`")
        }
        state::RUNNING | state::SHUTDOWN | state::CRASHED => {
            format!("destroy it with `uvtool destroy {number}`")
        }
        _ => format!("see what becomes of it with `uvtool info {number}`"),
    }
}

/// The word for a state.
pub(crate) fn state_name(value: u32) -> &'static str {
    match value {
        state::FREE => "free",
        state::BUILDING => "building",
        state::RUNNING => "running",
        state::PAUSED => "paused",
        state::SHUTDOWN => "shut down",
        state::CRASHED => "crashed",
        state::DYING => "dying",
        _ => "unknown",
    }
}

/// The refusal of a request for more frames than are free; `how` says how the frames must lie, or
/// is empty.
pub(crate) fn no_memory(field: &str, asked: u64, left: u64, how: &str) -> Refusal {
    let (asked, left) = (size(asked), size(left));
    refusal(
        Code::NoMemory,
        "memory",
        field,
        format!("{asked}{how} are requested, {left} are free"),
        format!("ask for at most {left}, or destroy a partition; see `uvtool resources`"),
    )
}

/// An amount of memory as a person writes it.
fn size(frames: u64) -> String {
    const PER_MIB: u64 = (1 << 20) / PAGE_SIZE as u64;
    if frames.is_multiple_of(PER_MIB) {
        format!("{} MiB", frames / PER_MIB)
    } else {
        format!("{} KiB", u128::from(frames) * PAGE_SIZE as u128 / 1024)
    }
}

fn assign(plan: &mut Plan, partition: Target, frames: u64) -> Result<Outcome, Refusal> {
    let mut target = modifiable(plan, partition)?;
    let growing = [state::BUILDING, state::RUNNING, state::PAUSED];
    in_state(&target, &growing, "assigning memory")?;
    if frames == 0 {
        return Err(invalid("memory", "frames", frames, "1 or more"));
    }
    let Some(ranges) = plan.take_frames(frames, target.number) else {
        let left = plan.free_frames().0;
        return Err(no_memory("frames", frames, left, ""));
    };
    // If the target equals the memory, it stays equal: the partition uses all its memory until told
    // otherwise.
    if target.memory_target == target.memory_frames {
        target.memory_target = target.memory_target.saturating_add(frames);
    }
    target.memory_frames = target.memory_frames.saturating_add(frames);
    plan.set_descriptor(target);
    Ok(Outcome::Memory(ranges))
}

fn release(plan: &mut Plan, partition: Target, ranges: &[Range]) -> Result<Outcome, Refusal> {
    let mut target = modifiable(plan, partition)?;
    for &range in ranges {
        if range.frames == 0 {
            return Err(invalid("memory", "frames", range.frames, "1 or more"));
        }
        check_owned(plan, &target, range)?;
        check_unnamed(plan, &target, range)?;
        plan.move_pages(range, Owner::ram(target.number), Owner::FREE);
        target.memory_frames = target.memory_frames.saturating_sub(range.frames);
    }
    target.memory_target = target.memory_target.min(target.memory_frames);
    plan.set_descriptor(target);
    Ok(Outcome::Done)
}

/// Checks that no channel and no start state of the partition names any of these frames: frames
/// that are named must exist for as long as the partition.
fn check_unnamed(plan: &Plan, target: &PartitionDescriptor, range: Range) -> Result<(), Refusal> {
    let end = range.first.saturating_add(range.frames);
    let inside = |frame: u64| frame != 0 && (range.first..end).contains(&frame);
    let channel = plan.channels_of(target.number).into_iter().find(|(_, channel)| {
        let last = channel.frame.saturating_add(channel.frames.into());
        channel.a == target.number && channel.frame < end && last > range.first
    });
    let what = match channel {
        Some((index, _)) => format!("channel {index}"),
        None if inside(target.page_table) => "its start state".into(),
        None if inside(target.console_frame) || inside(target.store_frame) => "a ring".into(),
        None => return Ok(()),
    };
    Err(refusal(
        Code::Named,
        label(target),
        "frames",
        format!("{what} names some of the frames {:#x} to {:#x}", range.first, end - 1),
        "release other frames, or destroy the partition",
    ))
}

/// Checks that the partition owns all these frames, and that none of them is in its instance.
pub(crate) fn check_owned(
    plan: &Plan,
    target: &PartitionDescriptor,
    range: Range,
) -> Result<(), Refusal> {
    let own = Owner::ram(target.number);
    let owned =
        plan.owners(range).is_some_and(|pieces| pieces.iter().all(|piece| piece.owner == own));
    let instance_end = target.instance_first.saturating_add(target.instance_frames);
    let end = range.first.saturating_add(range.frames);
    let instance = range.first < instance_end && end > target.instance_first;
    if owned && !instance {
        return Ok(());
    }
    let what = if instance { "its monitor instance's" } else { "not all its own RAM" };
    Err(refusal(
        Code::NotOwner,
        label(target),
        "frames",
        format!("frames {:#x} and {} more are {what}", range.first, range.frames.saturating_sub(1)),
        "name frames that it owns; see `uvtool resources --map`",
    ))
}

fn set_start(plan: &mut Plan, partition: Target, start: Start) -> Result<Outcome, Refusal> {
    let mut target = modifiable(plan, partition)?;
    in_state(&target, &[state::BUILDING], "a start state")?;
    for frame in [start.page_table, start.console_frame, start.store_frame] {
        if frame != 0 {
            check_owned(plan, &target, Range { first: frame, frames: 1 })?;
        }
    }
    if start.page_table == 0 {
        return Err(invalid(&label(&target), "page_table", 0, "a frame that it owns"));
    }
    (target.entry, target.stack) = (start.entry, start.stack);
    (target.start_info, target.page_table) = (start.start_info, start.page_table);
    (target.console_frame, target.store_frame) = (start.console_frame, start.store_frame);
    let number = target.number;
    plan.set_descriptor(target);
    plan.activate(number);
    Ok(Outcome::Done)
}

fn set_state(
    plan: &mut Plan,
    caller: Caller,
    partition: Target,
    wanted: u32,
) -> Result<Outcome, Refusal> {
    let mut target = modifiable(plan, partition)?;
    not_itself(caller, &target)?;
    if wanted == state::RUNNING {
        may_run(caller, &label(&target), target.kind)?;
    }
    let number = target.number;
    let was_running = target.state == state::RUNNING;
    let stopped = [state::SHUTDOWN, state::CRASHED];
    let (from, action): (&[u32], _) = match wanted {
        state::RUNNING => (&[state::BUILDING, state::PAUSED], Some(Action::Start(number))),
        state::PAUSED => (&[state::RUNNING, state::BUILDING], Some(Action::Stop(number))),
        state::SHUTDOWN => {
            (&[state::RUNNING, state::PAUSED], was_running.then_some(Action::Stop(number)))
        }
        state::DYING => {
            let any = [state::BUILDING, state::RUNNING, state::PAUSED, stopped[0], stopped[1]];
            in_state(&target, &any, "dying")?;
            (&[], was_running.then_some(Action::Stop(number)))
        }
        _ => {
            let limit = "running, paused, shut down or dying";
            return Err(invalid(&label(&target), "state", state_name(wanted), limit));
        }
    };
    if !from.is_empty() {
        in_state(&target, from, &format!("becoming {}", state_name(wanted)))?;
    }
    let begins = target.state == state::BUILDING && wanted != state::DYING;
    if begins && target.page_table == 0 {
        return Err(refusal(
            Code::NoStartState,
            label(&target),
            "page_table",
            "it has no start state",
            format!("build it first, or destroy it with `uvtool destroy {}`", target.number),
        ));
    }
    if wanted != state::RUNNING && was_running {
        target.cause = cause::STOPPED;
    } else if wanted == state::RUNNING {
        target.cause = cause::NONE;
    }
    target.state = wanted;
    if !matches!(wanted, state::RUNNING | state::PAUSED) {
        target.asked = asked::NOTHING;
    }
    let (object, frees) = (label(&target), wanted == state::DYING && target.cpu_dedicated != 0);
    plan.set_descriptor(target);
    plan.actions.extend(action);
    if frees {
        cpus::settle(plan, &object)?;
    }
    Ok(Outcome::Done)
}

/// Plans the destruction of a partition, which releases everything once the transaction is
/// committed. The partition must not be running.
pub(crate) fn destroy(
    plan: &mut Plan,
    mut target: Box<PartitionDescriptor>,
) -> Result<Outcome, Refusal> {
    let still = [state::BUILDING, state::SHUTDOWN, state::CRASHED, state::DYING];
    in_state(&target, &still, "destroying")?;
    let number = target.number;
    (target.state, target.asked) = (state::DYING, asked::NOTHING);
    let (object, dedicated) = (label(&target), target.cpu_dedicated != 0);
    plan.set_descriptor(target);
    plan.destroyed.push(number);
    if dedicated {
        cpus::settle(plan, &object)?;
    }
    Ok(Outcome::Done)
}

/// Plans the release of memory that a pending transaction assigned. If the partition was created
/// after `version`, it is another one, and keeps its memory.
pub(crate) fn release_assigned(plan: &mut Plan, number: u32, range: Range, version: u64) {
    let target = plan.descriptor(number).filter(|target| target.created_at <= version);
    let Some(mut target) = target else {
        return;
    };
    for piece in plan.owners(range).unwrap_or_default() {
        if piece.owner == Owner::ram(number) {
            let back = Range { first: piece.first, frames: piece.frames };
            plan.move_pages(back, piece.owner, Owner::FREE);
            target.memory_frames = target.memory_frames.saturating_sub(piece.frames);
        }
    }
    target.memory_target = target.memory_target.min(target.memory_frames);
    plan.set_descriptor(target);
}
