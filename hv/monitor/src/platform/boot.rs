//! The start, from the boot code's last jump to `crate::start`.
//!
//! Order matters: messages first; then what GRUB passed is read and checked through the temporary
//! page tables; then frames, final page tables, the first CPU's own area; from there on its main
//! stack: interrupt controllers, time, the other CPUs, devices. The rule: whatever makes a
//! start impossible is one message that says what and how to help, then a stop.
#![expect(bad_asm_style, reason = "far jumps are clearer in the AT&T syntax")]
#![expect(unsafe_code, reason = "boot code, and memory that GRUB describes by address")]

use core::{
    arch::global_asm,
    sync::atomic::{AtomicU32, Ordering},
};

use heapless::Vec;
use pv_abi::uv::start::{CPU_ONLINE, MachineCpu, MachinePci};
use spin::Once;

use super::{
    acpi::{self, Acpi},
    apic,
    cpu_area::{self, MAX_CPUS},
    descriptors,
    early_frames::FrameRange,
    io_apic,
    log::{self, debug, error, info},
    memory,
    multiboot2::{self, Information, Module},
    options::{self, Options},
    panic, pci, power, processor,
    regions::{self, FirmwareRegion, FirmwareRegions},
    serial, smp,
    symbols::{self, Symbols},
    time,
};

const BOOT_STACK_BYTES: usize = 32768;

global_asm!(
    include_str!("boot.S"),
    boot_stack_bytes = const BOOT_STACK_BYTES,
    platform_start = sym platform_start,
);

unsafe extern "C" {
    /// Calls `function(argument)` on another stack.
    fn on_stack(stack: u64, function: extern "C" fn(u64) -> !, argument: u64) -> !;
}

/// The machine as the platform found it.
#[derive(Clone, Copy, Debug)]
pub struct Boot {
    /// The monitor's command line.
    pub command_line: &'static str,
    /// GRUB's modules.
    pub modules: &'static [Module],
    /// Disjoint, sorted ranges of frames as firmware types them.
    pub regions: &'static [FirmwareRegion],
    /// One past the highest frame of RAM.
    pub frames: u64,
    /// TSC frequency.
    pub tsc_khz: u32,
    /// Seconds since 1970 at time 0.
    pub wall_clock: u64,
    /// CPUs that firmware lists as usable, index 0 first.
    pub cpus: &'static [MachineCpu],
    /// PCI functions.
    pub pci: &'static [MachinePci],
}

static INFORMATION: Once<Information> = Once::new();
static OPTIONS: Once<Options> = Once::new();
static REGIONS: Once<FirmwareRegions> = Once::new();
static CPUS: Once<Vec<MachineCpu, MAX_CPUS>> = Once::new();
static CPU_COUNT: AtomicU32 = AtomicU32::new(1);
static PCI: Once<Vec<MachinePci, { pci::MAX_FUNCTIONS }>> = Once::new();
static ACPI: Once<Acpi> = Once::new();
/// Physical address of a free page below 1 MiB.
static TRAMPOLINE: Once<u64> = Once::new();
static BOOT: Once<Boot> = Once::new();

/// The machine, once the platform is up.
#[must_use]
pub fn boot() -> &'static Boot {
    BOOT.get().expect("the platform is set up first")
}

/// CPUs that have an area, whether they run or not.
#[must_use]
pub fn cpu_count() -> u32 {
    CPU_COUNT.load(Ordering::Acquire)
}

/// What ACPI tells; nothing until it is read.
pub(super) fn acpi() -> &'static Acpi {
    static NOTHING: Acpi = Acpi::new();
    ACPI.get().unwrap_or(&NOTHING)
}

/// RAM that GRUB filled, such as a module, by physical address.
#[must_use]
pub fn ram(phys: u64, bytes: u64) -> &'static [u8] {
    let regions = REGIONS.get().map_or(&[][..], |regions| regions);
    let Some(found) = memory::ram_bytes(phys, bytes, regions) else {
        refuse(format_args!("{bytes} bytes at {phys:#x} are not in RAM, though GRUB says so"));
    };
    found
}

/// The options, defaults before they are read.
pub(super) fn options() -> Options {
    OPTIONS.get().copied().unwrap_or_default()
}

/// Says why the monitor cannot start, and stops.
pub fn refuse(reason: core::fmt::Arguments<'_>) -> ! {
    log::set_failing();
    error!("cannot start: {reason}");
    power::exit_emulator(false);
    panic::halt()
}

