//! placeholder
pub fn stop_others() {}
pub fn initial_id() -> u32 {
    0
}
