//! System time: nanoseconds since the monitor started, from the time-stamp counter.
//!
//! The counters of all CPUs run alike, so the record that kernels read (`vcpu_time_info`) is
//! written once and holds for ever: time = (tsc - start) * multiplier >> (32 - shift).

use core::sync::atomic::Ordering;

use pv_abi::xen::time::{TSC_STABLE, VcpuTimeInfo};

use crate::{machine, partition::Partition, platform, vcpu::Vcpu};

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

/// Writes the time record to the places where the kernel of `vcpu` reads it.
pub fn publish(vcpu: &Vcpu) {
    let record = record();
    let words = zerocopy::IntoBytes::as_bytes(&record).chunks_exact(4);
    let area = vcpu.time_area.get();
    if !area.is_none() {
        area.write(&record);
    }
    let place = &vcpu.info().time;
    for (word, bytes) in place.iter().zip(words) {
        let mut value = [0; 4];
        value.copy_from_slice(bytes);
        word.store(u32::from_le_bytes(value), Ordering::Release);
    }
}

/// Writes the wall clock and the time records of a new partition.
pub fn fill_shared_info(partition: &Partition) {
    for vcpu in partition.all_vcpus() {
        publish(vcpu);
    }
    // Words 384 and 385 of shared info: wc_version and wc_sec, wc_nsec and wc_sec_hi.
    let wall = platform::wall_clock();
    let words = machine::table(partition.shared_info());
    words[384].store(2 | wall << 32, Ordering::Release);
    words[385].store(wall >> 32 << 32, Ordering::Release);
}
