//! Undoes a committed transaction: applies its inverse, as a transaction of its own.
//!
//! A field gets its old value back if it still has the value that the transaction gave it. Memory
//! that was assigned is released. A partition that was created is destroyed, unless it runs. Some
//! effects are final. Memory that was released or destroyed has been scrubbed. A kernel that has
//! run, or that was asked to do something, cannot be set back.
//!
//! Rule: undo changes everything back or nothing. It uses the same operations as every other
//! request, so that the same checks apply.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::mem::offset_of;

use control::command::{Code, DiskNumber, Operation, Range, Refusal, Reply, Target, Transaction};
use pv_abi::uv::database::{PartitionDescriptor, UNASSIGNED, state};
use pv_abi::uv::endpoints::{Endpoint, endpoint_state};
use resource_db::Owner;

use crate::Settled;
use crate::change::{Change, unpacked};
use crate::engine::{Engine, Origin};
use crate::log::Record;
use crate::operations::state_name;
use crate::plan::Plan;
use crate::planning::Planned;
use crate::refusal::{label, name_of, refusal};
use crate::under_way::Begun;
use crate::{Monitor, cpus};

/// Maximum number of records that a refusal lists.
const SINCE: usize = 8;

impl Engine<'_> {
    /// Applies the inverse of the committed transaction with this sequence number, in as many turns
    /// as needed.
    pub fn undo(
        &mut self,
        monitor: &mut dyn Monitor,
        (who, time): (u32, u64),
        request: u64,
        what: (u64, &str),
    ) -> Reply {
        self.run_to_its_end(monitor, time, |engine, monitor| {
            engine.begin_undo(monitor, (who, time), request, what)
        })
    }

    /// Begins to apply the inverse of the committed transaction with this sequence number, as
    /// [`Self::begin`] does.
    pub fn begin_undo(
        &mut self,
        monitor: &mut dyn Monitor,
        (who, time): (u32, u64),
        request: u64,
        (sequence, reason): (u64, &str),
    ) -> Begun {
        let origin = Origin::new(who, time, request);
        self.begin_once(origin, &(sequence, reason), |engine, origin| {
            match engine.planned_undo(origin, sequence, reason) {
                Ok((planned, transaction)) => engine.commit(monitor, origin, planned, &transaction),
                Err(refusal) => Err(refusal).into(),
            }
        })
    }

    fn planned_undo(
        &mut self,
        origin: Origin,
        sequence: u64,
        reason: &str,
    ) -> Result<(Planned, Transaction), Refusal> {
        self.check_caller(origin.who)?;
        let operations = self
            .inverse(sequence)
            .inspect_err(|refusal| self.log_refused_undo(origin, sequence, refusal))?;
        let reason = match reason {
            "" => format!("undo of {sequence}"),
            why => format!("undo of {sequence}: {why}"),
        };
        let transaction = Transaction { planned_at: None, pending: false, reason, operations };
        let planned = self.plan(origin, &transaction);
        let mut planned =
            planned.inspect_err(|why| self.log_refused_undo(origin, sequence, why))?;
        if let Some(first) = planned.what.first_mut() {
            first.insert_str(0, &format!("undo {sequence}: "));
        }
        Ok((planned, transaction))
    }

    fn log_refused_undo(&mut self, origin: Origin, sequence: u64, why: &Refusal) {
        let what = format!("undo {sequence}");
        let reason = format!("{}: {}: {}", why.object, why.field, why.reason);
        let mut record = self.new_record(origin, Settled::Refused, &what, &reason);
        let undone = self.records_from(sequence).next().filter(|r| r.sequence == sequence);
        record.partitions = undone.map(|undone| undone.partitions).unwrap_or_default();
        // A refusal that does not fit the log is still answered.
        let _ = self.log.record(&mut self.database, record, false);
    }

    /// Returns the operations that undo a record. Refuses a record that cannot be undone.
    fn inverse(&self, sequence: u64) -> Result<Vec<Operation>, Refusal> {
        let object = format!("record {sequence}");
        let (oldest, next) = self.log_bounds();
        let found = self.records_from(sequence).next().filter(|r| r.sequence == sequence);
        let Some(record) = found else {
            let reason = format!("the log has {oldest} to {}", next.saturating_sub(1));
            let way_out = "name a record that `uvtool log` shows";
            return Err(refusal(Code::NoSuchRecord, object, "sequence", reason, way_out));
        };
        if record.settled != Settled::Committed {
            let reason = format!("it is {}, not committed", record.settled.word());
            return Err(never(&record, reason));
        }
        let mut inverse = Inverse { engine: self, record: &record, operations: Vec::new() };
        for change in &record.changes {
            inverse.change(change)?;
        }
        if inverse.operations.is_empty() {
            return Err(never(&record, "it has no lasting change".into()));
        }
        Ok(inverse.operations)
    }
}

