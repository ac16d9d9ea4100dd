//! Time data shared with a guest: clock parameters and run states (`xen.h`, `vcpu.h`).
//!
//! System time = `system_time` + ((tsc - `tsc_timestamp`) shifted by `tsc_shift`) *
//! `tsc_to_system_mul` >> 32, in nanoseconds. A reader repeats while `version` is odd or has
//! changed.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Clock parameters of a virtual CPU (`vcpu_time_info`); 32 bytes.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct VcpuTimeInfo {
    /// Odd while the rest is written.
    pub version: u32,
    /// Padding.
    pub pad0: u32,
    /// Time-stamp counter at `system_time`.
    pub tsc_timestamp: u64,
    /// System time in nanoseconds.
    pub system_time: u64,
    /// Nanoseconds per shifted tick, times 2^32.
    pub tsc_to_system_mul: u32,
    /// Left shift of the ticks; a negative number shifts right.
    pub tsc_shift: i8,
    /// See [`TSC_STABLE`], [`GUEST_STOPPED`].
    pub flags: u8,
    /// Padding.
    pub pad1: [u8; 2],
}
/// In [`VcpuTimeInfo::flags`]: the counters of all CPUs agree, so user space may read the clock.
pub const TSC_STABLE: u8 = 1 << 0;
/// In [`VcpuTimeInfo::flags`]: the guest was stopped for a while.
pub const GUEST_STOPPED: u8 = 1 << 1;

/// How a virtual CPU spent its time (`vcpu_runstate_info`); 48 bytes.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RunstateInfo {
    /// One of the `RUNSTATE_` constants.
    pub state: u32,
    /// Padding.
    pub pad: u32,
    /// System time at which `state` was entered; [`RUNSTATE_UPDATE`] is set while this is written.
    pub state_entry_time: u64,
    /// Nanoseconds in each state up to `state_entry_time`.
    pub time: [u64; 4],
}
/// The virtual CPU runs.
pub const RUNSTATE_RUNNING: u32 = 0;
/// The virtual CPU is ready to run.
pub const RUNSTATE_RUNNABLE: u32 = 1;
/// The virtual CPU waits for an event.
pub const RUNSTATE_BLOCKED: u32 = 2;
/// The virtual CPU is down, or its domain is paused.
pub const RUNSTATE_OFFLINE: u32 = 3;
/// Bit of [`RunstateInfo::state_entry_time`]: the record is being written, if the assist is on.
pub const RUNSTATE_UPDATE: u64 = 1 << 63;

const _: () = {
    assert!(size_of::<VcpuTimeInfo>() == 32);
    assert!(core::mem::offset_of!(VcpuTimeInfo, tsc_timestamp) == 8);
    assert!(core::mem::offset_of!(VcpuTimeInfo, tsc_to_system_mul) == 24);
    assert!(core::mem::offset_of!(VcpuTimeInfo, tsc_shift) == 28);
    assert!(core::mem::offset_of!(VcpuTimeInfo, flags) == 29);
    assert!(size_of::<RunstateInfo>() == 48);
    assert!(core::mem::offset_of!(RunstateInfo, time) == 16);
};