/// First Rust code: on the boot stack, with the temporary page tables, interrupts off.
extern "C" fn platform_start(magic: u32, information: u64) -> ! {
    serial::set_up();
    log::set_level(Options::default().log_level);
    if magic != multiboot2::MAGIC {
        refuse(format_args!(
            "the loader is not multiboot2 (magic {magic:#x}); use GRUB's multiboot2"
        ));
    }
    let information = read_information(information);
    read_options(information.command_line);
    info!("Ultravisor {}", env!("CARGO_PKG_VERSION"));
    if let Err(name) = processor::detect() {
        refuse(format_args!("this CPU lacks {name}, which the monitor needs"));
    }
    let regions = read_regions(information);
    read_acpi(information);
    start_memory(information, regions);
    descriptors::fill_interrupts();
    memory::use_tables();
    processor::set_control_registers();
    map_cpu(0);
    descriptors::load(0);
    // SAFETY: the main stack of CPU 0 was just mapped and nothing uses it.
    unsafe { on_stack(cpu_area::main_stack_top(0), platform_continue, 0) }
}

/// The rest, on the main stack of CPU 0.
extern "C" fn platform_continue(_: u64) -> ! {
    let information = INFORMATION.get().expect("read before");
    let regions = REGIONS.get().expect("read before");
    panic::set_symbols(load_symbols(information, regions));
    start_interrupts();
    start_cpus();
    PCI.call_once(pci::enumerate);
    let boot = BOOT.call_once(|| Boot {
        command_line: information.command_line,
        modules: &information.modules,
        regions,
        frames: memory::frames(),
        tsc_khz: time::tsc_khz(),
        wall_clock: time::wall_clock(),
        cpus: CPUS.get().map_or(&[], |cpus| cpus),
        pci: PCI.get().map_or(&[], |pci| pci),
    });
    serial::enable_interrupts();
    announce(boot);
    smp::release();
    crate::start::start(boot)
}

/// Says what machine this is.
fn announce(boot: &Boot) {
    let memory = boot.regions.iter().filter(|r| r.kind == regions::kind::RAM);
    let megabytes = memory.map(|r| r.frames).sum::<u64>() / 256;
    let cpus = boot.cpus.iter().filter(|c| c.flags & CPU_ONLINE != 0).count();
    info!("CPUs: {cpus}, TSC: {} kHz, memory: {megabytes} MiB", boot.tsc_khz);
    info!("{}", processor::features());
}

/// Local and I/O APICs, and time.
fn start_interrupts() {
    let acpi = acpi();
    if apic::set_up(acpi.local_apic).is_none() {
        refuse(format_args!("no memory for page tables"));
    }
    apic::enable();
    apic::set_id(0, apic::id());
    if io_apic::set_up(acpi).is_none() {
        refuse(format_args!("no memory for page tables"));
    }
    if time::set_up(acpi).is_none() {
        refuse(format_args!("neither the ACPI timer nor the interval timer runs"));
    }
    apic::enable_timer();
}

/// Gives every usable CPU an index and an area, and starts it.
fn start_cpus() {
    let acpi = acpi();
    if acpi.more_cpus > 0 {
        log::warn!("{} CPUs more than the monitor can use", acpi.more_cpus);
    }
    let own = MachineCpu { index: 0, apic_id: apic::id_of(0), flags: CPU_ONLINE, reserved: 0 };
    let mut cpus: Vec<MachineCpu, MAX_CPUS> = Vec::new();
    let _ = cpus.push(own);
    let others = acpi.cpus.iter().filter(|&&id| id != own.apic_id && apic::can_reach(id));
    for &apic_id in others.take((options().cpus - 1).min(MAX_CPUS as u32 - 1) as usize) {
        let index = cpus.len() as u32;
        apic::set_id(index, apic_id);
        map_cpu(index);
        let _ = cpus.push(MachineCpu { index, apic_id, flags: 0, reserved: 0 });
    }
    CPU_COUNT.store(cpus.len() as u32, Ordering::Release);
    if cpus.len() > 1 {
        let mark = |cpu: u32| {
            if let Some(record) = cpus.get_mut(cpu as usize) {
                record.flags |= CPU_ONLINE;
            }
        };
        let started = TRAMPOLINE
            .get()
            .and_then(|&page| smp::start(page, CPU_COUNT.load(Ordering::Relaxed), mark));
        if started.is_none() {
            log::warn!("no page below 1 MiB to start other CPUs from; going on with one");
        }
    }
    CPUS.call_once(|| cpus);
}

