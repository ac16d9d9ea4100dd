//! Machine frames before there is a resource database.
//!
//! While the monitor starts, it takes its frames out of the firmware's memory map. Afterwards the
//! database says who owns each frame. The rule: a frame is handed out at most once, and never while
//! it holds data (image, modules, boot information, the first MiB).

use heapless::Vec;

use crate::regions::{FirmwareRegion, kind};

/// First frame that may be handed out: frames below belong to firmware and real mode.
const LOWEST: u64 = 0x100;

/// A range of frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameRange {
    /// First frame.
    pub first: u64,
    /// Number of frames.
    pub frames: u64,
}

impl FrameRange {
    /// One past the last frame.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.first.saturating_add(self.frames)
    }
}

/// The free ranges, and the ranges handed out.
#[derive(Debug, Default)]
pub struct EarlyFrames {
    free: Vec<FrameRange, 256>,
    /// One range for each MSI-X table, among others.
    taken: Vec<FrameRange, 512>,
}

impl EarlyFrames {
    /// Makes an empty record without free frames.
    #[must_use]
    pub const fn new() -> Self {
        Self { free: Vec::new(), taken: Vec::new() }
    }

    /// Frees all RAM above the first MiB. Returns `None` if there are too many ranges.
    pub fn add(&mut self, regions: &[FirmwareRegion]) -> Option<()> {
        for region in regions.iter().filter(|r| r.kind == kind::RAM) {
            let first = region.first.max(LOWEST);
            let frames = region.end().saturating_sub(first);
            if frames > 0 {
                self.free.push(FrameRange { first, frames }).ok()?;
            }
        }
        Some(())
    }

    /// Removes a range, as far as it is free, from the free frames. Returns `None` if there are too
    /// many ranges then.
    pub fn reserve(&mut self, range: FrameRange) -> Option<()> {
        let mut index = 0;
        while let Some(&free) = self.free.get(index) {
            let first = free.first.max(range.first);
            let end = free.end().min(range.end());
            if first < end {
                self.cut(index, FrameRange { first, frames: end - first })?;
            }
            // After a cut, this index holds another entry, or the rest of this one.
            if self.free.get(index) == Some(&free) || first < end && free.first < first {
                index += 1;
            }
        }
        Some(())
    }

    /// Takes the first fitting range of `frames` frames whose first frame is a multiple of
    /// `align` (a power of two).
    pub fn take_frames(&mut self, frames: u64, align: u64) -> Option<u64> {
        if frames == 0 || !align.is_power_of_two() {
            return None;
        }
        let (index, first) = self.free.iter().enumerate().find_map(|(index, free)| {
            let first = free.first.checked_next_multiple_of(align)?;
            (first.checked_add(frames)? <= free.end()).then_some((index, first))
        })?;
        let range = FrameRange { first, frames };
        self.cut(index, range)?;
        self.record(range)?;
        Some(first)
    }

    /// The ranges handed out by [`take`](Self::take); successive single frames are joined.
    #[must_use]
    pub fn taken(&self) -> &[FrameRange] {
        &self.taken
    }

    /// The ranges that are still free, in ascending order.
    #[must_use]
    pub fn free(&self) -> &[FrameRange] {
        &self.free
    }

    /// Frees a range that is neither free nor handed out. Returns `None` if there are too many
    /// ranges then.
    pub fn free_also(&mut self, range: FrameRange) -> Option<()> {
        let at = self.free.partition_point(|free| free.first < range.first);
        self.free.insert(at, range).ok()
    }

    /// Records a range that was never free as handed out.
    pub fn record(&mut self, range: FrameRange) -> Option<()> {
        let before = self.taken.iter_mut().find(|t| t.end() == range.first && range.frames == 1);
        if let Some(before) = before {
            before.frames += 1;
            return Some(());
        }
        self.taken.push(range).ok()
    }

    /// Removes `range`, which lies within the free range `index`.
    fn cut(&mut self, index: usize, range: FrameRange) -> Option<()> {
        let whole = self.free.remove(index);
        let after = FrameRange { first: range.end(), frames: whole.end() - range.end() };
        let before = FrameRange { first: whole.first, frames: range.first - whole.first };
        for rest in [after, before] {
            if rest.frames > 0 {
                self.free.insert(index, rest).ok()?;
            }
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const RAM: [FirmwareRegion; 3] = [
        FirmwareRegion { first: 0, frames: 0x9f, kind: kind::RAM },
        FirmwareRegion { first: 0xf0, frames: 0x400, kind: kind::RAM },
        FirmwareRegion { first: 0x600, frames: 0x300, kind: kind::RAM },
    ];

    fn set(ranges: &[FrameRange]) -> BTreeSet<u64> {
        ranges.iter().flat_map(|r| r.first..r.end()).collect()
    }

    #[test]
    fn the_first_mib_is_never_free() {
        let mut frames = EarlyFrames::new();
        frames.add(&RAM).unwrap();
        assert_eq!(frames.take_frames(1, 1), Some(0x100));
        assert_eq!(frames.take_frames(0x100, 0x200), Some(0x200));
        assert_eq!(frames.take_frames(0x1000, 1), None);
    }

    #[test]
    fn what_is_freed_later_lies_in_order() {
        let mut frames = EarlyFrames::new();
        frames.add(&RAM).unwrap();
        frames.reserve(FrameRange { first: 0x200, frames: 0x10 }).unwrap();
        frames.free_also(FrameRange { first: 0x200, frames: 0x10 }).unwrap();
        let firsts = frames.free().iter().map(|range| range.first);
        assert!(firsts.eq([0x100, 0x200, 0x210, 0x600]));
        assert_eq!(set(frames.free()), (0x100..0x4f0).chain(0x600..0x900).collect());
    }

    proptest! {
        #[test]
        fn agrees_with_a_set_of_frames(
            reserved in proptest::collection::vec((0u64..0xa00, 0u64..0x80), 0..8),
            takes in proptest::collection::vec((1u64..0x90, 0u32..8), 0..40),
        ) {
            let mut frames = EarlyFrames::new();
            frames.add(&RAM).unwrap();
            let mut model = set(frames.free());
            for (first, count) in reserved {
                frames.reserve(FrameRange { first, frames: count }).unwrap();
                model.retain(|f| !(first..first + count).contains(f));
                prop_assert_eq!(&set(frames.free()), &model);
            }
            for (count, shift) in takes {
                let align = 1 << shift;
                let fits = |&&f: &&u64| f % align == 0 && (f..f + count).all(|x| model.contains(&x));
                prop_assert_eq!(frames.take_frames(count, align), model.iter().find(fits).copied());
                model = set(frames.free()).intersection(&model).copied().collect();
                prop_assert!(set(frames.taken()).is_disjoint(&model));
            }
            let total = set(frames.free()).len() + set(frames.taken()).len();
            prop_assert!(total <= 0x6f0);
        }
    }
}
