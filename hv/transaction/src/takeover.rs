//! A dead I/O partition: its functions move to another one before anything of it is given back.
//!
//! ```text
//! crashed (the monitor's record) -> dying (a record of the ultravisor's own, with the cause)
//! hung (the caller's watchdog) ----^
//!     -> the monitor drops its page tables, and silences its functions       fenced
//!     -> one record: the functions belong to another I/O partition           moved
//!        if one runs and the dead one ran, else to nobody
//!     -> each function's new owner has reset it                              reset confirmed
//!     -> channels, memory and descriptor are given back ([`crate::reap`])    gone
//! ```
//!
//! An I/O partition that a request destroys goes the same way, from *dying* on. The disks of clients
//! stay attached: an endpoint names functions, and not the partition that drives them.
//!
//! How far a takeover got stands in three places already: the partition's state, the owners of the
//! functions, and the monitor's debts of resets. So there is no record of phases beside them that
//! could say something else. The times of the phases go into the log.
//!
//! Rule: a move that was begun is carried out again after a restart, and never taken back, because
//! the new owner may drive the function already.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use pv_abi::uv::calls::{MonitorEvent, cause};
use pv_abi::uv::database::{FIRST_GUEST, PartitionDescriptor, ULTRAVISOR, UNASSIGNED, kind, state};

use crate::Settled;
use crate::carry::{Stopped, action_of};
use crate::change::Change;
use crate::devices::label_of;
use crate::engine::{Engine, Origin};
use crate::failure::describe_cause;
use crate::log::Record;
use crate::plan::Plan;
use crate::reap::{Dying, FIRST_WAIT};
use crate::refusal::label;
use crate::under_way::{Next, UnderWay, Whose};
use crate::{Action, GivenUp, Monitor, operations};

/// Nanoseconds until the monitor is first asked again whether a reset is owed. The interval
/// doubles, as for other attempts, unless a report comes ([`Engine::expect_reset`]).
const RESET_WAIT: u64 = 1_000_000;
/// Number of ranges that take as much of a record as a function.
const DEVICE_WEIGHT: usize = 2;
/// Lines for the host's log that are kept until they are taken.
const NEWS: usize = 16;

/// An I/O partition that hangs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hung {
    /// Its number.
    pub number: u32,
    /// The system time at which it was heard last.
    pub since: u64,
    /// Milliseconds since then.
    pub milliseconds: u32,
}

/// The times at which a takeover reached its phases, in system time.
#[derive(Debug)]
pub(crate) struct Phases {
    /// The partition, for people.
    object: String,
    /// When the partition died or was destroyed.
    began: u64,
    noticed: u64,
    fenced: Option<u64>,
    /// Whether another I/O partition got its functions.
    is_taken_over: bool,
    /// Whether the boot partition may know by now that the partition has ended.
    told: bool,
    /// When the functions moved, how many they were, and who got them.
    moved: Option<(u64, usize, String)>,
    /// Whether the monitor waits for a reset.
    owed: bool,
    reset: Option<u64>,
}

impl Phases {
    /// Begins the phases of a takeover. Returns `None` if the partition is no I/O partition.
    pub(crate) fn of(partition: &PartitionDescriptor, time: u64) -> Option<Box<Self>> {
        (partition.kind == kind::IO).then(|| {
            Box::new(Self {
                object: label(partition),
                began: time,
                noticed: time,
                fenced: None,
                is_taken_over: false,
                told: false,
                moved: None,
                owed: false,
                reset: None,
            })
        })
    }

    /// One line with the times of all phases.
    fn line(&self, gone: u64) -> String {
        let after = |time: u64| {
            let micros = time.saturating_sub(self.began) / 1000;
            format!("{}.{:03} ms", micros / 1000, micros % 1000)
        };
        let mut line = format!("{} is gone: noticed after {}", self.object, after(self.noticed));
        if let Some(time) = self.fenced {
            line += &format!(", fenced after {}", after(time));
        }
        if let Some((time, functions, to)) = &self.moved {
            line += &format!(", {} to {to} after {}", count_of(*functions), after(*time));
        }
        if let Some(time) = self.reset {
            line += &format!(", reset confirmed after {}", after(time));
        }
        line + &format!(", gone after {}", after(gone))
    }
}

