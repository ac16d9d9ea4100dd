//! Tests the engine against a monitor that records the state it has to enforce.
//!
//! After every request, carried out or refused at any action, database and monitor must agree.

mod basics;
mod cut;
mod devices;
mod disks;
mod fake;
mod faults;
mod holes;
mod hostile;
mod many;
mod moves;
mod queries;
mod sessions;
mod settings;
mod takeover;
mod turns;
mod undo;
