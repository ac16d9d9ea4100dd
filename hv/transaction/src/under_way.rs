//! What takes the monitor longer than a turn of the ultravisor's loop, and so goes on in the next.
//!
//! ```text
//! record in the log, database -> action, action, … -> settled, reply
//!                                   | refused: what was done is taken back, action by action
//! ```
//!
//! An action about memory is performed in pieces of [`PIECE`] frames. Between two steps the monitor's
//! caller may say that the turn is over ([`Monitor::turn_over`]); [`Engine::proceed`] goes on then.
//! Meanwhile the database says what will be, and the record has not ended, so queries are answered,
//! and nothing else changes the database: a second record would be planned on the first one, which
//! may be taken back.
//!
//! Rule: there is one at a time, and while there is, nobody begins anything.

use alloc::vec::Vec;

use pv_abi::uv::command::{Answer, Range, Refusal, Reply};

use crate::carry::Stopped;
use crate::change::Change;
use crate::engine::{Engine, Origin, Planned};
use crate::log::Settled;
use crate::pending::Pending;
use crate::reap::Passing;
use crate::{Action, Monitor};

/// Frames that the monitor is asked about at once.
pub(crate) const PIECE: u64 = 256;

/// What came of a request.
#[derive(Debug)]
pub enum Begun {
    /// It is answered.
    Answered(Reply),
    /// It is carried out, and takes more turns ([`Engine::proceed`]).
    UnderWay,
    /// Memory that it needs is being given back: begin it again, in a turn to come.
    Later,
}

/// What a request comes to within the engine.
pub(crate) enum Progress {
    Ended(Result<Answer, Refusal>),
    UnderWay,
    Later,
}

impl From<Result<Answer, Refusal>> for Progress {
    fn from(result: Result<Answer, Refusal>) -> Self {
        Self::Ended(result)
    }
}

/// Actions, the first of them done.
#[derive(Default)]
pub(crate) struct Steps {
    actions: Vec<Action>,
    next: usize,
    /// Frames done of the next action, where it is about memory.
    frames: u64,
}

impl Steps {
    pub(crate) fn of(actions: Vec<Action>) -> Self {
        Self { actions, next: 0, frames: 0 }
    }

    /// The next action, or the next piece of it.
    pub(crate) fn piece(&self) -> Option<Action> {
        let action = *self.actions.get(self.next)?;
        let Action::Pages { first, frames } = action else {
            return Some(action);
        };
        let left = frames.saturating_sub(self.frames);
        Some(Action::Pages { first: first.saturating_add(self.frames), frames: left.min(PIECE) })
    }

    /// The piece is done.
    pub(crate) fn done(&mut self, piece: Action) {
        if let (Action::Pages { frames: piece, .. }, Some(Action::Pages { frames, .. })) =
            (piece, self.actions.get(self.next))
        {
            self.frames = self.frames.saturating_add(piece);
            if self.frames < *frames {
                return;
            }
        }
        (self.next, self.frames) = (self.next.saturating_add(1), 0);
    }

    /// What was begun, the action that was refused with it.
    fn begun(&self) -> &[Action] {
        let end = self.next.saturating_add(1).min(self.actions.len());
        self.actions.get(..end).unwrap_or_default()
    }
}

/// Whose record it is.
pub(crate) enum Whose {
    /// A request's.
    Request { origin: Origin, planned: Planned, pending: Option<Vec<(u32, Range)>> },
    /// A partition's that is given up.
    Dying(Passing),
}

/// See the module.
pub(crate) struct UnderWay {
    pub(crate) sequence: u64,
    pub(crate) whose: Whose,
    pub(crate) changes: Vec<Change>,
    pub(crate) steps: Steps,
    /// It was refused, and is taken back.
    stopped: Option<Stopped>,
}

impl core::fmt::Debug for UnderWay {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "record {}", self.sequence)
    }
}

impl UnderWay {
    pub(crate) fn new(
        sequence: u64,
        whose: Whose,
        changes: Vec<Change>,
        actions: Vec<Action>,
    ) -> Self {
        Self { sequence, whose, changes, steps: Steps::of(actions), stopped: None }
    }

    fn created(&self) -> &[u32] {
        match &self.whose {
            Whose::Request { planned, .. } => &planned.created,
            Whose::Dying(_) => &[],
        }
    }
}

