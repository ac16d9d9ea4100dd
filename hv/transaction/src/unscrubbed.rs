//! The free memory that the monitor may not have scrubbed yet.
//!
//! Released memory becomes free at once. When the ultravisor has nothing else to do, it lets the
//! monitor check the free frames once more, which scrubs them. Each range is kept with a payer, the
//! partition that had the memory released, to which this time is charged. The monitor knows which
//! frames are clean, and scrubs dirty frames before it gives them to an owner. So an error here
//! costs only time: for a surplus range a check, and for a missing range a wait of its next owner.
//!
//! Rule: a bounded number of ranges is kept. If there are more, neighbouring ranges are joined,
//! together with the frames between them, under one payer.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use control::command::Range;

/// Maximum number of ranges that are kept.
const MOST: usize = 256;

/// The ranges; see the module.
#[derive(Debug, Default)]
pub(crate) struct Unscrubbed {
    /// Number of frames and their payer, by first frame; ranges that touch have different payers.
    ranges: BTreeMap<u64, (u64, u32)>,
    /// Number of frames in all ranges.
    frames: u64,
}

impl Unscrubbed {
    /// Maximum number of frames that may be dirty.
    pub(crate) const fn frames(&self) -> u64 {
        self.frames
    }

    fn put(&mut self, first: u64, end: u64, payer: u32) {
        if first < end {
            self.ranges.insert(first, (end - first, payer));
            self.frames = self.frames.saturating_add(end - first);
        }
    }

    /// Removes the range that starts at a frame. Returns its ends and its payer.
    fn drop_range(&mut self, first: u64) -> Option<(u64, u64, u32)> {
        let (frames, payer) = self.ranges.remove(&first)?;
        self.frames = self.frames.saturating_sub(frames);
        Some((first, first.saturating_add(frames), payer))
    }

    /// The first frame of the last range that starts at or before a frame.
    fn before(&self, frame: u64) -> Option<u64> {
        self.ranges.range(..=frame).next_back().map(|(&first, _)| first)
    }

    /// The first frames of the ranges that touch or overlap the frames between two bounds.
    fn touched(&self, first: u64, end: u64) -> Vec<u64> {
        let from = self.before(first).unwrap_or(first);
        let ranges = self.ranges.range(from..=end);
        ranges.filter(|(at, (frames, _))| *at + *frames >= first).map(|(&at, _)| at).collect()
    }

    /// Adds frames that became free, for which `payer` pays.
    pub(crate) fn add(&mut self, range: Range, payer: u32) {
        self.remove(range);
        let (mut first, mut end) = (range.first, range.first.saturating_add(range.frames));
        for at in self.touched(first, end) {
            if self.ranges.get(&at).is_some_and(|(_, other)| *other == payer)
                && let Some((other, other_end, _)) = self.drop_range(at)
            {
                (first, end) = (first.min(other), end.max(other_end));
            }
        }
        self.put(first, end, payer);
        self.join(first);
    }

    /// Joins a range with one of its neighbours if there are too many.
    fn join(&mut self, first: u64) {
        if self.ranges.len() <= MOST {
            return;
        }
        let other = first.checked_sub(1).and_then(|frame| self.before(frame));
        let other = other.or_else(|| self.ranges.range(first + 1..).next().map(|(&at, _)| at));
        let ends = other.and_then(|other| self.drop_range(other)).zip(self.drop_range(first));
        if let Some(((a, a_end, _), (b, b_end, payer))) = ends {
            self.put(a.min(b), a_end.max(b_end), payer);
        }
    }

    /// Removes frames that got an owner: the monitor has scrubbed them.
    pub(crate) fn remove(&mut self, range: Range) {
        let end = range.first.saturating_add(range.frames);
        for at in self.touched(range.first, end) {
            if let Some((first, stop, payer)) = self.drop_range(at) {
                self.put(first, stop.min(range.first), payer);
                self.put(first.max(end), stop, payer);
                self.join(first.max(end));
            }
        }
    }

