//! Gives up a partition that was destroyed: all its resources are released as soon as nothing
//! refers to them.
//!
//! ```text
//! DestroyPartition: state dying, committed -> the monitor drops what the partition refers to
//!     -> an I/O partition alone: its functions move, and their resets are confirmed (takeover)
//!     -> a pass over its memory: batch by batch, each a transaction of the ultravisor's own
//!     -> frames that others still refer to stay its own; the next pass tries them again
//!     -> nothing is left: the descriptor goes with the last batch
//! ```
//!
//! A batch has a bounded number of ranges and frames. So its record fits the log, however many
//! pieces the memory lies in, and requests wait for one batch at most. A batch that takes longer
//! than a turn of the ultravisor's loop continues in the next turn ([`crate::under_way`]). The
//! first pass assumes that nothing refers to the frames, and finds a frame in use when the monitor
//! refuses it. Later passes ask about each frame, since the remaining frames were in use before.
//!
//! Rule: a partition is *dying* in the database until its last frame is released. The engine keeps
//! trying to release it, at growing intervals.

use alloc::boxed::Box;
use alloc::collections::BTreeSet;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::mem::take;

use control::command::Range;
use pv_abi::uv::database::{ChannelEntry, PartitionDescriptor, ULTRAVISOR, state};
use resource_db::{OwnedRange, Owner};
use zerocopy::FromZeros;

use crate::carry::Stopped;
use crate::engine::Engine;
use crate::plan::Plan;
use crate::refusal::{label, name_of};
use crate::takeover::Phases;
use crate::under_way::{Next, UnderWay, Whose};
use crate::{Action, GivenUp, Monitor};

/// Nanoseconds until the first repetition, and the longest interval, up to which it doubles.
pub(crate) const FIRST_WAIT: u64 = 10_000_000;
pub(crate) const LAST_WAIT: u64 = 1_000_000_000;
/// Nanoseconds between two questions about disks that are detaching.
const DETACHING_WAIT: u64 = 100_000_000;
/// Maximum number of frames of a batch.
const BATCH_FRAMES: u64 = 1 << 16;
/// How often the monitor may refuse a batch for one more frame: once for each part of [`LOOK`]
/// frames, and a few times more.
const ROUNDS: usize = 40;
/// Frames checked after a frame in use, and frames that a batch asks about.
const LOOK: u64 = 2 * 1024;
/// Number of ranges that take as much of a record as a channel entry.
const CHANNEL_WEIGHT: usize = 3;

/// A partition that is being given up.
#[derive(Debug)]
pub(crate) struct Dying {
    pub(crate) number: u32,
    /// The partition that pays for the work: the creator of this partition.
    pub(crate) payer: u32,
    /// Where the pass continues: whether in RAM (first) or I/O memory, and at which frame.
    next: (bool, u64),
    /// Frames before that place that are still referred to.
    kept: u64,
    /// Set when a pass has ended: the remaining frames were in use then.
    again: bool,
    /// The monitor has dropped the tables in the memory before this frame.
    dropped: u64,
    /// Frames that this pass found in use, and that the next batch leaves out.
    held: BTreeSet<u64>,
    rounds: usize,
    /// Nanoseconds between the last attempt and the next.
    pub(crate) wait: u64,
    /// System time of the next attempt.
    pub(crate) due: u64,
    /// If it is an I/O partition: when each phase of the takeover was reached.
    pub(crate) phases: Option<Box<Phases>>,
}

impl Dying {
    const START: (bool, u64) = (false, 0);

    /// Returns whether a pass is under way.
    fn is_under_way(&self) -> bool {
        self.next != Self::START || self.rounds > 0
    }

    /// Ends or abandons a pass; the next begins later.
    pub(crate) fn later(&mut self, time: u64) {
        (self.next, self.kept, self.rounds) = (Self::START, 0, 0);
        self.held.clear();
        self.due = time.saturating_add(self.wait);
        self.wait = if self.wait * 2 > LAST_WAIT { LAST_WAIT } else { self.wait * 2 };
    }
}