impl Engine<'_> {
    /// Whether something is under way. Until it ended, nothing may be begun.
    #[must_use]
    pub const fn is_busy(&self) -> bool {
        self.under_way.is_some()
    }

    /// Whose request is under way.
    #[must_use]
    pub fn asked_by(&self) -> Option<u32> {
        match self.under_way.as_ref()?.whose {
            Whose::Request { origin, .. } => Some(origin.who),
            Whose::Dying(_) => None,
        }
    }

    /// The end of the log for who reads it: a record that is under way may be taken back.
    pub(crate) fn log_end(&self) -> u64 {
        self.under_way.as_ref().map_or(self.log.next, |work| work.sequence)
    }

    /// Free frames that the monitor may have to scrub yet, at most.
    #[must_use]
    pub const fn unscrubbed(&self) -> u64 {
        self.unscrubbed.frames()
    }

    /// Frames, at most so many, that the monitor is to look at once more, since they may be free and
    /// not scrubbed.
    pub fn next_unscrubbed(&mut self, most: u64) -> Option<Range> {
        self.unscrubbed.take(most)
    }

    /// Goes on with what is under way, for a turn of the loop. The reply, and whose request it is,
    /// where a request is carried out now.
    pub fn proceed(&mut self, monitor: &mut dyn Monitor, time: u64) -> Option<(u32, Reply)> {
        let work = self.under_way.take()?;
        let work = self.work_on(monitor, work)?;
        match work.whose {
            Whose::Dying(_) => {
                self.end_batch(monitor, work, time);
                None
            }
            Whose::Request { origin, .. } => {
                let result = self.end_request(monitor, work);
                Some((origin.who, self.reply_to(origin, result)))
            }
        }
    }

    /// Performs what is left, as far as this turn goes; returns what is at its end.
    pub(crate) fn work_on(
        &mut self,
        monitor: &mut dyn Monitor,
        mut work: UnderWay,
    ) -> Option<UnderWay> {
        while let Some(action) = work.steps.piece() {
            if work.stopped.is_some() {
                self.enforce(monitor, action);
                work.steps.done(action);
            } else {
                let result = match work.whose {
                    Whose::Request { .. } => monitor.attempt(action),
                    Whose::Dying(_) => monitor.perform(action),
                };
                match result {
                    Ok(()) => work.steps.done(action),
                    Err(errno) => {
                        work.stopped = Some(self.stopped(monitor, action, errno));
                        let (changes, begun) = (&work.changes, work.steps.begun());
                        let again = self.take_out_after(monitor, changes, begun, work.created());
                        work.steps = Steps::of(again);
                    }
                }
            }
            if work.steps.piece().is_some() && monitor.turn_over() {
                self.under_way = Some(work);
                return None;
            }
        }
        Some(work)
    }

    /// Writes down how a request ended, and does what follows from it.
    pub(crate) fn end_request(
        &mut self,
        monitor: &mut dyn Monitor,
        work: UnderWay,
    ) -> Result<Answer, Refusal> {
        let UnderWay { sequence, whose, stopped, .. } = work;
        let Whose::Request { origin, planned, pending } = whose else {
            return Ok(Answer::Applied(Vec::new()));
        };
        if let Some(Stopped { refusal, .. }) = stopped {
            self.settle_refused(sequence, &refusal);
            return Err(refusal);
        }
        let settled = if pending.is_some() { Settled::Pending } else { Settled::Committed };
        let mut together = self.records_of(origin.who, &planned.completed);
        together.push(sequence);
        self.settle(&together, settled).map_err(crate::refusal::from_write)?;
        self.complete(origin.who, &planned.completed);
        if let Some(assigned) = pending {
            self.pending.push(Pending {
                who: origin.who,
                request: origin.request,
                sequence,
                version: self.database.contents(),
                created: planned.created,
                assigned,
                orphaned: None,
            });
        }
        planned.destroyed.iter().for_each(|&number| self.bury(number, origin.time));
        self.reap(monitor, origin.time);
        Ok(Answer::Applied(planned.outcomes))
    }

    /// The outcome of a batch: settled, or why not.
    pub(crate) fn settle_batch(&mut self, work: UnderWay) -> (Whose, Result<(), Stopped>) {
        let UnderWay { sequence, whose, stopped, .. } = work;
        let result = match stopped {
            Some(stopped) => {
                self.settle_refused(sequence, &stopped.refusal);
                Err(stopped)
            }
            None => {
                let settled = self.settle(&[sequence], Settled::Committed);
                settled.map_err(|error| crate::refusal::from_write(error).into())
            }
        };
        (whose, result)
    }

    pub(crate) fn settle_refused(&mut self, sequence: u64, refusal: &Refusal) {
        let why = alloc::format!("{}: {}: {}", refusal.object, refusal.field, refusal.reason);
        let _ = self.log.settle(&mut self.database, &[sequence], Settled::Refused, &why);
    }
}
