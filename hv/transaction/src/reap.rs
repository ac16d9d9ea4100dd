//! Giving up a partition that was destroyed: all it has goes back, as soon as nothing refers to it.
//!
//! ```text
//! DestroyPartition: state dying, committed -> the monitor drops what the partition refers to
//!     -> channels, memory, descriptor go in a transaction of the ultravisor's own
//!     -> frames that others still refer to stay its own; tried again until they are free
//! ```
//!
//! Rule: a partition is *dying* in the database until the last frame of it is given back, and what
//! is dying is tried again for ever, at growing intervals.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use pv_abi::uv::command::Range;
use pv_abi::uv::database::{ChannelEntry, PartitionDescriptor, ULTRAVISOR};
use resource_db::{OwnedRange, Owner};
use zerocopy::FromZeros;

use crate::carry::Stopped;
use crate::engine::{Engine, Origin};
use crate::log::Settled;
use crate::plan::Plan;
use crate::refusal::{label, name_of};
use crate::{Action, Monitor};

/// Nanoseconds until the first repetition; it doubles up to the last.
const FIRST_WAIT: u64 = 10_000_000;
const LAST_WAIT: u64 = 1_000_000_000;
/// Times that one attempt may find more frames in use.
const ROUNDS: usize = 16;
/// Frames behind one in use that are looked at.
const LOOK: u64 = 16 * 1024;

/// A partition that is being given up.
#[derive(Debug)]
pub(crate) struct Dying {
    pub(crate) number: u32,
    /// Frames that something still refers to, as far as known.
    held: Vec<u64>,
    /// Nanoseconds between the last attempt and the next.
    wait: u64,
    /// System time of the next attempt.
    due: u64,
}

impl Dying {
    const fn later(&mut self, time: u64) {
        self.due = time.saturating_add(self.wait);
        self.wait = if self.wait * 2 > LAST_WAIT { LAST_WAIT } else { self.wait * 2 };
    }
}