/// Physical frames of the information structure.
static STRUCTURE: Once<FrameRange> = Once::new();

fn read_information(phys: u64) -> &'static Information {
    // SAFETY: GRUB passes the structure's address; the temporary page tables map the first 4 GiB,
    // where it lies; its first word is its size, and it is never changed.
    let bytes = unsafe {
        let start = memory::phys_to_virt(phys);
        core::slice::from_raw_parts(start, start.cast::<u32>().read() as usize)
    };
    STRUCTURE.call_once(|| frames_of(phys, bytes.len() as u64));
    match multiboot2::parse(bytes) {
        Ok(information) => INFORMATION.call_once(|| information),
        Err(fault) => refuse(format_args!("{fault}")),
    }
}

fn read_options(command_line: &str) {
    match options::parse(command_line) {
        Ok(options) => {
            OPTIONS.call_once(|| options);
            log::set_level(options.log_level);
        }
        Err(unknown) => {
            let debug_exit = command_line.split_ascii_whitespace().any(|w| w == "debug-exit");
            OPTIONS.call_once(|| Options { debug_exit, ..Options::default() });
            refuse(format_args!("{unknown}"))
        }
    }
}

fn read_regions(information: &Information) -> &'static FirmwareRegions {
    let Some(sorted) = regions::firmware_frames(&information.memory) else {
        refuse(format_args!("{}", memory::Fault::Fragmented));
    };
    for region in &sorted {
        let (first, end, kind) = (region.first << 12, region.end() << 12, region.kind);
        debug!("memory {first:#012x} to {end:#012x} type {kind}");
    }
    REGIONS.call_once(|| sorted)
}

/// Reads the ACPI tables, which firmware may keep outside of what is mapped later.
fn read_acpi(information: &Information) {
    let memory = |phys: u64, bytes: u64| {
        let end = phys.checked_add(bytes).filter(|&end| end <= 1 << 32)?;
        // SAFETY: the temporary page tables map the first 4 GiB; firmware's pointers lead to
        // tables that nobody changes.
        Some(unsafe {
            core::slice::from_raw_parts(memory::phys_to_virt(phys), (end - phys) as usize)
        })
    };
    match information.rsdp.and_then(|rsdp| acpi::read(rsdp, &memory)) {
        Some(acpi) => {
            ACPI.call_once(|| acpi);
        }
        None => {
            log::warn!("firmware offers no ACPI tables: one CPU, no serial input, no power-off")
        }
    }
}

/// Frames that hold `bytes` bytes at a physical address.
fn frames_of(phys: u64, bytes: u64) -> FrameRange {
    let end = phys.saturating_add(bytes).div_ceil(4096);
    FrameRange { first: phys / 4096, frames: end - phys / 4096 }
}

fn start_memory(information: &'static Information, regions: &FirmwareRegions) {
    let modules = information.modules.iter().map(|m| frames_of(m.start, m.bytes));
    let symbols = information.sections.as_ref().and_then(symbols::extents);
    let symbols = symbols.into_iter().flatten().map(|(phys, bytes)| frames_of(phys, bytes));
    let kept = modules.chain(symbols).chain(STRUCTURE.get().copied());
    let low = regions.iter().filter(|r| r.kind == regions::kind::RAM);
    let low = low.flat_map(|r| r.first.max(1)..r.end().min(0xa0));
    if let Some(page) = low.rev().find(|&f| !kept.clone().any(|k| k.first <= f && f < k.end())) {
        TRAMPOLINE.call_once(|| page << 12);
    }
    if let Err(fault) = memory::start_frames(regions, kept).and_then(|()| memory::set_up(regions)) {
        refuse(format_args!("{fault}"));
    }
    for module in &information.modules {
        debug!("module {:#x}, {} bytes: {}", module.start, module.bytes, module.command_line);
    }
}

fn map_cpu(cpu: u32) {
    if cpu_area::map(cpu).is_none() {
        refuse(format_args!("no memory for CPU {cpu}"));
    }
    descriptors::prepare(cpu);
}

fn load_symbols(information: &Information, regions: &[FirmwareRegion]) -> Option<Symbols> {
    let [table, names] = symbols::extents(information.sections.as_ref()?)?;
    let bytes = |(phys, bytes): symbols::Extent| memory::ram_bytes(phys, bytes, regions);
    Some(Symbols::new(bytes(table)?, bytes(names)?))
}
