//! Shrinks a failing run to the fewest steps that still fail.

use alloc::vec::Vec;

/// Removes steps as long as the rest still `fails`: halves first, then smaller and smaller parts,
/// down to single steps. The result fails, and passes without any one of its steps (if only the
/// steps decide whether it fails). All of `numbers` together must fail.
pub fn shrink(mut numbers: Vec<u32>, mut fails: impl FnMut(&[u32]) -> bool) -> Vec<u32> {
    let mut size = numbers.len().div_ceil(2).max(1);
    while !numbers.is_empty() {
        let mut removed = false;
        let mut at = 0;
        while at < numbers.len() {
            let end = (at + size).min(numbers.len());
            let rest: Vec<u32> = numbers[..at].iter().chain(&numbers[end..]).copied().collect();
            if fails(&rest) {
                numbers = rest;
                removed = true;
            } else {
                at = end;
            }
        }
        if size == 1 && !removed {
            break;
        }
        size = size.div_ceil(2).max(1);
    }
    numbers
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Random;

    #[test]
    fn only_what_is_needed_is_left() {
        let mut random = Random::new(3);
        for _ in 0..50 {
            let count = 1 + random.below(200) as u32;
            let needed: Vec<u32> =
                (0..count).filter(|_| random.once_in(u64::from(count) / 3 + 1)).collect();
            let fails = |kept: &[u32]| needed.iter().all(|number| kept.contains(number));
            assert_eq!(shrink((0..count).collect(), fails), needed);
        }
    }

    #[test]
    fn few_tries_are_made() {
        let mut tries = 0;
        let left = shrink((0..4096).collect(), |kept| {
            tries += 1;
            kept.contains(&3000) && kept.contains(&17)
        });
        assert_eq!(left, [17, 3000]);
        assert!(tries < 120, "{tries}");
    }
}
