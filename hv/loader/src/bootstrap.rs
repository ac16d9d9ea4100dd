//! Builds the first two partitions, which no partition can build: the ultravisor and the boot
//! partition.
//!
//! The loader reserves memory (arena, the two partitions, their instances), loads the two images
//! from GRUB's modules, and describes the machine to the ultravisor, which makes the database from
//! that description.
//!
//! The memory of such a partition is contiguous from its first frame, and page n is mapped at
//! `BASE + 4096 * n`: image, stack, heap, start block, machine description, page tables, pages of
//! the command channel.
#![expect(unsafe_code, reason = "fills memory that was just set aside")]

use ::elf::abi::{PF_W, PF_X};
use handover::{FirstPartition, Frames, Handover};
use heapless::Vec;
use microcode_file::Outcome;
use pv_abi::{
    uv::{
        channel::COMMAND_PAGES,
        database::{
            BOOT, FIRMWARE, INSTANCE_FIXED_FRAMES, INSTANCE_SHARED_INFO, INSTANCE_VCPU_FRAMES,
            MONITOR, PartitionDescriptor, SYSTEM_CPU_WEIGHT, ULTRAVISOR, instance_frames, kind,
            rights, state,
        },
        start::{
            MODULE_COMMAND_LINE, MODULES as MODULE_RECORDS, Machine, MachineCpu, MachinePci,
            MachineRegion, ModuleRecord, START_MAGIC, StartBlock, WINDOW_PAGES, region_use,
        },
    },
    xen::mmu::{PTE_ACCESSED, PTE_DIRTY, PTE_NX, PTE_PRESENT, PTE_RW, PTE_USER},
};
use spin::Mutex;
use zerocopy::{FromZeros, IntoBytes};

use crate::{
    early_frames::FrameRange,
    elf::Executable,
    memory,
    messages::refuse,
    microcode_update,
    mitigations::Seen,
    multiboot2::Module,
    regions::{self, FirmwareRegion},
};

/// The machine as the loader found it.
#[derive(Clone, Copy, Debug)]
pub struct Found<'a> {
    /// The command line.
    pub command_line: &'static str,
    /// GRUB's modules.
    pub modules: &'static [Module],
    /// Disjoint, sorted ranges of frames with their firmware types.
    pub regions: &'static [FirmwareRegion],
    /// One past the highest frame of RAM.
    pub frames: u64,
    /// CPUs that firmware lists as usable, index 0 first.
    pub cpus: &'a [MachineCpu],
    /// PCI functions.
    pub pci: &'static [MachinePci],
    /// What the first CPU reports about its leaks.
    pub seen: Seen,
    /// The mitigations that the monitor turns on.
    pub mitigations: u32,
    /// The result of loading the microcode modules.
    pub microcode: Outcome,
}

/// Virtual address of a Rust partition's first page.
const BASE: u64 = 0x20_0000;
/// Where shared info is mapped, with the grant table behind it.
const SHARED: u64 = 0x30_0000_0000;
/// Where the arena is mapped.
const ARENA: u64 = 0x10_0000_0000;
/// Where modules are mapped.
const MODULES: u64 = 0x20_0000_0000;
/// Where the window for other partitions' memory begins.
const WINDOW: u64 = 0x40_0000_0000;
/// Pages of the stack.
const STACK_PAGES: u64 = 32;
/// Minimum and maximum number of pages of the heap. Between the limits the ultravisor gets a 128th
/// of the machine's memory: it keeps data for each partition, and memory limits their number.
const HEAP_PAGES: [u64; 2] = [4096, 65_536];
/// Grant frames of the two partitions.
const GRANT_FRAMES: u32 = 8;
/// Frames in a 4 MiB entry of the page map.
const BIG: u64 = 1024;

/// A reserved range of frames, and its owner.
#[derive(Clone, Copy)]
struct Aside {
    first: u64,
    frames: u64,
    owner: u32,
    usage: u32,
}

/// All reserved ranges.
type Set = Vec<Aside, 32>;

