//! The end of a partition: it cannot continue, or stops itself, and the ultravisor learns why.

use core::sync::atomic::Ordering;

use pv_abi::uv::{
    calls::MonitorEvent,
    database::{rights, state},
};

use crate::{
    context::Registers, cpu, ending::Ending, lead_events, partition::Partition, platform, schedule,
    time, vcpu::Vcpu,
};

/// Ends a partition that cannot continue, and records why.
pub fn crash(vcpu: &Vcpu, registers: &Registers, why: u32, detail: u32) {
    let number = vcpu.partition.number;
    let Some(ending) = end_runs(vcpu.partition, state::CRASHED) else {
        return;
    };
    platform::log_warning(format_args!(
        "partition {number}: virtual CPU {} stopped: cause {why}, detail {detail}, error {:#x}, \
         rip {:#x}, rsp {:#x}, cr2 {:#x}, {} mode",
        vcpu.id,
        registers.error,
        registers.rip,
        registers.rsp,
        vcpu.info().cr2.load(Ordering::Relaxed),
        if vcpu.in_kernel.get() { "kernel" } else { "user" },
    ));
    tell(ending, vcpu, why, detail, registers.rip);
}

/// Stops the partition of the virtual CPU that runs on this CPU, and notifies the ultravisor.
pub fn stop(vcpu: &Vcpu, why: u32, detail: u32, address: u64, to: u32) {
    if let Some(ending) = end_runs(vcpu.partition, to) {
        tell(ending, vcpu, why, detail, address);
    }
}

/// Stops the partition's virtual CPUs for good. Returns `None` if another call has done it.
fn end_runs(partition: &Partition, to: u32) -> Option<Ending> {
    let ending = Ending::of(&partition.state, to);
    cpu::all().filter(|local| local.is_online()).for_each(schedule::kick);
    ending
}

/// Records why the partition of the virtual CPU that runs on this CPU has stopped, for the
/// ultravisor.
fn tell(ending: Ending, vcpu: &Vcpu, why: u32, detail: u32, address: u64) {
    let partition = vcpu.partition;
    if partition.rights() & (rights::LEAD | rights::BUILD) != 0 {
        host_failed(partition.number, why, detail);
    }
    let event = MonitorEvent {
        partition: partition.number,
        cause: why,
        detail,
        vcpu: vcpu.id,
        address,
        time: time::now(),
    };
    lead_events::record(ending, event);
}

/// Stops the host, since a partition that it needs has stopped.
pub fn host_failed(number: u32, why: u32, detail: u32) -> ! {
    platform::stop_host(format_args!(
        "partition {number} has stopped (cause {why}, detail {detail}); the host cannot go on"
    ))
}