/// The refusal of a record that can never be undone.
fn never(record: &Record, reason: String) -> Refusal {
    let object = format!("record {} ({})", record.sequence, record.what);
    refusal(Code::NotUndoable, object, "undo", reason, "make the change that you want by a command")
}

/// A record whose inverse is being built.
struct Inverse<'e, 'a> {
    engine: &'e Engine<'a>,
    record: &'e Record,
    operations: Vec<Operation>,
}

impl Inverse<'_, '_> {
    fn creates(&self, partition: u32) -> bool {
        self.record.changes.iter().any(|change| {
            matches!(change, Change::Descriptor { number, before, .. }
                if *number == partition && before.is_empty())
        })
    }

    fn moves_memory_of(&self, partition: u32) -> bool {
        let of = |entry: u32| Owner::from_entry(entry) == Owner::ram(partition);
        self.record.changes.iter().any(|change| {
            matches!(change, Change::Pages { before, after, .. } if of(*before) || of(*after))
        })
    }

    /// The refusal of a record that could once be undone, but not now.
    fn moved_on(&self, partition: u32, reason: &str) -> Refusal {
        let later = self.engine.records_from(self.record.sequence + 1);
        let about = later.filter(|r| r.partitions.contains(&partition));
        let made = about.filter(Record::is_applied);
        let all: Vec<String> = made.map(|r| format!("{}: {}", r.sequence, r.what)).collect();
        let since = all.get(all.len().saturating_sub(SINCE)..).unwrap_or_default().join("; ");
        let since = if since.is_empty() { since } else { format!("; since then: {since}") };
        let object = format!("record {} ({})", self.record.sequence, self.record.what);
        let way_out = "undo the later records first, or make the change that you want by a command";
        refusal(Code::MovedOn, object, "undo", format!("{reason}{since}"), way_out)
    }

    fn change(&mut self, change: &Change) -> Result<(), Refusal> {
        match change {
            Change::Descriptor { number, after, .. } => {
                if after.is_empty() {
                    return Err(never(
                        self.record,
                        "memory that was released has been scrubbed".into(),
                    ));
                }
                let after: PartitionDescriptor = unpacked(after);
                let now = self.current(*number, after.created_at)?;
                self.destroy(&now)
            }
            Change::Fields { number, created_at, parts } => {
                // The difference comes from the dedications of other partitions; the undo of those
                // settles it.
                let derived = offset_of!(PartitionDescriptor, cpu_allowed);
                let derived = derived..derived + size_of::<cpus::Mask>();
                if parts.iter().all(|part| derived.contains(&usize::from(part.at))) {
                    return Ok(());
                }
                let now = self.current(*number, *created_at)?;
                match change.around(&now) {
                    Some((before, after)) => self.fields(&before, &after, &now),
                    None => Ok(()),
                }
            }
            Change::Pages { first, frames, before, after } => {
                let (before, after) = (Owner::from_entry(*before), Owner::from_entry(*after));
                if before != Owner::FREE {
                    let reason = "memory that was released has been scrubbed";
                    return Err(never(self.record, reason.into()));
                }
                self.release(after.number, Range { first: *first, frames: *frames })
            }
            Change::Channel { after, .. } => {
                let entry: pv_abi::uv::database::ChannelEntry = unpacked(after);
                if !after.is_empty() && self.creates(entry.a) {
                    return Ok(());
                }
                let reason = "a channel is removed with its partition, and cannot be restored";
                Err(never(self.record, reason.into()))
            }
            // A move whose owner has let go is taken back by another move.
            Change::Device { .. } if self.is_move() => Ok(()),
            Change::Next { index, owner, epoch, before, after } => {
                self.next_owner(*index, (*owner, *epoch), [*before, *after])
            }
            Change::Device { index, before, after, epoch } => {
                self.device(*index, [*before, *after], epoch.saturating_add(1))
            }
            Change::Endpoint { index, before, after } => {
                let [before, after] = [before, after].map(|bytes| Box::new(unpacked(bytes)));
                self.disk(*index, &before, &after)
            }
        }
    }

    /// Detaches a disk that the record attached, if the endpoint still has that disk.
    fn disk(&mut self, index: u32, before: &Endpoint, after: &Endpoint) -> Result<(), Refusal> {
        if (before.state, after.state) != (endpoint_state::FREE, endpoint_state::ATTACHED) {
            return Err(never(self.record, "a detached disk cannot be restored".into()));
        }
        if self.creates(after.client) {
            return Ok(());
        }
        let life = |entry: &Endpoint| (entry.incarnation, entry.state);
        let now = self.engine.database().endpoint(index);
        if !now.is_ok_and(|now| life(&now) == life(after)) {
            let reason = format!("{} is detached", DiskNumber(after.device));
            return Err(self.moved_on(after.client, &reason));
        }
        let (partition, device) = (Target::Number(after.client), after.device);
        self.operations.push(Operation::DetachDisk { partition, device });
        Ok(())
    }