    /// Takes out the first frames, at most `most`, with their payer.
    pub(crate) fn take(&mut self, most: u64) -> Option<(Range, u32)> {
        let first = *self.ranges.first_key_value()?.0;
        let (first, end, payer) = self.drop_range(first)?;
        let stop = end.min(first.saturating_add(most));
        self.put(stop, end, payer);
        Some((Range { first, frames: stop - first }, payer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FRAMES: u64 = 4096;

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Add(u64, u64, u32),
        Remove(u64, u64),
        Take(u64),
    }

    fn step(longest: u64) -> impl Strategy<Value = Step> {
        let range = (0..FRAMES, 1..longest);
        prop_oneof![
            4 => (range.clone(), 1..4u32).prop_map(|((at, frames), who)| Step::Add(at, frames, who)),
            2 => range.prop_map(|(first, frames)| Step::Remove(first, frames)),
            1 => (1..longest).prop_map(Step::Take),
        ]
    }

    /// The ranges kept after these steps, and those expected.
    fn after(steps: &[Step]) -> (Unscrubbed, BTreeMap<u64, u32>) {
        let (mut kept, mut model) = (Unscrubbed::default(), BTreeMap::new());
        for step in steps {
            match *step {
                Step::Add(first, frames, payer) => {
                    kept.add(Range { first, frames }, payer);
                    model.extend((first..first + frames).map(|frame| (frame, payer)));
                }
                Step::Remove(first, frames) => {
                    kept.remove(Range { first, frames });
                    model.retain(|frame, _| !(first..first + frames).contains(frame));
                }
                Step::Take(most) => {
                    let taken = kept.take(most);
                    assert_eq!(taken.is_none(), model.is_empty());
                    let Some((Range { first, frames }, payer)) = taken else { continue };
                    assert!(first <= *model.first_key_value().unwrap().0 && frames <= most);
                    let few = kept.ranges.len() < MOST;
                    let mut paid = model.range(first..first + frames).map(|(_, who)| *who);
                    assert!(!few || paid.all(|who| who == payer), "{first:#x} for {payer}");
                    model.retain(|frame, _| !(first..first + frames).contains(frame));
                }
            }
            assert!(kept.ranges.len() <= MOST);
            assert_eq!(kept.frames(), kept.ranges.values().map(|(frames, _)| frames).sum::<u64>());
        }
        (kept, model)
    }

    fn frames(kept: &Unscrubbed) -> BTreeMap<u64, u32> {
        let ranges = kept.ranges.iter();
        let paid = |(&first, &(frames, who)): (&u64, &(u64, u32))| {
            (first..first + frames).map(move |frame| (frame, who))
        };
        ranges.flat_map(paid).collect()
    }

    proptest! {
        #[test]
        fn it_is_what_became_free_and_has_no_owner(steps in prop::collection::vec(step(300), 1..60)) {
            let (kept, model) = after(&steps);
            prop_assert_eq!(frames(&kept), model);
        }

        #[test]
        fn of_very_many_ranges_none_is_forgotten(steps in prop::collection::vec(step(3), 1..1500)) {
            // Frames that were taken as part of a larger range are clean without being asked for.
            let adds: Vec<Step> =
                steps.into_iter().filter(|step| !matches!(step, Step::Take(_))).collect();
            let (kept, model) = after(&adds);
            let kept = frames(&kept);
            prop_assert!(model.keys().all(|frame| kept.contains_key(frame)));
        }
    }

    #[test]
    fn pieces_are_taken_from_the_first_frame_on() {
        let mut kept = Unscrubbed::default();
        kept.add(Range { first: 100, frames: 10 }, 3);
        kept.add(Range { first: 0, frames: 5 }, 1);
        assert_eq!(kept.take(3), Some((Range { first: 0, frames: 3 }, 1)));
        assert_eq!(kept.take(3), Some((Range { first: 3, frames: 2 }, 1)));
        assert_eq!(kept.take(100), Some((Range { first: 100, frames: 10 }, 3)));
        assert_eq!((kept.take(1), kept.frames()), (None, 0));
    }
}
