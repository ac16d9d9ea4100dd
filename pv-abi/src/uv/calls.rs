//! Our own calls to the monitor, behind one hypercall number.
//!
//! rax = [`HYPERCALL`], rdi = the operation, rsi, rdx, r10, r8 = its arguments; rax returns a
//! value or a negative errno of the Xen ABI. The lead-monitor operations are refused (`-EPERM`)
//! to every partition whose descriptor lacks [`super::database::rights::LEAD`].

/// Hypercall number of all that is ours (`__HYPERVISOR_arch_0` of the public headers).
pub const HYPERCALL: u64 = 48;
/// Leaf, relative to the hypervisor base leaf, that says our part is there:
/// eax = [`FEATURE_MAGIC`], ebx = [`VERSION`].
pub const FEATURE_LEAF: u32 = 0x80;
/// `b"UVSR"`, little-endian.
pub const FEATURE_MAGIC: u32 = u32::from_le_bytes(*b"UVSR");
/// Version of our part of the ABI.
pub const VERSION: u32 = 1;

/// Lead: re-read partition descriptor `rsi` and enforce it. A descriptor in state *building* that
/// the monitor has no instance for gets one in the memory it names. Idempotent.
pub const ACTIVATE_PARTITION: u64 = 0;
/// Lead: re-read the page map for `rdx` frames from frame `rsi`. Refused with `-EBUSY` where a
/// frame that changes owner still has references. A frame that gets an owner holds zeros. A frame
/// that becomes free does not yet: the next call about it scrubs it, whoever owns it then.
pub const ACTIVATE_PAGES: u64 = 1;
/// Lead: re-read channel table entry `rsi`.
pub const ACTIVATE_CHANNEL: u64 = 2;
/// Lead: let the virtual CPUs of partition `rsi` run. The first time, its page tables are
/// validated and virtual CPU 0 gets the start state of the descriptor. Refused with `-EBUSY` where
/// the boot partition has any of its memory mapped. Returns 1 where it is not finished: call again.
pub const START: u64 = 3;
/// Lead: stop scheduling the virtual CPUs of partition `rsi`. One that was being built is complete
/// then: the boot partition may write it no more, and it is refused with `-EBUSY` as [`START`] is.
pub const STOP: u64 = 4;
/// Lead: stop partition `rsi` for good, and drop the references that it holds, so that its memory can
/// be activated for another: with `r10` not 0, those of the page tables in the `r10` frames from frame
/// `rdx` on, as far as the frames are its own; with `r10` 0, all others (grants, events), and the
/// partition is gone. So the last call follows one for each range of its memory, and the ranges rise.
/// Tables that no call named stay in use, with what they refer to. Returns 1 where the call is not
/// finished: make it again.
pub const DESTROY: u64 = 5;
/// Lead: stop a PCI function (`rsi` = segment/bus/device/function) from reaching memory.
pub const QUIESCE_DEVICE: u64 = 6;
/// Lead: drop the records of what the monitor did by itself up to number `rdx`, which are written
/// down, and read the oldest that is left (`rsi` = address of a [`MonitorEvent`]). Returns its
/// number, from 1, and fills it, or 0 where there is none. A record stays until a later call names
/// its number, so a lead partition that ends in between is told of it again.
pub const NEXT_EVENT: u64 = 7;
/// Lead: what the monitor holds of frame `rsi`: bits 29:0 owner, bit 30 not RAM,
/// [`FRAME_IN_USE`].
pub const FRAME_OWNER: u64 = 8;
/// [`FRAME_OWNER`]: something refers to the frame.
pub const FRAME_IN_USE: u64 = 1 << 32;
/// Lead: usage of partition `rsi`, written to the [`PartitionUsage`] at `rdx`.
pub const USAGE: u64 = 9;
/// Lead: fill the [`CpuUsage`] at `rdx` for physical CPU `rsi`; `-ENOENT` past the last.
pub const CPU_USAGE: u64 = 10;
/// Lead: end the host: `rsi` = [`END_POWER_OFF`], [`END_RESTART`], or [`END_FAILED`] because of
/// partition `rdx` (cause `r10`, detail `r8`). Does not return.
pub const END_HOST: u64 = 11;
/// [`END_HOST`]: power off.
pub const END_POWER_OFF: u64 = 0;
/// [`END_HOST`]: restart the machine.
pub const END_RESTART: u64 = 1;
/// [`END_HOST`]: stop with a message, as the monitor's command line says.
pub const END_FAILED: u64 = 2;
/// Right SERIAL: write `rdx` bytes at `rsi` to serial port `r10` (0: console, 1: harness).
/// Returns the number of bytes written.
pub const SERIAL_WRITE: u64 = 16;
/// Right SERIAL: read at most `rdx` bytes into `rsi` from serial port `r10`.
/// Returns the number of bytes read. [`super::super::xen`] VIRQ_CONSOLE tells of new input.
pub const SERIAL_READ: u64 = 17;
/// Right BUILD: map foreign frames. `rsi` = target partition, `rdx` = address of an array of
/// [`BuildMap`], `r10` = its length. The target must be *building* and own each frame. Entries
/// of `frame` = [`UNMAP`] unmap, whatever became of the target. Returns when all are done.
pub const BUILD_MAP: u64 = 32;
/// Right BUILD: set the machine-to-physical entries of a *building* partition: `rsi` = target,
/// `rdx` = first machine frame, `r10` = first pseudo-physical frame, `r8` = count. With `r10` =
/// [`IDLE`], the frames become idle ones instead, which nothing may refer to yet: the partition
/// starts without them and populates them when it asks for memory.
pub const BUILD_M2P: u64 = 33;
/// [`BUILD_M2P`]: make the frames idle.
pub const IDLE: u64 = u64::MAX;

