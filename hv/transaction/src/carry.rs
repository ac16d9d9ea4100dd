//! Puts a plan into effect: first in the database, then in the monitor, action by action.
//!
//! Rule: if a monitor refuses an action, all actions are undone in reverse order before the client
//! gets an answer. Every action of a request can be undone except giving up a partition, which
//! therefore waits until the request is committed (see [`crate::reap`]).

use alloc::format;
use alloc::vec::Vec;

use control::command::{Range, Refusal};
use pv_abi::uv::database::{ULTRAVISOR, UNASSIGNED, state};

use crate::Settled;
use crate::change::Change;
use crate::engine::{Engine, Origin};
use crate::refusal::{EBUSY, from_monitor, from_write};
use crate::{Action, Monitor};

/// The reason why a plan was not put into effect. Everything is as it was before.
pub(crate) struct Stopped {
    /// The refusal to answer with.
    pub(crate) refusal: Refusal,
    /// The frame that is still referred to, if that was the reason.
    pub(crate) frame: Option<u64>,
}

impl From<Refusal> for Stopped {
    fn from(refusal: Refusal) -> Self {
        Self { refusal, frame: None }
    }
}

impl Engine<'_> {
    /// Writes changes into the database, at the expense of `payer`. If the database refuses one of
    /// them, writes none.
    pub(crate) fn write_all(&mut self, changes: &[Change], payer: u32) -> Result<(), Stopped> {
        self.payer = payer;
        for (done, change) in changes.iter().enumerate() {
            if let Err(error) = self.write(change, true) {
                self.take_out(changes, done);
                return Err(from_write(error).into());
            }
        }
        Ok(())
    }

    /// Writes a record of the ultravisor's own into the log, and its changes into the database at the
    /// expense of `payer`. `what` and the reason are for people. Returns the record's number.
    pub(crate) fn write_own(
        &mut self,
        (what, reason): (&str, &str),
        partitions: &[u32],
        changes: &[Change],
        (payer, time): (u32, u64),
    ) -> Result<u64, Stopped> {
        let origin = Origin::new(ULTRAVISOR, time, 0);
        let mut record = self.new_record(origin, Settled::Begun, what, reason);
        (record.partitions, record.changes) = (partitions.to_vec(), changes.to_vec());
        let sequence = self.log.record(&mut self.database, record, false).map_err(from_write)?;
        self.write_all(changes, payer)
            .inspect_err(|stopped| self.settle_refused(sequence, &stopped.refusal))?;
        Ok(sequence)
    }

    /// Makes a stop from the monitor's refusal of an action. It names the refused frame, if known.
    pub(crate) fn stopped(&self, monitor: &mut dyn Monitor, action: Action, errno: i32) -> Stopped {
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

    /// Returns the first frame of a range that the monitor has not taken over. The monitor goes
    /// through a range from its first frame to its last.
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

    /// Writes the state after a change into the database, or with `redo` false the state before it.
    pub(crate) fn write(
        &mut self,
        change: &Change,
        redo: bool,
    ) -> Result<(), resource_db::WriteError> {
        match change {
            Change::Device { .. } | Change::Next { .. } => {}
            Change::Endpoint { index, .. } => drop(self.written.endpoints.insert(*index)),
            Change::Channel { index, .. } => drop(self.written.channels.insert(*index)),
            Change::Descriptor { number, .. } | Change::Fields { number, .. } => {
                self.written.partitions.insert(*number);
            }
            Change::Pages { first, frames, before, after } => {
                let (from, to) = if redo { (*before, *after) } else { (*after, *before) };
                let range = Range { first: *first, frames: *frames };
                if to == UNASSIGNED {
                    self.unscrubbed.add(range, self.payer);
                } else if from == UNASSIGNED {
                    self.unscrubbed.remove(range);
                }
            }
        }
        if redo {
            change.apply(&mut self.database)?;
        } else {
            change.undo(&mut self.database)?;
        }
        self.index.follow(&self.database, change, redo);
        Ok(())
    }

    /// Takes the first `done` changes out of the database again.
    pub(crate) fn take_out(&mut self, changes: &[Change], done: usize) {
        for change in changes.iter().take(done).rev() {
            // Undoing needs no more arena pages than before, so the database does not refuse it.
            let _ = self.write(change, false);
        }
    }

    pub(crate) fn says_running(&self, number: u32) -> bool {
        let descriptor = self.database.reader().descriptor(number);
        descriptor.is_ok_and(|descriptor| descriptor.state == state::RUNNING)
    }

    /// The actions that make the monitor follow the restored database, given the actions that were
    /// begun.
    pub(crate) fn again_after(&self, begun: &[Action]) -> Vec<Action> {
        let mut again: Vec<Action> = begun.iter().rev().copied().collect();
        again.sort_by_key(rank);
        again.retain_mut(|action| match *action {
            Action::Stop(number) if self.says_running(number) => {
                *action = Action::Start(number);
                true
            }
            Action::Stop(_) | Action::Start(_) | Action::Destroy(_) => false,
            _ => true,
        });
        again
    }
}

/// The rank of an action in the order in which the monitor follows a database: memory first, then
/// the partitions in it, then the channels that connect them and the functions that they drive.
pub(crate) const fn rank(action: &Action) -> u8 {
    match action {
        Action::Pages { .. } => 0,
        Action::Partition(_) => 1,
        _ => 2,
    }
}

/// The action that makes the monitor read a change. Returns `None` for a part of the database that
/// the monitor does not read.
pub(crate) fn action_of(change: &Change) -> Option<Action> {
    Some(match change {
        Change::Descriptor { number, .. } | Change::Fields { number, .. } => {
            Action::Partition(*number)
        }
        Change::Pages { first, frames, .. } => Action::Pages { first: *first, frames: *frames },
        Change::Channel { index, .. } => Action::Channel(*index),
        Change::Device { index, .. } => Action::Device(*index),
        Change::Endpoint { .. } | Change::Next { .. } => return None,
    })
}
