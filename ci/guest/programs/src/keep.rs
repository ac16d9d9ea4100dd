//! Selects the steps of a run to keep, which describe a shrunk run.

use alloc::vec::Vec;
use core::fmt;

/// Sorted numbers in the text form `0-3,7`; an empty text means all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keep(Option<Vec<(u32, u32)>>);

impl Keep {
    /// These numbers, sorted.
    #[must_use]
    pub fn only(numbers: &[u32]) -> Self {
        let mut ranges: Vec<(u32, u32)> = Vec::new();
        for number in numbers {
            match ranges.last_mut() {
                Some((_, last)) if last.wrapping_add(1) == *number => *last = *number,
                _ => ranges.push((*number, *number)),
            }
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
        let keep = Keep::only(&[0, 1, 2, 5, 9, 10]);
        assert_eq!(keep.to_string(), "0-2,5,9-10");
        assert_eq!(Keep::parse("0-2,5,9-10"), Some(keep.clone()));
        let kept: Vec<u32> = (0..12).filter(|number| keep.has(*number)).collect();
        assert_eq!(kept, [0, 1, 2, 5, 9, 10]);
        assert!(Keep::default().has(77));
        assert_eq!(Keep::parse("x"), None);
    }
}
