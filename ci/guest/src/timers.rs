//! Tests timers and polls at every distance: each deadline has its effect, and a wait that ended
//! leaves nothing behind.

use crate::{calls, memory};
use partition_runtime::time;

const MILLISECOND: u64 = 1_000_000;
const YEAR: u64 = 31_557_600 * 1_000_000_000;

/// Checks everything; panics if a check fails.
pub fn check() {
    let port = calls::bind_timer().expect("the timer");
    memory::unmask(port);
    memory::upcall_mask().store(1, core::sync::atomic::Ordering::Release);
    let start = memory::now();
    for far in [start + YEAR, start + 200 * YEAR, i64::MAX as u64, 1 << 63, u64::MAX - 1, u64::MAX]
    {
        waits_until_the_event(port, far);
        is_not_due(port, far, |far| time::set_timer(far).expect("setting the timer"));
        is_not_due(port, far, calls::set_timer_op);
    }
    is_not_due(port, 0, calls::set_timer_op);
    for past in [1, start, memory::now()] {
        time::set_timer(past).expect("setting the timer");
        calls::poll(port, u64::MAX);
        assert!(memory::take_events(), "a timer of the past, {past:#x}, fires at once");
    }
    leaves_nothing(port, false);
    leaves_nothing(port, true);
}

/// Checks that the event of the timer ends a poll until `far`.
fn waits_until_the_event(port: u32, far: u64) {
    let due = memory::now() + 5 * MILLISECOND;
    time::set_timer(due).expect("setting the timer");
    calls::poll(port, far);
    let now = memory::now();
    assert!(memory::take_events() && now >= due, "a poll until {far:#x} ended {now} before {due}");
}

/// Checks that a timer set to `far` does not fire within a poll of a few milliseconds.
fn is_not_due(port: u32, far: u64, set: impl Fn(u64)) {
    set(far);
    let end = memory::now() + 5 * MILLISECOND;
    calls::poll(port, end);
    let now = memory::now();
    assert!(now >= end, "a poll until {end} ended at {now}, with a timer at {far:#x}");
    assert!(!memory::take_events(), "a timer at {far:#x} fired at {now}");
}

/// Checks that the timeout of a poll does not end a later wait, if an event ended the poll, or if
/// the poll ended `at_once`.
fn leaves_nothing(port: u32, at_once: bool) {
    let event = memory::now() + 5 * MILLISECOND;
    time::set_timer(event).expect("setting the timer");
    if at_once {
        calls::poll(port, u64::MAX);
    }
    calls::poll(port, event + 20 * MILLISECOND);
    assert!(memory::take_events(), "the poll ended without the event");
    let due = event + 60 * MILLISECOND;
    time::set_timer(due).expect("setting the timer");
    calls::block();
    let now = memory::now();
    assert!(
        memory::take_events() && now >= due,
        "woken at {now} without an event; the timer is due at {due}"
    );
}
