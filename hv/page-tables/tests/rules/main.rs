//! The page-table rules on a simulated machine.

mod invariants;
mod machine;
mod random;
mod scenarios;
mod threads;
