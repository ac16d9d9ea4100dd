//! The start block of a Rust partition, and the monitor's description of the machine for the
//! ultravisor.
//!
//! The loader builds the ultravisor and the boot partition, from GRUB's modules; the boot partition
//! builds the I/O partitions. Such a partition starts at its ELF entry with rsi = the address of its
//! [`StartBlock`] (the first two have it in rdi, too), rsp = the top of its stack, interrupts
//! (events) masked. All its frames are contiguous, and image, stack and heap are
//! mapped with 4 KiB pages: text is read-only and executable, read-only data is read-only, and the
//! rest is writable; nothing is both writable and executable.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `b"UVSTART1"`, little-endian.
pub const START_MAGIC: u64 = u64::from_le_bytes(*b"UVSTART1");

/// Start block: one page, mapped read-only.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct StartBlock {
    /// [`START_MAGIC`].
    pub magic: u64,
    /// The partition's own number.
    pub number: u32,
    /// Number of earlier starts (0 at the first start).
    pub restarts: u32,
    /// First machine frame of its memory.
    pub first_frame: u64,
    /// Number of frames of its memory.
    pub frames: u64,
    /// Virtual address at which `first_frame` is mapped: `frame = first_frame + (va - base) / 4096`
    /// holds for image, stack, heap and command pages.
    pub base: u64,
    /// Virtual address of the heap.
    pub heap: u64,
    /// Bytes of the heap.
    pub heap_bytes: u64,
    /// Virtual address of shared info, mapped writable.
    pub shared_info: u64,
    /// Virtual address of an empty window of [`WINDOW_PAGES`] pages for mapping other
    /// partitions' frames and grants.
    pub window: u64,
    /// First machine frame of the level-1 tables under the window (contiguous).
    pub window_tables: u64,
    /// Pages of the window.
    pub window_pages: u64,
    /// Virtual address of the pages reserved for a command channel (the boot partition's end), or
    /// 0.
    pub command_pages: u64,
    /// Number of those pages.
    pub command_page_count: u64,
    /// Virtual address of the grant table frames, mapped writable.
    pub grant_table: u64,
    /// Number of grant frames.
    pub grant_frames: u64,
    /// Virtual address of the database arena (ultravisor only; writable), or 0.
    pub arena: u64,
    /// Machine frame of arena page 0.
    pub arena_frame: u64,
    /// Number of pages in the arena.
    pub arena_pages: u64,
    /// Virtual address of the [`Machine`] pages (ultravisor only), or 0.
    pub machine: u64,
    /// Bytes of the machine description.
    pub machine_bytes: u64,
    /// Virtual address of the DMA region (I/O partitions only; writable), or 0. Devices use the
    /// region. It is not cleared when the partition starts again, because devices may write to it
    /// until they are reset.
    pub dma: u64,
    /// Pages of the DMA region.
    pub dma_pages: u64,
    /// Number of entries used in `modules`.
    pub module_count: u64,
    /// Modules given to the partition, mapped read-only. The boot partition gets all of GRUB's
    /// modules except the monitor's own.
    pub modules: [ModuleRecord; MODULES],
}
/// Pages of the mapping window: four level-1 tables.
pub const WINDOW_PAGES: u64 = 2048;

/// Maximum number of modules in a start block.
pub const MODULES: usize = 7;
/// Maximum number of bytes of a module's command line.
pub const MODULE_COMMAND_LINE: usize = 512;

/// A GRUB module; 544 bytes.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ModuleRecord {
    /// Virtual address, page-aligned.
    pub address: u64,
    /// Number of bytes.
    pub bytes: u64,
    /// First machine frame.
    pub frame: u64,
    /// Number of bytes used in `command_line`.
    pub command_line_bytes: u64,
    /// UTF-8 text given to GRUB's `module2`: the first word names the module.
    pub command_line: [u8; MODULE_COMMAND_LINE],
}

/// The machine's resources, as found at the start. It is followed by `regions` [`MachineRegion`]s,
/// `cpus` [`MachineCpu`]s and `pci` [`super::devices::DeviceFunction`]s, in that order.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Machine {
    /// Number of memory regions that follow.
    pub regions: u32,
    /// Number of CPUs that follow.
    pub cpus: u32,
    /// Number of PCI functions that follow.
    pub pci: u32,
    /// TSC frequency in kHz.
    pub tsc_khz: u32,
    /// One past the last machine frame the page map describes.
    pub frames: u64,
    /// Seconds since 1970 at system time 0.
    pub wall_clock: u64,
    /// The monitor's command line, UTF-8, padded with zeros.
    pub command_line: [u8; 224],
    /// IA32_ARCH_CAPABILITIES; 0 if the CPU has no such register.
    pub arch_capabilities: u64,
    /// Revision of the first CPU's microcode.
    pub microcode: u32,
    /// The monitor's mitigations against leaks of the CPU; see [`mitigation`].
    pub mitigations: u32,
    /// The result of loading the module `microcode`, as two words of `microcode-file`.
    pub microcode_outcome: [u32; 2],
}

