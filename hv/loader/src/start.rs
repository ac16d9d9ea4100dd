//! From the boot code's jump to the monitor's entry point.
//!
//! Order matters. The messages come first. Then the data from GRUB is read and checked through the
//! temporary page tables. Then come frames, the monitor's image and the final page tables; then
//! devices, the areas of CPUs and the first two partitions. One block describes all of them to the
//! monitor. The rule: a fault that makes a start impossible ends in one message, with the cause and
//! the remedy, and a stop.
#![expect(bad_asm_style, reason = "far jumps are clearer in the AT&T syntax")]
#![expect(unsafe_code, reason = "boot code, and memory that GRUB describes by address")]

use core::arch::global_asm;

use handover::{Frames, Handover, LOADER_MARK, MAGIC, Options, Power, VERSION, layout::MAX_CPUS};
use heapless::Vec;
use log::{debug, info, warn};
use pv_abi::uv::start::{CPU_ONLINE, CPU_SIBLING, MachineCpu};
use spin::Once;
use zerocopy::{FromZeros, IntoBytes};

use crate::{
    acpi::{self, Acpi},
    areas,
    bootstrap::{self, Found},
    cpu,
    early_frames::FrameRange,
    image::{self, Image},
    io_apic,
    local_apic::LocalApic,
    memory,
    messages::{self, refuse},
    microcode_update,
    multiboot2::{self, Information},
    options::{self, AfterPanic},
    pci_ports,
    regions::{self, FirmwareRegions},
    smp, time,
};

const BOOT_STACK_BYTES: usize = 65536;

global_asm!(
    include_str!("boot.S"),
    boot_stack_bytes = const BOOT_STACK_BYTES,
    loader_start = sym loader_start,
    stack = sym smp::STACK,
    arrive = sym smp::arrive,
);

/// A mark by which tests find the loader in memory.
#[repr(C, align(32))]
struct Mark([u8; 32]);

#[used]
static MARK: Mark = Mark(LOADER_MARK);

static INFORMATION: Once<Information> = Once::new();
static REGIONS: Once<FirmwareRegions> = Once::new();

/// The first Rust code. It runs on the boot stack, with the temporary page tables and interrupts
/// off.
extern "C" fn loader_start(magic: u32, information: u64) -> ! {
    messages::set_up();
    messages::set_level(options::Options::default().log_level);
    if magic != multiboot2::MAGIC {
        refuse(format_args!(
            "the loader is not multiboot2 (magic {magic:#x}); use GRUB's multiboot2"
        ));
    }
    let (information, structure) = read_information(information);
    let options = read_options(information.command_line);
    info!("Ultravisor {}", env!("CARGO_PKG_VERSION"));
    if let Some(name) = cpu::missing_feature() {
        refuse(format_args!("this CPU lacks {name}, which the monitor needs"));
    }
    let regions = read_regions(information);
    let acpi = read_acpi(information);
    let (image, trampoline) = start_memory(information, structure, regions);
    memory::use_tables();
    let mut handover = Handover::new_zeroed();
    let outcome = microcode_update::load(&information.modules, regions);
    let seen = cpu::seen();
    let mitigations = seen.choose(options.mitigations);
    (handover.magic, handover.version) = (MAGIC, VERSION);
    handover.options = monitor_options(&options, mitigations);
    handover.power = power(&acpi);
    handover.symbols = image.symbols();
    let apic = start_interrupts(&acpi, &mut handover);
    let ids = usable_cpus(&acpi, &apic);
    let mut cpus = list_cpus(ids, &options, (&image, seen.thread_bits), &mut handover);
    smp::start(&apic, trampoline, image.header.entry_of_others, &handover.clock, &mut cpus);
    let others = cpus.iter().skip(1).filter(|cpu| cpu.flags & CPU_ONLINE != 0);
    handover.others = others.map(|_| 1).sum();
    handover.functions = pci_ports::find_functions(&acpi, regions);
    let found = Found {
        command_line: information.command_line,
        modules: &information.modules,
        regions,
        frames: memory::frames(),
        cpus: &cpus,
        functions: &pci_ports::FUNCTIONS.lock(),
        seen,
        mitigations,
        microcode: outcome,
        clock: handover.clock,
    };
    hand_over(&found, &image, handover)
}

