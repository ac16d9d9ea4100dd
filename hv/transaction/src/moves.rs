//! A PCI function moves from one running I/O partition to another.
//!
//! ```text
//! MoveDevice: a record says who gets the function next     the owner is ordered to leave it
//!     -> the owner has reset it, and has nothing of it or of its clients' rings any more   left
//!     -> one record: the function belongs to the other partition, which drives it          moved
//!        if that does not run any more, or the monitor refuses: it stays
//! ```
//!
//! Rule: the function changes its owner only after the owner's report, and the monitor refuses as
//! long as page tables map its registers. Until then the first record can be taken back: the owner
//! drives the function again. An owner that dies meanwhile loses the function like all others
//! ([`crate::takeover`]).

use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};

use control::command::{Code, Outcome, Refusal, Target};
use control::io::MAX_FUNCTIONS;
use pv_abi::uv::database::{PartitionDescriptor, ULTRAVISOR, UNASSIGNED, kind, state};

use crate::carry::Stopped;
use crate::devices::{can_be_given, label_of, owner_of};
use crate::engine::Engine;
use crate::operations::{Caller, in_state, modifiable};
use crate::plan::Plan;
use crate::refusal::{label, refusal};
use crate::under_way::{Next, UnderWay, Whose};

/// Plans [`Operation::MoveDevice`](control::command::Operation::MoveDevice).
pub(crate) fn plan(
    plan: &mut Plan,
    caller: Caller,
    index: u32,
    partition: Target,
) -> Result<Outcome, Refusal> {
    let object = label_of(caller.limits.functions, index);
    let owner = owner_of(plan, caller, index)?;
    let target = modifiable(plan, partition)?;
    if owner == target.number {
        plan.set_next_owner(index, 0);
        return Ok(Outcome::Done);
    }
    if target.kind != kind::IO {
        let reason = format!("{} is no I/O partition", label(&target));
        let way_out = "name an I/O partition; `uvtool io` shows them";
        return Err(refusal(Code::InvalidValue, object, "partition", reason, way_out));
    }
    can_be_given(caller, &object, index)?;
    if owner == UNASSIGNED {
        let way_out = "name a function that an I/O partition has; `uvtool io` shows them";
        return Err(refusal(Code::NotOwner, object, "owner", "no partition has it", way_out));
    }
    let from = modifiable(plan, Target::Number(owner))?;
    in_state(&from, &[state::RUNNING], "a function that moves")?;
    in_state(&target, &[state::RUNNING], "a function that moves")?;
    let comes_to = |function: u32| match plan.next_owner(function) {
        0 => plan.device(function),
        next => Some(next),
    };
    let others = (0..plan.devices()).filter(|function| *function != index);
    let there = others.filter(|function| comes_to(*function) == Some(target.number)).count();
    if there >= MAX_FUNCTIONS {
        let reason = format!(
            "{} has {there} functions, an I/O partition drives at most {MAX_FUNCTIONS}",
            label(&target)
        );
        let way_out = "move it to another I/O partition; `uvtool io` shows what each has";
        return Err(refusal(Code::TooLarge, object, "functions", reason, way_out));
    }
    plan.set_next_owner(index, target.number);
    Ok(Outcome::Done)
}

impl Engine<'_> {
    /// Notes that an I/O partition has let go of a function, or cannot (`Err`, with the reason). If
    /// the function is to move, [`Self::proceed`] moves it; or it stays.
    pub fn left(&mut self, function: u32, owner: u32, left: Result<(), String>) {
        if self.moving(function, owner).is_some() {
            self.queue.push_back(Next::Left { function, owner, stays: left.err() });
        }
    }

    /// Returns the partition to which a function moves, if this owner has the function.
    fn moving(&self, function: u32, owner: u32) -> Option<u32> {
        let entry = self.database.reader().device(function).ok()?;
        let next = u32::try_from(entry.next[0]).ok()?;
        (entry.owner == owner && next != 0).then_some(next)
    }

    /// Writes into log and database that a function has another owner, or that it stays.
    pub(crate) fn begin_left(
        &mut self,
        function: u32,
        owner: u32,
        stays: Option<String>,
        time: u64,
    ) -> Option<UnderWay> {
        let next = self.moving(function, owner)?;
        let reader = self.database.reader();
        let to: Option<Box<PartitionDescriptor>> = reader.descriptor(next).ok().map(Box::new);
        let to = to.filter(|to| to.kind == kind::IO && to.state == state::RUNNING);
        let stays = match (stays, &to) {
            (Some(reason), _) => Some(reason),
            (None, None) => Some(format!("partition {next} does not run any more")),
            (None, Some(_)) => None,
        };
        let name = |number| {
            let descriptor = reader.descriptor(number);
            descriptor.map_or_else(|_| number.to_string(), |descriptor| label(&descriptor))
        };
        let (named, owns) = (label_of(self.limits.functions, function), name(owner));
        let mut plan = Plan::new(&self.database, &self.index);
        let (what, why) = match (&stays, &to) {
            (None, Some(to)) => {
                plan.set_device(function, to.number);
                (format!("{named} of {owns} is moved to {}", label(to)), "its owner let go of it")
            }
            (stays, _) => {
                plan.set_next_owner(function, 0);
                let why = stays.as_deref().unwrap_or_default();
                (format!("{named} stays with {owns}"), why)
            }
        };
        let (changes, actions) = (plan.changes(), plan.actions);
        let written = self.write_own((&what, why), &[owner, next], &changes, (ULTRAVISOR, time));
        // Where the log has no room, the next report of the owner moves it.
        let sequence = written.ok()?;
        Some(UnderWay::new(sequence, Whose::Left(function), changes, actions))
    }

    /// Handles the end of a move. A function that the monitor does not give to another stays.
    pub(crate) fn left_ended(&mut self, function: u32, result: &Result<(), Stopped>) {
        let Err(stopped) = result else { return };
        let owner = self.database.reader().device(function).map_or(UNASSIGNED, |now| now.owner);
        if self.moving(function, owner).is_some() {
            let stays = Some(stopped.refusal.reason.clone());
            self.queue.push_back(Next::Left { function, owner, stays });
        }
    }
}
