//! The other CPUs.
//!
//! Each is started on its own, through one page of real-mode code below 1 MiB (`boot.S`,
//! `trampoline`). That code goes straight to the final page tables, which until then still contain
//! the loader's identity mapping of low memory. A CPU that started waits until the whole platform
//! is set up. The rule: a CPU that does not answer in time is reset by an INIT, reported in a
//! warning, and not used; it cannot come to life later.
#![expect(unsafe_code, reason = "copies code to memory below 1 MiB")]

use core::{
    ptr,
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
};

use super::{apic, cpu_area, descriptors, log, memory, microcode_update, processor, time};

/// How long to wait for a CPU, in nanoseconds.
const PATIENCE_NS: u64 = 500_000_000;

/// The CPU that came up last; 0 if none.
static ARRIVED: AtomicU32 = AtomicU32::new(0);
/// The last CPU whose microcode differs from the first CPU's; 0 if none.
static BEHIND: AtomicU32 = AtomicU32::new(0);
/// Set when the platform is set up; the trampoline is no longer needed then.
static RELEASED: AtomicBool = AtomicBool::new(false);

unsafe extern "C" {
    safe static trampoline: u8;
    safe static trampoline_gdt_pointer: u8;
    safe static trampoline_far: u8;
    safe static trampoline_root: u8;
    safe static trampoline_cpu: u8;
    safe static trampoline_stack: u8;
    safe static trampoline_function: u8;
    safe static trampoline_end: u8;
}

/// Offset of a symbol in the trampoline page.
fn offset(symbol: &u8) -> usize {
    ptr::from_ref(symbol) as usize - ptr::from_ref(&trampoline) as usize
}

/// The copy of the trampoline.
struct Page {
    phys: u64,
}

impl Page {
    /// Copies the code to a free page below 1 MiB. Returns `None` if the page tables lie above 4
    /// GiB, where a starting CPU cannot load them.
    fn new(phys: u64) -> Option<Self> {
        let page = Self { phys };
        // SAFETY: the page was chosen to hold nothing; the code is shorter than a page.
        unsafe {
            ptr::copy_nonoverlapping(&raw const trampoline, page.at(0), offset(&trampoline_end));
        }
        let base = u32::try_from(phys).ok()?;
        page.add(offset(&trampoline_gdt_pointer) + 2, base);
        page.add(offset(&trampoline_far), base);
        page.put(offset(&trampoline_root), u32::try_from(memory::idle_root().address()).ok()?);
        page.put(offset(&trampoline_function), arrive as *const () as u64);
        Some(page)
    }

    fn at(&self, offset: usize) -> *mut u8 {
        memory::phys_to_virt(self.phys + offset as u64)
    }

    fn put<T>(&self, offset: usize, value: T) {
        // SAFETY: `offset` is that of a field of this type in the copied page.
        unsafe { self.at(offset).cast::<T>().write_unaligned(value) };
    }

    fn add(&self, offset: usize, base: u32) {
        // SAFETY: as in `put`.
        let value = unsafe { self.at(offset).cast::<u32>().read_unaligned() };
        self.put(offset, value.wrapping_add(base));
    }

    /// Starts CPU `cpu`. Returns whether it came up.
    fn start(&self, cpu: u32) -> bool {
        self.put(offset(&trampoline_cpu), cpu);
        self.put(offset(&trampoline_stack), cpu_area::main_stack_top(cpu));
        let id = apic::id_of(cpu);
        apic::send_init(id);
        time::wait(10_000_000);
        for patience in [1_000_000, PATIENCE_NS] {
            apic::send_startup(id, narrow::low_8(self.phys >> 12));
            let end = time::now() + patience;
            while time::now() < end {
                if ARRIVED.load(Ordering::Acquire) == cpu {
                    return true;
                }
                if BEHIND.load(Ordering::Acquire) == cpu {
                    log::warn!("CPU {cpu} does not take the microcode of the first CPU");
                    apic::send_init(id);
                    return false;
                }
                core::hint::spin_loop();
            }
        }
        apic::send_init(id);
        false
    }
}

/// Starts CPUs 1 to `count - 1`, whose areas are mapped, through the free page at `page`; calls
/// `each` with the index of every CPU that came up.
pub fn start(page: u64, count: u32, mut each: impl FnMut(u32)) {
    let Some(page) = Page::new(page) else {
        log::warn!("page tables above 4 GiB: the other CPUs do not start");
        return;
    };
    for cpu in 1..count {
        if page.start(cpu) {
            each(cpu);
        } else {
            log::warn!("CPU {cpu} (APIC id {}) does not start; going on without", apic::id_of(cpu));
        }
    }
}

/// Lets the CPUs that came up go on to `crate::start_secondary`.
pub(super) fn release() {
    RELEASED.store(true, Ordering::Release);
}

/// The first Rust code of another CPU, on its main stack.
extern "C" fn arrive(cpu: u32) -> ! {
    if microcode_update::follow().is_err() {
        BEHIND.store(cpu, Ordering::Release);
        loop {
            core::hint::spin_loop();
        }
    }
    processor::set_control_registers();
    descriptors::load(cpu);
    apic::enable();
    apic::enable_timer();
    ARRIVED.store(cpu, Ordering::Release);
    while !RELEASED.load(Ordering::Acquire) {
        core::hint::spin_loop();
    }
    // The mapping of low memory is gone by now.
    processor::reload_cr3();
    crate::start::start_secondary(cpu)
}