    /// Returns whether the record says who gets functions next, or moved functions by that.
    fn is_move(&self) -> bool {
        self.record.changes.iter().any(|change| matches!(change, Change::Next { .. }))
    }

    /// Calls off a move of a function, moves the function back, or asks again for a move that was
    /// called off; if nothing else has happened to the function since.
    fn next_owner(
        &mut self,
        function: u32,
        (owner, epoch): (u32, u64),
        [before, after]: [u32; 2],
    ) -> Result<(), Refusal> {
        let now = self.engine.database().reader().device(function).ok();
        let now = now.map(|now| (now.owner, now.epoch, now.next[0]));
        let is_called_off = before != 0 && after == 0 && !self.moves(function);
        let wanted = if is_called_off { before } else { owner };
        let moved = if after == 0 { before } else { after };
        let unmoved = now == Some((owner, epoch, after.into())) && !self.moves(function);
        let is_moved = now == Some((moved, epoch.saturating_add(1), 0)) && !is_called_off;
        if !unmoved && !is_moved {
            let reason = format!("function {function} has been moved since");
            return Err(self.moved_on(owner, &reason));
        }
        let partition = Target::Number(wanted);
        self.operations.push(Operation::MoveDevice { function, partition });
        Ok(())
    }

    /// Returns whether the record changes the owner of a function.
    fn moves(&self, function: u32) -> bool {
        let moves =
            |change: &Change| matches!(change, Change::Device { index, .. } if *index == function);
        self.record.changes.iter().any(moves)
    }

    /// Gives a function back to the partition that had it, if its owner has not changed since.
    fn device(&mut self, function: u32, owners: [u32; 2], epoch: u64) -> Result<(), Refusal> {
        let [before, after] = owners;
        let entry = self.engine.database().reader().device(function);
        if !entry.is_ok_and(|now| (now.owner, now.epoch) == (after, epoch)) {
            let about = if after == UNASSIGNED { before } else { after };
            let reason = format!("function {function} has changed its owner since");
            return Err(self.moved_on(about, &reason));
        }
        // A partition that the record created is destroyed, and its functions go with it.
        if after != UNASSIGNED && !self.creates(after) {
            let partition = Target::Number(after);
            self.operations.push(Operation::ReleaseDevice { function, partition });
        }
        if before != UNASSIGNED {
            let now = self.engine.database().reader().descriptor(before);
            if !now.is_ok_and(|now| now.created_at <= self.record.version) {
                let reason = format!("partition {before}, which had it, no longer exists");
                return Err(self.moved_on(before, &reason));
            }
            let partition = Target::Number(before);
            self.operations.push(Operation::AssignDevice { function, partition });
        }
        Ok(())
    }

    /// Returns the partition's present descriptor. Refuses the undo if the partition that the
    /// record concerns no longer exists.
    fn current(&self, number: u32, created_at: u64) -> Result<PartitionDescriptor, Refusal> {
        match self.engine.database().reader().descriptor(number) {
            Ok(now) if now.created_at == created_at => Ok(now),
            Ok(now) => {
                let reason =
                    format!("partition {number} is now a different one, \"{}\"", name_of(&now));
                Err(self.moved_on(number, &reason))
            }
            Err(_) => Err(self.moved_on(number, &format!("partition {number} no longer exists"))),
        }
    }

    fn destroy(&mut self, now: &PartitionDescriptor) -> Result<(), Refusal> {
        if !matches!(now.state, state::BUILDING | state::SHUTDOWN | state::CRASHED) {
            let reason = format!(
                "{} is {}; undo destroys a partition only if it does not run",
                label(now),
                state_name(now.state)
            );
            return Err(self.moved_on(now.number, &reason));
        }
        let partition = Target::Number(now.number);
        self.operations.push(Operation::DestroyPartition { partition });
        Ok(())
    }

    fn release(&mut self, number: u32, range: Range) -> Result<(), Refusal> {
        if self.creates(number) {
            return Ok(());
        }
        let owned = Plan::new(&self.engine.database, &self.engine.index).owners(range);
        let all = |pieces: Vec<resource_db::OwnedRange>| {
            pieces.iter().all(|piece| piece.owner == Owner::ram(number))
        };
        if !owned.is_some_and(all) {
            let reason = format!(
                "partition {number} no longer has all of the {} frames from {:#x} on",
                range.frames, range.first
            );
            return Err(self.moved_on(number, &reason));
        }
        let partition = Target::Number(number);
        self.operations.push(Operation::ReleaseMemory { partition, ranges: [range].into() });
        Ok(())
    }

