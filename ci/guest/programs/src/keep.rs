//! Selects the steps of a run to keep, which describe a shrunk run.

use alloc::vec::Vec;
use core::fmt;

/// Sorted numbers in the text form `0-3,7`; an empty text means all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keep(Option<Vec<(u32, u32)>>);

impl Keep {
    /// Selects `numbers` from `all`; both are sorted. A range may pass over numbers that `all`
    /// lacks, so the text is short if few numbers are left out.
    #[must_use]
    pub fn only(numbers: &[u32], all: &[u32]) -> Self {
        let mut ranges: Vec<(u32, u32)> = Vec::new();
        let mut numbers = numbers.iter().peekable();
        let mut joined = false;
        for number in all {
            let kept = numbers.next_if_eq(&number).is_some();
            match ranges.last_mut() {
                Some((_, last)) if kept && joined => *last = *number,
                _ if kept => ranges.push((*number, *number)),
                _ => {}
            }
            joined = kept;
        }
        Self(Some(ranges))
    }

    /// Parses the text form; `None` if the text has another form.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let range = |part: &str| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            Some((first.parse().ok()?, last.parse().ok()?))
        };
        text.split(',').map(range).collect::<Option<Vec<_>>>().map(|ranges| Self(Some(ranges)))
    }

    /// Whether a number is kept.
    #[must_use]
    pub fn has(&self, number: u32) -> bool {
        let within = |ranges: &Vec<(u32, u32)>| {
            ranges.iter().any(|(first, last)| (*first..=*last).contains(&number))
        };
        self.0.as_ref().is_none_or(within)
    }
}

impl fmt::Display for Keep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (first, last)) in self.0.iter().flatten().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            if first == last {
                write!(f, "{comma}{first}")?;
            } else {
                write!(f, "{comma}{first}-{last}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

    #[test]
    fn text_and_back() {
        let all: Vec<u32> = (0..12).collect();
        let keep = Keep::only(&[0, 1, 2, 5, 9, 10], &all);
        assert_eq!(keep.to_string(), "0-2,5,9-10");
        assert_eq!(Keep::parse("0-2,5,9-10"), Some(keep.clone()));
        let kept: Vec<u32> = (0..12).filter(|number| keep.has(*number)).collect();
        assert_eq!(kept, [0, 1, 2, 5, 9, 10]);
        assert!(Keep::default().has(77));
        assert_eq!(Keep::parse("x"), None);
    }

    #[test]
    fn all_steps_of_many_programs_are_one_range() {
        let all: Vec<u32> = (0..20_000).flat_map(|n| [n * 32, n * 32 + 1, n * 32 + 16]).collect();
        assert_eq!(Keep::only(&all, &all).to_string(), "0-639984");
        let without: Vec<u32> = all.iter().copied().filter(|number| *number != 33).collect();
        let keep = Keep::only(&without, &all);
        assert_eq!(keep.to_string(), "0-32,48-639984");
        assert!(all.iter().all(|number| keep.has(*number) == (*number != 33)));
        assert_eq!(Keep::only(&[32, 64], &all).to_string(), "32,64");
    }
}