/// Reserves frames for `owner`. Returns the first frame.
fn take(set: &mut Set, frames: u64, align: u64, owner: u32, usage: u32) -> u64 {
    let Some(first) = memory::take_frames(frames, align) else {
        let mib = frames / 256 + 1;
        refuse(format_args!(
            "memory: {mib} MiB for partition {owner} could not be found in one piece; \
             give the machine at least 512 MiB"
        ))
    };
    own(set, Aside { first, frames, owner, usage });
    first
}

/// Writes the owner into the frame table.
fn own(set: &mut Set, aside: Aside) {
    for mfn in aside.first..aside.first + aside.frames {
        if let Some(frame) = memory::frame(mfn) {
            let _ = frame.set_owner(frame.owner_word(), aside.owner, frames::Kind::Ram);
        }
    }
    if set.push(aside).is_err() {
        refuse(format_args!("too many ranges of memory were set aside"));
    }
}

/// Builds the first two partitions, and describes them in `handover`. Afterwards the loader's
/// frames are free in the page map, and no frames can be reserved.
pub fn build(found: &Found<'_>, handover: &mut Handover) {
    let mut set = Set::new();
    let pages = (found.frames / 256).next_multiple_of(BIG).max(BIG);
    let arena = take(&mut set, pages, BIG, ULTRAVISOR, region_use::ARENA);
    (arena..arena + pages).for_each(memory::scrub);
    if memory::make_read_only(arena, pages).is_none() {
        refuse(format_args!("no memory for page tables"));
    }
    handover.arena = Frames { first: arena, count: pages };
    let modules = hand_over_modules(&mut set, found);
    let first = Plan::new(found, "boot", BOOT, modules.iter().map(|m| m.bytes).sum());
    let first = first.take(&mut set);
    let second = Plan::new(found, "ultravisor", ULTRAVISOR, pages << 12).take(&mut set);
    claim_rest(found);
    let first = first.build(|tables, block| {
        for (place, module) in block.modules.iter_mut().skip(1).zip(&modules) {
            *place = *module;
            let pages = module.bytes.div_ceil(4096);
            tables.map(module.address, module.frame, pages, READ_ONLY);
        }
        block.module_count += modules.len() as u64;
    });
    describe(found, &set);
    handover.machine = (second.first + second.machine()) << 12;
    handover.machine_cpus = handover.machine
        + (size_of::<Machine>() + REGIONS.lock().len() * size_of::<MachineRegion>()) as u64;
    let machine = second.first + second.machine();
    let machine_page = second.machine();
    let second = second.build(|tables, block| {
        tables.map(ARENA, arena, pages, READ_WRITE);
        (block.arena, block.arena_frame, block.arena_pages) = (ARENA, arena, pages);
        block.machine = BASE + (machine_page << 12);
        let description = DESCRIPTION.lock();
        block.machine_bytes = description.len() as u64;
        put(machine, &description);
    });
    handover.partitions = [first, second];
}

/// Modules that no partition gets.
const LOADERS_OWN: [&str; 3] = ["ultravisor", "boot", microcode_update::MODULE];

/// Gives GRUB's modules, except the images of the two partitions and the microcode, to the boot
/// partition.
fn hand_over_modules(set: &mut Set, found: &Found<'_>) -> Vec<ModuleRecord, MODULE_RECORDS> {
    let mut records = Vec::new();
    let mut address = MODULES;
    for module in found.modules.iter().filter(|m| !LOADERS_OWN.contains(&m.name())) {
        if records.is_full() {
            let (name, most) = (module.name(), MODULE_RECORDS);
            refuse(format_args!(
                "module {name}: the boot partition takes {most}; leave one out of GRUB's entry"
            ));
        }
        let frames = module.bytes.div_ceil(4096);
        let first = module.start >> 12;
        own(set, Aside { first, frames, owner: BOOT, usage: region_use::MODULE });
        let _ = records.push(ModuleRecord { address, bytes: module.bytes, ..record(module) });
        address += frames << 12;
    }
    records
}

