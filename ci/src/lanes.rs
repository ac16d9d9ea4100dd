//! Runs the parts of the scenarios side by side, each in a process of its own.
//!
//! A machine seldom keeps more than one CPU of the test host busy: its firmware, its boot loader
//! and most of its kernel's start run on one. So as many parts run at a time as there are lanes.
//! What a part prints is shown when it has ended, as a whole. A part that measures shares of CPU
//! time runs when all others have ended.
//!
//! The parent process builds everything and downloads the kernel before the first part, so that
//! the parts find it there.

use std::collections::VecDeque;
use std::io::Read;
use std::num::NonZero;
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result};
use rig::build::{hv_build, kernel};
use rig::image::host::Destination;
use rig::image::{boot_image, host};
use rig::interrupt::{OnSignal, Process};
use rig::options::BootOptions;

use crate::{Part, number};

/// The option, internal to this program, with which a process runs one part.
pub const PART: &str = "--part";
/// The most lanes, unless `LANES` in the environment sets another number: each needs memory for a
/// machine of some gigabytes.
const MOST_LANES: usize = 2;

/// The scenarios that passed, and those that failed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Total {
    /// How many passed.
    pub passed: u32,
    /// The name of each that failed, and the first line of the reason, in the order of their ends.
    pub failed: Vec<String>,
}

/// Runs all parts, in the order of the list: first the parts that may run beside others.
///
/// # Errors
/// Something that all parts need does not build, or `LANES` is no number.
pub fn run(parts: &[Part]) -> Result<Total> {
    let cpus = thread::available_parallelism().map_or(1, NonZero::get);
    let lanes = number("LANES", cpus.min(MOST_LANES))?.max(1);
    boot_image::make(&host::payload(&BootOptions::default(), Destination::Qemu)?)?;
    hv_build::guest()?;
    kernel::guest_kernel()?;
    let total = Mutex::new(Total::default());
    for alone in [false, true] {
        let waiting: VecDeque<&Part> = parts.iter().filter(|part| part.alone == alone).collect();
        let waiting = Mutex::new(waiting);
        thread::scope(|scope| {
            for _ in 0..if alone { 1 } else { lanes } {
                scope.spawn(|| run_lane(&waiting, &total));
            }
        });
    }
    Ok(total.into_inner().unwrap_or_else(PoisonError::into_inner))
}

/// Runs parts, one after the other, until none waits.
fn run_lane(waiting: &Mutex<VecDeque<&Part>>, total: &Mutex<Total>) {
    let next = || waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    while let Some(part) = next() {
        let start = Instant::now();
        let printed = run_part(part.name);
        let mut total = total.lock().unwrap_or_else(PoisonError::into_inner);
        let (text, of_part) = match printed {
            Ok(text) => summed_up(part.name, &text),
            Err(error) => (format!("{error:#}\n"), ended_early(part.name)),
        };
        // The lock is held meanwhile, so the text of a part stays together.
        println!("-- {} ({} s)\n{}", part.name, start.elapsed().as_secs(), text.trim_end());
        total.passed += of_part.passed;
        total.failed.extend(of_part.failed);
    }
}

/// Runs a part in a process; returns what it printed.
fn run_part(name: &str) -> Result<String> {
    let (mut reader, writer) = std::io::pipe()?;
    let mut command = Command::new(std::env::current_exe()?);
    command.args([PART, name]).stdout(writer.try_clone()?).stderr(writer);
    let mut process = Process::start(&mut command, OnSignal::Forward)
        .with_context(|| format!("cannot start {PART} {name}"))?;
    // The command has the ends for writing; while it has them, the pipe does not end.
    drop(command);
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes)?;
    process.wait()?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The result of a part that did not come to its end.
fn ended_early(name: &str) -> Total {
    Total { passed: 0, failed: vec![format!("{name} (it ended before its last scenario)")] }
}

/// Takes the last lines, which [`Total::print`] printed, from the output of a part.
fn summed_up(name: &str, text: &str) -> (String, Total) {
    let Some((passed, failed)) = text.lines().next_back().and_then(counts) else {
        return (text.into(), ended_early(name));
    };
    let lines: Vec<&str> = text.lines().collect();
    let (rest, last) = lines.split_at(lines.len().saturating_sub(1 + failed));
    let names = last.iter().filter_map(|line| line.strip_prefix(FAILED)).map(str::to_owned);
    (rest.join("\n"), Total { passed, failed: names.collect() })
}

/// The start of a line with the name of a scenario that failed and the reason.
const FAILED: &str = "failed: ";

/// The numbers in the line `N passed, N failed`.
fn counts(line: &str) -> Option<(u32, usize)> {
    let (passed, failed) = line.split_once(" passed, ")?;
    Some((passed.parse().ok()?, failed.strip_suffix(" failed")?.parse().ok()?))
}

impl Total {
    /// Prints a line for each scenario that failed, and last the two numbers.
    pub fn print(&self) {
        for name in &self.failed {
            println!("{FAILED}{name}");
        }
        println!("{} passed, {} failed", self.passed, self.failed.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_of_a_part_are_counted_and_not_shown_twice() {
        let text = "ok     a (1.0 s)\nFAILED b (2.0 s)\nwhy\nfailed: b\n1 passed, 1 failed\n";
        let total = Total { passed: 1, failed: vec!["b".into()] };
        let shown = "ok     a (1.0 s)\nFAILED b (2.0 s)\nwhy";
        assert_eq!(summed_up("part", text), (shown.into(), total));
    }

    #[test]
    fn a_part_without_its_last_line_has_failed() {
        for text in ["", "ok     a (1.0 s)\n", "thread 'main' panicked\n"] {
            assert_eq!(summed_up("part", text), (text.into(), ended_early("part")));
        }
    }
}