    fn fields(
        &mut self,
        before: &PartitionDescriptor,
        after: &PartitionDescriptor,
        now: &PartitionDescriptor,
    ) -> Result<(), Refusal> {
        let partition = Target::Number(now.number);
        if now.state == state::DYING || after.state == state::DYING {
            return Err(never(self.record, "a destroyed partition cannot be restored".into()));
        }
        let start = |d: &PartitionDescriptor| (d.entry, d.page_table, d.start_info, d.stack);
        if start(before) != start(after) {
            return Err(never(self.record, "a start state cannot be undone".into()));
        }
        if before.asked != after.asked {
            return Err(never(
                self.record,
                "its kernel got the request, and may have acted on it".into(),
            ));
        }
        if before.name != after.name {
            self.same("name", now, name_of(after), name_of(now))?;
            self.operations.push(Operation::Rename { partition, name: name_of(before) });
        }
        self.cpu(before, after, now)?;
        self.memory_target(before, after, now)?;
        if before.vcpus_online != after.vcpus_online {
            self.same("vcpus_online", now, after.vcpus_online, now.vcpus_online)?;
            let vcpus = before.vcpus_online;
            self.operations.push(Operation::SetVcpusOnline { partition, vcpus });
        }
        if before.state != after.state {
            self.state(before, after, now)?;
        }
        Ok(())
    }

    /// Restores the memory target. A target that equals the memory goes back with the memory that
    /// is released; a target that the record set separately must still have the record's value.
    fn memory_target(
        &mut self,
        before: &PartitionDescriptor,
        after: &PartitionDescriptor,
        now: &PartitionDescriptor,
    ) -> Result<(), Refusal> {
        let frames = before.memory_target;
        if frames == after.memory_target {
            return Ok(());
        }
        if self.moves_memory_of(now.number) {
            let follows = now.memory_target.min(before.memory_frames) == frames;
            if follows || now.memory_target != after.memory_target {
                return Ok(());
            }
        } else {
            self.same("memory_target", now, after.memory_target, now.memory_target)?;
        }
        let partition = Target::Number(now.number);
        self.operations.push(Operation::SetMemoryTarget { partition, frames });
        Ok(())
    }

    fn cpu(
        &mut self,
        before: &PartitionDescriptor,
        after: &PartitionDescriptor,
        now: &PartitionDescriptor,
    ) -> Result<(), Refusal> {
        let (weight, cap) =
            (before.cpu_weight != after.cpu_weight, before.cpu_cap != after.cpu_cap);
        let affinity = before.cpu_affinity != after.cpu_affinity;
        let dedicated = before.cpu_dedicated != after.cpu_dedicated;
        if weight {
            self.same("cpu_weight", now, after.cpu_weight, now.cpu_weight)?;
        }
        if cap {
            self.same("cpu_cap", now, after.cpu_cap, now.cpu_cap)?;
        }
        if affinity {
            let [a, b] = [after, now].map(|d| cpus::words(&d.cpu_affinity));
            self.same("cpu_affinity", now, a, b)?;
        }
        if dedicated {
            self.same("cpu_dedicated", now, after.cpu_dedicated, now.cpu_dedicated)?;
        }
        if weight || cap || affinity || dedicated {
            let list = || cpus::list(&before.cpu_affinity, self.engine.limits.cpus);
            let operation = Operation::SetCpu {
                partition: Target::Number(now.number),
                weight: weight.then_some(before.cpu_weight),
                cap: cap.then_some(before.cpu_cap),
                affinity: affinity.then(list),
                dedicated: dedicated.then_some(before.cpu_dedicated != 0),
            };
            self.operations.push(operation);
        }
        Ok(())
    }

    fn state(
        &mut self,
        before: &PartitionDescriptor,
        after: &PartitionDescriptor,
        now: &PartitionDescriptor,
    ) -> Result<(), Refusal> {
        self.same("state", now, state_name(after.state), state_name(now.state))?;
        let live = [state::RUNNING, state::PAUSED];
        if !live.contains(&before.state) || !live.contains(&after.state) {
            let (was, is) = (state_name(before.state), state_name(after.state));
            return Err(never(self.record, format!("the state {is} cannot change back to {was}")));
        }
        let partition = Target::Number(now.number);
        self.operations.push(Operation::SetState { partition, state: before.state });
        Ok(())
    }

    /// Checks that a field still has the value that the record gave it.
    fn same<T: PartialEq + core::fmt::Display>(
        &self,
        field: &str,
        now: &PartitionDescriptor,
        made: T,
        is: T,
    ) -> Result<(), Refusal> {
        if made == is {
            return Ok(());
        }
        let reason = format!("{field} of {} was set to {made}, and is {is} now", label(now));
        Err(self.moved_on(now.number, &reason))
    }
}
