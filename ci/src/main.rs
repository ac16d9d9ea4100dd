//! Nested scenarios: the whole host in QEMU, observed from inside and from outside.
//!
//! A *boot* is one machine with the checks that share it; a *refusal* is a machine that must stop
//! with one clear message. `ci [WORD]…` runs those whose names contain one of the words. The last
//! line printed is `N passed, N failed`.

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
mod interrupts;
mod io;
mod io_guests;
mod kernels;
mod leaks;
mod loader;
mod matrix;
mod microcode;
mod neighbours;
mod page_tables;
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

/// The function of each file of scenarios, in this order.
const SCENARIOS: &[fn(&mut Results)] = &[
    boots::run_scenarios,
    refusals::run_scenarios,
    loader::run_scenarios,
    interrupts::run_scenarios,
    leaks::run_scenarios,
    microcode::run_scenarios,
    kernels::run_scenarios,
    given::run_scenarios,
    matrix::run_scenarios,
    cpu::run_scenarios,
    neighbours::run_scenarios,
    turns::run_scenarios,
    atomic::run_scenarios,
    containment::run_scenarios,
    grub::run_scenarios,
    files::run_scenarios,
    session::run_scenarios,
    guests::run_scenarios,
    io::run_scenarios,
    both_dead::run_scenarios,
    takeover_times::run_scenarios,
    io_guests::run_scenarios,
    state_disk::run_scenarios,
    disks::run_scenarios,
    deaths::run_scenarios,
    fuzz::run_scenarios,
    stay::run_scenarios,
    thousand::run_scenarios,
];

/// The scenarios that ran, and those that failed.
struct Results {
    words: Vec<String>,
    /// Names of all scenarios that [`Results::wanted`] was asked about.
    names: RefCell<BTreeSet<String>>,
    passed: u32,
    failed: Vec<String>,
}

impl Results {
    /// Whether a scenario of this name is requested.
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
                self.passed += 1;
            }
            Err(error) => {
                println!("FAILED {name} ({seconds:.1} s)\n{error:#}");
                self.failed.push(name.to_owned());
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
    let names = RefCell::default();
    let mut results = Results { words, names, passed: 0, failed: Vec::new() };
    if let Err(error) = rig::interrupt::install() {
        eprintln!("ci: {error:#}");
        return ExitCode::FAILURE;
    }
    for run in SCENARIOS {
        run(&mut results);
    }
    let unknown: Vec<String> = results.unknown().into_iter().map(str::to_owned).collect();
    for word in unknown {
        println!("no scenario has {word:?} in its name; there are:");
        results.names.borrow().iter().for_each(|name| println!("  {name}"));
        results.failed.push(word);
    }
    for name in &results.failed {
        println!("failed: {name}");
    }
    println!("{} passed, {} failed", results.passed, results.failed.len());
    ExitCode::from(u8::from(!results.failed.is_empty()))
}
