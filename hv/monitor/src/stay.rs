//! How long a stay in ring 0 may last: long work asks here whether to stop.

use core::sync::atomic::Ordering;

use crate::{cpu, time};

/// Calls of [`should_yield`] for each reading of the clock.
const LOOKS: u32 = 4;
/// Nanoseconds that work may continue, from the first reading of the clock in a stay in ring 0.
const BUDGET: u64 = 20_000;

/// The same as [`should_yield_now`], for work whose steps take a few hundred instructions.
pub fn should_yield() -> bool {
    let local = cpu::this();
    let turn = local.turns.get().wrapping_add(1);
    local.turns.set(turn);
    local.reschedule.load(Ordering::Relaxed)
        || local.flush_wanted()
        || turn.is_multiple_of(LOOKS) && should_yield_now()
}

/// Returns whether long work for the present virtual CPU should stop and continue later: this CPU
/// has other work due, or the time is used up.
pub fn should_yield_now() -> bool {
    let (local, now) = (cpu::this(), time::now());
    let stay = local.quiet.load(Ordering::Relaxed);
    if local.stay.replace(stay) != stay {
        local.stay_began.set(now);
    }
    // A stay of 0 means that the monitor still starts, and no CPU waits for this one.
    stay != 0
        && (local.reschedule.load(Ordering::Relaxed)
            || local.flush_wanted()
            || now.saturating_sub(local.stay_began.get()) >= BUDGET)
}
