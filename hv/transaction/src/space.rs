//! Chooses the free frames for a request.
//!
//! Rule: choose the fewest extents, and keep 4 MiB entries whole where possible: a large request
//! starts at a 4 MiB boundary, and a small one comes out of the smallest range that holds it.

use alloc::vec::Vec;
use control::command::Range;
use pv_abi::uv::database::TIER_FRAMES;

/// Frames of an entry that is worth keeping whole.
const LARGE: u64 = TIER_FRAMES[1];

/// Where a run of `frames` frames starts in `range`, which is long enough.
fn start_in(range: Range, frames: u64) -> u64 {
    let aligned = range.first.next_multiple_of(LARGE);
    let end = range.first.saturating_add(range.frames);
    if frames >= LARGE && aligned.checked_add(frames).is_some_and(|last| last <= end) {
        aligned
    } else {
        range.first
    }
}

/// A run of `frames` frames out of the free ranges, or `None` if there is none.
#[must_use]
pub fn contiguous(free: &[Range], frames: u64) -> Option<Range> {
    let fits = free.iter().filter(|range| frames > 0 && range.frames >= frames);
    let range = fits.min_by_key(|range| (range.frames, range.first))?;
    Some(Range { first: start_in(*range, frames), frames })
}

/// Extents with `frames` frames in all out of the free ranges (disjoint, in any order), or `None`
/// if there are not enough. If more than `most` extents would be needed, returns the first `most` +
/// 1 of them.
#[must_use]
pub fn choose(free: &[Range], frames: u64, most: usize) -> Option<Vec<Range>> {
    let all = free.iter().fold(0u64, |sum, range| sum.saturating_add(range.frames));
    if frames > all {
        return None;
    }
    let mut rest: Vec<Range> = free.to_vec();
    rest.sort_unstable_by_key(|range| (core::cmp::Reverse(range.frames), range.first));
    let (mut chosen, mut left) = (Vec::new(), frames);
    let mut largest = rest.as_slice();
    while left > 0 && chosen.len() <= most {
        let (range, others) = largest.split_first()?;
        // The ranges are sorted by falling size, so those that hold all the remaining frames come
        // first.
        let fit = largest.partition_point(|range| range.frames >= left);
        if let Some(range) = contiguous(largest.get(..fit).unwrap_or_default(), left) {
            chosen.push(range);
            break;
        }
        left = left.checked_sub(range.frames)?;
        chosen.push(*range);
        largest = others;
    }
    chosen.sort_unstable_by_key(|range| range.first);
    Some(chosen)
}

/// Removes `taken`, which is in ascending order, from the free ranges.
pub(crate) fn take(free: &mut Vec<Range>, taken: &[Range]) {
    let mut left = Vec::with_capacity(free.len() + taken.len());
    for range in free.iter() {
        let (mut first, end) = (range.first, range.first.saturating_add(range.frames));
        let behind = taken.partition_point(|one| one.first.saturating_add(one.frames) <= first);
        for one in taken.iter().skip(behind).take_while(|one| one.first < end) {
            if one.first > first {
                left.push(Range { first, frames: one.first - first });
            }
            first = one.first.saturating_add(one.frames);
        }
        if first < end {
            left.push(Range { first, frames: end - first });
        }
    }
    *free = left;
}
