//! The rates of the TSC and of the local APIC's timer, and the date.
//!
//! The loader measures the rates once, against the ACPI timer or, if there is none, the interval
//! timer. Time 0 of the host is the moment when the loader reads the date.
#![expect(unsafe_code, reason = "an intrinsic")]

use core::arch::x86_64::_rdtsc;

use handover::Clock;
use serial_line::ports::{input, output};

use crate::{clock::date, local_apic::LocalApic};

/// Ticks a second of the ACPI timer (ACPI 4.8.2.1).
const ACPI_HERTZ: u64 = 3_579_545;
/// Ticks a second of the interval timer.
const INTERVAL_HERTZ: u64 = 1_193_182;
/// Ticks of the interval timer to measure for; they fit in 16 bits.
const INTERVAL_TICKS: u64 = INTERVAL_HERTZ / 50;
/// Polls of a timer after which the loader considers it stopped.
const PATIENCE: u32 = 10_000_000;

/// The rates, and time 0. Returns `None` if no timer runs. `port` is that of the ACPI timer.
#[must_use]
pub fn measure(port: Option<u16>, apic: &LocalApic) -> Option<Clock> {
    let (wall_clock, tsc_start) = (wall_clock(), tsc());
    apic.start_count();
    let measured = port.and_then(|port| measure_by_acpi(port, apic));
    let [tsc_hertz, apic_hertz] = measured.or_else(|| measure_by_interval_timer(apic))?;
    apic.stop_count();
    Some(Clock { tsc_start, tsc_hertz, apic_hertz, wall_clock })
}

/// Waits until `done`, for `nanoseconds` at most.
pub fn wait(clock: &Clock, nanoseconds: u64, done: impl Fn() -> bool) {
    let end = tsc() + nanoseconds * (clock.tsc_hertz / 1000) / 1_000_000;
    while tsc() < end && !done() {
        core::hint::spin_loop();
    }
}

fn tsc() -> u64 {
    // SAFETY: the loader has checked that the CPU has the instruction.
    unsafe { _rdtsc() }
}

/// Both counters, read at the same time.
#[derive(Clone, Copy)]
struct Counters {
    tsc: u64,
    apic: u32,
}

impl Counters {
    fn now(apic: &LocalApic) -> Self {
        Self { tsc: tsc(), apic: apic.count() }
    }

    /// The rates, if `ticks` of a counter of `hertz` ticks a second passed from `self` to `end`.
    fn rates(self, end: Self, ticks: u64, hertz: u64) -> Option<[u64; 2]> {
        let per_second = |n: u64| n.checked_mul(hertz)?.checked_div(ticks);
        let tsc = per_second(end.tsc.checked_sub(self.tsc)?)?;
        let apic = per_second(u64::from(self.apic.wrapping_sub(end.apic)))?;
        Some([tsc, apic])
    }
}

/// Measures for a fiftieth of a second.
fn measure_by_acpi(port: u16, apic: &LocalApic) -> Option<[u64; 2]> {
    let read = || input::<u32>(port) & 0xff_ffff;
    let first = read();
    let begin = (0..PATIENCE).map(|_| read()).find(|&t| t != first)?;
    let start = Counters::now(apic);
    let elapsed = || u64::from(read().wrapping_sub(begin) & 0xff_ffff);
    let ticks = (0..PATIENCE).map(|_| elapsed()).find(|&t| t >= ACPI_HERTZ / 50)?;
    start.rates(Counters::now(apic), ticks, ACPI_HERTZ)
}

/// Measures by channel 2 of the interval timer (8254), which counts down with its output off the
/// loudspeaker.
fn measure_by_interval_timer(apic: &LocalApic) -> Option<[u64; 2]> {
    const GATE: u16 = 0x61;
    let gate: u8 = input(GATE);
    output(GATE, gate & !3);
    output(0x43u16, 0xb0u8); // channel 2, low then high byte, interrupt on terminal count
    output(0x42u16, narrow::low_8(INTERVAL_TICKS));
    output(0x42u16, narrow::low_8(INTERVAL_TICKS >> 8));
    output(GATE, gate & !2 | 1);
    let start = Counters::now(apic);
    (0..PATIENCE).find(|_| input::<u8>(GATE) & 0x20 != 0)?;
    let end = Counters::now(apic);
    output(GATE, gate);
    start.rates(end, INTERVAL_TICKS, INTERVAL_HERTZ)
}

/// Reads a register of the real-time clock.
fn clock_register(register: u8) -> u8 {
    output(0x70u16, register);
    input(0x71u16)
}

/// Seconds since 1970 now, by the real-time clock. Returns 0 if it shows no date.
fn wall_clock() -> u64 {
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
    date(registers, clock_register(11)).seconds().unwrap_or(0)
}
