//! Starts the other CPUs.
//!
//! Each is started on its own, through one page of real-mode code below 1 MiB (`boot.S`,
//! `trampoline`), and enters the monitor, where it waits for the others. The rule: a CPU that does
//! not answer in time is reset by an INIT, reported in a warning, and not used; it cannot start
//! later.
#![expect(unsafe_code, reason = "copies code to memory below 1 MiB, and leaves the boot code")]

use core::{
    ptr,
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
};

use handover::Clock;
use log::warn;
use pv_abi::uv::start::{CPU_ONLINE, MachineCpu};

use crate::{areas, cpu, local_apic::LocalApic, memory, microcode_update, time};

/// How long to wait for a CPU after an INIT, and after each of two starts, in nanoseconds.
const INIT_NS: u64 = 10_000_000;
const START_NS: [u64; 2] = [1_000_000, 500_000_000];

/// Top of the stack of the CPU that is being started.
pub static STACK: AtomicU64 = AtomicU64::new(0);
/// The index of the CPU that is being started, and its entry to the monitor.
static CPU: AtomicU32 = AtomicU32::new(0);
static ENTRY: AtomicU64 = AtomicU64::new(0);
/// How far that CPU has come.
static STATE: AtomicU32 = AtomicU32::new(0);
const AWAITED: u32 = 0;
const ARRIVED: u32 = 1;
/// Its microcode differs from the first CPU's.
const BEHIND: u32 = 2;

unsafe extern "C" {
    safe static trampoline: u8;
    safe static trampoline_root: u8;
    safe static trampoline_end: u8;
}

/// Copies the trampoline to a free page. Returns `None` if the page tables lie above 4 GiB, where a
/// starting CPU cannot load them.
fn copy_trampoline(page: u64) -> Option<()> {
    let root = u32::try_from(memory::root()).ok()?;
    let offset = |symbol: &u8| ptr::from_ref(symbol) as usize - &raw const trampoline as usize;
    let place = memory::phys_to_virt(page);
    // SAFETY: the page was chosen to hold nothing; the code, with the field for the root, is
    // shorter than a page.
    unsafe {
        ptr::copy_nonoverlapping(&raw const trampoline, place, offset(&trampoline_end));
        place.add(offset(&trampoline_root)).cast::<u32>().write_unaligned(root);
    }
    Some(())
}

/// Starts all `cpus` but the first through the free page `page`, and marks those that enter the
/// monitor, at `entry`.
pub fn start(apic: &LocalApic, page: u64, entry: u64, clock: &Clock, cpus: &mut [MachineCpu]) {
    let others = cpus.get_mut(1..).unwrap_or_default();
    if others.is_empty() {
        return;
    }
    if page == 0 || copy_trampoline(page).is_none() {
        return warn!("no page below 1 MiB, or page tables above 4 GiB: continuing with one CPU");
    }
    ENTRY.store(entry, Ordering::Relaxed);
    for cpu in others {
        let (index, id) = (cpu.index, cpu.apic_id);
        if start_one(apic, page, clock, (index, id)) == ARRIVED {
            cpu.flags |= CPU_ONLINE;
        } else {
            apic.send_init(id);
            warn!("CPU {index} (APIC id {id}) does not start; continuing without it");
        }
    }
}

/// Starts one CPU. Returns its state.
fn start_one(apic: &LocalApic, page: u64, clock: &Clock, (cpu, id): (u32, u32)) -> u32 {
    STATE.store(AWAITED, Ordering::Relaxed);
    CPU.store(cpu, Ordering::Relaxed);
    STACK.store(areas::main_stack_top(cpu), Ordering::Release);
    let state = || STATE.load(Ordering::Acquire);
    apic.send_init(id);
    time::wait(clock, INIT_NS, || false);
    for patience in START_NS {
        apic.send_startup(id, narrow::low_8(page >> 12));
        time::wait(clock, patience, || state() != AWAITED);
        if state() != AWAITED {
            break;
        }
    }
    if state() == BEHIND {
        warn!("CPU {cpu} does not take the microcode of the first CPU");
    }
    state()
}

/// The first Rust code of another CPU, on its main stack.
pub extern "C" fn arrive() -> ! {
    let (number, stack) = (CPU.load(Ordering::Relaxed), STACK.load(Ordering::Relaxed));
    if microcode_update::follow().is_err() {
        STATE.store(BEHIND, Ordering::Release);
        loop {
            core::hint::spin_loop();
        }
    }
    let entry = ENTRY.load(Ordering::Relaxed);
    STATE.store(ARRIVED, Ordering::Release);
    // SAFETY: the monitor's entry for other CPUs is as `handover` defines it; the final page tables
    // are in use.
    unsafe { cpu::enter(entry, stack, number.into()) }
}
