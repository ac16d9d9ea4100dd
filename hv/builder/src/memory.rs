//! The partition's memory: the machine frame behind each pseudo-physical frame.

use alloc::vec::Vec;
use core::ops::Range;

/// One past the last machine frame with 52-bit addresses (Intel SDM vol. 3, 4.1.4).
const MAX_FRAME: u64 = 1 << 40;

/// A run of machine frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// First machine frame.
    pub first: u64,
    /// Number of frames.
    pub frames: u64,
}

/// Extents that form pseudo-physical memory from frame 0 on, one after the other.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    /// First PFN of each extent, and the extent.
    extents: Vec<(u64, Extent)>,
    frames: u64,
}

impl Memory {
    /// Makes the memory of these extents. Leaves out empty extents and those past the machine's
    /// address space.
    #[must_use]
    pub fn new(extents: impl IntoIterator<Item = Extent>) -> Self {
        let mut memory = Self::default();
        for extent in extents {
            let fits = memory.frames.checked_add(extent.frames).is_some()
                && extent.first.checked_add(extent.frames).is_some_and(|end| end <= MAX_FRAME);
            if extent.frames > 0 && fits {
                memory.extents.push((memory.frames, extent));
                memory.frames += extent.frames;
            }
        }
        memory
    }

    /// Splits off the first `frames` frames. Returns them, and the extents of the rest.
    #[must_use]
    pub fn split(self, frames: u64) -> (Self, Vec<Extent>) {
        let (mut first, mut rest) = (Self::default(), Vec::new());
        for (start, extent) in self.extents {
            let here = frames.saturating_sub(start).min(extent.frames);
            if here > 0 {
                first.extents.push((start, Extent { frames: here, ..extent }));
                first.frames += here;
            }
            if here < extent.frames {
                rest.push(Extent { first: extent.first + here, frames: extent.frames - here });
            }
        }
        (first, rest)
    }

    /// Total number of frames.
    #[must_use]
    pub fn frames(&self) -> u64 {
        self.frames
    }

    /// Machine frame behind a PFN.
    #[must_use]
    pub fn machine_frame(&self, pfn: u64) -> Option<u64> {
        let index = self.extents.partition_point(|(start, _)| *start <= pfn).checked_sub(1)?;
        let (start, extent) = self.extents.get(index)?;
        let offset = pfn - start;
        (offset < extent.frames).then(|| extent.first + offset)
    }

    /// The extents in order, each with its first PFN.
    pub fn extents(&self) -> impl Iterator<Item = (u64, Extent)> + '_ {
        self.extents.iter().copied()
    }

    /// The machine frames behind a range of PFNs; ends where memory ends.
    pub fn machine_frames(&self, pfns: Range<u64>) -> impl Iterator<Item = u64> + '_ {
        let first = self.extents.partition_point(|(start, _)| *start <= pfns.start);
        let extents = self.extents.get(first.saturating_sub(1)..).unwrap_or_default();
        extents.iter().flat_map(move |(start, extent)| {
            let within = |pfn: u64| extent.first + pfn.saturating_sub(*start).min(extent.frames);
            within(pfns.start)..within(pfns.end)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn frames_are_those_of_the_extents_in_order(
            runs in prop::collection::vec((0_u64..10_000, 0_u64..50), 0..20),
        ) {
            let all: Vec<u64> = runs.iter().flat_map(|&(first, n)| first..first + n).collect();
            let extents = runs.iter().map(|&(first, frames)| Extent { first, frames });
            let memory = Memory::new(extents);
            prop_assert_eq!(memory.frames(), all.len() as u64);
            for (pfn, frame) in all.iter().enumerate() {
                prop_assert_eq!(memory.machine_frame(pfn as u64), Some(*frame));
            }
            prop_assert_eq!(memory.machine_frame(all.len() as u64), None);
        }

        #[test]
        fn frames_of_a_range_are_those_of_its_pfns(
            runs in prop::collection::vec((0_u64..10_000, 0_u64..50), 0..20),
            from in 0_u64..600,
            count in 0_u64..600,
        ) {
            let memory = Memory::new(runs.iter().map(|&(first, frames)| Extent { first, frames }));
            let expected: Vec<u64> =
                (from..from + count).map_while(|pfn| memory.machine_frame(pfn)).collect();
            prop_assert_eq!(memory.machine_frames(from..from + count).collect::<Vec<_>>(), expected);
        }

        #[test]
        fn a_split_keeps_the_order(
            runs in prop::collection::vec((0_u64..10_000, 0_u64..50), 0..20),
            at in 0_u64..600,
        ) {
            let all: Vec<u64> = runs.iter().flat_map(|&(first, n)| first..first + n).collect();
            let extents = runs.iter().map(|&(first, frames)| Extent { first, frames });
            let (first, rest) = Memory::new(extents).split(at);
            let kept: Vec<u64> = first.machine_frames(0..first.frames()).collect();
            let rest: Vec<u64> =
                rest.iter().flat_map(|extent| extent.first..extent.first + extent.frames).collect();
            prop_assert_eq!(kept.len(), all.len().min(at as usize));
            prop_assert_eq!([kept, rest].concat(), all);
        }
    }
}