/// Bits of [`Machine::mitigations`]: the mitigations that the monitor turned on.
pub mod mitigation {
    /// `verw` on every way out of ring 0.
    pub const VERW: u32 = 1 << 0;
    /// Indirect branch prediction barrier when a CPU switches from one partition to another.
    pub const IBPB: u32 = 1 << 1;
    /// Enhanced IBRS.
    pub const IBRS: u32 = 1 << 2;
    /// Automatic IBRS (AMD).
    pub const AUTO_IBRS: u32 = 1 << 3;
    /// Indirect branch predictors are not shared with a sibling thread.
    pub const STIBP: u32 = 1 << 4;
    /// Branch history of ring 3 does not influence ring 0 (BHI_DIS_S).
    pub const BHI: u32 = 1 << 5;
    /// No speculative store bypass.
    pub const SSBD: u32 = 1 << 6;
    /// The chicken bit against Zenbleed.
    pub const ZENBLEED: u32 = 1 << 7;
    /// Transactional memory is off.
    pub const NO_TSX: u32 = 1 << 8;
    /// Page-table entries that are not present name no memory.
    pub const L1TF: u32 = 1 << 9;
}

/// A range of machine frames. The ranges are disjoint and sorted, and cover all frames below
/// `Machine::frames`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MachineRegion {
    /// First frame.
    pub first: u64,
    /// Number of frames.
    pub frames: u64,
    /// Initial owner: a partition number; 0 if free.
    pub owner: u32,
    /// See [`region_use`].
    pub usage: u32,
    /// The firmware's type of the region (multiboot2: 1 available, 2 reserved, 3 ACPI reclaimable,
    /// 4 NVS, 5 defective); 0 if no entry covers it.
    pub firmware_type: u32,
    /// Zero.
    pub reserved: u32,
}

/// Values of [`MachineRegion::usage`].
pub mod region_use {
    /// RAM.
    pub const RAM: u32 = 0;
    /// Not RAM, or not available: the page-map entry gets the I/O bit.
    pub const IO: u32 = 1;
    /// A partition's monitor instance.
    pub const INSTANCE: u32 = 2;
    /// The database arena.
    pub const ARENA: u32 = 3;
    /// A GRUB module.
    pub const MODULE: u32 = 4;
}

/// A CPU; 16 bytes.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MachineCpu {
    /// Index, as in affinity masks.
    pub index: u32,
    /// Local APIC id.
    pub apic_id: u32,
    /// The bits [`CPU_ONLINE`] and [`CPU_SIBLING`].
    pub flags: u32,
    /// Zero.
    pub reserved: u32,
}

/// In [`MachineCpu::flags`]: the CPU came up.
pub const CPU_ONLINE: u32 = 1;
/// In [`MachineCpu::flags`]: the CPU is another thread of a core that was listed before.
pub const CPU_SIBLING: u32 = 2;

const _: () = {
    assert!(size_of::<ModuleRecord>() == 32 + MODULE_COMMAND_LINE);
    assert_offsets!(ModuleRecord {
        address: 0,
        bytes: 8,
        frame: 16,
        command_line_bytes: 24,
        command_line: 32
    });
    assert!(size_of::<StartBlock>() == 184 + MODULES * size_of::<ModuleRecord>());
    assert_offsets!(StartBlock {
        magic: 0,
        number: 8,
        restarts: 12,
        first_frame: 16,
        frames: 24,
        base: 32,
        heap: 40,
        heap_bytes: 48,
        shared_info: 56,
        window: 64,
        window_tables: 72,
        window_pages: 80,
        command_pages: 88,
        command_page_count: 96,
        grant_table: 104,
        grant_frames: 112,
        arena: 120,
        arena_frame: 128,
        arena_pages: 136,
        machine: 144,
        machine_bytes: 152,
        dma: 160,
        dma_pages: 168,
        module_count: 176,
        modules: 184
    });
    assert!(size_of::<StartBlock>() <= 4096);
    assert!(size_of::<Machine>() == 280);
    assert_offsets!(Machine {
        regions: 0,
        cpus: 4,
        pci: 8,
        tsc_khz: 12,
        frames: 16,
        wall_clock: 24,
        command_line: 32,
        arch_capabilities: 256,
        microcode: 264,
        mitigations: 268,
        microcode_outcome: 272
    });
    assert!(size_of::<MachineRegion>() == 32);
    assert_offsets!(MachineRegion {
        first: 0,
        frames: 8,
        owner: 16,
        usage: 20,
        firmware_type: 24,
        reserved: 28
    });
    assert!(size_of::<MachineCpu>() == 16);
    assert_offsets!(MachineCpu { index: 0, apic_id: 4, flags: 8, reserved: 12 });
};
