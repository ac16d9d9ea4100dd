//! System time: nanoseconds since the monitor started, from the time-stamp counter.
//!
//! The counters of all CPUs run at the same rate, so the record that kernels read
//! (`vcpu_time_info`) is written once and stays valid: time = (tsc - start) * multiplier >> (32 -
//! shift).

use pv_abi::xen::time::{TSC_STABLE, VcpuTimeInfo};

use crate::platform;

pub use crate::platform::{now, tsc_khz};

/// The time record of every virtual CPU.
pub fn record() -> VcpuTimeInfo {
    let (tsc_timestamp, scale) = platform::time_scale();
    VcpuTimeInfo {
        version: 2,
        pad0: 0,
        tsc_timestamp,
        system_time: 0,
        tsc_to_system_mul: scale.multiplier,
        tsc_shift: scale.shift,
        flags: TSC_STABLE,
        pad1: [0; 2],
    }
}
