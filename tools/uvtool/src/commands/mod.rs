//! The commands that do more than send a request and show its answer.

pub mod define;
pub mod kernel;
pub mod lifecycle;
