//! The memory of one of the first two partitions: the places of its parts, and their contents.
#![expect(unsafe_code, reason = "fills memory that was just set aside")]

use ::elf::abi::{PF_W, PF_X};
use handover::FirstPartition;
use pv_abi::uv::channel::COMMAND_PAGES;
use pv_abi::uv::database::{
    BOOT, INSTANCE_FIXED_FRAMES, INSTANCE_SHARED_INFO, INSTANCE_VCPU_FRAMES, PartitionDescriptor,
    SYSTEM_CPU_WEIGHT, ULTRAVISOR, instance_frames, kind, rights, state,
};
use pv_abi::uv::start::{ModuleRecord, START_MAGIC, StartBlock, WINDOW_PAGES, region_use};
use zerocopy::{FromZeros, IntoBytes};

use super::owners::{Reservations, reserve};
use super::tables::{EXECUTE, READ_ONLY, READ_WRITE, Tables};
use super::{BASE, Found, SHARED, WINDOW, modules};
use crate::elf::Executable;
use crate::memory;
use crate::messages::refuse;

/// Pages of the stack.
const STACK_PAGES: u64 = 32;
/// Minimum and maximum number of pages of the heap. Between the limits the ultravisor gets a 128th
/// of the machine's memory: it keeps data for each partition, and memory limits their number.
const HEAP_PAGES: [u64; 2] = [4096, 65_536];
/// Grant frames of the two partitions.
const GRANT_FRAMES: u32 = 8;

/// The sizes and places of a partition to be built.
pub struct Layout {
    number: u32,
    /// The partition's own options; its image stays with the monitor, unchanged.
    own: ModuleRecord,
    image: Executable<'static>,
    image_pages: u64,
    heap_pages: u64,
    tables: u64,
    pub first: u64,
    instance: u64,
}

/// Pages for the machine description.
pub const MACHINE_PAGES: u64 = 16;

impl Layout {
    pub fn new(found: &Found<'_>, name: &str, number: u32, mapped_bytes: u64) -> Self {
        let Some(module) = found.modules.iter().find(|m| m.name() == name) else {
            refuse(format_args!(
                "module {name:?} is missing; add `module2 /boot/{name} {name}` to GRUB's entry"
            ))
        };
        let file = modules::contents(found, module);
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
        let own = modules::record(module);
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
    pub fn machine(&self) -> u64 {
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

    /// Reserves the partition's memory and its instance.
    pub fn reserve(mut self, set: &mut Reservations) -> Self {
        let number = self.number;
        self.first = reserve(set, self.frames(), 1, number, region_use::RAM);
        let instance = instance_frames(1, GRANT_FRAMES);
        self.instance = reserve(set, instance, 1, number, region_use::INSTANCE);
        self
    }

    /// Builds the partition; `add` maps and records the parts that only this partition has. Returns
    /// how its virtual CPU starts.
    pub fn build(&self, add: impl FnOnce(&mut Tables, &mut StartBlock)) -> FirstPartition {
        (self.first..self.first + self.frames()).for_each(memory::scrub);
        let frames = self.first + self.first_table()..self.first + self.command();
        let mut tables = Tables::new(frames);
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
        memory::copy_to((self.first + self.start_block()) << 12, block.as_bytes());
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