/// Builds the first two partitions, and enters the monitor.
fn hand_over(found: &Found<'_>, image: &Image, mut handover: Handover) -> ! {
    let block = memory::take_zeroed(size_of::<Handover>() as u64, "what the monitor is told");
    bootstrap::build(found, &mut handover);
    handover.root = memory::root();
    handover.slots = memory::monitor_slots();
    (handover.frames, handover.m2p) = (found.frames, memory::m2p());
    let ram = found.regions.iter().filter(|region| region.kind == regions::kind::RAM);
    handover.ram_frames = ram.map(|region| region.frames).sum();
    let own = memory::own_frames();
    handover.loader = Frames { first: own.first, count: own.frames };
    memory::copy_to(block, handover.as_bytes());
    let block = memory::phys_to_virt(block);
    // SAFETY: the monitor's entry point is as `handover` defines it: the image and the stack are
    // mapped in the tables in use, and the block stays.
    unsafe { cpu::enter(image.header.entry, areas::main_stack_top(0), block as u64) }
}

fn monitor_options(options: &options::Options, mitigations: u32) -> Options {
    Options {
        log_level: options.log_level as u32,
        reset_after_panic: (options.after_panic == AfterPanic::Reset).into(),
        debug_exit: options.debug_exit.into(),
        mitigations,
    }
}

/// The ways to turn the machine off and to reset it.
fn power(acpi: &Acpi) -> Power {
    let (enable_port, enable_value) = acpi.enable.unwrap_or((0, 0));
    let reset = acpi.reset.filter(|register| register.space == 1);
    let reset = reset.and_then(|r| Some((u16::try_from(r.address).ok()?, r.value)));
    let (reset_port, reset_value) = reset.unwrap_or((0, 0));
    Power {
        control_ports: acpi.control_ports,
        enable_port,
        reset_port,
        enable_value,
        reset_value,
        off: acpi.off.unwrap_or([0; 2]),
        has_off: acpi.off.is_some().into(),
    }
}

/// Sets up the interrupt controllers, and measures time.
fn start_interrupts(acpi: &Acpi, handover: &mut Handover) -> LocalApic {
    let apic = LocalApic::enable(acpi.local_apic);
    handover.local_apic = apic.address;
    io_apic::set_up(acpi, apic.id());
    handover.clock = time::measure(acpi.timer_port, &apic).unwrap_or_else(|| {
        refuse(format_args!("neither the ACPI timer nor the interval timer runs"))
    });
    apic
}

/// The APIC ids of the CPUs that can be started, this one first.
fn usable_cpus(acpi: &Acpi, apic: &LocalApic) -> impl Iterator<Item = u32> {
    let (own, in_msrs) = (apic.id(), apic.address == 0);
    if acpi.more_cpus > 0 {
        warn!("{} CPUs more than the monitor can use", acpi.more_cpus);
    }
    let others = acpi.cpus.iter().copied().filter(move |&id| id != own && (id < 255 || in_msrs));
    core::iter::once(own).chain(others)
}

/// Gives an index and an area to every CPU.
fn list_cpus(
    ids: impl Iterator<Item = u32>,
    options: &options::Options,
    (image, thread_bits): (&Image, u32),
    handover: &mut Handover,
) -> Vec<MachineCpu, MAX_CPUS> {
    let mut cpus: Vec<MachineCpu, MAX_CPUS> = Vec::new();
    let core = |id: u32| id >> thread_bits;
    for apic_id in ids {
        let sibling = cpus.iter().any(|cpu| core(cpu.apic_id) == core(apic_id));
        let (place, index) = (cpus.len(), handover.cpu_count);
        if place >= MAX_CPUS || index >= options.cpus || sibling && !options.smt {
            continue;
        }
        let Some([gdt, ldt]) = areas::map(index, image.phys(image.header.entry_page)) else {
            refuse(format_args!("no memory for CPU {index}"));
        };
        handover.apic_ids[place] = apic_id;
        (handover.windows[0][place], handover.windows[1][place]) = (gdt, ldt);
        let flags = if sibling { CPU_SIBLING } else { 0 };
        // The first CPU runs this.
        let flags = if place == 0 { flags | CPU_ONLINE } else { flags };
        let _ = cpus.push(MachineCpu { index, apic_id, flags, reserved: 0 });
        handover.cpu_count += 1;
    }
    cpus
}

