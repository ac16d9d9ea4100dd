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

mod description;
mod layout;
mod modules;
mod owners;
mod tables;

use handover::{Clock, Frames, Handover};
use microcode_file::Outcome;
use pv_abi::uv::database::{BOOT, ULTRAVISOR};
use pv_abi::uv::devices::DeviceFunction;
use pv_abi::uv::start::{MachineCpu, region_use};

use self::description::{DESCRIPTION, describe};
use self::layout::Layout;
use self::owners::{Reservations, claim_rest, reserve};
use self::tables::{READ_ONLY, READ_WRITE};
use crate::memory;
use crate::messages::refuse;
use crate::mitigations::Seen;
use crate::multiboot2::Module;
use crate::regions::FirmwareRegion;

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
    pub functions: &'a [DeviceFunction],
    /// The first CPU's report about its leaks.
    pub seen: Seen,
    /// The mitigations that the monitor turns on.
    pub mitigations: u32,
    /// The result of loading the microcode modules.
    pub microcode: Outcome,
    /// The rates of the clocks, and the date.
    pub clock: Clock,
}

/// Virtual address of a Rust partition's first page.
const BASE: u64 = 0x20_0000;
/// The address of shared info, with the grant table behind it.
const SHARED: u64 = 0x30_0000_0000;
/// The address of the arena.
const ARENA: u64 = 0x10_0000_0000;
/// The address of the first module.
const MODULES: u64 = 0x20_0000_0000;
/// The address of the window for other partitions' memory.
const WINDOW: u64 = 0x40_0000_0000;
/// Frames in a 4 MiB entry of the page map.
const BIG: u64 = 1024;

/// Builds the first two partitions, and describes them in `handover`. Afterwards the loader's
/// frames are free in the page map, and no frames can be reserved.
pub fn build(found: &Found<'_>, handover: &mut Handover) {
    let mut set = Reservations::new();
    let pages = (found.frames / 256).next_multiple_of(BIG).max(BIG);
    let arena = reserve(&mut set, pages, BIG, ULTRAVISOR, region_use::ARENA);
    (arena..arena + pages).for_each(memory::scrub);
    if memory::make_read_only(arena, pages).is_none() {
        refuse(format_args!("no memory for page tables"));
    }
    handover.arena = Frames { first: arena, count: pages };
    let modules = modules::hand_over(&mut set, found);
    let first = Layout::new(found, "boot", BOOT, modules.iter().map(|m| m.bytes).sum());
    let first = first.reserve(&mut set);
    let second = Layout::new(found, "ultravisor", ULTRAVISOR, pages << 12).reserve(&mut set);
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
    let machine = second.first + second.machine();
    let machine_page = second.machine();
    let second = second.build(|tables, block| {
        tables.map(ARENA, arena, pages, READ_WRITE);
        (block.arena, block.arena_frame, block.arena_pages) = (ARENA, arena, pages);
        block.machine = BASE + (machine_page << 12);
        let description = DESCRIPTION.lock();
        block.machine_bytes = description.len() as u64;
        memory::copy_to(machine << 12, &description);
    });
    handover.partitions = [first, second];
}
