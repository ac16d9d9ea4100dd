//! Work that takes the monitor longer than one turn of the ultravisor's loop, and continues in the
//! next.
//!
//! ```text
//! record in the log, database -> action, action, … -> settled, reply
//!                                   | refused
//!     -> what was made runs no more, and goes -> the database as it was -> action, action, … -> settled
//! ```
//!
//! If the ultravisor ends before such a record does, the next ultravisor takes the record back in
//! the same way. Consecutive work ([`Next`]: after a restart, or if a client left several
//! transactions pending) waits in a queue, with one record for each item.
//!
//! An action about memory is performed in pieces of [`PIECE`] frames. Between two steps the
//! monitor's caller may say that the turn is over ([`Monitor::turn_over`]); [`Engine::proceed`]
//! continues in the next turn. Meanwhile the database shows the result, and the record is open.
//! Queries are answered, but nothing else changes the database, because a second record would be
//! planned on the first, which may be taken back.
//!
//! Rule: at most one record is under way, and meanwhile no other work begins.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;

use control::command::{Answer, Range, Refusal, Reply};

use crate::Settled;
use crate::carry::Stopped;
use crate::change::Change;
use crate::engine::{Engine, Origin};
use crate::failure::RollBack;
use crate::pending::Pending;
use crate::planning::Planned;
use crate::reap::{Dying, Passing};
use crate::takeover::Hung;
use crate::{AGAIN, Action, GivenUp, Monitor};

/// Maximum number of frames in one action of the monitor.
pub(crate) const PIECE: u64 = 256;

/// The result of beginning a request.
#[derive(Debug)]
pub enum Begun {
    /// The request is answered.
    Answered(Reply),
    /// The request is being carried out, and takes more turns ([`Engine::proceed`]).
    UnderWay,
    /// Memory that the request needs is still being released. The caller begins the request again
    /// in a later turn.
    Later,
}

/// The state of a request within the engine.
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

impl From<Option<(Origin, Result<Answer, Refusal>)>> for Progress {
    fn from(ended: Option<(Origin, Result<Answer, Refusal>)>) -> Self {
        ended.map_or(Self::UnderWay, |(_, result)| Self::Ended(result))
    }
}

/// A list of actions, of which the first are done.
#[derive(Default)]
pub(crate) struct Steps {
    actions: Vec<Action>,
    next: usize,
    /// Progress of the next action: for memory, the frames done; for a destroy, the frame up to
    /// which tables are dropped.
    frames: u64,
    /// The monitor has begun the next action, which takes several calls.
    entered: bool,
}

