//! Our own calls to the monitor, behind one hypercall number.
//!
//! rax = [`HYPERCALL`], rdi = the operation, rsi, rdx, r10, r8 = its arguments; rax returns a value
//! or a negative errno of the Xen ABI. The monitor refuses the lead-monitor operations (`-EPERM`)
//! to every partition whose descriptor lacks [`super::database::rights::LEAD`].

/// Hypercall number of all our own calls (`__HYPERVISOR_arch_0` of the public headers).
pub const HYPERCALL: u64 = 48;
/// CPUID leaf, relative to the hypervisor base leaf, that announces our part: eax =
/// [`FEATURE_MAGIC`], ebx = [`VERSION`].
pub const FEATURE_LEAF: u32 = 0x80;
/// `b"UVSR"`, little-endian.
pub const FEATURE_MAGIC: u32 = u32::from_le_bytes(*b"UVSR");
/// Version of our part of the ABI.
pub const VERSION: u32 = 1;

/// Lead: re-read partition descriptor `rsi` and enforce it. If the descriptor is in state
/// *building* and the monitor has no instance for it, the monitor makes one in the memory that it
/// names. Idempotent.
pub const ACTIVATE_PARTITION: u64 = 0;
/// Lead: re-read the page map for `rdx` frames from frame `rsi`. Refused with `-EBUSY` if a frame
/// that changes its owner still has references. A frame that gets an owner holds zeros. A frame
/// that becomes free need not hold zeros yet: the next call about it scrubs it, whoever owns it
/// then.
pub const ACTIVATE_PAGES: u64 = 1;
/// Lead: re-read channel table entry `rsi`.
pub const ACTIVATE_CHANNEL: u64 = 2;
/// Lead: let the virtual CPUs of partition `rsi` run. The first time, its page tables are validated
/// and virtual CPU 0 gets the start state of the descriptor. Refused with `-EBUSY` if the boot
/// partition has any of its memory mapped. Returns 1 if the work is not finished: call again.
pub const START: u64 = 3;
/// Lead: stop scheduling the virtual CPUs of partition `rsi`. A partition that was being built is
/// complete then: the boot partition may no longer write it. As for [`START`], the call is refused
/// with `-EBUSY` while the boot partition has any of its memory mapped.
pub const STOP: u64 = 4;
/// Lead: stop partition `rsi` for good, and drop the references that it holds, so that its memory
/// can be activated for another partition. If `r10` is not 0, the call drops the references of the
/// page tables in the `r10` frames from frame `rdx` on, as far as the partition owns these frames.
/// If `r10` is 0, it drops all other references (grants, events), and removes the partition. So the
/// caller makes one call for each range of the partition's memory, in any order, and then the last
/// call. The last call is refused with `-EBUSY` while a frame that no call named is a page table;
/// the partition has stopped then, and the caller names the remaining ranges. The call is refused
/// with `-ENODEV` while a function owes the partition a reset ([`DEVICE_CONFIRM`]). The partition
/// has then lost its tables, its ports and its functions, and keeps its memory and the grants that
/// it has mapped. Returns 1 if the work is not finished: make the call again.
pub const DESTROY: u64 = 5;
/// Lead: re-read entry `rsi` of the device table. A partition that is not the new owner loses its
/// vectors of the function, and the function can neither access memory nor interrupt. Refused with
/// `-EBUSY` while the partition that had it has its registers mapped (they go with the partition's
/// page tables), with `-EPERM` if the function cannot be given
/// ([`super::devices::DeviceFunction::refused`]), with `-ENOENT` past the last function.
pub const ACTIVATE_DEVICE: u64 = 6;
/// Lead: drop the events up to number `rdx`, which the caller has logged, and read the oldest that
/// is left (`rsi` = address of a [`MonitorEvent`]). These are events that the monitor caused by
/// itself. Returns the number of the event, from 1, and fills the record, or returns 0 if no event
/// is left. An event stays until a later call names its number, so a lead partition that ends in
/// between gets it again.
pub const NEXT_EVENT: u64 = 7;
/// Lead: the monitor's record of frame `rsi`: owner in bits 29:0, bit 30 if it is not RAM,
/// [`FRAME_IN_USE`].
pub const FRAME_OWNER: u64 = 8;
/// In the result of [`FRAME_OWNER`]: something refers to the frame.
pub const FRAME_IN_USE: u64 = 1 << 32;
/// Lead: write the usage of partition `rsi` to the [`PartitionUsage`] at `rdx`.
pub const USAGE: u64 = 9;
/// Lead: write the usage of physical CPU `rsi` to the [`CpuUsage`] at `rdx`; `-ENOENT` past the
/// last CPU.
pub const CPU_USAGE: u64 = 10;
/// Lead: end the host: `rsi` = [`END_POWER_OFF`], [`END_RESTART`], or [`END_FAILED`] because of
/// partition `rdx` (cause `r10`, detail `r8`). The call does not return.
pub const END_HOST: u64 = 11;
/// Lead: keep function `rsi` from memory and from interrupts: bus mastering off, MSI-X masked. The
/// function keeps its owner. Transfers that it had begun may still reach memory, until a driver has
/// reset it.
pub const QUIESCE_DEVICE: u64 = 12;
/// Argument of [`END_HOST`]: power off.
pub const END_POWER_OFF: u64 = 0;
/// Argument of [`END_HOST`]: restart the machine.
pub const END_RESTART: u64 = 1;
/// Argument of [`END_HOST`]: stop with a message, as the monitor's command line says.
pub const END_FAILED: u64 = 2;
/// Right SERIAL: write `rdx` bytes at `rsi` to serial port `r10` (0: console, 1: harness).
/// Returns the number of bytes written.
pub const SERIAL_WRITE: u64 = 16;
/// Right SERIAL: read at most `rdx` bytes into `rsi` from serial port `r10`. Returns the number of
/// bytes read. The virtual interrupt `VIRQ_CONSOLE` of [`super::super::xen`] signals new input.
pub const SERIAL_READ: u64 = 17;
/// Right BUILD: map foreign frames. `rsi` = target partition, `rdx` = address of an array of
/// [`BuildMap`], `r10` = its length. The target must be *building* and own each frame. Entries with
/// `frame` = [`UNMAP`] unmap, whatever became of the target. Returns when all entries are done.
pub const BUILD_MAP: u64 = 32;
/// Right BUILD: set the machine-to-physical entries of a *building* partition: `rsi` = target,
/// `rdx` = first machine frame, `r10` = first pseudo-physical frame, `r8` = count. If `r10` =
/// [`IDLE`], the frames become idle instead, provided nothing refers to them: the partition starts
/// without them and populates them when it asks for memory.
pub const BUILD_M2P: u64 = 33;
/// Argument of [`BUILD_M2P`]: make the frames idle.
pub const IDLE: u64 = u64::MAX;

