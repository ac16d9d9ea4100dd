//! Which free memory the monitor may not have scrubbed yet.
//!
//! Memory that is given back becomes free at once, and is scrubbed when the ultravisor has nothing
//! else to do: it has the monitor look at the free frames once more. The monitor knows what is
//! clean and scrubs what it hands out dirty, so what is kept here is a matter of time alone: a
//! range too many costs a look, a range too few costs its next owner the wait.
//!
//! Rule: a bounded number of ranges is kept. Where there are more, ranges beside each other become
//! one, with what lies between them.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use pv_abi::uv::command::Range;

/// Ranges that are kept.
const MOST: usize = 256;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Unscrubbed {
    /// Frames by the first of them; no range touches the next.
    ranges: BTreeMap<u64, u64>,
    /// Frames of all ranges.
    frames: u64,
}

impl Unscrubbed {
    /// Frames that may be dirty, at most.
    pub(crate) const fn frames(&self) -> u64 {
        self.frames
    }

    fn put(&mut self, first: u64, end: u64) {
        if first < end {
            self.ranges.insert(first, end - first);
            self.frames = self.frames.saturating_add(end - first);
        }
    }

    fn drop_range(&mut self, first: u64) -> Option<(u64, u64)> {
        let frames = self.ranges.remove(&first)?;
        self.frames = self.frames.saturating_sub(frames);
        Some((first, first.saturating_add(frames)))
    }

    /// The last range that starts at a frame or before it.
    fn before(&self, frame: u64) -> Option<u64> {
        self.ranges.range(..=frame).next_back().map(|(&first, _)| first)
    }

    /// The ranges that touch or overlap what lies between two frames.
    fn touched(&self, first: u64, end: u64) -> Vec<u64> {
        let from = self.before(first).unwrap_or(first);
        let ranges = self.ranges.range(from..=end);
        ranges.filter(|(at, frames)| *at + *frames >= first).map(|(&at, _)| at).collect()
    }

    /// Frames became free.
    pub(crate) fn add(&mut self, range: Range) {
        let (mut first, mut end) = (range.first, range.first.saturating_add(range.frames));
        for at in self.touched(first, end) {
            if let Some((other, other_end)) = self.drop_range(at) {
                (first, end) = (first.min(other), end.max(other_end));
            }
        }
        self.put(first, end);
        self.join(first);
    }

    /// Makes a range one with that before it, or behind it, where there are too many.
    fn join(&mut self, first: u64) {
        if self.ranges.len() <= MOST {
            return;
        }
        let other = first.checked_sub(1).and_then(|frame| self.before(frame));
        let other = other.or_else(|| self.ranges.range(first + 1..).next().map(|(&at, _)| at));
        let ends = other.and_then(|other| self.drop_range(other)).zip(self.drop_range(first));
        if let Some(((a, a_end), (b, b_end))) = ends {
            self.put(a.min(b), a_end.max(b_end));
        }
    }

    /// Frames have an owner: the monitor scrubbed them.
    pub(crate) fn remove(&mut self, range: Range) {
        let end = range.first.saturating_add(range.frames);
        for at in self.touched(range.first, end) {
            if let Some((first, stop)) = self.drop_range(at) {
                self.put(first, stop.min(range.first));
                self.put(first.max(end), stop);
                self.join(first.max(end));
            }
        }
    }

    /// Takes the first frames out, at most so many.
    pub(crate) fn take(&mut self, most: u64) -> Option<Range> {
        let first = *self.ranges.first_key_value()?.0;
        let (first, end) = self.drop_range(first)?;
        let stop = end.min(first.saturating_add(most));
        self.put(stop, end);
        Some(Range { first, frames: stop - first })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    const FRAMES: u64 = 4096;

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Add(u64, u64),
        Remove(u64, u64),
        Take(u64),
    }

    fn step(longest: u64) -> impl Strategy<Value = Step> {
        let range = (0..FRAMES, 1..longest);
        prop_oneof![
            4 => range.clone().prop_map(|(first, frames)| Step::Add(first, frames)),
            2 => range.prop_map(|(first, frames)| Step::Remove(first, frames)),
            1 => (1..longest).prop_map(Step::Take),
        ]
    }

    /// What is kept, and what should be.
    fn after(steps: &[Step]) -> (Unscrubbed, BTreeSet<u64>) {
        let (mut kept, mut model) = (Unscrubbed::default(), BTreeSet::new());
        for step in steps {
            match *step {
                Step::Add(first, frames) => {
                    kept.add(Range { first, frames });
                    model.extend(first..first + frames);
                }
                Step::Remove(first, frames) => {
                    kept.remove(Range { first, frames });
                    model.retain(|frame| !(first..first + frames).contains(frame));
                }
                Step::Take(most) => {
                    let taken = kept.take(most);
                    assert_eq!(taken.is_none(), model.is_empty());
                    let Some(Range { first, frames }) = taken else { continue };
                    assert!(first <= *model.first().unwrap() && frames <= most);
                    model.retain(|frame| !(first..first + frames).contains(frame));
                }
            }
            assert!(kept.ranges.len() <= MOST);
            assert_eq!(kept.frames(), kept.ranges.values().sum::<u64>());
        }
        (kept, model)
    }

    fn frames(kept: &Unscrubbed) -> BTreeSet<u64> {
        kept.ranges.iter().flat_map(|(&first, &frames)| first..first + frames).collect()
    }

    proptest! {
        #[test]
        fn it_is_what_became_free_and_has_no_owner(steps in prop::collection::vec(step(300), 1..60)) {
            let (kept, model) = after(&steps);
            prop_assert_eq!(frames(&kept), model);
        }

        #[test]
        fn of_very_many_ranges_none_is_forgotten(steps in prop::collection::vec(step(3), 1..1500)) {
            // Those that were taken as part of a larger range are clean without being asked for.
            let adds: Vec<Step> =
                steps.into_iter().filter(|step| !matches!(step, Step::Take(_))).collect();
            let (kept, model) = after(&adds);
            prop_assert!(frames(&kept).is_superset(&model));
        }
    }

    #[test]
    fn pieces_are_taken_from_the_first_frame_on() {
        let mut kept = Unscrubbed::default();
        kept.add(Range { first: 100, frames: 10 });
        kept.add(Range { first: 0, frames: 5 });
        assert_eq!(kept.take(3), Some(Range { first: 0, frames: 3 }));
        assert_eq!(kept.take(3), Some(Range { first: 3, frames: 2 }));
        assert_eq!(kept.take(100), Some(Range { first: 100, frames: 10 }));
        assert_eq!((kept.take(1), kept.frames()), (None, 0));
    }
}
