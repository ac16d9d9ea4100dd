//! Layout of the resource database: the arena, partition descriptors, page map, channel table.
//!
//! The database is one physically contiguous *arena* of 4 KiB pages. The ultravisor partition
//! writes it; monitors map it read-only, and read it again on *activate*. The index of an arena
//! page is the 30-bit number `[G,M,K]` of the seed's claim 31 (`((G*2^10+M)*2^10+K)*2^10*4`, a word
//! being 4 bytes), and a partition's number is the index of its descriptor page.
//!
//! Descriptors and the entries of the tables have a generation that is odd while they are written (a
//! seqlock), so that a reader never acts on half a change.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A partition number: the arena index of its descriptor. 0 means *unassigned*.
/// The low 15 bits are the partition's domid in the Xen-facing ABI.
pub type PartitionNumber = u32;

/// No partition: the memory is free.
pub const UNASSIGNED: PartitionNumber = 0;
/// The ultravisor partition.
pub const ULTRAVISOR: PartitionNumber = 1;
/// The boot partition.
pub const BOOT: PartitionNumber = 2;
/// The command partition.
pub const COMMAND: PartitionNumber = 3;
/// The first number of the I/O partitions, all of which [`IO_PARTITIONS`] has.
pub const IO_A: PartitionNumber = 4;
/// The second number of the I/O partitions.
pub const IO_B: PartitionNumber = 5;
/// The third number of the I/O partitions.
pub const IO_C: PartitionNumber = 9;
/// The fourth number of the I/O partitions.
pub const IO_D: PartitionNumber = 10;
/// The numbers that an I/O partition may have, with the name of each. Two run at once; one that
/// died keeps its number until what it drove is reset, and another is built with the next number.
pub const IO_PARTITIONS: [(PartitionNumber, &str); 4] =
    [(IO_A, "io-a"), (IO_B, "io-b"), (IO_C, "io-c"), (IO_D, "io-d")];
/// The I/O service: stands for whichever of the I/O partitions, its *members*, serves an endpoint
/// now. No partition has this number.
///
/// Clients grant pages and allocate ports for this domid. Each partition of [`kind::IO`] may map,
/// pin, copy and bind what is granted or allocated for the service, besides what is for itself. A
/// port that a member has bound waits for the service again once the member closes its end or goes.
pub const IO_SERVICE: PartitionNumber = 6;
/// Pseudo-partition that owns the monitor's own memory (image, frame table, M2P, CPU areas).
pub const MONITOR: PartitionNumber = 7;
/// Pseudo-partition that owns the firmware's memory (reserved, ACPI, bad memory).
pub const FIRMWARE: PartitionNumber = 8;
/// Numbers below the first guest's that no partition has; their arena pages are unused.
pub const NO_PARTITIONS: core::ops::Range<u32> = 11..FIRST_GUEST;
/// The lowest number a guest partition may have.
pub const FIRST_GUEST: PartitionNumber = 16;
/// Partition numbers stay below this, so that they fit a Xen domid (DOMID_FIRST_RESERVED).
pub const MAX_PARTITION: PartitionNumber = 0x7FF0;

/// Returns whether a partition that runs may have this number. The other numbers stand for memory of
/// the monitor or the firmware, for free memory, or for nothing.
#[must_use]
pub const fn may_run(number: PartitionNumber) -> bool {
    matches!(number, ULTRAVISOR..=IO_B | IO_C..=IO_D | FIRST_GUEST..MAX_PARTITION)
}

/// Page-map entry, bit 31: the other bits are the arena index of the index page of the next tier.
pub const ENTRY_SUBALLOCATED: u32 = 1 << 31;
/// Page-map entry, bit 30: I/O memory (or a hole) rather than RAM.
pub const ENTRY_IO: u32 = 1 << 30;
/// Page-map entry: the 30 bits `[G,M,K]`.
pub const ENTRY_NUMBER: u32 = (1 << 30) - 1;
/// Number of entries in an index page.
pub const INDEX_ENTRIES: usize = 1024;
/// Frames described by one entry of each tier: a root page's entry (4 GiB), a 4 MiB entry, a 4 KiB
/// entry.
pub const TIER_FRAMES: [u64; 3] = [1 << 20, 1 << 10, 1];