/// Own function `rsi`: read the word at offset `rdx` (a multiple of 4, below 256) of its
/// configuration space. As for all calls of a function, a caller that does not own it gets
/// `-EPERM`; `-EBUSY` while the function is being reset.
pub const DEVICE_READ: u64 = 40;
/// Own function `rsi`: set the bits of its command register that [`super::devices::command`] has to
/// those of `rdx`; legacy interrupts stay off. Without the bit for memory, the vectors of the
/// function lose their ports. `-EBUSY` while the function is being reset, or if it is to master the
/// bus and owes a reset ([`DEVICE_CONFIRM`]).
pub const DEVICE_COMMAND: u64 = 41;
/// Own function `rsi`: map `r8` pages from page `rdx >> 32` of BAR `rdx & 7` at address `r10`,
/// writable and uncached. Page tables for `r10` must exist, and its entries must be empty. `-EPERM`
/// for a page of the MSI-X table or of its pending bits, `-EINVAL` past the end of the BAR. Returns
/// the number of pages that are mapped when it stops early; call again for the rest.
pub const DEVICE_MAP: u64 = 42;
/// Own function `rsi`: let MSI-X vector `rdx` raise a new event port of the caller, whose number the
/// call returns. `EVTCHNOP_close` of the port masks the vector again. `-EBUSY` if the vector has a
/// port, `-EINVAL` if the function does not answer in its memory, `-ENOENT` past the last vector,
/// `-ENOSPC` if no interrupt vector of the CPU is free.
pub const DEVICE_BIND: u64 = 43;
/// Own function `rsi`: reset it (function level reset). Bus mastering and its vectors are off
/// afterwards. `-ENODEV` if it has no such reset. Returns 1 while the reset goes on: call again.
/// Once the reset is over, the function owes none.
pub const DEVICE_RESET: u64 = 44;
/// Own function `rsi`: the caller has reset it by its registers, and the function has confirmed the
/// reset. From the time when a partition lets a function master the bus until the function's next
/// reset, it may reach that partition's memory. If it gets another owner meanwhile, it *owes* the
/// partition a reset, until its present owner makes this call. Does nothing if the function owes no
/// reset.
pub const DEVICE_CONFIRM: u64 = 45;

