//! The engine against a monitor that keeps what it was told to enforce.
//!
//! After every request, done or refused at whatever action, database and monitor must agree.

mod basics;
mod cut;
mod fake;
mod faults;
mod holes;
mod hostile;
mod many;
mod queries;
mod sessions;
mod settings;
mod turns;
mod undo;
