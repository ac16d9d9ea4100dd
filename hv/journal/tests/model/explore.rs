//! Walks all states, depth first.

use std::collections::HashSet;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};

use crate::machine::{Machine, Setup};

/// The steps to a forbidden state.
#[derive(Debug)]
pub struct Counterexample {
    pub what: String,
    steps: Vec<&'static str>,
}

impl fmt::Display for Counterexample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.what)?;
        self.steps.iter().try_for_each(|step| writeln!(f, "  {step}"))
    }
}

/// Most states of a setup; beyond it the setup is too large for a test.
const MOST: usize = 4_000_000;

/// Returns the number of states, or the steps to the first forbidden state that it meets.
pub fn explore(setup: &Setup) -> Result<usize, Counterexample> {
    // Of each state: the state before, and the step from there.
    let mut origins: Vec<(usize, &'static str)> = vec![(0, "start")];
    let mut seen = HashSet::new();
    let mut open = vec![(0, Machine::new(setup))];
    while let Some((at, machine)) = open.pop() {
        for (step, next) in machine.steps(setup) {
            let next =
                next.map_err(|what| Counterexample { what, steps: way(&origins, at, step) })?;
            if seen.insert(hash(&next)) {
                origins.push((at, step));
                open.push((origins.len() - 1, next));
            }
        }
        assert!(seen.len() < MOST, "too many states");
    }
    Ok(seen.len())
}

/// A state as 64 bits: among a million states, two are taken for one with a chance of 1 in 30
/// millions.
fn hash(machine: &Machine) -> u64 {
    let mut hasher = DefaultHasher::new();
    machine.hash(&mut hasher);
    hasher.finish()
}

fn way(origins: &[(usize, &'static str)], mut at: usize, last: &'static str) -> Vec<&'static str> {
    let mut steps = vec![last];
    while at != 0 {
        steps.push(origins[at].1);
        at = origins[at].0;
    }
    steps.reverse();
    steps
}