fn count_of(functions: usize) -> String {
    match functions {
        1 => "1 function".into(),
        count => format!("{count} functions"),
    }
}

impl Record {
    /// Returns whether the record moves functions from an I/O partition that died or let go of them,
    /// and does nothing else.
    pub(crate) fn is_takeover(&self) -> bool {
        let is_device =
            |change: &Change| matches!(change, Change::Device { .. } | Change::Next { .. });
        self.who == ULTRAVISOR && self.changes.iter().all(is_device) && !self.changes.is_empty()
    }
}

impl Engine<'_> {
    /// Queues the I/O partitions that died to be given up.
    pub(crate) fn queue_dead(&mut self) {
        let servers = self.index.partitions.range(..FIRST_GUEST).map(|(number, _)| *number);
        let dead: Vec<u32> = servers.filter(|number| self.dead_server(*number).is_some()).collect();
        self.queue.extend(dead.into_iter().map(Next::Dead));
    }

    /// Returns the descriptor of a partition, if it is an I/O partition that stopped by itself.
    fn dead_server(&self, number: u32) -> Option<Box<PartitionDescriptor>> {
        let descriptor = self.database.reader().descriptor(number).ok().map(Box::new)?;
        let is_dead = match descriptor.state {
            state::CRASHED => true,
            // Others may have shut it down, and may still need what it holds.
            state::SHUTDOWN => descriptor.cause == cause::SHUTDOWN,
            _ => false,
        };
        (is_dead && descriptor.kind == kind::IO).then_some(descriptor)
    }

    /// Writes into log and database that an I/O partition, which died, is dying. If the log has no
    /// room, this is tried again.
    pub(crate) fn begin_dying(&mut self, number: u32, time: u64) -> Option<UnderWay> {
        let target = self.dead_server(number)?;
        let work = self.write_dying(target, &[], (time, time));
        if work.is_none() {
            self.dead.push(number);
        }
        work
    }

    /// Gives up an I/O partition that hangs, once no record is under way. One that does not run any
    /// more is left alone: it ended otherwise meanwhile. Returns `false` if it is being given up
    /// already.
    pub fn give_up_hung(&mut self, monitor: &mut dyn Monitor, hung: Hung, time: u64) -> bool {
        let is_queued = |next: &Next| matches!(next, Next::Hung(one) if one.number == hung.number);
        if self.queue.iter().any(is_queued) {
            return false;
        }
        self.queue.push_back(Next::Hung(hung));
        if self.under_way.is_none() {
            self.follow_queue(monitor, time);
            self.reap(monitor, time);
        }
        true
    }

    /// Writes into log and database that an I/O partition, which hangs, is dying. If the log has no
    /// room, nothing happens: the watchdog says again that it hangs.
    pub(crate) fn end_hung(&mut self, hung: Hung, time: u64) -> Option<UnderWay> {
        let Hung { number, since, milliseconds } = hung;
        let mut target = self.database.reader().descriptor(number).ok().map(Box::new)?;
        if target.kind != kind::IO || target.state != state::RUNNING {
            return None;
        }
        // From here on it is as one that crashed, but that it must be stopped first.
        target.state = state::CRASHED;
        (target.cause, target.cause_detail) = (cause::SILENT, milliseconds);
        target.cause_address = 0;
        self.write_dying(target, &[Action::Stop(number)], (since, time))
    }

    /// Writes into log and database that an I/O partition is dying, whose end began earlier. The
    /// monitor does this first. Returns `None` if the log has no room.
    fn write_dying(
        &mut self,
        target: Box<PartitionDescriptor>,
        first: &[Action],
        (began, time): (u64, u64),
    ) -> Option<UnderWay> {
        let number = target.number;
        let what = format!("give up {}", label(&target));
        let why = describe_cause(&MonitorEvent {
            partition: number,
            cause: target.cause,
            detail: target.cause_detail,
            vcpu: 0,
            address: target.cause_address,
            time,
        });
        let mut plan = Plan::new(&self.database, &self.index);
        plan.actions.extend_from_slice(first);
        operations::destroy(&mut plan, target).ok()?;
        let (changes, actions) = (plan.changes(), plan.actions);
        let written = self.write_own((&what, &why), &[number], &changes, (ULTRAVISOR, time));
        let sequence = written.ok()?;
        Some(UnderWay::new(sequence, Whose::Dead { number, began }, changes, actions))
    }

    /// Handles the end of the record that made an I/O partition dying.
    pub(crate) fn is_dying(
        &mut self,
        number: u32,
        result: &Result<(), Stopped>,
        (began, now): (u64, u64),
    ) {
        if result.is_err() {
            return self.dead.push(number);
        }
        self.bury(number, began);
        let dying = self.dying.iter_mut().find(|dying| dying.number == number);
        if let Some(phases) = dying.and_then(|dying| dying.phases.as_mut()) {
            phases.noticed = now;
        }
    }

    /// Takes the next step of a takeover, once the partition's page tables are dropped. Returns the
    /// partition if it can be given back now: it has no function any more, and no function owes it
    /// a reset.
    pub(crate) fn take_over(
        &mut self,
        monitor: &mut dyn Monitor,
        mut dying: Dying,
        given_up: GivenUp,
        time: u64,
    ) -> Option<Dying> {
        let now = monitor.now(time);
        if let Some(phases) = &mut dying.phases {
            phases.fenced.get_or_insert(now);
        }
        if self.index.functions_of(dying.number).next().is_some() {
            match self.begin_move(Box::new(dying), time) {
                Ok(work) => drop(self.run(monitor, work, time)),
                Err(dying) => self.try_later(*dying, time),
            }
            return None;
        }
        // With a successor, the takeover comes before another partition in its place.
        if let Some(phases) = &mut dying.phases
            && !phases.is_taken_over
        {
            self.written.server_ended |= !core::mem::replace(&mut phases.told, true);
        }
        let is_owed = given_up == GivenUp::ResetOwed;
        if let Some(phases) = &mut dying.phases
            && phases.owed != is_owed
        {
            phases.owed = is_owed;
            dying.wait = if is_owed { RESET_WAIT } else { FIRST_WAIT };
            phases.reset = (!is_owed).then_some(now);
        }
        if is_owed {
            self.try_later(dying, time);
            return None;
        }
        Some(dying)
    }

    /// Returns an I/O partition that runs, to get the functions of the dead I/O partition `number`.
    fn successor(&self, number: u32) -> Option<Box<PartitionDescriptor>> {
        let others = self.index.partitions.range(..FIRST_GUEST).map(|(other, _)| *other);
        let reader = self.database.reader();
        let others = others.filter(|other| *other != number);
        let mut others = others.filter_map(|other| reader.descriptor(other).ok().map(Box::new));
        others.find(|other| other.kind == kind::IO && other.state == state::RUNNING)
    }

    /// Writes into log and database that the functions of a dying partition move: all of them, or
    /// as many as a record has room for.
    fn begin_move(&mut self, mut dying: Box<Dying>, time: u64) -> Result<UnderWay, Box<Dying>> {
        let Ok(from) = self.database.reader().descriptor(dying.number).map(Box::new) else {
            return Err(dying);
        };
        let most = self.log.ranges_of_record() / DEVICE_WEIGHT;
        let functions: Vec<u32> = self.index.functions_of(from.number).take(most).collect();
        let named = match functions[..] {
            [function] => label_of(self.limits.functions, function),
            _ => count_of(functions.len()),
        };
        // A partition that never ran drives nothing that another could carry on.
        let to = (from.cause != cause::NONE).then(|| self.successor(from.number)).flatten();
        let owner = to.as_ref().map_or(UNASSIGNED, |to| to.number);
        let (name, why) = match &to {
            Some(to) => (label(to), "it is dying, and another runs"),
            None if from.cause == cause::NONE => ("nobody".to_string(), "it never ran"),
            None => ("nobody".to_string(), "it is dying, and no other I/O partition runs"),
        };
        let what = format!("move {named} of {} to {name}", label(&from));
        let mut plan = Plan::new(&self.database, &self.index);
        functions.iter().for_each(|&function| plan.set_device(function, owner));
        let mut partitions = alloc::vec![from.number];
        partitions.extend(to.map(|to| to.number));
        let (changes, actions) = (plan.changes(), plan.actions);
        let payer = dying.payer;
        let Ok(sequence) = self.write_own((&what, why), &partitions, &changes, (payer, time))
        else {
            return Err(dying);
        };
        if let Some(phases) = &mut dying.phases {
            phases.is_taken_over = owner != UNASSIGNED;
            let before = phases.moved.take().map_or(0, |(_, functions, _)| functions);
            phases.moved = Some((time, before + functions.len(), name));
        }
        Ok(UnderWay::new(sequence, Whose::Move(Some(dying)), changes, actions))
    }

    /// Carries out once more a move that an earlier ultravisor began.
    pub(crate) fn move_again(&mut self, sequence: u64, changes: Vec<Change>) -> Option<UnderWay> {
        if let Err(stopped) = self.write_all(&changes, ULTRAVISOR) {
            self.settle_refused(sequence, &stopped.refusal);
            return None;
        }
        let actions = changes.iter().filter_map(action_of).collect();
        Some(UnderWay::new(sequence, Whose::Move(None), changes, actions))
    }

    /// Handles the end of a move.
    pub(crate) fn moved(&mut self, mut dying: Dying, result: &Result<(), Stopped>, now: u64) {
        if let Some((time, _, _)) = dying.phases.as_mut().and_then(|phases| phases.moved.as_mut()) {
            *time = now;
        }
        match result {
            Ok(()) => self.dying.insert(0, dying),
            Err(_) => self.try_later(dying, now),
        }
    }

    /// Logs the times of a takeover, whose partition is gone.
    pub(crate) fn taken_over(&mut self, dying: &Dying, now: u64) {
        let Some(phases) = &dying.phases else {
            return;
        };
        self.written.server_ended = true;
        let line = phases.line(now);
        let origin = Origin::new(ULTRAVISOR, now, 0);
        let mut record = self.new_record(origin, Settled::Committed, &line, "");
        record.partitions = [dying.number].into();
        // Nothing depends on the record, and all before it says what happened.
        let _ = self.log.record(&mut self.database, record, false);
        if self.news.len() < NEWS {
            self.news.push(line);
        }
    }

    /// Returns whether an I/O partition is being given up, and [`Self::try_again`] can go on with that.
    #[must_use]
    pub fn takes_over(&self, time: u64) -> bool {
        let is_due = |dying: &Dying| dying.phases.is_some() && dying.due <= time;
        !self.is_busy() && self.dying.iter().any(is_due)
    }

    /// Returns whether a reset is owed that a report may be about. If so, [`Self::try_again`] asks
    /// the monitor at once.
    pub fn expect_reset(&mut self, time: u64) -> bool {
        let owes = |dying: &&mut Dying| dying.phases.as_ref().is_some_and(|phases| phases.owed);
        let mut any = false;
        for dying in self.dying.iter_mut().filter(owes) {
            dying.due = dying.due.min(time);
            any = true;
        }
        any
    }
}