/// Arena page 0.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ArenaHeader {
    /// [`ARENA_MAGIC`].
    pub magic: u64,
    /// Layout version, [`ARENA_VERSION`].
    pub version: u32,
    /// Number of pages in the arena, this one included.
    pub pages: u32,
    /// Version of the contents: counts committed transactions.
    pub contents: u64,
    /// Arena index of the page map's root index page (1024 entries of 4 GiB each).
    pub page_map_root: u32,
    /// Arena index of the first page of the log ring.
    pub log_first: u32,
    /// Number of pages of the log ring.
    pub log_pages: u32,
    /// Arena index of the first page from which descriptors and index pages are allocated.
    pub free_first: u32,
    /// One past the last machine frame that the page map describes.
    pub frames: u64,
    /// Arena index of the first page in the chain of freed index pages (word 0 of each names the
    /// next), or 0.
    pub free_chain: u32,
    /// Number of pages in that chain.
    pub free_chained: u32,
    /// Identity of the host's boot. The ultravisor sets it when it makes the arena, and keeps it
    /// when it restarts. Sequence numbers of the log, versions and ids are valid within this boot.
    pub boot: u64,
    /// Arena index of the first page of the channel table.
    pub channels_first: u32,
    /// Number of pages of the channel table, with [`CHANNELS_IN_PAGE`] entries each.
    pub channels_pages: u32,
    /// Arena index of the first page of the device table.
    pub devices_first: u32,
    /// Number of functions in the device table, with [`super::devices::DEVICES_IN_PAGE`] entries in
    /// each page.
    pub devices: u32,
    /// Arena index of the first page of the endpoint table.
    pub endpoints_first: u32,
    /// Number of pages of the endpoint table, with [`super::endpoints::ENDPOINTS_IN_PAGE`] entries
    /// each.
    pub endpoints_pages: u32,
    /// Zero.
    pub reserved: [u8; 4008],
}
/// `b"UVARENA1"`, little-endian.
pub const ARENA_MAGIC: u64 = u64::from_le_bytes(*b"UVARENA1");
/// Version of the arena's layout.
pub const ARENA_VERSION: u32 = 4;

/// An index page of the page map.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct IndexPage {
    /// Entries; see [`ENTRY_SUBALLOCATED`], [`ENTRY_IO`], [`ENTRY_NUMBER`].
    pub entry: [u32; INDEX_ENTRIES],
}

/// Values of [`PartitionDescriptor::kind`].
pub mod kind {
    /// Owns memory and never runs (the monitor's own, the firmware's).
    pub const PSEUDO: u32 = 0;
    /// The ultravisor partition.
    pub const ULTRAVISOR: u32 = 1;
    /// The boot partition.
    pub const BOOT: u32 = 2;
    /// The command partition.
    pub const COMMAND: u32 = 3;
    /// An I/O partition.
    pub const IO: u32 = 4;
    /// A guest partition.
    pub const GUEST: u32 = 5;
}

/// Values of [`PartitionDescriptor::state`].
pub mod state {
    /// No such partition.
    pub const FREE: u32 = 0;
    /// The partition has resources, the boot partition may write its memory, and it never runs.
    pub const BUILDING: u32 = 1;
    /// Its virtual CPUs are scheduled.
    pub const RUNNING: u32 = 2;
    /// The partition keeps all its resources, and none of its virtual CPUs runs. If it never ran, a
    /// builder can no longer write its memory.
    pub const PAUSED: u32 = 3;
    /// The partition was asked to power off, or has done so; none of its virtual CPUs runs.
    pub const SHUTDOWN: u32 = 4;
    /// The partition was stopped by a fault or by itself; see
    /// [`super::PartitionDescriptor::cause`].
    pub const CRASHED: u32 = 5;
    /// Its resources are being released; it runs nothing.
    pub const DYING: u32 = 6;
}

/// Bits of [`PartitionDescriptor::rights`]: the requests that the monitor allows a partition.
pub mod rights {
    /// May call the lead monitor.
    pub const LEAD: u32 = 1 << 0;
    /// May write the memory of a partition whose state is *building*.
    pub const BUILD: u32 = 1 << 1;
    /// Its shutdown powers the machine off or restarts it.
    pub const HOST_POWER: u32 = 1 << 2;
    /// May use the serial line of the monitor beyond logging.
    pub const SERIAL: u32 = 1 << 3;
}

/// Values of [`PartitionDescriptor::asked`]: the request made to a kernel through the store.
pub mod asked {
    /// Nothing.
    pub const NOTHING: u32 = 0;
    /// To power off.
    pub const POWER_OFF: u32 = 1;
    /// To reboot.
    pub const REBOOT: u32 = 2;
}

