//! Delivering events: from a port of one partition to a virtual CPU of another.

use core::sync::atomic::Ordering;

use events::{Delivery, PortUse};
use pv_abi::{uv::database::rights, xen::events::VIRQ_CONSOLE};
use refusal::Refused;

use crate::{
    cpu, device,
    partition::{self, Partition},
    platform, schedule,
    vcpu::{POLL_ANY, Vcpu, run},
};

/// Makes the event of `port` pending in `partition`, and notifies virtual CPU `id`.
pub fn raise(partition: &Partition, port: u32, id: u32) {
    let Some(vcpu) = partition.vcpu(id) else {
        return;
    };
    let raised = partition.event_bits().raise(&partition::upcall(vcpu), port);
    if raised.newly_pending {
        wake_pollers(partition, port);
    }
    if raised.kick {
        kick(vcpu);
    }
}

/// Makes a virtual CPU check its pending events.
pub fn kick(vcpu: &Vcpu) {
    if vcpu.info().upcall_mask.load(Ordering::SeqCst) != 0 {
        return;
    }
    if vcpu.state.load(Ordering::Acquire) == run::BLOCKED {
        schedule::wake(vcpu);
        return;
    }
    let home = cpu::cpu(vcpu.cpu.load(Ordering::Acquire));
    if home.runs(vcpu) && home.index != cpu::this().index {
        platform::send_ipi(home.index, platform::VECTOR_RESCHEDULE);
    }
}

/// A blocked virtual CPU has its events unmasked, so only polling virtual CPUs need a search.
fn wake_pollers(partition: &Partition, port: u32) {
    for vcpu in partition.all_vcpus() {
        let polls = vcpu.polls.load(Ordering::SeqCst);
        if polls == port || polls == POLL_ANY {
            schedule::wake(vcpu);
        }
    }
}

/// Raises a virtual interrupt of a virtual CPU, or of its partition, if a port is bound to it.
pub fn raise_virq(vcpu: &Vcpu, virq: u32) {
    if let Some((port, target)) = vcpu.partition.ports().virq(virq, vcpu.id) {
        raise(vcpu.partition, port, target.into());
    }
}

/// Raises the port to which the vector of a device is bound, if it is.
pub fn device_interrupt(vector: u8) {
    if let Some((owner, number, interrupt)) = device::interrupt(vector)
        && let Some(partition) = partition::find(owner)
        && let Ok(port) = partition.ports().port(number)
        && port.used_for == (PortUse::Device { interrupt })
    {
        raise(partition, number, port.vcpu.into());
    }
}

/// Sends an event on a port.
///
/// # Errors
/// `-EINVAL` if the port cannot send.
pub fn send(partition: &Partition, port: u32) -> Result<(), Refused> {
    match partition.ports().send(port)? {
        Delivery::Local { vcpu } => raise(partition, port, vcpu.into()),
        Delivery::Remote { partition, port } => {
            if let Some(remote) = partition::find(partition)
                && let Ok(end) = remote.ports().port(port)
            {
                raise(remote, port, end.vcpu.into());
            }
        }
        Delivery::Dropped => {}
    }
    Ok(())
}

/// Notifies the partitions that may read a serial port that input has arrived.
pub fn serial_interrupt(port: u32) {
    if !platform::serial_interrupt(port) {
        return;
    }
    let first_with_right =
        |vcpu: &&Vcpu| vcpu.id == 0 && vcpu.partition.rights() & rights::SERIAL != 0;
    for vcpu in schedule::all_vcpus().filter(first_with_right) {
        raise_virq(vcpu, VIRQ_CONSOLE);
    }
}
