//! `cargo xtask test`: runs all checks, cheapest first.
//!
//! A check that fails does not stop the later ones, so that one run shows all failures. The last
//! line printed is `N passed, N failed`.

pub mod dependencies;
pub mod floors;
pub mod metrics;
pub mod source;

use std::io::{BufRead, BufReader};
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use anyhow::{Context, Result};

use rig::build::{hv_build, provision};
use rig::interrupt::{OnSignal, Process};
use rig::workspace;

/// How many tests passed and failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Count {
    passed: u32,
    failed: u32,
}

impl Count {
    fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
    }
}

/// Runs all checks; `quick` leaves out those that boot a machine.
///
/// # Errors
/// A required package is missing.
pub fn run_all(quick: bool, scenarios: &[String]) -> Result<ExitCode> {
    provision::provision()?;
    let mut total = Count::default();
    if scenarios.is_empty() {
        total.add(sources());
    }
    if !quick {
        let mut ci = workspace::cargo("run");
        ci.args(["--package", "ci", "--"]).args(scenarios);
        total.add(step("nested scenarios", || tests(&mut ci)));
    }
    Ok(conclude(total))
}

/// Runs the checks that read the sources and run nothing.
///
/// # Errors
/// A required package is missing.
pub fn lint() -> Result<ExitCode> {
    provision::provision()?;
    let mut total = lints();
    total.add(bounds());
    Ok(conclude(total))
}

/// Prints how many checks passed and failed.
fn conclude(total: Count) -> ExitCode {
    println!("\n{} passed, {} failed", total.passed, total.failed);
    if total.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The checks that boot no machine.
fn sources() -> Count {
    let mut total = lints();
    total.add(step("unit tests", || {
        let mut cargo = workspace::cargo("test");
        cargo.args(["--workspace", "--no-fail-fast"]);
        // By default the seed is fixed, so that a commit passes or fails alike on every machine.
        // `PROPTEST_RNG_SEED` and `PROPTEST_CASES` in the environment select other and more cases.
        if std::env::var_os("PROPTEST_RNG_SEED").is_none() {
            cargo.env("PROPTEST_RNG_SEED", "1");
        }
        tests(&mut cargo)
    }));
    total.add(step("model tests", || tests(&mut model_tests())));
    total.add(bounds());
    total
}

/// Format and lints, on this machine and on bare hardware.
fn lints() -> Count {
    let mut total = Count::default();
    total.add(step("format", || command(workspace::cargo("fmt").args(["--all", "--check"]))));
    total.add(step("lints", || {
        let mut clippy = workspace::cargo("clippy");
        clippy.args(["--workspace", "--all-targets", "--", "-D", "warnings"]);
        command(&mut clippy)
    }));
    total.add(step("lints of the bare target", || {
        hv_build::lint()?;
        Ok(Count { passed: 1, failed: 0 })
    }));
    total
}

/// Checks the limits of sizes, the floors of the monitor, and the crates that ring 0 links.
fn bounds() -> Count {
    let mut total = Count::default();
    total.add(step("limits", limits));
    total.add(step("floors of the monitor", monitor_floors));
    total.add(step("dependencies of ring 0", ring_0_dependencies));
    total
}

/// The command for the model tests of data that CPUs share. Each test runs in every order of steps
/// with at most three preemptions. Nearly all bugs show with two, and all orders would take hours.
fn model_tests() -> Command {
    let mut cargo = workspace::cargo("test");
    cargo
        .args(["--release", "--lib", "-p", "frames", "-p", "events", "-p", "grants"])
        .args(["-p", "block-ring", "loom"])
        .env("RUSTFLAGS", "--cfg loom")
        .env("LOOM_MAX_PREEMPTIONS", "3")
        .env("CARGO_TARGET_DIR", workspace::root().join("target/loom"));
    cargo
}

/// Runs one check, prints its result, and counts it as one test if it has no tests of its own.
fn step(name: &str, check: impl FnOnce() -> Result<Count>) -> Count {
    println!("\n== {name}");
    let start = Instant::now();
    let (count, how) = match check() {
        Ok(count) if count.failed == 0 => (count, "passed".to_owned()),
        Ok(count) => (count, "FAILED".to_owned()),
        Err(error) => (Count { passed: 0, failed: 1 }, format!("FAILED: {error:#}")),
    };
    println!("== {name}: {how} ({} s)", start.elapsed().as_secs());
    count
}

fn command(command: &mut Command) -> Result<Count> {
    workspace::run_command(command, "a check")?;
    Ok(Count { passed: 1, failed: 0 })
}

fn limits() -> Result<Count> {
    let metrics = metrics::measure()?;
    print!("{}", metrics.report());
    let violations = metrics.violations();
    for violation in &violations {
        println!("over the limit: {violation}");
    }
    Ok(count(&violations))
}

fn monitor_floors() -> Result<Count> {
    let floors = floors::check()?;
    print!("{}", floors.report());
    for violation in floors.violations() {
        println!("{violation}");
    }
    Ok(count(floors.violations()))
}

fn ring_0_dependencies() -> Result<Count> {
    let mistakes = dependencies::check()?;
    for mistake in &mistakes {
        println!("{mistake}");
    }
    Ok(count(&mistakes))
}

/// Counts a check as one passed test, or as one failed test for each violation.
fn count(violations: &[String]) -> Count {
    Count { passed: u32::from(violations.is_empty()), failed: violations.len() as u32 }
}

/// Runs a command that prints the results of tests, passes its output on, and adds them up.
fn tests(command: &mut Command) -> Result<Count> {
    command.stdout(Stdio::piped());
    let mut child = Process::start(command, OnSignal::Forward).context("cannot start cargo")?;
    let mut total = Count::default();
    for line in BufReader::new(child.streams().stdout.take().context("no pipe")?).lines() {
        let line = line?;
        println!("{line}");
        total.add(results(&line).unwrap_or_default());
    }
    // A run that ended before it could count is also a failure.
    if !child.wait()?.success() && total.failed == 0 {
        total.failed = 1;
    }
    Ok(total)
}

/// The counts in a line of cargo's test runner (`test result: ok. 3 passed; 0 failed; …`) or of our
/// own checks (`3 passed, 0 failed`).
fn results(line: &str) -> Option<Count> {
    let counts = match line.strip_prefix("test result: ") {
        Some(rest) => rest.split_once(". ")?.1,
        None => line,
    };
    let mut parts = counts.split([';', ',']);
    let mut number = |what: &str| parts.next()?.trim().strip_suffix(what)?.parse().ok();
    Some(Count { passed: number(" passed")?, failed: number(" failed")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_of_both_runners_are_read() {
        let line = "test result: FAILED. 12 passed; 3 failed; 0 ignored; finished in 0.01s";
        assert_eq!(results(line), Some(Count { passed: 12, failed: 3 }));
        assert_eq!(results("7 passed, 1 failed"), Some(Count { passed: 7, failed: 1 }));
        for other in ["running 3 tests", "test a ... ok", "", "all passed, none failed"] {
            assert_eq!(results(other), None, "{other}");
        }
    }
}
