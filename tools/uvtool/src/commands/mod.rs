//! What commands do that is more than a question and its answer.

pub mod define;
pub mod kernel;
pub mod lifecycle;