/// The contents of a module.
fn module_bytes(found: &Found<'_>, module: &Module) -> &'static [u8] {
    let Module { start, bytes, .. } = *module;
    memory::ram_bytes(start, bytes, found.regions).unwrap_or_else(|| {
        refuse(format_args!("{bytes} bytes at {start:#x} are not in RAM, though GRUB says so"))
    })
}

/// A partition's record of a module, without the place of its contents.
fn record(module: &Module) -> ModuleRecord {
    let line = module.command_line.as_bytes();
    let mut command_line = [0; MODULE_COMMAND_LINE];
    let Some(place) = command_line.get_mut(..line.len()) else {
        refuse(format_args!(
            "module {}: its command line has {} bytes; {MODULE_COMMAND_LINE} is the most",
            module.name(),
            line.len()
        ))
    };
    place.copy_from_slice(line);
    let command_line_bytes = line.len() as u64;
    let frame = module.start >> 12;
    ModuleRecord { address: MODULES, bytes: 0, frame, command_line_bytes, command_line }
}

/// Gives all frames that are neither free RAM nor reserved to the monitor or the firmware.
fn claim_rest(found: &Found<'_>) {
    memory::taken_regions(|range| claim(found, range.first, range.frames, MONITOR));
    let free = |range| {
        if memory::free_also(range).is_none() {
            refuse(format_args!("{}", memory::Fault::Fragmented));
        }
    };
    free(memory::own_frames());
    for module in found.modules {
        let (first, frames) = (module.start >> 12, module.bytes.div_ceil(4096));
        match module.name() {
            // The part of the file that the CPUs need was copied.
            microcode_update::MODULE => free(FrameRange { first, frames }),
            _ => claim(found, first, frames, MONITOR),
        }
    }
    let mut next = 0;
    memory::free_regions(|range| {
        claim(found, next, range.first - next, 0);
        next = range.first + range.frames;
    });
    claim(found, next, found.frames.saturating_sub(next), 0);
    // Every frame that is not free has an owner, except frames that no module, image or firmware
    // RAM entry covers: boot information and the low megabyte, which stay the monitor's.
}

/// Makes `owner` the owner of those frames that have none. 0 stands for the monitor if there is
/// RAM, and for the firmware otherwise.
fn claim(found: &Found<'_>, first: u64, frames: u64, owner: u32) {
    for mfn in first..first + frames {
        let Some(frame) = memory::frame(mfn) else {
            continue;
        };
        if frame.owner_word() == 0 {
            let ram = found
                .regions
                .iter()
                .any(|r| r.kind == regions::kind::RAM && (r.first..r.end()).contains(&mfn));
            let word = match owner {
                0 if ram => MONITOR,
                0 => FIRMWARE | frames::OWNER_IO,
                owner => owner,
            };
            let _ = frame.set_owner(0, word, frames::Kind::Private);
        }
    }
}

/// The sizes and places of a partition to be built.
struct Plan {
    number: u32,
    /// The partition's own options; its image stays with the monitor, unchanged.
    own: ModuleRecord,
    image: Executable<'static>,
    image_pages: u64,
    heap_pages: u64,
    tables: u64,
    first: u64,
    instance: u64,
}

/// Pages for the machine description.
const MACHINE_PAGES: u64 = 4;

impl Plan {
    fn new(found: &Found<'_>, name: &str, number: u32, mapped_bytes: u64) -> Self {
        let Some(module) = found.modules.iter().find(|m| m.name() == name) else {
            refuse(format_args!(
                "module {name:?} is missing; add `module2 /boot/{name} {name}` to GRUB's entry"
            ))
        };
        let file = module_bytes(found, module);
        let bad = |problem| -> ! {
            refuse(format_args!(
                "module {name:?}: {problem}; build it again and reinstall /boot/{name}"
            ))
        };
        let image = Executable::new(file).unwrap_or_else(|problem| bad(problem));
        let mut end = BASE;
        for segment in image.segments() {
            let (header, _) = segment.unwrap_or_else(|problem| bad(problem));
            let (address, bytes) = (header.p_vaddr, header.p_memsz);
            if address < BASE || bytes > 64 << 20 || address > BASE + (64 << 20) {
                bad("a segment lies outside the partition's image");
            }
            end = end.max(address + bytes);
        }
        let image_pages = (end - BASE).div_ceil(4096);
        let [least, most] = HEAP_PAGES;
        let wanted = if number == ULTRAVISOR { found.frames / 128 } else { least };
        let heap_pages = wanted.clamp(least, most);
        let mapped = image_pages + STACK_PAGES + heap_pages + mapped_bytes / 4096;
        let tables = mapped / 512 + WINDOW_PAGES / 512 + 24;
        let own = record(module);
        Self { number, own, image, image_pages, heap_pages, tables, first: 0, instance: 0 }
    }

    fn stack(&self) -> u64 {
        self.image_pages
    }
    fn heap(&self) -> u64 {
        self.stack() + STACK_PAGES
    }
    fn start_block(&self) -> u64 {
        self.heap() + self.heap_pages
    }
    fn machine(&self) -> u64 {
        self.start_block() + 1
    }
    fn first_table(&self) -> u64 {
        self.machine() + MACHINE_PAGES
    }
    fn command(&self) -> u64 {
        self.first_table() + self.tables
    }
    fn frames(&self) -> u64 {
        self.command() + COMMAND_PAGES as u64
    }

    fn take(mut self, set: &mut Set) -> Self {
        let number = self.number;
        self.first = take(set, self.frames(), 1, number, region_use::RAM);
        let instance = instance_frames(1, GRANT_FRAMES);
        self.instance = take(set, instance, 1, number, region_use::INSTANCE);
        self
    }

    /// Builds the partition; `add` maps and records what is special to it. Returns how its virtual
    /// CPU starts.
    fn build(&self, add: impl FnOnce(&mut Tables, &mut StartBlock)) -> FirstPartition {
        (self.first..self.first + self.frames()).for_each(memory::scrub);
        let mut tables = Tables {
            next: self.first + self.first_table(),
            end: self.first + self.command(),
            root: 0,
        };
        tables.root = tables.take();
        let window_tables = tables.window();
        self.map_own(&mut tables);
        let shared = [
            (SHARED, self.instance + INSTANCE_SHARED_INFO, 1),
            (SHARED + 4096, self.grant_table(), GRANT_FRAMES.into()),
        ];
        for (va, mfn, pages) in shared {
            tables.map(va, mfn, pages, READ_WRITE);
        }
        let mut block = self.block(window_tables);
        add(&mut tables, &mut block);
        put(self.first + self.start_block(), block.as_bytes());
        self.first_partition(tables.root)
    }

    fn grant_table(&self) -> u64 {
        self.instance + u64::from(INSTANCE_FIXED_FRAMES + INSTANCE_VCPU_FRAMES)
    }

    /// Maps the partition's own frames; its page tables and start block are read-only.
    fn map_own(&self, tables: &mut Tables) {
        let map = |tables: &mut Tables, page, pages, flags| {
            tables.map(BASE + (page << 12), self.first + page, pages, flags);
        };
        for (header, contents) in self.image.segments().flatten() {
            let start = header.p_vaddr - BASE;
            self.load(start, contents);
            let end = (start + header.p_memsz).div_ceil(4096);
            let flags = match header.p_flags {
                flags if flags & PF_W != 0 => READ_WRITE,
                flags if flags & PF_X != 0 => EXECUTE,
                _ => READ_ONLY,
            };
            map(tables, start >> 12, end - (start >> 12), flags);
        }
        map(tables, self.stack(), STACK_PAGES + self.heap_pages, READ_WRITE);
        map(tables, self.start_block(), 1 + MACHINE_PAGES, READ_ONLY);
        map(tables, self.first_table(), self.tables, READ_ONLY);
        map(tables, self.command(), COMMAND_PAGES as u64, READ_WRITE);
    }

    fn load(&self, mut offset: u64, mut rest: &[u8]) {
        while !rest.is_empty() {
            let within = (offset & 4095) as usize;
            let (now, later) = rest.split_at(rest.len().min(4096 - within));
            let to = memory::bytes(self.first + (offset >> 12)) as u64 + within as u64;
            // SAFETY: `now` ends within the page; the frame was set aside for this partition.
            unsafe { core::ptr::copy_nonoverlapping(now.as_ptr(), to as *mut u8, now.len()) };
            offset += now.len() as u64;
            rest = later;
        }
    }

    fn block(&self, window_tables: u64) -> StartBlock {
        let mut block = StartBlock::new_zeroed();
        (block.modules[0], block.module_count) = (self.own, 1);
        block.magic = START_MAGIC;
        block.number = self.number;
        block.first_frame = self.first;
        block.frames = self.frames();
        block.base = BASE;
        block.heap = BASE + (self.heap() << 12);
        block.heap_bytes = self.heap_pages << 12;
        block.shared_info = SHARED;
        block.window = WINDOW;
        block.window_tables = window_tables;
        block.window_pages = WINDOW_PAGES;
        block.command_pages = BASE + (self.command() << 12);
        block.command_page_count = COMMAND_PAGES as u64;
        block.grant_table = SHARED + 4096;
        block.grant_frames = GRANT_FRAMES.into();
        block
    }

    fn first_partition(&self, root: u64) -> FirstPartition {
        let mut descriptor = PartitionDescriptor::new_zeroed();
        let is_boot = self.number == BOOT;
        descriptor.number = self.number;
        descriptor.kind = if is_boot { kind::BOOT } else { kind::ULTRAVISOR };
        descriptor.state = state::BUILDING;
        descriptor.rights = if is_boot { rights::BUILD } else { rights::LEAD | rights::SERIAL };
        descriptor.vcpus = 1;
        descriptor.cpu_weight = SYSTEM_CPU_WEIGHT;
        descriptor.cpu_affinity = [u64::MAX; 4];
        descriptor.grant_frames = GRANT_FRAMES;
        descriptor.memory_frames = self.frames();
        descriptor.instance_first = self.instance;
        descriptor.instance_frames = instance_frames(1, GRANT_FRAMES);
        let [stack, start_block] =
            [self.heap(), self.start_block()].map(|page| BASE + (page << 12));
        FirstPartition { descriptor, root, entry: self.image.entry, stack, start_block }
    }
}

const READ_ONLY: u64 = PTE_PRESENT | PTE_USER | PTE_ACCESSED | PTE_DIRTY | PTE_NX;
const READ_WRITE: u64 = READ_ONLY | PTE_RW;
const EXECUTE: u64 = READ_ONLY & !PTE_NX;
const TABLE: u64 = PTE_PRESENT | PTE_RW | PTE_USER | PTE_ACCESSED | PTE_DIRTY;

/// The page tables of a partition under construction.
struct Tables {
    next: u64,
    end: u64,
    root: u64,
}

impl Tables {
    fn take(&mut self) -> u64 {
        assert!(self.next < self.end, "page tables of a system partition were counted");
        self.next += 1;
        self.next - 1
    }

    fn below(&mut self, table: u64, index: u64) -> u64 {
        use core::sync::atomic::Ordering::Relaxed;
        let entry = &memory::entries(table)[narrow::size(index & 511)];
        if entry.load(Relaxed) == 0 {
            entry.store(self.take() << 12 | TABLE, Relaxed);
        }
        entry.load(Relaxed) >> 12 & 0xff_ffff_ffff
    }

    /// Makes the level-1 tables of the window, which are contiguous. Returns the first one's frame.
    fn window(&mut self) -> u64 {
        let level_3 = self.below(self.root, WINDOW >> 39);
        let level_2 = self.below(level_3, WINDOW >> 30);
        let first = self.next;
        for table in 0..WINDOW_PAGES / 512 {
            self.below(level_2, (WINDOW >> 21) + table);
        }
        first
    }

    fn map(&mut self, va: u64, mfn: u64, pages: u64, flags: u64) {
        for page in 0..pages {
            let va = va + (page << 12);
            let level_3 = self.below(self.root, va >> 39);
            let level_2 = self.below(level_3, va >> 30);
            let level_1 = self.below(level_2, va >> 21);
            let entry = &memory::entries(level_1)[(va >> 12) as usize & 511];
            entry.store((mfn + page) << 12 | flags, core::sync::atomic::Ordering::Relaxed);
        }
    }
}

/// Copies bytes to reserved frames.
fn put(first: u64, bytes: &[u8]) {
    // SAFETY: callers reserved enough contiguous frames, which the direct map has.
    unsafe { core::ptr::copy_nonoverlapping(bytes.as_ptr(), memory::bytes(first), bytes.len()) };
}

/// The machine description as bytes.
type Description = Vec<u8, { narrow::size(MACHINE_PAGES) * 4096 }>;

/// A static, since it is too large for a stack.
static DESCRIPTION: Mutex<Description> = Mutex::new(Description::new());
static REGIONS: Mutex<Vec<MachineRegion, 256>> = Mutex::new(Vec::new());

/// Describes the machine, for the ultravisor.
fn describe(found: &Found<'_>, set: &Set) {
    let mut regions = REGIONS.lock();
    for mfn in 0..found.frames {
        let found = classify(found, set, mfn);
        let goes_on = |last: &&mut MachineRegion| {
            **last == MachineRegion { first: last.first, frames: last.frames, ..found }
        };
        if let Some(last) = regions.last_mut().filter(goes_on) {
            last.frames += 1;
        } else if regions.push(found).is_err() {
            refuse(format_args!("the memory map has too many ranges"));
        }
    }
    let mut description = DESCRIPTION.lock();
    let mut header = Machine::new_zeroed();
    let counts = [regions.len(), found.cpus.len(), found.pci.len()];
    // No count exceeds the capacity of its list, since `Description` is full long before.
    [header.regions, header.cpus, header.pci] =
        counts.map(|count| u32::try_from(count).unwrap_or(u32::MAX));
    header.frames = found.frames;
    header.arch_capabilities = found.seen.capabilities;
    header.microcode = found.seen.microcode;
    header.mitigations = found.mitigations;
    header.microcode_outcome = found.microcode.to_words();
    for (to, from) in header.command_line.iter_mut().zip(found.command_line.bytes()) {
        *to = from;
    }
    let mut add = |bytes: &[u8]| {
        if description.extend_from_slice(bytes).is_err() {
            refuse(format_args!("the machine has too many ranges, CPUs or PCI functions"));
        }
    };
    add(header.as_bytes());
    regions.iter().for_each(|region| add(region.as_bytes()));
    found.cpus.iter().for_each(|cpu| add(cpu.as_bytes()));
    found.pci.iter().for_each(|pci| add(pci.as_bytes()));
}

/// The description of a frame: its owner, use and firmware type.
fn classify(found: &Found<'_>, set: &Set, mfn: u64) -> MachineRegion {
    let firmware = found.regions.iter().find(|r| (r.first..r.end()).contains(&mfn));
    let firmware_type = firmware.map_or(0, |r| r.kind);
    let aside = set.iter().find(|a| (a.first..a.first + a.frames).contains(&mfn));
    let word = memory::frame(mfn).map_or(FIRMWARE | frames::OWNER_IO, frames::Frame::owner_word);
    let usage = match aside {
        Some(aside) => aside.usage,
        None if word & frames::OWNER_IO != 0 => region_use::IO,
        None => region_use::RAM,
    };
    let owner = word & frames::OWNER_NUMBER;
    MachineRegion { first: mfn, frames: 1, owner, usage, firmware_type, reserved: 0 }
}