/// A partition descriptor: one arena page.
///
/// All addresses are machine frame numbers (address / 4096) unless stated otherwise.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PartitionDescriptor {
    /// [`DESCRIPTOR_MAGIC`], or 0 if the page is not a descriptor.
    pub magic: u32,
    /// Odd while the descriptor is being written, even when it is complete.
    pub generation: u32,
    /// The arena index of this page.
    pub number: u32,
    /// See [`kind`].
    pub kind: u32,
    /// See [`state`].
    pub state: u32,
    /// See [`rights`].
    pub rights: u32,
    /// Name in UTF-8, padded with zeros.
    pub name: [u8; 32],
    /// Number of virtual CPUs it may bring up, 1 to [`MAX_VCPUS`].
    pub vcpus: u32,
    /// Relative share of CPU time, 1 to 65535; 256 is usual.
    pub cpu_weight: u32,
    /// Upper bound on CPU time in percent of one CPU; 0 for none.
    pub cpu_cap: u32,
    /// Number of frames of the grant table, 1 to [`MAX_GRANT_FRAMES`].
    pub grant_frames: u32,
    /// Requested physical CPUs, one bit each; see [`Self::cpu_allowed`].
    pub cpu_affinity: [u64; 4],
    /// Number of frames of RAM assigned for its own use (the page map says which).
    pub memory_frames: u64,
    /// First frame of the contiguous memory of its monitor instance.
    pub instance_first: u64,
    /// Number of frames of that memory, at least [`instance_frames`].
    pub instance_frames: u64,
    /// Start state of virtual CPU 0: instruction pointer (virtual address).
    pub entry: u64,
    /// Start state: stack pointer (virtual address).
    pub stack: u64,
    /// Start state: rsi, the virtual address of the start info page.
    pub start_info: u64,
    /// Start state: frame of the level-4 page table.
    pub page_table: u64,
    /// Frame of the console ring, or 0.
    pub console_frame: u64,
    /// Frame of the store ring, or 0.
    pub store_frame: u64,
    /// Event port of the console ring at the partition's end, or 0.
    pub console_port: u32,
    /// Event port of the store ring at the partition's end, or 0.
    pub store_port: u32,
    /// The cause why the partition was stopped; see [`super::calls::cause`].
    pub cause: u32,
    /// Detail of the cause (exit reason, vector, virtual CPU).
    pub cause_detail: u32,
    /// Instruction pointer where it was stopped, if that is meaningful.
    pub cause_address: u64,
    /// Owner of the partition: the number of the partition that asked for it.
    pub owner: u32,
    /// Zero.
    pub reserved0: u32,
    /// Version of the database when it was created.
    pub created_at: u64,
    /// Physical CPUs on which the monitor lets its virtual CPUs run, one bit each; no bit set
    /// stands for all. This is its affinity without the CPUs dedicated to others.
    pub cpu_allowed: [u64; 4],
    /// Number of frames that its balloon driver was told to use.
    pub memory_target: u64,
    /// Number of virtual CPUs that its kernel was told to bring up.
    pub vcpus_online: u32,
    /// 1 if the CPUs of its affinity are reserved for it alone.
    pub cpu_dedicated: u32,
    /// The request made to its kernel; see [`asked`].
    pub asked: u32,
    /// Zero.
    pub reserved: [u8; 3828],
}
/// `b"UVPD"`, little-endian.
pub const DESCRIPTOR_MAGIC: u32 = u32::from_le_bytes(*b"UVPD");
/// Maximum number of virtual CPUs of a partition (the ABI's 32 entries of shared info).
pub const MAX_VCPUS: u32 = 32;
/// Maximum number of virtual CPUs of all partitions of a machine.
pub const MAX_MACHINE_VCPUS: u32 = 1024;
/// [`PartitionDescriptor::cpu_weight`] of the ultravisor and the boot partition: they run little
/// and seldom, and work for one partition must not wait for others that compute.
pub const SYSTEM_CPU_WEIGHT: u32 = 65535;
/// [`PartitionDescriptor::cpu_weight`] of the command partition, unless the boot partition's
/// options give another: that of 16 usual guests. So the operator keeps control of the host when
/// all guests compute, and guests still run when the command partition computes.
pub const COMMAND_CPU_WEIGHT: u32 = 4096;
/// Maximum number of grant frames of a partition (512 version-1 entries each).
pub const MAX_GRANT_FRAMES: u32 = 64;