/// The data from GRUB, and the frames that it lies in.
fn read_information(phys: u64) -> (&'static Information, FrameRange) {
    // SAFETY: GRUB passes the structure's address; the temporary page tables map the first 4 GiB,
    // where it lies; its first word is its size, and it is never changed.
    let bytes = unsafe {
        let start = memory::phys_to_virt(phys);
        core::slice::from_raw_parts(start, start.cast::<u32>().read() as usize)
    };
    match multiboot2::parse(bytes) {
        Ok(information) => {
            (INFORMATION.call_once(|| information), frames_of(phys, bytes.len() as u64))
        }
        Err(fault) => refuse(format_args!("{fault}")),
    }
}

fn read_options(command_line: &str) -> options::Options {
    match options::parse(command_line) {
        Ok(options) => {
            messages::set_level(options.log_level);
            messages::set_debug_exit(options.debug_exit);
            options
        }
        Err(unknown) => {
            let debug_exit = command_line.split_ascii_whitespace().any(|w| w == "debug-exit");
            messages::set_debug_exit(debug_exit);
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

/// Reads the ACPI tables, which firmware may keep outside the memory that is mapped later.
fn read_acpi(information: &Information) -> Acpi {
    let memory = |phys: u64, bytes: u64| {
        let end = phys.checked_add(bytes).filter(|&end| end <= 1 << 32)?;
        // SAFETY: the temporary page tables map the first 4 GiB; firmware's pointers lead to
        // tables that nobody changes.
        Some(unsafe {
            core::slice::from_raw_parts(memory::phys_to_virt(phys), narrow::size(end - phys))
        })
    };
    information.rsdp.and_then(|rsdp| acpi::read(rsdp, &memory)).unwrap_or_else(|| {
        warn!("firmware offers no ACPI tables: one CPU, no serial input, no power-off");
        Acpi::new()
    })
}

/// The frames that hold `bytes` bytes at a physical address.
fn frames_of(phys: u64, bytes: u64) -> FrameRange {
    let end = phys.saturating_add(bytes).div_ceil(4096);
    FrameRange { first: phys / 4096, frames: end - phys / 4096 }
}

/// Makes frames available, loads the monitor's image and builds its page tables. Returns the image,
/// and the physical address of a free page below 1 MiB, or 0.
fn start_memory(
    information: &'static Information,
    structure: FrameRange,
    regions: &FirmwareRegions,
) -> (Image, u64) {
    let modules = information.modules.iter().map(|m| frames_of(m.start, m.bytes));
    let kept = modules.chain([structure]);
    let low = regions.iter().filter(|r| r.kind == regions::kind::RAM);
    let low = low.flat_map(|r| r.first.max(1)..r.end().min(0xa0));
    let free = |&frame: &u64| !kept.clone().any(|k| k.first <= frame && frame < k.end());
    let trampoline = low.rev().find(free).map_or(0, |frame| frame << 12);
    let failed = |fault| -> ! { refuse(format_args!("{fault}")) };
    memory::start_frames(regions, kept).unwrap_or_else(|fault| failed(fault));
    let image = image::load();
    memory::set_up(regions, &image).unwrap_or_else(|fault| failed(fault));
    for module in &information.modules {
        debug!("module {:#x}, {} bytes: {}", module.start, module.bytes, module.command_line);
    }
    (image, trampoline)
}
