//! Options of the I/O partitions: the words after the name of the module `io` in GRUB's entry.

use crate::deaths::{Death, Often};
use alloc::vec::Vec;
use partition_runtime::{log, partition};

/// The values of the options. Deaths are for a partition's first life, but those that come often.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// `inject=die:N`: these partitions end as soon as they run.
    pub die: Vec<u32>,
    /// `inject=die-at:N:STEP:COUNT:HOW`: these partitions end after a step; see [`crate::deaths`].
    pub die_at: Vec<Death>,
    /// `inject=die-often:N:SEED:HOW`: partition N, or each partition if N is `all`, ends again
    /// whenever it was built again; see [`crate::deaths`].
    pub die_often: Option<Often>,
}

impl Options {
    /// The death of a partition in the life that follows `restarts` earlier lives.
    #[must_use]
    pub fn death(&self, number: u32, restarts: u32) -> Option<Death> {
        let often = self.die_often.and_then(|often| often.death(number, restarts));
        let own = || self.die_at.iter().find(|death| death.partition == number && restarts == 0);
        often.or_else(|| own().copied())
    }

    /// Returns whether a partition ends as soon as it runs.
    #[must_use]
    pub fn dies_at_once(&self, number: u32, restarts: u32) -> bool {
        restarts == 0 && self.die.contains(&number)
    }
}

/// Reads the options, and logs those that are unknown.
pub fn read() -> Options {
    let line = partition::module_named("io").map_or("", |module| module.options);
    parse(line, |word| {
        log!(
            "unknown option {word:?}; there are always, and for tests inject=die:N, \
             inject=die-at:N:STEP:COUNT:HOW and inject=die-often:N:SEED:HOW"
        );
    })
}

fn parse<'l>(line: &'l str, mut unknown: impl FnMut(&'l str)) -> Options {
    let mut options = Options::default();
    for word in line.split_whitespace() {
        let dies = word.strip_prefix("inject=die:").and_then(|number| number.parse().ok());
        let dies_at = word.strip_prefix("inject=die-at:").and_then(Death::parse);
        let often = word.strip_prefix("inject=die-often:").and_then(Often::parse);
        match (dies, dies_at, often) {
            (Some(number), ..) => options.die.push(number),
            (_, Some(death), _) => options.die_at.push(death),
            (_, _, Some(often)) => options.die_often = Some(often),
            // The boot partition reads this word.
            _ if word == "always" => {}
            _ => unknown(word),
        }
    }
    options
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deaths::{How, Step};

    #[test]
    fn unknown_words_are_told_and_the_rest_counts() {
        let mut unknown = Vec::new();
        let line = "always inject=die:5 inject=die:x fast inject=die-at:4:taken:2 \
                    inject=die-at:4:taken:0 inject=die-at:5:tea:1 inject=die-at:5:bound:1:wait \
                    inject=die-often:6";
        let options = parse(line, |word| unknown.push(word));
        let first = Death { partition: 4, step: Step::Taken, count: 2, how: How::Crash };
        let second = Death { partition: 5, step: Step::Bound, count: 1, how: How::Wait };
        let expected = Options { die: vec![5], die_at: vec![first, second], die_often: None };
        assert_eq!(options, expected);
        let wrong = [
            "inject=die:x",
            "fast",
            "inject=die-at:4:taken:0",
            "inject=die-at:5:tea:1",
            "inject=die-often:6",
        ];
        assert_eq!(unknown, wrong);
        assert_eq!((options.death(4, 0), options.death(5, 0)), (Some(first), Some(second)));
        assert_eq!((options.death(4, 1), options.death(6, 0)), (None, None));
        assert!(options.dies_at_once(5, 0) && !options.dies_at_once(5, 1));
    }

    #[test]
    fn deaths_that_come_often_come_in_each_life() {
        let options = parse("inject=die-often:4:1", |word| panic!("{word}"));
        assert!((0..9).all(|restarts| options.death(4, restarts).is_some()));
        assert_eq!(options.death(5, 0), None);
    }
}
