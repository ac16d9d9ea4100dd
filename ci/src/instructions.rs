//! The benchmarks that every change must pass: they count instructions, so the test host's speed
//! and what else it does make no difference.

use std::time::Instant;

use anyhow::{Result, ensure};
use bench::scale;

use crate::Results;

/// Checks that a boot takes fewer instructions than on Debian's Xen.
pub fn run_boot(results: &mut Results) {
    run(results, "bench/boot", || {
        ensure!(bench::boot(true)?, "a boot takes more instructions than on Debian's Xen");
        Ok(())
    });
}

/// Checks with a short `bench scale` that the cost of a command grows with the number of partitions
/// only within its bound.
pub fn run_scale(results: &mut Results) {
    run(results, "bench/scale", || {
        ensure!(scale::measure(&scale::Options::short())?, "a command exceeds its bound");
        Ok(())
    });
}

fn run(results: &mut Results, name: &str, check: fn() -> Result<()>) {
    if results.wanted(name) {
        let start = Instant::now();
        results.note(name, start, check());
    }
}
