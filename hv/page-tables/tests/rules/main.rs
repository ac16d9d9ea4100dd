//! The page-table rules on a simulated machine.

mod invariants;
mod machine;
mod numbers;
mod random;
mod scenarios;
mod threads;