/// Value of [`BuildMap::frame`]: unmap.
pub const UNMAP: u64 = u64::MAX;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// One page to map for building; 16 bytes.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct BuildMap {
    /// Page-aligned virtual address in the caller's window.
    pub va: u64,
    /// Machine frame of the target, or [`UNMAP`].
    pub frame: u64,
}

/// An event that the monitor caused in a partition by itself; 32 bytes.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MonitorEvent {
    /// The partition.
    pub partition: u32,
    /// See [`cause`].
    pub cause: u32,
    /// Detail: the shutdown reason, or the trap vector.
    pub detail: u32,
    /// The virtual CPU that was running.
    pub vcpu: u32,
    /// Instruction pointer.
    pub address: u64,
    /// System time in nanoseconds.
    pub time: u64,
}

/// Values of [`MonitorEvent::cause`] and of the descriptor's cause.
pub mod cause {
    /// No cause.
    pub const NONE: u32 = 0;
    /// The partition called shutdown; the detail is the reason (0 power off, 1 reboot, 2 suspend, 3
    /// crash).
    pub const SHUTDOWN: u32 = 1;
    /// A trap for which it has no handler; the detail is the vector.
    pub const UNHANDLED_TRAP: u32 = 2;
    /// A return frame or a stack that cannot be used.
    pub const BAD_FRAME: u32 = 3;
    /// A page-table state that cannot be undone.
    pub const PAGE_TABLE: u32 = 5;
    /// The ultravisor stopped the partition.
    pub const STOPPED: u32 = 6;
    /// The ultravisor gave it up, since it answered no ping; the detail is how long, in milliseconds.
    pub const SILENT: u32 = 7;
}

/// Number of causes by which refused calls are counted: the errno without its sign, and 0 for
/// larger errnos.
pub const CAUSES: usize = 40;

/// The usage of a partition; 384 bytes.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PartitionUsage {
    /// CPU time of all its virtual CPUs, in nanoseconds.
    pub cpu_time: u64,
    /// Number of virtual CPUs that are up.
    pub vcpus_up: u32,
    /// Its state in the monitor; see [`super::database::state`].
    pub state: u32,
    /// Number of hypercalls made.
    pub hypercalls: u64,
    /// Zero.
    pub reserved: u64,
    /// Nanoseconds in which its virtual CPUs were runnable but did not run.
    pub wait_time: u64,
    /// Zero.
    pub reserved_more: [u64; 3],
    /// Number of refused hypercalls, by cause; each call of a multicall counts.
    pub refusals: [u64; CAUSES],
}

impl Default for PartitionUsage {
    fn default() -> Self {
        zerocopy::FromZeros::new_zeroed()
    }
}

/// The usage of a physical CPU; 32 bytes.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CpuUsage {
    /// Local APIC id.
    pub apic_id: u32,
    /// Zero.
    pub reserved: u32,
    /// Nanoseconds in which it ran partitions.
    pub busy: u64,
    /// Nanoseconds in which it was idle.
    pub idle: u64,
    /// Number of context switches.
    pub switches: u64,
}

const _: () = {
    assert!(size_of::<BuildMap>() == 16);
    assert_offsets!(BuildMap { va: 0, frame: 8 });
    assert!(size_of::<MonitorEvent>() == 32);
    assert_offsets!(MonitorEvent {
        partition: 0,
        cause: 4,
        detail: 8,
        vcpu: 12,
        address: 16,
        time: 24
    });
    assert!(size_of::<PartitionUsage>() == 384);
    assert_offsets!(PartitionUsage {
        cpu_time: 0,
        vcpus_up: 8,
        state: 12,
        hypercalls: 16,
        reserved: 24,
        wait_time: 32,
        reserved_more: 40,
        refusals: 64
    });
    assert!(size_of::<CpuUsage>() == 32);
    assert_offsets!(CpuUsage { apic_id: 0, reserved: 4, busy: 8, idle: 16, switches: 24 });
};
