//! The firmware's memory map, sorted and without overlaps.
//!
//! Firmware may list regions unsorted and overlapping. [`firmware_frames`] turns them into disjoint
//! ranges of whole frames in ascending order. The rule: a frame counts as RAM only if all of it is
//! RAM and no other entry claims any byte of it.

use heapless::Vec;

/// Maximum number of regions, raw and sorted.
pub const MAX_REGIONS: usize = 128;

/// Types of a region (multiboot2 specification 3.6.8).
pub mod kind {
    /// Available RAM.
    pub const RAM: u32 = 1;
    /// RAM that holds ACPI tables.
    pub const ACPI: u32 = 3;
    /// RAM that firmware keeps across sleep.
    pub const NVS: u32 = 4;
    /// Defective RAM.
    pub const DEFECTIVE: u32 = 5;
}

/// A range of bytes in the firmware's list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Region {
    /// First physical address.
    pub start: u64,
    /// Number of bytes.
    pub bytes: u64,
    /// See [`kind`].
    pub kind: u32,
}

/// The firmware's list.
pub type Regions = Vec<Region, MAX_REGIONS>;

/// A range of whole frames of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FirmwareRegion {
    /// First frame.
    pub first: u64,
    /// Number of frames.
    pub frames: u64,
    /// See [`kind`].
    pub kind: u32,
}

impl FirmwareRegion {
    /// One past the last frame.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.first.saturating_add(self.frames)
    }
}

/// Disjoint, sorted ranges.
pub type FirmwareRegions = Vec<FirmwareRegion, MAX_REGIONS>;

/// The frames that a region covers: RAM is rounded inward to whole frames, everything else outward.
fn frame_bounds(region: &Region) -> (u64, u64) {
    let end = region.start.saturating_add(region.bytes);
    if region.kind == kind::RAM {
        (region.start.div_ceil(4096), end / 4096)
    } else {
        (region.start / 4096, end.div_ceil(4096))
    }
}

/// The rank of a kind: of two claims to a frame, the more restrictive one wins.
fn weight(kind: u32) -> u32 {
    match kind {
        kind::RAM => 1,
        kind::ACPI => 2,
        kind::NVS => 3,
        kind::DEFECTIVE => 5,
        _ => 4,
    }
}

/// Disjoint ranges in ascending order. Returns `None` if there are more than [`MAX_REGIONS`].
#[must_use]
pub fn firmware_frames(regions: &Regions) -> Option<FirmwareRegions> {
    let mut sorted = FirmwareRegions::new();
    let mut from = 0;
    // Each turn handles the frames from `from` to the next bound of any region.
    loop {
        let bounds = regions.iter().flat_map(|r| {
            let (first, end) = frame_bounds(r);
            [first, end]
        });
        let Some(to) = bounds.filter(|&b| b > from).min() else {
            return Some(sorted);
        };
        let covering = regions.iter().filter(|r| {
            let (first, end) = frame_bounds(r);
            first <= from && from < end
        });
        if let Some(kind) = covering.map(|r| r.kind).max_by_key(|&k| weight(k)) {
            match sorted.last_mut() {
                Some(last) if last.end() == from && last.kind == kind => last.frames += to - from,
                _ => sorted.push(FirmwareRegion { first: from, frames: to - from, kind }).ok()?,
            }
        }
        from = to;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn regions(list: &[(u64, u64, u32)]) -> Regions {
        list.iter().map(|&(start, bytes, kind)| Region { start, bytes, kind }).collect()
    }

    #[test]
    fn overlapping_claims_go_to_the_more_restrictive_one() {
        let raw = regions(&[(0x10_0000, 0x10_0000, 1), (0x18_0000, 0x1000, 2), (0, 0x9fc00, 1)]);
        let frames = firmware_frames(&raw).unwrap();
        let expected = [
            FirmwareRegion { first: 0, frames: 0x9f, kind: 1 },
            FirmwareRegion { first: 0x100, frames: 0x80, kind: 1 },
            FirmwareRegion { first: 0x180, frames: 1, kind: 2 },
            FirmwareRegion { first: 0x181, frames: 0x7f, kind: 1 },
        ];
        assert_eq!(frames.as_slice(), expected);
    }

    proptest::proptest! {
        #[test]
        fn agrees_with_a_frame_by_frame_model(
            raw in proptest::collection::vec((0u64..0x40_000, 0u64..0x20_000, 1u32..7), 1..12)
        ) {
            let raw = regions(&raw);
            let sorted = firmware_frames(&raw).unwrap();
            for pair in sorted.windows(2) {
                assert!(pair[0].end() <= pair[1].first);
            }
            for frame in 0..0x70u64 {
                let found = sorted.iter().find(|r| r.first <= frame && frame < r.end());
                let claims = raw.iter().filter(|r| {
                    let (start, end) = (r.start, r.start + r.bytes);
                    if r.kind == kind::RAM {
                        start <= frame * 4096 && (frame + 1) * 4096 <= end
                    } else {
                        start < (frame + 1) * 4096 && frame * 4096 < end
                            || (r.bytes == 0 && start % 4096 != 0 && start / 4096 == frame)
                    }
                });
                let expected = claims.map(|r| weight(r.kind)).max();
                assert_eq!(found.map(|r| weight(r.kind)), expected);
            }
        }
    }
}
