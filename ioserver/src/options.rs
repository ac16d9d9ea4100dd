//! Options of the I/O partitions: the words after the name of the module `io` in GRUB's entry.

use crate::deaths::Death;
use alloc::vec::Vec;
use partition_runtime::{log, partition};

/// The values of the options, which are for a partition's first life.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// `inject=die:N`: partition N ends as soon as it runs.
    pub dies: Option<u32>,
    /// `inject=die-at:N:STEP:COUNT`: partition N ends after a step; see [`crate::deaths`]. One such
    /// word for each partition counts.
    pub dies_at: Vec<Death>,
}

/// Reads the options, and logs those that are unknown.
pub fn read() -> Options {
    let line = partition::module_named("io").map_or("", |module| module.options);
    parse(line, |word| {
        log!(
            "unknown option {word:?}; there are always, and for tests inject=die:N and \
             inject=die-at:N:STEP:COUNT"
        );
    })
}

fn parse<'l>(line: &'l str, mut unknown: impl FnMut(&'l str)) -> Options {
    let mut options = Options::default();
    for word in line.split_whitespace() {
        let dies = word.strip_prefix("inject=die:").and_then(|number| number.parse().ok());
        let dies_at = word.strip_prefix("inject=die-at:").and_then(Death::parse);
        match (dies, dies_at) {
            (Some(number), _) => options.dies = Some(number),
            (_, Some(death)) => options.dies_at.push(death),
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
    use crate::deaths::Step;

    #[test]
    fn unknown_words_are_told_and_the_rest_counts() {
        let mut unknown = Vec::new();
        let line = "always inject=die:5 inject=die:x fast inject=die-at:4:taken:2 \
                    inject=die-at:4:taken:0 inject=die-at:4:tea:1 inject=die-at:5:ordered:1";
        let options = parse(line, |word| unknown.push(word));
        let dies_at = vec![
            Death { partition: 4, step: Step::Taken, count: 2 },
            Death { partition: 5, step: Step::Ordered, count: 1 },
        ];
        assert_eq!(options, Options { dies: Some(5), dies_at });
        let wrong = ["inject=die:x", "fast", "inject=die-at:4:taken:0", "inject=die-at:4:tea:1"];
        assert_eq!(unknown, wrong);
    }
}
