//! Making a plan true: database first, then the monitor, action by action.
//!
//! Rule: what a monitor refused is undone, in reverse, before anybody is answered. Every action of
//! a request can be taken back; what cannot, giving up a partition, is done when the request is
//! committed (see [`crate::reap`]).

use alloc::format;
use alloc::vec::Vec;

use pv_abi::uv::command::Refusal;
use pv_abi::uv::database::state;

use crate::change::Change;
use crate::engine::Engine;
use crate::log::{Record, Settled};
use crate::refusal::{EBUSY, from_monitor, from_write};
use crate::{Action, Monitor};

/// Why a plan was not made true. Everything is as it was.
pub(crate) struct Stopped {
    /// The answer.
    pub(crate) refusal: Refusal,
    /// The frame that something still refers to, where that was the reason.
    pub(crate) frame: Option<u64>,
}

impl From<Refusal> for Stopped {
    fn from(refusal: Refusal) -> Self {
        Self { refusal, frame: None }
    }
}

/// A monitor for what nobody asked for: nothing is refused but by itself.
struct Own<'m>(&'m mut dyn Monitor);

impl Monitor for Own<'_> {
    fn perform(&mut self, action: Action) -> Result<(), i32> {
        self.0.perform(action)
    }

    fn frame_owner(&mut self, frame: u64) -> Option<(u32, bool)> {
        self.0.frame_owner(frame)
    }

    fn in_use(&mut self, frame: u64) -> bool {
        self.0.in_use(frame)
    }
}

impl Engine<'_> {
    /// Applies changes and has them activated; undoes both where one is refused.
    pub(crate) fn carry_out(
        &mut self,
        monitor: &mut dyn Monitor,
        changes: &[Change],
        actions: &[Action],
        created: &[u32],
    ) -> Result<(), Stopped> {
        for (done, change) in changes.iter().enumerate() {
            if let Err(error) = self.write(change, true) {
                self.take_out(changes, done);
                return Err(from_write(error).into());
            }
        }
        for (done, &action) in actions.iter().enumerate() {
            if let Err(errno) = monitor.attempt(action) {
                let stopped = self.stopped(monitor, action, errno);
                let performed = actions.get(..=done).unwrap_or_default();
                self.take_back(monitor, changes, performed, created);
                return Err(stopped);
            }
        }
        Ok(())
    }

    /// Carries out what nobody asked for: logs it, has it done and settles it.
    pub(crate) fn carry_out_own(
        &mut self,
        monitor: &mut dyn Monitor,
        record: Record,
        actions: &[Action],
    ) -> Result<(), Stopped> {
        let changes = record.changes.clone();
        let sequence = self.log.record(&mut self.database, record, false).map_err(from_write)?;
        if let Err(stopped) = self.carry_out(&mut Own(monitor), &changes, actions, &[]) {
            let why = format!("{}: {}", stopped.refusal.object, stopped.refusal.reason);
            let _ = self.log.settle(&mut self.database, &[sequence], Settled::Refused, &why);
            return Err(stopped);
        }
        Ok(self.settle(&[sequence], Settled::Committed).map_err(from_write)?)
    }

    /// What the monitor's refusal of an action says.
    fn stopped(&self, monitor: &mut dyn Monitor, action: Action, errno: i32) -> Stopped {
        let mut refusal = from_monitor(action, errno);
        let frame = match action {
            Action::Pages { first, frames } if errno == EBUSY => {
                self.first_held(monitor, first, frames)
            }
            _ => None,
        };
        if let Some(frame) = frame {
            refusal.object = format!("frame {frame:#x}");
        }
        Stopped { refusal, frame }
    }

    /// The frame that a range was refused for: the monitor goes from the first to the last.
    fn first_held(&self, monitor: &mut dyn Monitor, first: u64, frames: u64) -> Option<u64> {
        let reader = self.database.reader();
        let (mut low, mut high) = (0, frames);
        while low < high {
            let middle = low + (high - low) / 2;
            let wanted = reader.owner(first + middle).ok()?;
            if monitor.frame_owner(first + middle)? == (wanted.number, wanted.io) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        (low < frames).then_some(first + low)
    }

    /// Makes the database say what is after a change, or what was before it.
    pub(crate) fn write(
        &mut self,
        change: &Change,
        redo: bool,
    ) -> Result<(), resource_db::WriteError> {
        match change {
            Change::Channel { index, .. } => drop(self.channels_changed.insert(*index)),
            Change::Descriptor { number, .. } | Change::Fields { number, .. } => {
                self.partitions_changed.insert(*number);
            }
            Change::Pages { .. } => {}
        }
        if redo {
            change.apply(&mut self.database)?;
        } else {
            change.undo(&mut self.database)?;
        }
        self.index.follow(&self.database, change, redo);
        Ok(())
    }

    /// Makes the database say what was before the first `done` changes.
    pub(crate) fn take_out(&mut self, changes: &[Change], done: usize) {
        for change in changes.iter().take(done).rev() {
            // Undoing needs no more arena pages than there were, so it is not refused.
            let _ = self.write(change, false);
        }
    }

    pub(crate) fn says_running(&self, number: u32) -> bool {
        let descriptor = self.database.reader().descriptor(number);
        descriptor.is_ok_and(|descriptor| descriptor.state == state::RUNNING)
    }

    /// Makes database and monitor what they were before the actions, the last of which was
    /// refused.
    fn take_back(
        &mut self,
        monitor: &mut dyn Monitor,
        changes: &[Change],
        actions: &[Action],
        created: &[u32],
    ) {
        let performed = actions.split_last().map_or(&[][..], |(_, performed)| performed);
        for &action in performed.iter().rev() {
            match action {
                Action::Start(number) => self.enforce(monitor, Action::Stop(number)),
                Action::Partition(number) if created.contains(&number) => {
                    self.enforce(monitor, Action::Destroy(number));
                }
                _ => {}
            }
        }
        self.take_out(changes, changes.len());
        // Memory first, then who lives in it, then what connects them.
        let mut again: Vec<Action> = actions.iter().rev().copied().collect();
        again.sort_by_key(|action| match action {
            Action::Pages { .. } => 0,
            Action::Partition(_) => 1,
            _ => 2,
        });
        for action in again {
            match action {
                Action::Stop(number) if self.says_running(number) => {
                    self.enforce(monitor, Action::Start(number));
                }
                Action::Stop(_) | Action::Start(_) | Action::Destroy(_) => {}
                _ => self.enforce(monitor, action),
            }
        }
    }
}

/// What makes the monitor look at a change again.
pub(crate) fn action_of(change: &Change) -> Action {
    match change {
        Change::Descriptor { number, .. } | Change::Fields { number, .. } => {
            Action::Partition(*number)
        }
        Change::Pages { first, frames, .. } => Action::Pages { first: *first, frames: *frames },
        Change::Channel { index, .. } => Action::Channel(*index),
    }
}
