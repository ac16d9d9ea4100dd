//! Time: the TSC as nanoseconds since the start, and this CPU's one-shot timer.
//!
//! The loader measured the rates. The rule: `now` never goes back on one CPU, and all CPUs use one
//! scale; they are expected to have synchronous TSCs.

use core::arch::x86_64::_rdtsc;

use handover::Clock;
use spin::Once;

use super::{
    apic,
    clock::{self, Scale},
    processor::features,
};

/// Rates of the counters.
#[derive(Clone, Copy, Debug)]
struct Rates {
    scale: Scale,
    /// TSC at time 0.
    start: u64,
    /// TSC ticks a second.
    tsc: u64,
    /// Local APIC timer ticks a second.
    apic: u64,
}

static RATES: Once<Rates> = Once::new();

/// This CPU's time-stamp counter.
#[expect(unsafe_code, reason = "an intrinsic")]
pub fn tsc() -> u64 {
    // SAFETY: every CPU the monitor runs on has the instruction (`processor::detect`).
    unsafe { _rdtsc() }
}

/// Nanoseconds since the start; 0 until the rate is known.
pub fn now() -> u64 {
    RATES.get().map_or(0, |r| r.scale.nanoseconds(tsc().saturating_sub(r.start)))
}

/// The TSC at time 0 and the scale of [`now`], in the form partitions get it.
pub fn time_scale() -> (u64, Scale) {
    RATES.get().map_or((0, Scale::of(1_000_000_000)), |r| (r.start, r.scale))
}

/// TSC ticks per millisecond.
pub fn tsc_khz() -> u32 {
    RATES.get().map_or(0, |r| u32::try_from(r.tsc / 1000).unwrap_or(u32::MAX))
}

/// Takes over the rates that the loader measured.
pub fn set_up(clock: &Clock) {
    let Clock { tsc_start: start, tsc_hertz: tsc, apic_hertz: apic, .. } = *clock;
    RATES.call_once(|| Rates { scale: Scale::of(tsc), start, tsc, apic });
}

/// Sets this CPU's timer to interrupt ([`apic::VECTOR_TIMER`]) at a time of [`now`]; `None` disarms
/// it. The timer fires early if the time is further away than [`clock::LONGEST_WAIT`] or than it
/// can count, and at once if the time has passed.
pub fn set_deadline(deadline: Option<u64>) {
    let Some(rates) = RATES.get() else { return };
    let here = tsc();
    let now = rates.scale.nanoseconds(here.saturating_sub(rates.start));
    let ticks = |hertz| deadline.map(|deadline| clock::ticks_until(deadline, now, hertz));
    if features().tsc_deadline {
        apic::set_tsc_deadline(ticks(rates.tsc).map_or(0, |ticks| here.saturating_add(ticks)));
    } else {
        let count = ticks(rates.apic).map(|ticks| u32::try_from(ticks).unwrap_or(u32::MAX));
        apic::set_count(count.unwrap_or(0));
    }
}