impl Engine<'_> {
    /// Gives up a partition that is dying, now or later.
    pub(crate) fn bury(&mut self, monitor: &mut dyn Monitor, number: u32, time: u64) {
        if self.dying.iter().any(|dying| dying.number == number) {
            return;
        }
        let mut dying = Dying { number, held: Vec::new(), wait: FIRST_WAIT, due: time };
        if !self.give_back(monitor, &mut dying, time) {
            dying.later(time);
            self.dying.push(dying);
        }
    }

    /// Tries again what was left because something referred to it. Returns when to call next.
    pub fn try_again(&mut self, monitor: &mut dyn Monitor, time: u64) -> Option<u64> {
        for mut dying in core::mem::take(&mut self.dying) {
            if dying.due <= time {
                let still = |frame: &u64| monitor.in_use(*frame);
                let waits = !dying.held.is_empty() && dying.held.iter().all(still);
                if !waits && self.give_back(monitor, &mut dying, time) {
                    continue;
                }
                dying.later(time);
            }
            self.dying.push(dying);
        }
        self.roll_back_orphans(monitor, time);
        self.next_try(time)
    }

    /// Whether anything is left to be tried again.
    #[must_use]
    pub fn waits(&self) -> bool {
        !self.dying.is_empty() || self.pending.iter().any(|pending| pending.orphaned.is_some())
    }

    /// When [`Self::try_again`] has something to do; `None`: nothing is left.
    #[must_use]
    pub fn next_try(&self, time: u64) -> Option<u64> {
        let orphans = self.pending.iter().any(|pending| pending.orphaned.is_some());
        let orphans = orphans.then(|| time.saturating_add(LAST_WAIT));
        self.dying.iter().map(|dying| dying.due).chain(orphans).min()
    }

    /// Gives back what nothing refers to; returns whether that was everything.
    fn give_back(&mut self, monitor: &mut dyn Monitor, dying: &mut Dying, time: u64) -> bool {
        if monitor.perform(Action::Destroy(dying.number)).is_err() {
            return false;
        }
        dying.held.retain(|frame| monitor.in_use(*frame));
        for (_, channel) in self.index.channels.iter().filter(|(_, c)| c.a == dying.number) {
            let frames = channel.frame..channel.frame.saturating_add(channel.frames.into());
            dying.held.extend(frames.filter(|frame| monitor.in_use(*frame)));
        }
        dying.held.sort_unstable();
        dying.held.dedup();
        for _ in 0..ROUNDS {
            match self.reap(monitor, dying, time) {
                Ok(()) => return dying.held.is_empty(),
                Err(Stopped { frame: Some(frame), .. }) if !dying.held.contains(&frame) => {
                    self.find_held(monitor, dying, frame);
                }
                Err(_) => return false,
            }
        }
        false
    }

    /// Looks for what else is held behind a frame that is: who maps one often maps more.
    fn find_held(&self, monitor: &mut dyn Monitor, dying: &mut Dying, frame: u64) {
        dying.held.push(frame);
        let behind = Range { first: frame.saturating_add(1), frames: LOOK };
        for piece in self.index.pieces(behind).filter(|p| p.owner == Owner::ram(dying.number)) {
            let held = (piece.first..piece.first.saturating_add(piece.frames))
                .filter(|&frame| monitor.in_use(frame));
            dying.held.extend(held);
        }
        dying.held.sort_unstable();
        dying.held.dedup();
    }

    /// Gives back all but the frames that are held.
    fn reap(&mut self, monitor: &mut dyn Monitor, dying: &Dying, time: u64) -> Result<(), Stopped> {
        let number = dying.number;
        let mut plan = Plan::new(&self.database, &self.index);
        let Some(target) = plan.descriptor(number) else {
            return Ok(());
        };
        let of = |owner| self.index.of_owner(owner);
        let owned: Vec<OwnedRange> = of(Owner::ram(number)).chain(of(Owner::io(number))).collect();
        let frames = owned.iter().fold(0u64, |sum, range| sum.saturating_add(range.frames));
        let left = dying.held.len() as u64;
        if left > 0 && frames <= left {
            return Ok(());
        }
        let what = self.reap_words(&target, frames - left.min(frames), &dying.held);
        plan_reap(&mut plan, target, &owned, &dying.held);
        let (changes, actions) = (plan.changes(), plan.actions);
        let origin = Origin::new(ULTRAVISOR, time, 0);
        let mut record = self.new_record(origin, Settled::Begun, &what, "it was destroyed");
        (record.partitions, record.changes) = ([number].into(), changes);
        self.carry_out_own(monitor, record, &actions)?;
        if left == 0 {
            self.forget(number);
        }
        Ok(())
    }

    /// Pending transactions are not about a partition any more that is gone: its number may be
    /// another's soon.
    fn forget(&mut self, number: u32) {
        for pending in &mut self.pending {
            pending.created.retain(|created| *created != number);
            pending.assigned.retain(|(assigned, _)| *assigned != number);
        }
    }

    fn reap_words(&self, target: &PartitionDescriptor, frames: u64, held: &[u64]) -> String {
        let all = format!("give back {frames} frames of {}", label(target));
        let Some(&frame) = held.first() else {
            return all;
        };
        let shared = self.index.channels.iter().find(|(_, channel)| {
            let frames = channel.frame..channel.frame.saturating_add(channel.frames.into());
            channel.a == target.number && frames.contains(&frame)
        });
        let with = shared.and_then(|(_, c)| self.database.reader().descriptor(c.b).ok());
        let by = with.map_or_else(
            || "another partition".into(),
            |with| format!("partition \"{}\" ({})", name_of(&with), with.number),
        );
        match held.len() {
            1 => format!("{all}; frame {frame:#x} is still mapped, by {by}"),
            count => format!("{all}; {count} are still mapped, frame {frame:#x} by {by}"),
        }
    }
}

/// Plans that a partition gives back all but some frames: with none left, its descriptor too.
fn plan_reap(
    plan: &mut Plan,
    mut target: Box<PartitionDescriptor>,
    owned: &[OwnedRange],
    held: &[u64],
) {
    let number = target.number;
    for (index, _) in plan.channels().into_iter().filter(|(_, c)| c.a == number || c.b == number) {
        plan.set_channel(index, ChannelEntry::new_zeroed());
        plan.actions.push(Action::Channel(index));
    }
    for range in owned {
        let freed = Owner { number: 0, io: range.owner.io };
        for piece in without(range, held) {
            plan.move_pages(piece, range.owner, freed);
        }
    }
    if held.is_empty() {
        plan.remove_descriptor(number);
        plan.activate(number);
        return;
    }
    target.memory_frames = held.len() as u64;
    (target.memory_target, target.page_table) = (0, 0);
    (target.instance_first, target.instance_frames) = (0, 0);
    (target.console_frame, target.store_frame) = (0, 0);
    plan.set_descriptor(target);
}

/// The parts of a range between frames that are held.
fn without(range: &OwnedRange, held: &[u64]) -> Vec<Range> {
    let end = range.first.saturating_add(range.frames);
    let mut inside: Vec<u64> =
        held.iter().copied().filter(|frame| (range.first..end).contains(frame)).collect();
    inside.sort_unstable();
    let mut pieces = Vec::new();
    let mut first = range.first;
    for frame in inside.into_iter().chain([end]) {
        if frame > first {
            pieces.push(Range { first, frames: frame - first });
        }
        first = frame.saturating_add(1);
    }
    pieces
}
