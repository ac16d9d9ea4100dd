//! Addresses in the monitor's address space, and numbers that both programs depend on.
//!
//! The map is in the architecture document, "Virtual address space".

/// Areas of CPUs.
pub const AREAS: u64 = 0xffff_8080_0000_0000;
/// GDT windows of CPUs.
pub const GDT_WINDOWS: u64 = 0xffff_8081_0000_0000;
/// LDT windows of CPUs.
pub const LDT_WINDOWS: u64 = 0xffff_8082_0000_0000;
/// Device memory.
pub const DEVICES: u64 = 0xffff_8083_0000_0000;
/// Frame table.
pub const FRAME_TABLE: u64 = 0xffff_8300_0000_0000;
/// Direct map of RAM.
pub const DIRECT_MAP: u64 = 0xffff_8380_0000_0000;

/// First of the monitor's level-4 slots. It holds each partition's view of the machine-to-physical
/// table, and is empty in the monitor's own tables.
pub const FIRST_SLOT: usize = 256;
/// Number of the monitor's level-4 slots.
pub const SLOTS: usize = 16;

/// Maximum number of CPUs that the monitor can use.
pub const MAX_CPUS: usize = 64;
/// Bytes of a CPU's area, and of each of its windows.
pub const AREA_BYTES: u64 = 0x1_0000;
/// Writable pages of an area.
pub const AREA_DATA_PAGES: [u64; 12] = [0, 2, 4, 6, 8, 9, 10, 11, 12, 13, 14, 15];
/// Offset of the monitor's descriptors in the GDT window.
pub const OWN_DESCRIPTORS: u64 = 0xe000;
/// Offset of the TSS in the GDT window, beyond the table's limit, so that no selector reaches it.
pub const TSS: u64 = 0xf000;

/// Ring 0, 64-bit code.
pub const RING0_CS: u16 = 0xe008;

/// Flags of a level-1 entry for data of ring 0: present, writable, used, not executable.
pub const DATA_ENTRY: u64 = 1 << 63 | 0x63;

/// COM1's interrupt vector.
pub const VECTOR_COM1: u8 = 0xe4;
/// COM2's interrupt vector.
pub const VECTOR_COM2: u8 = 0xe3;
/// First vectors of the two older interrupt controllers, which are masked.
pub const OLD_VECTORS: [u8; 2] = [0xe0, 0xe8];

/// Port of QEMU's isa-debug-exit device; QEMU exits with twice the value written, plus 1.
pub const DEBUG_EXIT_PORT: u16 = 0xf4;
/// The value written to [`DEBUG_EXIT_PORT`] after a refused start or a failure.
pub const DEBUG_EXIT_FAILED: u8 = 0x11;
