//! Which free frames a request gets.
//!
//! Rule: the fewest extents, and where there is a choice whole 4 MiB entries stay whole: a large
//! request starts at a 4 MiB boundary, a small one comes out of the smallest range that holds it.

use alloc::vec::Vec;
use pv_abi::uv::command::Range;
use pv_abi::uv::database::TIER_FRAMES;

/// Frames of an entry that is worth keeping whole.
const LARGE: u64 = TIER_FRAMES[1];

/// Where in `range` a run of `frames` frames starts, the range being long enough.
fn start_in(range: Range, frames: u64) -> u64 {
    let aligned = range.first.next_multiple_of(LARGE);
    let end = range.first.saturating_add(range.frames);
    if frames >= LARGE && aligned.checked_add(frames).is_some_and(|last| last <= end) {
        aligned
    } else {
        range.first
    }
}

/// A run of `frames` frames out of the free ranges, or `None`.
#[must_use]
pub fn contiguous(free: &[Range], frames: u64) -> Option<Range> {
    let fits = free.iter().filter(|range| frames > 0 && range.frames >= frames);
    let range = fits.min_by_key(|range| (range.frames, range.first))?;
    Some(Range { first: start_in(*range, frames), frames })
}

/// Extents with `frames` frames in all out of the free ranges (disjoint, in any order), or `None`
/// where there are not so many.
#[must_use]
pub fn choose(free: &[Range], frames: u64) -> Option<Vec<Range>> {
    let mut rest: Vec<Range> = free.to_vec();
    rest.sort_unstable_by_key(|range| (core::cmp::Reverse(range.frames), range.first));
    let (mut chosen, mut left) = (Vec::new(), frames);
    let mut largest = rest.into_iter();
    while left > 0 {
        if let Some(range) = contiguous(largest.as_slice(), left) {
            chosen.push(range);
            break;
        }
        let range = largest.next()?;
        left = left.checked_sub(range.frames)?;
        chosen.push(range);
    }
    chosen.sort_unstable_by_key(|range| range.first);
    Some(chosen)
}

/// Takes a range out of free ranges.
pub(crate) fn take(free: &mut Vec<Range>, taken: Range) {
    let taken_end = taken.first.saturating_add(taken.frames);
    let mut pieces = Vec::new();
    free.retain(|range| {
        let end = range.first.saturating_add(range.frames);
        if end <= taken.first || range.first >= taken_end {
            return true;
        }
        if range.first < taken.first {
            pieces.push(Range { first: range.first, frames: taken.first - range.first });
        }
        if end > taken_end {
            pieces.push(Range { first: taken_end, frames: end - taken_end });
        }
        false
    });
    free.append(&mut pieces);
}