impl Steps {
    pub(crate) fn of(actions: Vec<Action>) -> Self {
        Self { actions, ..Self::default() }
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

    /// Notes that `piece` is done.
    pub(crate) fn done(&mut self, piece: Action) {
        if let (Action::Pages { frames: piece, .. }, Some(Action::Pages { frames, .. })) =
            (piece, self.actions.get(self.next))
        {
            self.frames = self.frames.saturating_add(piece);
            if self.frames < *frames {
                return;
            }
        }
        (self.next, self.frames, self.entered) = (self.next.saturating_add(1), 0, false);
    }

    /// The actions that were begun, including the one that was refused.
    fn begun(&self) -> &[Action] {
        let end = self.next.saturating_add(1).min(self.actions.len());
        self.actions.get(..end).unwrap_or_default()
    }
}

/// The origin of a record under way.
pub(crate) enum Whose {
    /// A request of a client.
    Request { origin: Origin, planned: Planned, pending: Option<Vec<(u32, Range)>> },
    /// A partition that is being given up.
    Dying(Passing),
    /// An I/O partition that died or hangs, and becomes dying. Its end began at this time.
    Dead { number: u32, began: u64 },
    /// The move of an I/O partition's functions. Nobody waits for it if an earlier ultravisor began
    /// it.
    Move(Option<Box<Dying>>),
    /// The move of a function that its owner has let go of.
    Left(u32),
    /// The rollback of a pending transaction.
    RollBack(Box<RollBack>),
    /// A record that an earlier ultravisor began.
    Begun,
}

/// The stage of a record under way.
enum Stage {
    /// The record is being carried out.
    Forward,
    /// The record is being taken back, after these actions were begun: the partitions that it
    /// started stop, and those that it created are removed while the page map still has their
    /// memory.
    Clearing(Vec<Action>),
    /// The database is restored, and the monitor follows it.
    Back,
}

/// A record under way; see the module.
pub(crate) struct UnderWay {
    sequence: u64,
    whose: Whose,
    changes: Vec<Change>,
    steps: Steps,
    stage: Stage,
    /// The reason for its refusal, if it was refused.
    stopped: Option<Stopped>,
}

/// Work to do once no record is under way, before any other may begin.
pub(crate) enum Next {
    /// Takes back a record that an earlier ultravisor began.
    TakeBack { sequence: u64, changes: Vec<Change> },
    /// Carries out once more the move of functions that an earlier ultravisor began.
    MoveAgain { sequence: u64, changes: Vec<Change> },
    /// Gives up the partitions that are dying in the database, and the I/O partitions that died.
    GiveUp,
    /// Makes an I/O partition dying, which died.
    Dead(u32),
    /// Makes an I/O partition dying, which hangs.
    Hung(Hung),
    /// Moves a function that its owner, a partition with this number, has let go of; or keeps it
    /// there, for this reason.
    Left { function: u32, owner: u32, stays: Option<String> },
    /// Rolls back a pending transaction.
    RollBack(Box<RollBack>),
    /// Answers a request whose work comes before this entry in the queue.
    Answer(Origin, Answer),
}

impl core::fmt::Debug for Next {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::TakeBack { .. } => "take back",
            Self::MoveAgain { .. } => "move again",
            Self::GiveUp => "give up",
            Self::Dead(_) => "dead",
            Self::Hung(_) => "hung",
            Self::Left { .. } => "left",
            Self::RollBack(_) => "roll back",
            Self::Answer(..) => "answer",
        })
    }
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
        let (steps, stage) = (Steps::of(actions), Stage::Forward);
        Self { sequence, whose, changes, steps, stage, stopped: None }
    }

    /// Takes back the changes that an earlier ultravisor began. The partitions that these created
    /// are removed first.
    fn begun_before(sequence: u64, changes: Vec<Change>) -> Self {
        let created = |change: &Change| match change {
            Change::Descriptor { number, before, .. } if before.is_empty() => Some(*number),
            _ => None,
        };
        let steps = Steps::of(changes.iter().filter_map(created).map(Action::Destroy).collect());
        let stage = Stage::Clearing(Vec::new());
        Self { sequence, whose: Whose::Begun, changes, steps, stage, stopped: None }
    }

    fn created(&self) -> &[u32] {
        match &self.whose {
            Whose::Request { planned, .. } => &planned.created,
            _ => &[],
        }
    }

    /// Returns whether the work for the record is over. In [`Stage::Clearing`] it never is: the
    /// actions of [`Stage::Back`] are still to come.
    fn is_done(&self) -> bool {
        self.steps.piece().is_none() && !matches!(self.stage, Stage::Clearing(_))
    }

    /// Begins to take back the actions, since the monitor refused one.
    fn stop(&mut self, stopped: Stopped) {
        self.stopped = Some(stopped);
        let begun = self.steps.begun().to_vec();
        let performed = begun.split_last().map_or(&[][..], |(_, performed)| performed);
        let clears = |action: &Action| match *action {
            Action::Start(number) => Some(Action::Stop(number)),
            Action::Partition(number) if self.created().contains(&number) => {
                Some(Action::Destroy(number))
            }
            _ => None,
        };
        self.steps = Steps::of(performed.iter().rev().filter_map(clears).collect());
        self.stage = Stage::Clearing(begun);
    }
}

