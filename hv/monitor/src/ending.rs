//! A partition stops once, and the monitor reports it to the ultravisor once.
//!
//! Several virtual CPUs may find at the same time that their partition cannot continue. Rule: the
//! caller that changes the state from one in which the partition may run to one in which it never
//! does gets the [`Ending`], and only its holder records an event. So the queue of events never
//! holds two events of one partition.
#![cfg_attr(not(target_os = "none"), allow(dead_code, reason = "only tested on the host"))]

use core::sync::atomic::{AtomicU32, Ordering};

use pv_abi::uv::database::state;

/// The right to record why a partition has stopped.
#[must_use]
#[derive(Debug)]
pub struct Ending(());

impl Ending {
    /// Changes a partition's state to `to`, in which it never runs. Returns `None`, and keeps the
    /// state, if the partition was in such a state already.
    pub fn of(partition_state: &AtomicU32, to: u32) -> Option<Self> {
        let next = |now| (now < state::SHUTDOWN).then_some(to);
        let before = partition_state.fetch_update(Ordering::SeqCst, Ordering::SeqCst, next);
        before.ok().map(|_| Self(()))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::thread;

    use super::*;

    #[test]
    fn the_first_end_is_the_one_that_counts() {
        for start in [state::BUILDING, state::RUNNING, state::PAUSED] {
            for (first, second) in
                [(state::CRASHED, state::SHUTDOWN), (state::SHUTDOWN, state::CRASHED)]
            {
                let now = AtomicU32::new(start);
                assert!(Ending::of(&now, first).is_some(), "from {start}");
                assert!(Ending::of(&now, second).is_none(), "from {start}, again");
                assert_eq!(now.load(Ordering::Relaxed), first);
            }
        }
    }

    #[test]
    fn a_partition_that_is_taken_apart_has_ended() {
        let now = AtomicU32::new(state::DYING);
        assert!(Ending::of(&now, state::CRASHED).is_none());
        assert_eq!(now.load(Ordering::Relaxed), state::DYING);
    }

    #[test]
    fn of_many_that_end_it_at_once_one_tells() {
        const CPUS: usize = 4;
        for _ in 0..100 {
            let (now, together) = (AtomicU32::new(state::RUNNING), Barrier::new(CPUS));
            let end = || {
                together.wait();
                usize::from(Ending::of(&now, state::CRASHED).is_some())
            };
            let told: usize = thread::scope(|scope| {
                let cpus: Vec<_> = (0..CPUS).map(|_| scope.spawn(end)).collect();
                cpus.into_iter().map(|cpu| cpu.join().expect("it does not panic")).sum()
            });
            assert_eq!(told, 1);
        }
    }
}
