//! The start of the platform.
//!
//! Order matters. The messages come first, then this CPU's registers and tables, then interrupt
//! controllers, time and the other CPUs, which the loader started and which wait here. Last, when
//! no CPU runs code of the loader any more, the loader and its mapping of low memory go. The rule:
//! a fault that makes a start impossible ends in one message, with the cause and the remedy, and a
//! stop.
#![expect(unsafe_code, reason = "takes over what the loader left, by address")]

use core::sync::atomic::{AtomicU32, Ordering};

use ::log::LevelFilter;
use handover::{Handover, MAGIC, VERSION};
use spin::Once;

use super::{
    apic, cpu_area, descriptors,
    log::{self, error, info},
    memory, panic, power, processor, serial,
    symbols::Symbols,
    time,
};

static HANDOVER: Once<&'static Handover> = Once::new();

/// Number of CPUs that have an area, whether they run or not.
pub fn cpu_count() -> u32 {
    HANDOVER.get().map_or(1, |handover| handover.cpu_count)
}

/// Seconds since 1970 at time 0.
pub fn wall_clock() -> u64 {
    HANDOVER.get().map_or(0, |handover| handover.clock.wall_clock)
}

/// The loader's handover block, once the monitor runs.
pub(super) fn handover() -> Option<&'static Handover> {
    HANDOVER.get().copied()
}

/// Logs why the monitor cannot start, and stops.
pub fn refuse(reason: core::fmt::Arguments<'_>) -> ! {
    log::set_failing();
    error!("cannot start: {reason}");
    power::exit_emulator(false);
    panic::halt()
}

/// Sets up the platform on CPU 0, with the final page tables.
pub fn set_up(handover: &'static Handover) {
    serial::set_up();
    if (handover.magic, handover.version) != (MAGIC, VERSION) {
        log::set_level(LevelFilter::Error);
        refuse(format_args!("the loader is of another build; install both anew"));
    }
    HANDOVER.call_once(|| handover);
    log::set_level(match handover.options.log_level {
        1 => LevelFilter::Error,
        2 => LevelFilter::Warn,
        4 => LevelFilter::Debug,
        _ => LevelFilter::Info,
    });
    memory::set_up(handover);
    cpu_area::set_up(handover);
    processor::detect();
    processor::set_control_registers();
    (0..handover.cpu_count).for_each(descriptors::prepare);
    descriptors::load(0);
    panic::set_symbols(symbols(handover));
    start_interrupts(handover);
    gather_cpus(handover);
    serial::enable_interrupts();
    drop_loader(handover);
    STAGE.store(RELEASED, Ordering::Release);
}

/// Sets up the local APIC and time.
fn start_interrupts(handover: &Handover) {
    apic::set_up(handover);
    apic::enable();
    time::set_up(&handover.clock);
    apic::enable_timer();
}

/// The stage that the other CPUs wait for: first the platform, then the end of the start.
static STAGE: AtomicU32 = AtomicU32::new(0);
const SET_UP: u32 = 1;
const RELEASED: u32 = 2;
/// The other CPUs that the platform has.
static ENTERED: AtomicU32 = AtomicU32::new(0);

/// Waits until the other CPUs, which the loader started, have come from its code.
fn gather_cpus(handover: &Handover) {
    STAGE.store(SET_UP, Ordering::Release);
    while ENTERED.load(Ordering::Acquire) < handover.others {
        core::hint::spin_loop();
    }
    let (cpus, megabytes) = (handover.others + 1, handover.ram_frames / 256);
    info!("CPUs: {cpus}, TSC: {} kHz, memory: {megabytes} MiB", time::tsc_khz());
    ::log::debug!("{:?}", processor::features());
}

fn wait_for(stage: u32) {
    while STAGE.load(Ordering::Acquire) < stage {
        core::hint::spin_loop();
    }
}

/// Sets up another CPU, and returns once the platform is set up.
pub fn set_up_other(cpu: u32) {
    wait_for(SET_UP);
    processor::set_control_registers();
    descriptors::load(cpu);
    apic::enable();
    apic::enable_timer();
    ENTERED.fetch_add(1, Ordering::Release);
    wait_for(RELEASED);
    // The mapping of low memory is gone by now.
    processor::reload_cr3();
}

/// Removes the loader's mapping of low memory, and scrubs the loader's frames. CPUs that wait for
/// their release still cache the mapping; they flush it before they continue.
fn drop_loader(handover: &Handover) {
    memory::clear_low();
    let loader = &handover.loader;
    for mfn in loader.first..loader.first + loader.count {
        // SAFETY: the frames were the loader's, which has ended; they have no new owner yet.
        unsafe { memory::phys_to_virt(mfn << 12).write_bytes(0, 4096) };
    }
}

fn symbols(handover: &Handover) -> Option<Symbols> {
    let [table, names] = handover.symbols.map(|part| {
        let start = memory::phys_to_virt(part.start);
        // SAFETY: the loader copied that many bytes there, into frames of the monitor that nobody
        // writes.
        unsafe { core::slice::from_raw_parts(start, narrow::size(part.bytes)) }
    });
    (!table.is_empty()).then(|| Symbols::new(table, names))
}
