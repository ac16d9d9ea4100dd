//! The command line, which names the program and its numbers.
//!
//! The first word that has no `=` and no `.` in it is the program's name, the words after it are
//! numbers for it. So words that a loader puts before the program, such as `console=hvc0`, do no
//! harm.

use alloc::vec::Vec;
use pv_abi::xen::start_info::StartInfo;

/// What to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Program<'a> {
    /// Print a line and power off.
    Hello,
    /// Count, and print each second how much CPU time the guest had. Ends after this many seconds;
    /// 0 means never.
    Spin(u64),
    /// Compute a little each second and be idle otherwise. The program ends after this many
    /// seconds, or never if the number is 0.
    Beat(u64),
    /// Print the typed lines, until a line `quit`.
    Echo,
    /// Panic.
    Crash,
    /// Ask to be restarted.
    Reboot,
    /// Wait for ever.
    Idle,
    /// Release half of the free memory and populate it again, this many times.
    Balloon(u64),
    /// Set timers at every distance (see the `timers` module), and report that all were right.
    Timers,
    /// Test grants (see the `grants` module), and report that all were right.
    Grants,
    /// Check the machine-to-physical table each second, this many times or, if the number is 0,
    /// without end (see the `view` module).
    View(u64),
    /// Test privileged instructions (see the `instructions` module), and report that all were
    /// right.
    Instructions,
    /// Change the base of FS with `wrfsbase` for ever.
    Bases,
    /// Make requests of these kinds for ever (see the `flood` module).
    Flood(Vec<&'a str>),
    /// Use a disk and check every answer (see the `disk` module).
    Disk(Vec<&'a str>),
    /// Make loads on a disk between marks (see the `disk` module).
    DiskBench(Vec<&'a str>),
    /// Attack the back end of a disk (see the `disk` module).
    DiskHostile(Vec<&'a str>),
    /// Make random calls (see the `fuzz` module).
    Fuzz(Vec<&'a str>),
    /// The name of a program that does not exist.
    Unknown(&'a str),
}

/// The names of all programs, for a message.
pub const NAMES: &str = "hello, spin [SECONDS], beat [SECONDS], echo, crash, reboot, idle, \
    balloon [TIMES], timers, grants, view [TIMES], instructions, bases, flood KIND…, \
    disk SEED COUNT [rings=N] [depth=N] [device=N], disk-bench COUNT [at=SECONDS gap=SECONDS] \
    [persistent=1], disk-hostile SEED COUNT, fuzz SEED COUNT [FIRST [STEPS]]";

/// The command line, up to the first byte that is not text.
pub fn line(info: &StartInfo) -> &str {
    let bytes = info.cmd_line.split(|byte| *byte == 0).next().unwrap_or_default();
    core::str::from_utf8(bytes).unwrap_or_default()
}

impl<'a> Program<'a> {
    /// Parses a command line; without a program it is [`Program::Hello`].
    pub fn parse(line: &'a str) -> Self {
        let mut words = line.split_ascii_whitespace().skip_while(|word| word.contains(['=', '.']));
        let Some(name) = words.next() else {
            return Self::Hello;
        };
        let rest: Vec<&str> = words.collect();
        let number = |default| rest.first().and_then(|word| word.parse().ok()).unwrap_or(default);
        match name {
            "hello" => Self::Hello,
            "spin" => Self::Spin(number(0)),
            "beat" => Self::Beat(number(0)),
            "echo" => Self::Echo,
            "crash" => Self::Crash,
            "reboot" => Self::Reboot,
            "idle" => Self::Idle,
            "balloon" => Self::Balloon(number(1)),
            "timers" => Self::Timers,
            "grants" => Self::Grants,
            "view" => Self::View(number(0)),
            "instructions" => Self::Instructions,
            "bases" => Self::Bases,
            "flood" => Self::Flood(rest),
            "disk" => Self::Disk(rest),
            "disk-bench" => Self::DiskBench(rest),
            "disk-hostile" => Self::DiskHostile(rest),
            "fuzz" => Self::Fuzz(rest),
            other => Self::Unknown(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_plain_word_is_the_program() {
        assert_eq!(Program::parse(""), Program::Hello);
        assert_eq!(Program::parse("console=hvc0  "), Program::Hello);
        assert_eq!(Program::parse("console=hvc0 spin 5"), Program::Spin(5));
        assert_eq!(Program::parse("spin"), Program::Spin(0));
        assert_eq!(Program::parse("beat 3"), Program::Beat(3));
        assert_eq!(Program::parse("view 2"), Program::View(2));
        assert_eq!(Program::parse("balloon x"), Program::Balloon(1));
        assert_eq!(Program::parse("fuzz 1 2 keep=3"), Program::Fuzz(["1", "2", "keep=3"].into()));
        assert_eq!(Program::parse("disk 1 9s"), Program::Disk(["1", "9s"].into()));
        assert_eq!(Program::parse("flood store"), Program::Flood(["store"].into()));
        assert_eq!(Program::parse("hullo"), Program::Unknown("hullo"));
    }
}
