//! Hypercall numbers; some calls are defined by their number alone.
//!
//! Convention: `syscall` in kernel mode, rax = number, arguments in rdi, rsi, rdx, r10, r8;
//! rax returns a value or a negative errno ([`super::errno`]); rcx, r11 and the argument
//! registers may change, no other (`xen.h`, `arch-x86/xen-x86_64.h`).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Set entries of the trap table: rdi = array of [`super::traps::TrapInfo`], ended by address 0.
pub const SET_TRAP_TABLE: u64 = 0;
/// Update page-table entries: array of [`super::mmu::MmuUpdate`], count, done count, foreign domid.
pub const MMU_UPDATE: u64 = 1;
/// Set the descriptor table: array of frame numbers (u64), number of descriptors.
pub const SET_GDT: u64 = 2;
/// Set the stack that traps from user mode use: ss, rsp.
pub const STACK_SWITCH: u64 = 3;
/// Set event, failsafe and system call entry at once; superseded by [`CALLBACK_OP`].
pub const SET_CALLBACKS: u64 = 4;
/// Set the virtual CR0.TS: 0 or 1.
pub const FPU_TASKSWITCH: u64 = 5;
/// Superseded form of [`SCHED_OP`]: yield and block only.
pub const SCHED_OP_COMPAT: u64 = 6;
/// Operations on the machine; not offered to partitions.
pub const PLATFORM_OP: u64 = 7;
/// Set a debug register: number, value.
pub const SET_DEBUGREG: u64 = 8;
/// Read a debug register: number.
pub const GET_DEBUGREG: u64 = 9;
/// Write an 8-byte descriptor: machine address, value.
pub const UPDATE_DESCRIPTOR: u64 = 10;
/// Memory operations: command of [`super::memory`], argument.
pub const MEMORY_OP: u64 = 12;
/// Several calls: array of [`MulticallEntry`], count.
pub const MULTICALL: u64 = 13;
/// Update the level-1 entry that maps an address: address, value, flags of [`super::mmu`].
pub const UPDATE_VA_MAPPING: u64 = 14;
/// Set the singleshot timer: absolute system time in nanoseconds, 0 stops it.
pub const SET_TIMER_OP: u64 = 15;
/// Superseded form of [`EVENT_CHANNEL_OP`].
pub const EVENT_CHANNEL_OP_COMPAT: u64 = 16;
/// Version and features: command of [`super::version`], argument.
pub const XEN_VERSION: u64 = 17;
/// Emergency console: command of [`super::console`], count, buffer.
pub const CONSOLE_IO: u64 = 18;
/// Superseded form of [`PHYSDEV_OP`].
pub const PHYSDEV_OP_COMPAT: u64 = 19;
/// Grant tables: command of [`super::grants`], array, count.
pub const GRANT_TABLE_OP: u64 = 20;
/// Turn an assist on or off: command, type, both of [`super::features::assist`].
pub const VM_ASSIST: u64 = 21;
/// [`UPDATE_VA_MAPPING`] with frames of another domain as fourth argument.
pub const UPDATE_VA_MAPPING_OTHERDOMAIN: u64 = 22;
/// Return from a trap by the [`super::traps::IretContext`] at rsp.
pub const IRET: u64 = 23;
/// Virtual CPUs: command of [`super::vcpu`], virtual CPU, argument.
pub const VCPU_OP: u64 = 24;
/// Set a segment base: which (see [`super::descriptors`]), value.
pub const SET_SEGMENT_BASE: u64 = 25;
/// Page-table control: array of [`super::mmu::MmuextOp`], count, done count, foreign domid.
pub const MMUEXT_OP: u64 = 26;
/// Security module; not offered.
pub const XSM_OP: u64 = 27;
/// NMI callback; not offered ([`CALLBACK_OP`] has one).
pub const NMI_OP: u64 = 28;
/// Scheduling: command of [`super::sched`], argument.
pub const SCHED_OP: u64 = 29;
/// Entry points: command of [`super::traps`], argument.
pub const CALLBACK_OP: u64 = 30;
/// Profiling; not offered.
pub const XENOPROF_OP: u64 = 31;
/// Event channels: command of [`super::events`], argument.
pub const EVENT_CHANNEL_OP: u64 = 32;
/// Devices and I/O privilege: command of [`super::physdev`], argument.
pub const PHYSDEV_OP: u64 = 33;
/// Hardware-virtualized guests; not offered.
pub const HVM_OP: u64 = 34;
/// Host control; not offered (a transaction replaces it).
pub const SYSCTL: u64 = 35;
/// Domain control; not offered (a transaction replaces it).
pub const DOMCTL: u64 = 36;
/// Crash kernel; not offered.
pub const KEXEC_OP: u64 = 37;
/// Transcendent memory; not offered.
pub const TMEM_OP: u64 = 38;
/// Argo messages; not offered.
pub const ARGO_OP: u64 = 39;
/// Performance counters; refused.
pub const XENPMU_OP: u64 = 40;
/// Device models; not offered.
pub const DM_OP: u64 = 41;
/// Hypervisor file system; not offered.
pub const HYPFS_OP: u64 = 42;
/// First number of the architecture range; ours is [`crate::uv::calls::HYPERCALL`].
pub const ARCH_0: u64 = 48;
/// One past the last number of the architecture range.
pub const END: u64 = 56;

/// Bytes between the entries of a hypercall page; slot n serves call n.
pub const PAGE_SLOT_BYTES: usize = 32;
/// Number of slots in a hypercall page.
pub const PAGE_SLOTS: usize = 128;

/// An entry of [`MULTICALL`] (`multicall_entry`); 64 bytes.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MulticallEntry {
    /// Hypercall number.
    pub op: u64,
    /// Out: the result of the call.
    pub result: i64,
    /// Arguments.
    pub args: [u64; 6],
}

const _: () = {
    assert!(size_of::<MulticallEntry>() == 64);
    assert!(core::mem::offset_of!(MulticallEntry, result) == 8);
    assert!(core::mem::offset_of!(MulticallEntry, args) == 16);
    assert!(ARCH_0 == crate::uv::calls::HYPERCALL);
};
