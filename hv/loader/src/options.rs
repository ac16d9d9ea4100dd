//! The monitor's command line.
//!
//! Words separated by spaces. The rule: a word that is not understood stops the start with one
//! message that names it and all valid ones; no option is silently ignored.

use core::fmt;

use log::LevelFilter;

use crate::mitigations::{Choice, NAMES};

/// The action after the monitor itself has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterPanic {
    /// Halt, so that someone can read the message.
    Stop,
    /// Reset the machine.
    Reset,
}

/// The options, with defaults filled in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// The least severe level of messages that are shown.
    pub log_level: LevelFilter,
    /// The action after a panic.
    pub after_panic: AfterPanic,
    /// Leave QEMU through its debug-exit device (port 0xf4) instead of power-off.
    pub debug_exit: bool,
    /// Maximum number of CPUs to use.
    pub cpus: u32,
    /// Use every thread of a core, not only the first.
    pub smt: bool,
    /// The mitigations chosen.
    pub mitigations: Choice,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            log_level: LevelFilter::Info,
            after_panic: AfterPanic::Stop,
            debug_exit: false,
            cpus: u32::MAX,
            smt: true,
            mitigations: Choice::default(),
        }
    }
}

/// The valid options, for messages.
pub const SYNOPSIS: &str = "loglevel=error|warn|info|debug, panic=stop|reset, debug-exit, \
    cpus=NUMBER, smt=on|off, mitigations=auto|off";

/// A word that is not a valid option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unknown<'a>(pub &'a str);

impl fmt::Display for Unknown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unknown option \"{}\" for the monitor; valid options: {SYNOPSIS}", self.0)?;
        NAMES.iter().try_for_each(|(name, _)| write!(f, ", {name}=on|off"))
    }
}

/// Reads the command line.
///
/// # Errors
/// The first word that is no option, or has an invalid value.
pub fn parse(command_line: &str) -> Result<Options, Unknown<'_>> {
    let mut options = Options::default();
    for word in command_line.split_ascii_whitespace() {
        options.apply(word).ok_or(Unknown(word))?;
    }
    Ok(options)
}

impl Options {
    fn apply(&mut self, word: &str) -> Option<()> {
        let (name, value) = word.split_once('=').unwrap_or((word, ""));
        match (name, value) {
            ("loglevel", _) => self.log_level = level(value)?,
            ("panic", "stop") => self.after_panic = AfterPanic::Stop,
            ("panic", "reset") => self.after_panic = AfterPanic::Reset,
            ("debug-exit", "") if word == name => self.debug_exit = true,
            ("smt", "on" | "off") => self.smt = value == "on",
            ("cpus", _) => self.cpus = value.parse().ok().filter(|&n| n > 0)?,
            _ => self.mitigations.record(name, value)?,
        }
        Some(())
    }
}

/// The least severe level that a value of `loglevel` shows.
fn level(value: &str) -> Option<LevelFilter> {
    let shown = LevelFilter::Error..=LevelFilter::Debug;
    value.parse().ok().filter(|level| shown.contains(level))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_all_options() {
        let options = parse(" loglevel=debug  panic=reset debug-exit cpus=2 smt=off ").unwrap();
        let expected = Options {
            log_level: LevelFilter::Debug,
            after_panic: AfterPanic::Reset,
            debug_exit: true,
            cpus: 2,
            smt: false,
            mitigations: Choice::default(),
        };
        assert_eq!(options, expected);
        assert_eq!(parse(""), Ok(Options::default()));
    }

    #[test]
    fn names_the_word_it_does_not_know() {
        for word in [
            "loglevel=loud",
            "loglevel=off",
            "panic",
            "debug-exit=1",
            "debug-exit=",
            "cpus=0",
            "quiet",
            "smt",
            "verw=maybe",
            "mitigations=on",
        ] {
            let line = std::format!("loglevel=info {word}");
            assert_eq!(parse(&line), Err(Unknown(word)));
            let message = std::format!("{}", Unknown(word));
            assert!(message.contains(word) && message.contains("panic=stop|reset"), "{message}");
            assert!(message.contains("smt=on|off") && message.contains("l1tf=on|off"), "{message}");
        }
    }
}
