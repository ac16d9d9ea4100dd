//! Options of the I/O partitions: the words after the name of the module `io` in GRUB's entry.

use partition_runtime::{log, partition};

/// The values of the options.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// `inject=die:N`: partition N ends as soon as it runs.
    pub dies: Option<u32>,
}

/// Reads the options, and logs those that are unknown.
pub fn read() -> Options {
    let line = partition::module_named("io").map_or("", |module| module.options);
    parse(line, |word| {
        log!("unknown option {word:?}; there are always, and for tests inject=die:N");
    })
}

fn parse<'l>(line: &'l str, mut unknown: impl FnMut(&'l str)) -> Options {
    let mut options = Options::default();
    for word in line.split_whitespace() {
        let dies = word.strip_prefix("inject=die:").and_then(|number| number.parse().ok());
        match dies {
            Some(number) => options.dies = Some(number),
            // The boot partition reads this word.
            None if word == "always" => {}
            None => unknown(word),
        }
    }
    options
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_words_are_told_and_the_rest_counts() {
        let mut unknown = Vec::new();
        let options = parse("always inject=die:5 inject=die:x fast", |word| unknown.push(word));
        assert_eq!(options, Options { dies: Some(5) });
        assert_eq!(unknown, ["inject=die:x", "fast"]);
    }
}