impl Engine<'_> {
    /// Returns whether a record is under way. Until it ends, no other may begin.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.under_way.is_some() || !self.queue.is_empty()
    }

    /// The client whose request is under way, or the partition that pays for the work under way.
    #[must_use]
    pub fn asked_by(&self) -> Option<u32> {
        let Some(work) = &self.under_way else {
            return match self.queue.front()? {
                Next::RollBack(back) => Some(back.who()),
                Next::Answer(origin, _) => Some(origin.who),
                _ => None,
            };
        };
        match &work.whose {
            Whose::Request { origin, .. } => Some(origin.who),
            Whose::RollBack(back) => Some(back.who()),
            Whose::Dying(passing) => Some(passing.dying.payer),
            Whose::Move(dying) => dying.as_ref().map(|dying| dying.payer),
            Whose::Dead { .. } | Whose::Left(_) | Whose::Begun => None,
        }
    }

    /// Returns the number at which the log ends for readers. They do not see a record under way,
    /// since it may be taken back.
    pub(crate) fn log_end(&self) -> u64 {
        let queued = self.queue.iter().filter_map(|next| match next {
            Next::TakeBack { sequence, .. } | Next::MoveAgain { sequence, .. } => Some(*sequence),
            _ => None,
        });
        let open = self.under_way.iter().map(|work| work.sequence).chain(queued);
        open.min().unwrap_or(self.log.next)
    }

    /// Maximum number of free frames that the monitor may still have to scrub.
    #[must_use]
    pub const fn unscrubbed(&self) -> u64 {
        self.unscrubbed.frames()
    }

    /// Takes at most `most` free frames that the monitor must check, since they may not be scrubbed
    /// yet. Also returns the payer: the partition that had the frames released, or the ultravisor
    /// for frames that were free when the host started.
    pub fn next_unscrubbed(&mut self, most: u64) -> Option<(Range, u32)> {
        self.unscrubbed.take(most)
    }

    /// Continues the work under way, for one turn of the loop. If a request has ended with it,
    /// returns its client and the reply.
    pub fn proceed(&mut self, monitor: &mut dyn Monitor, time: u64) -> Option<(u32, Reply)> {
        let ended = match self.under_way.take() {
            None => self.follow_queue(monitor, time),
            Some(work) => match self.run(monitor, work, time) {
                None if !monitor.turn_over() => self.follow_queue(monitor, time),
                ended => ended,
            },
        };
        ended.map(|(origin, result)| (origin.who, self.reply_to(origin, result)))
    }

    /// Does the queued work, as far as this turn goes. Returns the answer to a request that has
    /// ended with it.
    pub(crate) fn follow_queue(
        &mut self,
        monitor: &mut dyn Monitor,
        time: u64,
    ) -> Option<(Origin, Result<Answer, Refusal>)> {
        while self.under_way.is_none()
            && let Some(next) = self.queue.pop_front()
        {
            match next {
                Next::TakeBack { sequence, changes } => {
                    let work = UnderWay::begun_before(sequence, changes);
                    self.run(monitor, work, time);
                }
                Next::MoveAgain { sequence, changes } => {
                    if let Some(work) = self.move_again(sequence, changes) {
                        self.run(monitor, work, time);
                    }
                }
                Next::GiveUp => {
                    self.bury_all(time);
                    self.queue_dead();
                }
                Next::Dead(number) => {
                    if let Some(work) = self.begin_dying(number, time) {
                        self.run(monitor, work, time);
                    }
                }
                Next::Hung(hung) => {
                    if let Some(work) = self.end_hung(hung, time) {
                        self.run(monitor, work, time);
                    }
                }
                Next::Left { function, owner, stays } => {
                    if let Some(work) = self.begin_left(function, owner, stays, time) {
                        self.run(monitor, work, time);
                    }
                }
                Next::RollBack(back) => match self.begin_roll_back(back) {
                    Ok(work) => drop(self.run(monitor, work, time)),
                    Err((back, stopped)) => self.rolled_back(*back, Err(stopped)),
                },
                Next::Answer(origin, answer) => {
                    self.reap(monitor, time);
                    return Some((origin, Ok(answer)));
                }
            }
            if monitor.turn_over() {
                break;
            }
        }
        None
    }

    /// Performs the remaining actions, as far as this turn goes, and ends the record once all are
    /// done. Returns the answer to a request that has ended.
    pub(crate) fn run(
        &mut self,
        monitor: &mut dyn Monitor,
        work: UnderWay,
        time: u64,
    ) -> Option<(Origin, Result<Answer, Refusal>)> {
        let work = self.work_on(monitor, work)?;
        self.end(monitor, work, time)
    }

    /// Performs the remaining actions, as far as this turn goes. Returns the record if all are
    /// done.
    fn work_on(&mut self, monitor: &mut dyn Monitor, mut work: UnderWay) -> Option<UnderWay> {
        while !work.is_done() {
            self.step(monitor, &mut work);
            if !work.is_done() && monitor.turn_over() {
                self.under_way = Some(work);
                return None;
            }
        }
        Some(work)
    }

    /// Performs an action, or a piece of it. After the last action that clears the way back,
    /// restores the database.
    fn step(&mut self, monitor: &mut dyn Monitor, work: &mut UnderWay) {
        let Some(action) = work.steps.piece() else {
            if let Stage::Clearing(begun) = core::mem::replace(&mut work.stage, Stage::Back) {
                self.take_out(&work.changes, work.changes.len());
                work.steps = Steps::of(match work.whose {
                    Whose::Begun => self.again_after_restart(&work.changes),
                    _ => self.again_after(&begun),
                });
            }
            return;
        };
        if !matches!(work.stage, Stage::Forward) {
            if self.enforce_part(monitor, action, &mut work.steps.frames) {
                work.steps.done(action);
            }
            return;
        }
        let result = match work.whose {
            Whose::Request { .. } if !work.steps.entered => monitor.attempt(action),
            Whose::Request { .. } => monitor.resume(action),
            _ => monitor.perform(action),
        };
        match result {
            Ok(()) => work.steps.done(action),
            Err(AGAIN) => work.steps.entered = true,
            Err(errno) => work.stop(self.stopped(monitor, action, errno)),
        }
    }

    /// Makes the monitor follow the database, as far as this turn goes. Returns whether that was
    /// all.
    fn enforce_part(
        &mut self,
        monitor: &mut dyn Monitor,
        action: Action,
        dropped: &mut u64,
    ) -> bool {
        if let Action::Destroy(number) = action
            && self.drop_references(monitor, number, dropped) == Ok(GivenUp::NotYet)
        {
            return false;
        }
        self.enforce(monitor, action);
        true
    }

    /// Logs the outcome of a record, and does the work that follows from it.
    fn end(
        &mut self,
        monitor: &mut dyn Monitor,
        work: UnderWay,
        time: u64,
    ) -> Option<(Origin, Result<Answer, Refusal>)> {
        let UnderWay { sequence, whose, stopped, .. } = work;
        if let Some(Stopped { refusal, .. }) = &stopped {
            self.settle_refused(sequence, refusal);
        }
        let result = stopped.map_or(Ok(()), Err);
        match whose {
            Whose::Request { origin, planned, pending } => {
                let result = result.map_err(|stopped| stopped.refusal);
                let result = result
                    .and_then(|()| self.end_request(monitor, sequence, origin, planned, pending));
                return Some((origin, result));
            }
            Whose::Dying(passing) => {
                let result = result.and_then(|()| self.settle_own(sequence));
                self.batch_ended(monitor, passing, result, time);
            }
            Whose::Dead { number, began } => {
                let result = result.and_then(|()| self.settle_own(sequence));
                self.is_dying(number, &result, (began, monitor.now(time)));
            }
            Whose::Move(dying) => {
                let result = result.and_then(|()| self.settle_own(sequence));
                let now = monitor.now(time);
                dying.into_iter().for_each(|dying| self.moved(*dying, &result, now));
            }
            Whose::Left(function) => {
                let result = result.and_then(|()| self.settle_own(sequence));
                self.left_ended(function, &result);
            }
            Whose::RollBack(back) => {
                let result = result.and_then(|()| self.settle_own(sequence));
                self.rolled_back(*back, result);
            }
            Whose::Begun => {
                // No replica has applied it, so it counts as never carried out.
                let why = "the ultravisor restarted before it was done";
                let _ = self.log.settle(&mut self.database, &[sequence], Settled::Refused, why);
            }
        }
        None
    }

    /// Logs that a request was carried out, and does the work that follows from it.
    fn end_request(
        &mut self,
        monitor: &mut dyn Monitor,
        sequence: u64,
        origin: Origin,
        planned: Planned,
        pending: Option<Vec<(u32, Range)>>,
    ) -> Result<Answer, Refusal> {
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
        self.free_detached(monitor, origin.time);
        Ok(Answer::Applied(planned.outcomes))
    }

    /// Logs that a record of the ultravisor's own was carried out.
    fn settle_own(&mut self, sequence: u64) -> Result<(), Stopped> {
        let settled = self.settle(&[sequence], Settled::Committed);
        settled.map_err(|error| crate::refusal::from_write(error).into())
    }

    pub(crate) fn settle_refused(&mut self, sequence: u64, refusal: &Refusal) {
        let why = alloc::format!("{}: {}: {}", refusal.object, refusal.field, refusal.reason);
        let _ = self.log.settle(&mut self.database, &[sequence], Settled::Refused, &why);
    }
}
