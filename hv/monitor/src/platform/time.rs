//! Time: the TSC as nanoseconds since the start, this CPU's one-shot timer, the date.
//!
//! The monitor measures the TSC's rate once, against the ACPI timer or, if there is none, the
//! interval timer. The rule: `now` never goes back on one CPU, and all CPUs use one scale; they are
//! expected to have synchronous TSCs.

use core::{
    arch::x86_64::_rdtsc,
    sync::atomic::{AtomicU64, Ordering},
};

use serial_line::ports::{input, output};
use spin::Once;

use super::{
    apic,
    clock::{self, Calendar, Scale},
    processor::features,
};

/// Ticks a second of the ACPI timer (ACPI 4.8.2.1).
const ACPI_HERTZ: u64 = 3_579_545;
/// Ticks a second of the interval timer.
const INTERVAL_HERTZ: u64 = 1_193_182;
/// Ticks of the interval timer to measure for; they fit in 16 bits.
const INTERVAL_TICKS: u64 = INTERVAL_HERTZ / 50;
/// Polls of a timer after which the monitor considers it stopped.
const PATIENCE: u32 = 10_000_000;

/// Rates of the counters.
#[derive(Clone, Copy, Debug)]
struct Rates {
    scale: Scale,
    /// TSC ticks a second.
    tsc: u64,
    /// Local APIC timer ticks a second.
    apic: u64,
}

static RATES: Once<Rates> = Once::new();
/// TSC at time 0.
static START: AtomicU64 = AtomicU64::new(0);

/// This CPU's time-stamp counter.
#[must_use]
#[expect(unsafe_code, reason = "an intrinsic")]
pub fn tsc() -> u64 {
    // SAFETY: every CPU the monitor runs on has the instruction (`processor::detect`).
    unsafe { _rdtsc() }
}

/// Nanoseconds since the start; 0 until the rate is known.
#[must_use]
pub fn now() -> u64 {
    RATES.get().map_or(0, |r| r.scale.nanoseconds(tsc().saturating_sub(tsc_start())))
}

/// The TSC at time 0.
#[must_use]
pub fn tsc_start() -> u64 {
    START.load(Ordering::Relaxed)
}

/// The TSC at time 0 and the scale of [`now`], in the form partitions get it.
#[must_use]
pub fn time_scale() -> (u64, Scale) {
    (tsc_start(), RATES.get().map_or(Scale::of(1_000_000_000), |r| r.scale))
}

/// TSC ticks per millisecond.
#[must_use]
pub fn tsc_khz() -> u32 {
    RATES.get().map_or(0, |r| u32::try_from(r.tsc / 1000).unwrap_or(u32::MAX))
}

/// Both counters, read at the same time.
#[derive(Clone, Copy)]
struct Counters {
    tsc: u64,
    apic: u32,
}

impl Counters {
    fn now() -> Self {
        Self { tsc: tsc(), apic: apic::count() }
    }

    /// The rates, if `ticks` of a counter of `hertz` ticks a second passed from `self` to `end`.
    fn rates(self, end: Self, ticks: u64, hertz: u64) -> Option<Rates> {
        let per_second = |n: u64| n.checked_mul(hertz)?.checked_div(ticks);
        let tsc = per_second(end.tsc.checked_sub(self.tsc)?)?;
        let apic = per_second(u64::from(self.apic.wrapping_sub(end.apic)))?;
        Some(Rates { scale: Scale::of(tsc), tsc, apic })
    }
}

/// Measures the rates, by the ACPI timer at `port` if there is one (not 0). Returns `None` if no
/// timer runs.
pub fn set_up(port: u32) -> Option<()> {
    START.store(tsc(), Ordering::Relaxed);
    apic::start_count();
    let rates = measure_by_acpi(port).or_else(measure_by_interval_timer)?;
    RATES.call_once(|| rates);
    Some(())
}

