//! Time: the TSC as nanoseconds, and this CPU's one-shot timer.
#![allow(dead_code)]
/// placeholder
pub fn now() -> u64 {
    0
}
