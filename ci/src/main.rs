//! Nested scenarios: the whole host in QEMU, observed from inside and from outside.
//!
//! A *boot* is one machine with the checks that share it; a *refusal* is a machine that must stop
//! with one clear message. `ci` runs all that are not left to a request, in [`lanes`]; `ci WORD…`
//! runs those whose names contain one of the words, one after the other, and prints as it goes.
//! The last line printed is `N passed, N failed`.

mod atomic;
mod boots;
mod both_dead;
mod checks;
mod containment;
mod cpu;
mod deaths;
mod disks;
mod files;
mod fuzz;
mod given;
mod grub;
mod guests;
mod host;
mod instructions;
mod interrupts;
mod io;
mod io_guests;
mod kernels;
mod lanes;
mod leaks;
mod loader;
mod matrix;
mod microcode;
mod moves;
mod neighbours;
mod page_tables;
mod power_loss;
mod refusals;
mod session;
mod state_disk;
mod stay;
mod stress;
mod takeover_times;
mod thousand;
mod turns;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Instant;

use anyhow::{Context, Result};

use crate::lanes::Total;

/// Scenarios that run one after the other.
struct Part {
    name: &'static str,
    run: fn(&mut Results),
    /// Whether no other part may run meanwhile, because it counts on CPU time of its own.
    alone: bool,
}

const fn part(name: &'static str, run: fn(&mut Results)) -> Part {
    Part { name, run, alone: false }
}

/// All parts, the ones that take longest first, so that no lane is empty for long at the end.
const PARTS: &[Part] = &[
    part("machines", boots::run_machines),
    part("guests", guests::run_minimal),
    part("debian-guests", guests::run_debian),
    part("io-guests", io_guests::run_scenarios),
    part("disks", disks::run_scenarios),
    part("io-moves", moves::run_scenarios),
    part("state-disk", state_disk::run_scenarios),
    part("both-dead", both_dead::run_scenarios),
    part("refusals", refusals::run_scenarios),
    part("neighbours", neighbours::run_scenarios),
    part("atomic", atomic::run_scenarios),
    part("fuzz", fuzz::run_programs),
    part("fuzz-stay", fuzz::run_stay),
    part("io", io::run_scenarios),
    part("bench-scale", instructions::run_scale),
    part("bench-boot", instructions::run_boot),
    part("turns", turns::run_scenarios),
    part("session", session::run_scenarios),
    part("interrupts", interrupts::run_scenarios),
    part("leaks", leaks::run_scenarios),
    part("microcode", microcode::run_scenarios),
    part("kernels", kernels::run_scenarios),
    part("stay", stay::run_scenarios),
    part("ultravisors", containment::run_scenarios),
    part("grub", grub::run_scenarios),
    part("files", files::run_scenarios),
    part("loader", loader::run_scenarios),
    Part { name: "cpu-time", run: cpu::run_scenarios, alone: true },
    // A hostile call that lasts would be a stall to the kernel of a machine with half a CPU.
    Part { name: "containment", run: boots::run_contained, alone: true },
    // A stressor that gets no CPU in its seconds has done nothing.
    Part { name: "stress", run: boots::run_stress, alone: true },
];

/// Parts that have scenarios by name alone.
const BY_NAME: &[Part] = &[
    part("deaths", deaths::run_scenarios),
    part("takeover-times", takeover_times::run_scenarios),
    part("given", given::run_scenarios),
    part("matrix", matrix::run_scenarios),
    part("power-loss", power_loss::run_scenarios),
    part("thousand", thousand::run_scenarios),
];

/// The scenarios that ran, and those that failed.
#[derive(Default)]
struct Results {
    words: Vec<String>,
    /// Names of all scenarios that [`Results::wanted`] was asked about.
    names: RefCell<BTreeSet<String>>,
    total: Total,
}

impl Results {
    /// Returns whether a scenario of this name is requested, and notes the name.
    fn wanted(&self, name: &str) -> bool {
        self.names.borrow_mut().insert(name.to_owned());
        self.words.is_empty() || self.words.iter().any(|word| name.contains(word))
    }

    /// Whether a word on the command line requests a scenario of this name.
    fn asked_for(&self, name: &str) -> bool {
        !self.words.is_empty() && self.wanted(name)
    }

    /// The words that are in no scenario's name.
    fn unknown(&self) -> Vec<&str> {
        let names = self.names.borrow();
        let is_known = |word: &str| names.iter().any(|name| name.contains(word));
        self.words.iter().map(String::as_str).filter(|word| !is_known(word)).collect()
    }

    /// Records and prints the result of a scenario.
    fn note(&mut self, name: &str, start: Instant, result: Result<()>) {
        let seconds = start.elapsed().as_secs_f32();
        match result {
            Ok(()) => {
                println!("ok     {name} ({seconds:.1} s)");
                self.total.passed += 1;
            }
            Err(error) => {
                let why = format!("{error:#}");
                println!("FAILED {name} ({seconds:.1} s)\n{why}");
                // Whoever reads the last lines alone, reads the reason, too.
                let first = why.lines().next().unwrap_or_default();
                self.total.failed.push(format!("{name}: {first}"));
            }
        }
    }
}

/// A number from the environment, or the default if it is not set.
fn number<T: FromStr>(name: &str, default: T) -> Result<T>
where
    T::Err: std::error::Error + Send + Sync + 'static,
{
    match std::env::var(name) {
        Ok(text) => text.parse().with_context(|| format!("{name}={text} is not a number")),
        Err(_) => Ok(default),
    }
}

fn main() -> ExitCode {
    if let Some(status) = rig::serve_if_asked() {
        return status;
    }
    let words: Vec<String> = std::env::args().skip(1).collect();
    let total = rig::interrupt::install().and_then(|()| match &words[..] {
        [] => lanes::run(PARTS),
        [option, name] if option == lanes::PART => run_part(name),
        _ => Ok(run_named(words)),
    });
    match total {
        Ok(total) => {
            total.print();
            ExitCode::from(u8::from(!total.failed.is_empty()))
        }
        Err(error) => {
            eprintln!("ci: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs a part, as a process that [`lanes`] started.
fn run_part(name: &str) -> Result<Total> {
    let part = PARTS.iter().find(|part| part.name == name).context("no part has this name")?;
    let mut results = Results::default();
    (part.run)(&mut results);
    Ok(results.total)
}

/// Runs the scenarios whose names contain one of the words.
fn run_named(words: Vec<String>) -> Total {
    let mut results = Results { words, ..Results::default() };
    for part in PARTS.iter().chain(BY_NAME) {
        (part.run)(&mut results);
    }
    let unknown: Vec<String> = results.unknown().into_iter().map(str::to_owned).collect();
    for word in unknown {
        println!("no scenario has {word:?} in its name; there are:");
        results.names.borrow().iter().for_each(|name| println!("  {name}"));
        results.total.failed.push(word);
    }
    results.total
}