/// Frames that a monitor instance needs for a partition of this size: [`INSTANCE_FIXED_FRAMES`] for
/// its control block, shared info, event ports and view of the machine-to-physical table,
/// [`INSTANCE_VCPU_FRAMES`] for the state and save area of each virtual CPU, and two per grant
/// frame: the frame itself and the records of mapped grants. The monitor decides how they are used.
#[must_use]
pub const fn instance_frames(vcpus: u32, grant_frames: u32) -> u64 {
    (INSTANCE_FIXED_FRAMES + vcpus * INSTANCE_VCPU_FRAMES + grant_frames * 2) as u64
}
/// The frame of an instance that is its shared info, counted from the instance's first.
pub const INSTANCE_SHARED_INFO: u64 = 1;
/// Frames of an instance that do not depend on its size.
pub const INSTANCE_FIXED_FRAMES: u32 = 48;
/// Frames of an instance per virtual CPU.
pub const INSTANCE_VCPU_FRAMES: u32 = 4;

/// An entry of the channel table: a memory channel between two partitions.
///
/// Activating it makes the monitor bind `port_a` of `a` and `port_b` of `b` to each other, and
/// write `a`'s grant reference `grant_a` so that it permits `b` to map `frame`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ChannelEntry {
    /// Odd while the entry is being written; the entry is in use if `kind` is not 0.
    pub generation: u32,
    /// See [`channel_kind`].
    pub kind: u32,
    /// The partition whose memory contains the shared page: the client.
    pub a: u32,
    /// Event port at `a`.
    pub port_a: u32,
    /// The other partition: the server.
    pub b: u32,
    /// Event port at `b`. If it is 0, `port_a` is left unbound for `b`, which binds to it by
    /// itself.
    pub port_b: u32,
    /// Grant reference in `a`'s table that names `frame`.
    pub grant_a: u32,
    /// Number of frames shared, contiguous from `frame`, with consecutive grant references.
    pub frames: u32,
    /// First shared machine frame, in `a`'s memory.
    pub frame: u64,
    /// Counts takeovers: operations with an older epoch are refused.
    pub epoch: u64,
    /// Zero.
    pub reserved: [u64; 2],
}
/// Number of entries in a page of the channel table.
pub const CHANNELS_IN_PAGE: u32 = 4096 / 64;

/// Values of [`ChannelEntry::kind`].
pub mod channel_kind {
    /// Unused entry.
    pub const FREE: u32 = 0;
    /// Transactions.
    pub const COMMAND: u32 = 1;
    /// A console ring of the Xen ABI.
    pub const CONSOLE: u32 = 2;
    /// A store ring of the Xen ABI.
    pub const STORE: u32 = 3;
    /// Kernels from which the boot partition builds partitions (`control::build`).
    pub const BUILD: u32 = 4;
    /// Orders of the ultravisor to an I/O partition, and its reports (`control::io`).
    pub const IO: u32 = 5;
}

const _: () = {
    assert!(size_of::<ArenaHeader>() == 4096);
    assert_offsets!(ArenaHeader {
        magic: 0,
        version: 8,
        pages: 12,
        contents: 16,
        page_map_root: 24,
        log_first: 28,
        log_pages: 32,
        free_first: 36,
        frames: 40,
        free_chain: 48,
        free_chained: 52,
        boot: 56,
        channels_first: 64,
        channels_pages: 68,
        devices_first: 72,
        devices: 76,
        endpoints_first: 80,
        endpoints_pages: 84,
        reserved: 88
    });
    assert!(size_of::<IndexPage>() == 4096);
    assert_offsets!(IndexPage { entry: 0 });
    assert!(size_of::<PartitionDescriptor>() == 4096);
    assert!(core::mem::offset_of!(PartitionDescriptor, name) == 24);
    assert!(core::mem::offset_of!(PartitionDescriptor, cpu_affinity) == 72);
    assert!(core::mem::offset_of!(PartitionDescriptor, memory_frames) == 104);
    assert!(core::mem::offset_of!(PartitionDescriptor, page_table) == 152);
    assert!(core::mem::offset_of!(PartitionDescriptor, cpu_allowed) == 216);
    assert!(size_of::<ChannelEntry>() == 64);
    assert_offsets!(ChannelEntry {
        generation: 0,
        kind: 4,
        a: 8,
        port_a: 12,
        b: 16,
        port_b: 20,
        grant_a: 24,
        frames: 28,
        frame: 32,
        epoch: 40,
        reserved: 48
    });
};