/// [`BuildMap::frame`]: unmap.
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

/// Something the monitor did to a partition by itself; 32 bytes.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MonitorEvent {
    /// Partition it was done to.
    pub partition: u32,
    /// See [`cause`].
    pub cause: u32,
    /// Detail: the shutdown reason, or the trap vector.
    pub detail: u32,
    /// Virtual CPU that was running.
    pub vcpu: u32,
    /// Instruction pointer.
    pub address: u64,
    /// System time in nanoseconds.
    pub time: u64,
}

/// Values of [`MonitorEvent::cause`] and of the descriptor's cause.
pub mod cause {
    /// None.
    pub const NONE: u32 = 0;
    /// It called shutdown; detail is the reason (0 power off, 1 reboot, 2 suspend, 3 crash).
    pub const SHUTDOWN: u32 = 1;
    /// A trap it has no handler for; detail is the vector.
    pub const UNHANDLED_TRAP: u32 = 2;
    /// A return frame or stack that cannot be used.
    pub const BAD_FRAME: u32 = 3;
    /// Its page tables were refused at the start.
    pub const BAD_PAGE_TABLE: u32 = 4;
    /// Page-table state that cannot be undone.
    pub const PAGE_TABLE: u32 = 5;
    /// The ultravisor stopped it.
    pub const STOPPED: u32 = 6;
}

/// Causes that refused calls are counted by: the errno without its sign, and 0 for those above.
pub const CAUSES: usize = 40;

/// What a partition used; 384 bytes.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PartitionUsage {
    /// CPU time of all its virtual CPUs, in nanoseconds.
    pub cpu_time: u64,
    /// Virtual CPUs that are up.
    pub vcpus_up: u32,
    /// State the monitor has it in; see [`super::database::state`].
    pub state: u32,
    /// Hypercalls made.
    pub hypercalls: u64,
    /// Frames with a reference.
    pub frames_in_use: u64,
    /// Nanoseconds its virtual CPUs were runnable and did not run.
    pub wait_time: u64,
    /// Zero.
    pub reserved: [u64; 3],
    /// Hypercalls that were refused, by cause; each call of a multicall counts.
    pub refusals: [u64; CAUSES],
}

impl Default for PartitionUsage {
    fn default() -> Self {
        zerocopy::FromZeros::new_zeroed()
    }
}

/// What a physical CPU did; 32 bytes.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CpuUsage {
    /// Local APIC id.
    pub apic_id: u32,
    /// Zero.
    pub reserved: u32,
    /// Nanoseconds it ran partitions.
    pub busy: u64,
    /// Nanoseconds it was idle.
    pub idle: u64,
    /// Context switches.
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
        frames_in_use: 24,
        wait_time: 32,
        reserved: 40,
        refusals: 64
    });
    assert!(size_of::<CpuUsage>() == 32);
    assert_offsets!(CpuUsage { apic_id: 0, reserved: 4, busy: 8, idle: 16, switches: 24 });
};