/// A batch that is under way.
pub(crate) struct Passing {
    pub(crate) dying: Dying,
    batch: Batch,
    /// Whether the partition is removed with the batch.
    gone: bool,
    /// Frames known to be in use.
    held: BTreeSet<u64>,
}

/// Resources that are released together.
#[derive(Default)]
struct Batch {
    channels: Vec<u32>,
    pieces: Vec<OwnedRange>,
    /// Number of frames that stay, and the first of them.
    kept: u64,
    held: Option<u64>,
    /// Where the next batch begins.
    next: (bool, u64),
    /// Set if this is the last batch.
    end: bool,
}

impl Engine<'_> {
    /// Marks a dying partition to be given up; [`Self::reap`] does the work.
    pub(crate) fn bury(&mut self, number: u32, time: u64) {
        if self.dying.iter().any(|dying| dying.number == number) {
            return;
        }
        let (next, kept, again) = (Dying::START, 0, false);
        let (held, rounds) = (BTreeSet::new(), 0);
        let (wait, due) = (FIRST_WAIT, time);
        let made = self.database.reader().descriptor(number);
        let payer = made.as_ref().map_or(ULTRAVISOR, |descriptor| descriptor.owner);
        let phases = made.ok().and_then(|descriptor| Phases::of(&descriptor, time));
        let dropped = 0;
        self.dying.push(Dying {
            number,
            payer,
            next,
            kept,
            again,
            dropped,
            held,
            rounds,
            wait,
            due,
            phases,
        });
    }

    /// Marks every partition in state *dying* to be given up.
    pub(crate) fn bury_all(&mut self, time: u64) {
        for number in self.index.partitions.keys().copied().collect::<Vec<_>>() {
            let dying = self.database.reader().descriptor(number);
            if dying.is_ok_and(|descriptor| descriptor.state == state::DYING) {
                self.bury(number, time);
            }
        }
    }

    /// Makes the monitor drop all references that a partition holds, as far as this turn goes:
    /// first, range by range from frame `*dropped` on, the references of its page tables; then the
    /// rest. Advances `*dropped`.
    pub(crate) fn drop_references(
        &self,
        monitor: &mut dyn Monitor,
        number: u32,
        dropped: &mut u64,
    ) -> Result<GivenUp, i32> {
        let ranges = self.index.of_owner_from(Owner::ram(number), *dropped);
        for OwnedRange { first, frames, .. } in ranges {
            if !monitor.drop_tables(number, Range { first, frames })? {
                return Ok(GivenUp::NotYet);
            }
            *dropped = first.saturating_add(frames);
            if monitor.turn_over() {
                return Ok(GivenUp::NotYet);
            }
        }
        monitor.give_up(number)
    }

    /// Tries again the work that waits for references to end, and continues the work that did not
    /// fit in one turn. Returns when to call next.
    pub fn try_again(&mut self, monitor: &mut dyn Monitor, time: u64) -> Option<u64> {
        self.reap(monitor, time);
        if !self.is_busy() {
            self.roll_back_orphans(monitor, time);
        }
        if !self.is_busy() {
            self.enforce_again(monitor, time);
        }
        if !self.is_busy() && !self.dead.is_empty() {
            self.queue.extend(take(&mut self.dead).into_iter().map(Next::Dead));
            self.follow_queue(monitor, time);
        }
        self.free_detached(monitor, time);
        self.next_try(time)
    }

    /// Releases the resources that are due, as far as this turn goes.
    pub(crate) fn reap(&mut self, monitor: &mut dyn Monitor, time: u64) {
        while !self.is_busy()
            && let Some(index) = self.dying.iter().position(|dying| dying.due <= time)
        {
            let dying = self.dying.remove(index);
            self.give_back(monitor, dying, time);
            if monitor.turn_over() {
                return;
            }
        }
    }

    /// Continues a pass that is due by one batch. Returns whether there was one.
    pub(crate) fn reap_on(&mut self, monitor: &mut dyn Monitor, time: u64) -> bool {
        let is_due = |dying: &Dying| dying.is_under_way() || dying.due <= time;
        let index = self.dying.iter().position(is_due);
        let dying = index.map(|index| self.dying.remove(index));
        let found = dying.is_some();
        if let Some(dying) = dying {
            self.give_back(monitor, dying, time);
        }
        found
    }

    /// Returns whether work is left to be tried again.
    #[must_use]
    pub fn waits(&self) -> bool {
        let orphans = self.pending.iter().any(|pending| pending.orphaned.is_some());
        let detaching = self.index.detaching().next().is_some();
        let refused = !self.refused.is_empty();
        orphans || detaching || refused || !self.dying.is_empty() || !self.dead.is_empty()
    }

    /// The time at which [`Self::try_again`] has work to do. Returns `None` if there is no such
    /// work.
    #[must_use]
    pub fn next_try(&self, time: u64) -> Option<u64> {
        let orphans = self.pending.iter().any(|pending| pending.orphaned.is_some());
        let orphans = orphans || !self.dead.is_empty();
        let orphans = orphans.then(|| time.saturating_add(LAST_WAIT));
        let refused = (!self.refused.is_empty()).then_some(self.refused.due);
        let detaching = self.index.detaching().next();
        let detaching = detaching.map(|_| time.saturating_add(DETACHING_WAIT));
        let dying = self.dying.iter().map(|dying| dying.due);
        dying.chain(orphans).chain(refused).chain(detaching).min()
    }

    /// Releases a batch of resources that nothing refers to. Before the first batch, the monitor
    /// drops the references that the partition holds.
    fn give_back(&mut self, monitor: &mut dyn Monitor, mut dying: Dying, time: u64) {
        if !self.give_up_disks(monitor, dying.number, time) {
            return self.try_later(dying, time);
        }
        if !dying.is_under_way() && !dying.again {
            match self.drop_references(monitor, dying.number, &mut dying.dropped) {
                Ok(GivenUp::NotYet) => return self.dying.insert(0, dying),
                Ok(given_up) => match self.take_over(monitor, dying, given_up, time) {
                    Some(left) => dying = left,
                    None => return,
                },
                Err(_) => return self.try_later(dying, time),
            }
        }
        let Ok(target) = self.database.reader().descriptor(dying.number).map(Box::new) else {
            return self.forget(dying.number);
        };
        let mut held = match dying.rounds {
            0 => self.held_of_channels(monitor, dying.number),
            _ => take(&mut dying.held),
        };
        let mut batch = self.batch(monitor, &dying, &mut held, true);
        if !self.has_room(&batch) {
            batch = self.batch(monitor, &dying, &mut held, false);
        }
        let gone = batch.end && dying.kept + batch.kept == 0;
        let passing = Passing { dying, batch, gone, held };
        match self.begin_batch(target, passing, time) {
            Ok(work) => drop(self.run(monitor, work, time)),
            Err((passing, result)) => self.batch_ended(monitor, passing, result, time),
        }
    }

    /// Writes a batch into log and database. If that is refused, or there is nothing to release,
    /// the batch ends at once.
    fn begin_batch(
        &mut self,
        target: Box<PartitionDescriptor>,
        passing: Passing,
        time: u64,
    ) -> Result<UnderWay, (Passing, Result<(), Stopped>)> {
        let Passing { batch, gone, .. } = &passing;
        if !gone && batch.pieces.is_empty() && batch.channels.is_empty() {
            return Err((passing, Ok(())));
        }
        let number = target.number;
        let what = self.reap_words(&target, batch);
        let mut plan = Plan::new(&self.database, &self.index);
        plan_reap(&mut plan, target, batch, *gone);
        let (changes, actions) = (plan.changes(), plan.actions);
        let (why, payer) = ("it was destroyed", passing.dying.payer);
        match self.write_own((&what, why), &[number], &changes, (payer, time)) {
            Ok(sequence) => Ok(UnderWay::new(sequence, Whose::Dying(passing), changes, actions)),
            Err(stopped) => Err((passing, Err(stopped))),
        }
    }

    /// Handles the end of a batch, and schedules the rest of the pass.
    pub(crate) fn batch_ended(
        &mut self,
        monitor: &mut dyn Monitor,
        passing: Passing,
        result: Result<(), Stopped>,
        time: u64,
    ) {
        let Passing { mut dying, batch, gone, mut held } = passing;
        match result {
            Ok(()) if gone => {
                self.forget(dying.number);
                return self.taken_over(&dying, monitor.now(time));
            }
            Ok(()) if batch.end => {
                dying.again = true;
                return self.try_later(dying, time);
            }
            Ok(()) => {
                (dying.next, dying.rounds) = (batch.next, 0);
                dying.kept = dying.kept.saturating_add(batch.kept);
            }
            Err(Stopped { frame: Some(frame), .. })
                if dying.rounds < ROUNDS && held.insert(frame) =>
            {
                self.find_held(monitor, dying.number, frame, &mut held);
                (dying.held, dying.rounds) = (held, dying.rounds + 1);
            }
            Err(_) => return self.try_later(dying, time),
        }
        dying.due = time;
        self.dying.insert(0, dying);
    }

    pub(crate) fn try_later(&mut self, mut dying: Dying, time: u64) {
        dying.later(time);
        self.dying.push(dying);
    }

    /// Returns the frames of a partition's channels that the other ends still use.
    fn held_of_channels(&self, monitor: &mut dyn Monitor, number: u32) -> BTreeSet<u64> {
        let mut held = BTreeSet::new();
        for (_, channel) in self.index.channels_of(number).filter(|(_, c)| c.a == number) {
            let frames = channel.frame..channel.frame.saturating_add(channel.frames.into());
            held.extend(frames.filter(|frame| monitor.in_use(*frame)));
        }
        held
    }

    /// Adds the frames in use behind `frame`: a partition that maps a frame often maps the next.
    fn find_held(
        &self,
        monitor: &mut dyn Monitor,
        number: u32,
        frame: u64,
        held: &mut BTreeSet<u64>,
    ) {
        let behind = Range { first: frame.saturating_add(1), frames: LOOK };
        for piece in self.index.pieces(behind).filter(|p| p.owner == Owner::ram(number)) {
            let frames = piece.first..piece.first.saturating_add(piece.frames);
            held.extend(frames.filter(|&frame| monitor.in_use(frame)));
        }
    }

    /// The next batch to release. If `split` is false, a range that contains a frame in use stays
    /// whole.
    fn batch(
        &self,
        monitor: &mut dyn Monitor,
        dying: &Dying,
        held: &mut BTreeSet<u64>,
        split: bool,
    ) -> Batch {
        let number = dying.number;
        let most = self.log.ranges_of_record();
        let mut batch = Batch { next: dying.next, ..Batch::default() };
        let own = self.index.channels_of(number).map(|(index, _)| index);
        batch.channels = own.take(most / CHANNEL_WEIGHT).collect();
        let room = most.saturating_sub(batch.channels.len() * CHANNEL_WEIGHT);
        let (mut frames, mut questions) = (BATCH_FRAMES, LOOK);
        for io in [false, true].into_iter().filter(|io| *io >= dying.next.0) {
            let owner = Owner { number, io };
            let from = if io == dying.next.0 { dying.next.1 } else { 0 };
            let inside = self.index.range_at(from);
            let inside = inside.filter(|range| range.owner == owner && range.first < from);
            let inside = inside.map(|range| OwnedRange {
                first: from,
                frames: range.first + range.frames - from,
                owner,
            });
            for range in inside.into_iter().chain(self.index.of_owner_from(owner, from)) {
                batch.next = (io, range.first);
                let mut part = OwnedRange { frames: range.frames.min(frames), ..range };
                if dying.again {
                    part.frames = part.frames.min(questions);
                    let all = part.first..part.first.saturating_add(part.frames);
                    held.extend(all.filter(|&frame| monitor.in_use(frame)));
                    questions -= part.frames;
                }
                if part.frames == 0 || !batch.add(&part, held, split, room) {
                    return batch;
                }
                frames -= part.frames;
                batch.next = (io, part.first.saturating_add(part.frames));
                if part.frames < range.frames {
                    return batch;
                }
            }
        }
        batch.end = room > 0;
        batch
    }

    /// Returns whether index pages and the index have room for the ranges that a batch splits.
    fn has_room(&self, batch: &Batch) -> bool {
        if batch.kept == 0 {
            return true;
        }
        let more = batch.pieces.len().saturating_mul(2);
        let freed =
            |piece: &OwnedRange| (piece.first, piece.frames, Owner { number: 0, ..piece.owner });
        let pages = self.database.pages_for(batch.pieces.iter().map(freed));
        self.index.ranges().saturating_add(more) <= self.limits.ranges as usize
            && pages.is_ok_and(|pages| pages <= self.database.free_pages())
    }

    /// Removes a partition that no longer exists from the pending transactions, because its number
    /// may soon be given to another.
    fn forget(&mut self, number: u32) {
        for pending in &mut self.pending {
            pending.created.retain(|created| *created != number);
            pending.assigned.retain(|(assigned, _)| *assigned != number);
        }
    }

    fn reap_words(&self, target: &PartitionDescriptor, batch: &Batch) -> String {
        let frames = batch.pieces.iter().fold(0u64, |sum, piece| sum.saturating_add(piece.frames));
        let all = format!("give back {frames} frames of {}", label(target));
        let Some(frame) = batch.held else {
            return all;
        };
        let shared = self.index.channels_of(target.number).find(|(_, channel)| {
            let frames = channel.frame..channel.frame.saturating_add(channel.frames.into());
            channel.a == target.number && frames.contains(&frame)
        });
        let with = shared.and_then(|(_, c)| self.database.reader().descriptor(c.b).ok());
        let by = with.map_or_else(
            || "another partition".into(),
            |with| format!("partition \"{}\" ({})", name_of(&with), with.number),
        );
        match batch.kept {
            1 => format!("{all}; frame {frame:#x} is still mapped, by {by}"),
            count => format!("{all}; {count} are still mapped, frame {frame:#x} by {by}"),
        }
    }
}