/// Measures for a fiftieth of a second.
fn measure_by_acpi(port: u32) -> Option<Rates> {
    let port = u16::try_from(port).ok().filter(|&port| port != 0)?;
    let read = || input::<u32>(port) & 0xff_ffff;
    let first = read();
    let begin = (0..PATIENCE).map(|_| read()).find(|&t| t != first)?;
    let start = Counters::now();
    let elapsed = || u64::from(read().wrapping_sub(begin) & 0xff_ffff);
    let ticks = (0..PATIENCE).map(|_| elapsed()).find(|&t| t >= ACPI_HERTZ / 50)?;
    start.rates(Counters::now(), ticks, ACPI_HERTZ)
}

/// Measures by channel 2 of the interval timer (8254), which counts down with its output off the
/// loudspeaker.
fn measure_by_interval_timer() -> Option<Rates> {
    const GATE: u16 = 0x61;
    let gate: u8 = input(GATE);
    output(GATE, gate & !3);
    output(0x43u16, 0xb0u8); // channel 2, low then high byte, interrupt on terminal count
    output(0x42u16, narrow::low_8(INTERVAL_TICKS));
    output(0x42u16, narrow::low_8(INTERVAL_TICKS >> 8));
    output(GATE, gate & !2 | 1);
    let start = Counters::now();
    (0..PATIENCE).find(|_| input::<u8>(GATE) & 0x20 != 0)?;
    let end = Counters::now();
    output(GATE, gate);
    start.rates(end, INTERVAL_TICKS, INTERVAL_HERTZ)
}

/// Waits by polling; used before partitions run.
pub fn wait(nanoseconds: u64) {
    let end = now() + nanoseconds;
    while now() < end {
        core::hint::spin_loop();
    }
}

/// Sets this CPU's timer to interrupt ([`apic::VECTOR_TIMER`]) at a time of [`now`]; `None` disarms
/// it. The timer fires early if the time is further away than [`clock::LONGEST_WAIT`] or than it
/// can count, and at once if the time has passed.
pub fn set_deadline(deadline: Option<u64>) {
    let Some(rates) = RATES.get() else { return };
    let here = tsc();
    let now = rates.scale.nanoseconds(here.saturating_sub(tsc_start()));
    let ticks = |hertz| deadline.map(|deadline| clock::ticks_until(deadline, now, hertz));
    if features().tsc_deadline {
        apic::set_tsc_deadline(ticks(rates.tsc).map_or(0, |ticks| here.saturating_add(ticks)));
    } else {
        let count = ticks(rates.apic).map(|ticks| u32::try_from(ticks).unwrap_or(u32::MAX));
        apic::set_count(count.unwrap_or(0));
    }
}

/// Reads a register of the real-time clock.
fn clock_register(register: u8) -> u8 {
    output(0x70u16, register);
    input(0x71u16)
}

/// Seconds since 1970 at time 0, by the real-time clock. Returns 0 if it shows no date.
#[must_use]
pub fn wall_clock() -> u64 {
    const UPDATING: u8 = 0x80;
    let read = || {
        let _ = (0..100_000).find(|_| clock_register(10) & UPDATING == 0);
        [0, 2, 4, 7, 8, 9].map(clock_register)
    };
    // If two readings in a row are equal, no update tore them.
    let mut registers = read();
    for _ in 0..4 {
        let again = read();
        if again == registers {
            break;
        }
        registers = again;
    }
    let seconds = clock_date(registers, clock_register(11)).seconds().unwrap_or(0);
    seconds.saturating_sub(now() / 1_000_000_000)
}

/// The date in the registers: binary or BCD, 24 or 12 hours, as status register B says.
fn clock_date(registers: [u8; 6], status: u8) -> Calendar {
    let number = |value: u8| {
        let value = u32::from(value);
        if status & 4 == 0 { (value >> 4) * 10 + (value & 15) } else { value }
    };
    let [second, minute, raw_hour, day, month, year] = registers;
    let mut hour = number(raw_hour & 0x7f);
    if status & 2 == 0 {
        hour = hour % 12 + if raw_hour & 0x80 != 0 { 12 } else { 0 };
    }
    let [second, minute, day, month, year] = [second, minute, day, month, year].map(number);
    Calendar { year: 2000 + year, month, day, hour, minute, second }
}
