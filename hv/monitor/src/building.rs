//! Decides who may write the memory of a partition: its builder until the partition is complete,
//! and then the partition alone.
//!
//! Rule: the builder's frames are counted before they are mapped, and the count is closed, once and
//! for ever, while it is 0. So a CPU that has closed the count knows that the builder has nothing
//! mapped, and will never map anything again.
#![cfg_attr(not(target_os = "none"), allow(dead_code, reason = "only tested on the host"))]

use core::sync::atomic::{AtomicU64, Ordering};

/// Set once the partition is complete.
const COMPLETE: u64 = 1 << 63;

/// The frames of a partition that its builder has mapped.
#[derive(Debug, Default)]
pub struct Building(AtomicU64);

impl Building {
    /// Counts a frame that the builder is about to map. Returns `false` if the partition is
    /// complete.
    #[must_use]
    pub fn add_frame(&self) -> bool {
        let more = |count: u64| (count & COMPLETE == 0).then_some(count + 1);
        self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more).is_ok()
    }

    /// Counts one mapped frame less. Frames of a channel are unmapped too, but were never counted.
    pub fn remove_frame(&self) {
        let less = |count: u64| (count & !COMPLETE != 0).then_some(count.wrapping_sub(1));
        let _ = self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less);
    }

    /// Declares the partition complete. Returns `false`, and changes nothing, while the builder has
    /// any of its frames mapped.
    #[must_use]
    pub fn complete(&self) -> bool {
        let once = self.0.compare_exchange(0, COMPLETE, Ordering::SeqCst, Ordering::SeqCst);
        once.is_ok() || once == Err(COMPLETE)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::thread;

    use super::*;

    #[test]
    fn a_partition_is_complete_once_nothing_is_mapped() {
        let building = Building::default();
        assert!(building.add_frame());
        assert!(!building.complete());
        // The attempt left the builder its frame, and the right to map more.
        assert!(building.add_frame());
        building.remove_frame();
        building.remove_frame();
        assert!(building.complete());
        assert!(!building.add_frame());
        building.remove_frame();
        assert!(building.complete());
    }

    #[test]
    fn builder_and_starter_do_not_both_succeed() {
        for _ in 0..200 {
            let (building, together) = (Building::default(), Barrier::new(2));
            let (mapped, complete) = thread::scope(|scope| {
                let builder = scope.spawn(|| {
                    together.wait();
                    building.add_frame()
                });
                together.wait();
                (building.complete(), builder.join().expect("it does not panic"))
            });
            assert_ne!(mapped, complete);
        }
    }
}