impl Batch {
    /// Adds a range without the frames in use. Returns whether the whole range found room. If not,
    /// `next` is the first frame to continue with.
    fn add(&mut self, range: &OwnedRange, held: &BTreeSet<u64>, split: bool, room: usize) -> bool {
        let end = range.first.saturating_add(range.frames);
        let mut inside = held.range(range.first..end).copied().peekable();
        if !split && inside.peek().is_some() {
            self.held = self.held.or(inside.next());
            self.kept = self.kept.saturating_add(range.frames);
            return true;
        }
        let mut first = range.first;
        for stop in inside.map(Some).chain([None]) {
            let until = stop.unwrap_or(end);
            if until > first {
                if self.pieces.len() >= room {
                    self.next = (range.owner.io, first);
                    return false;
                }
                self.pieces.push(OwnedRange { first, frames: until - first, owner: range.owner });
            }
            if let Some(frame) = stop {
                self.held = self.held.or(Some(frame));
                self.kept = self.kept.saturating_add(1);
                first = frame.saturating_add(1);
            }
        }
        true
    }
}

/// Plans the release of a batch; with the last one, the descriptor is removed.
fn plan_reap(plan: &mut Plan, mut target: Box<PartitionDescriptor>, batch: &Batch, gone: bool) {
    let number = target.number;
    for &index in &batch.channels {
        plan.set_channel(index, ChannelEntry::new_zeroed());
        plan.actions.push(Action::Channel(index));
    }
    let mut left = target.memory_frames.saturating_add(target.instance_frames);
    for piece in &batch.pieces {
        let freed = Owner { number: 0, io: piece.owner.io };
        plan.move_pages(Range { first: piece.first, frames: piece.frames }, piece.owner, freed);
        left = left.saturating_sub(if piece.owner.io { 0 } else { piece.frames });
    }
    if gone {
        plan.remove_descriptor(number);
        plan.activate(number);
        return;
    }
    target.memory_frames = left;
    (target.memory_target, target.page_table) = (0, 0);
    (target.instance_first, target.instance_frames) = (0, 0);
    (target.console_frame, target.store_frame) = (0, 0);
    plan.set_descriptor(target);
}
