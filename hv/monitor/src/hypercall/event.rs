//! `event_channel_op`: 2-level event channels. The FIFO form is refused from its first call on, so
//! that kernels fall back to this one.

use ::events::{PortUse, bind_interdomain};
use pv_abi::xen::{domid, errno, events as abi};

use super::{Call, OrFault, Outcome};
use crate::{
    delivery, guest_memory,
    partition::{self, Partition},
    vcpu::Vcpu,
};

type Operation = fn(&Vcpu, u64) -> Outcome;

/// `event_channel_op(command, argument)`.
pub fn event_channel_op(call: &mut Call) -> Outcome {
    let [command, argument, ..] = call.args;
    let run: Operation = match command {
        abi::BIND_INTERDOMAIN => bind,
        abi::BIND_VIRQ => bind_virq,
        abi::CLOSE => close,
        abi::SEND => send,
        abi::STATUS => status,
        abi::ALLOC_UNBOUND => alloc_unbound,
        abi::BIND_IPI => bind_ipi,
        abi::BIND_VCPU => bind_vcpu,
        abi::UNMASK => unmask,
        abi::RESET => reset,
        _ => return Err(errno::ENOSYS),
    };
    run(call.vcpu, argument)
}

fn own(vcpu: &Vcpu, id: u16) -> bool {
    id == domid::SELF || id == vcpu.partition.domid()
}

fn number_of(vcpu: &Vcpu, id: u16) -> u32 {
    if id == domid::SELF { vcpu.partition.number } else { id.into() }
}

fn bind(vcpu: &Vcpu, argument: u64) -> Outcome {
    let mut bind: abi::BindInterdomain = guest_memory::read(argument).or_fault()?;
    let local = vcpu.partition;
    let remote = partition::find(number_of(vcpu, bind.remote_dom)).ok_or(errno::ESRCH)?;
    bind.local_port = {
        let _locks = lock_both(local, remote);
        bind_interdomain(
            (&local.ports(), local.number),
            (&remote.ports(), remote.number),
            bind.remote_port,
        )?
    };
    delivery::raise(local, bind.local_port, 0);
    guest_memory::write(argument, &bind).or_fault()?;
    Ok(0)
}

/// Locks the port tables of two partitions, always the lower number first.
fn lock_both<'a>(
    a: &'a Partition,
    b: &'a Partition,
) -> (crate::lock::Guard<'a, ()>, Option<crate::lock::Guard<'a, ()>>) {
    if a.number == b.number {
        return (a.ports_lock.lock(), None);
    }
    let (first, second) = if a.number < b.number { (a, b) } else { (b, a) };
    (first.ports_lock.lock(), Some(second.ports_lock.lock()))
}

fn bind_virq(vcpu: &Vcpu, argument: u64) -> Outcome {
    let mut bind: abi::BindVirq = guest_memory::read(argument).or_fault()?;
    let partition = vcpu.partition;
    bind.port = {
        let _lock = partition.ports_lock.lock();
        partition.ports().bind_virq(bind.virq, bind.vcpu)?
    };
    guest_memory::write(argument, &bind).or_fault()?;
    Ok(0)
}

fn bind_ipi(vcpu: &Vcpu, argument: u64) -> Outcome {
    let mut bind: abi::BindIpi = guest_memory::read(argument).or_fault()?;
    let partition = vcpu.partition;
    bind.port = {
        let _lock = partition.ports_lock.lock();
        partition.ports().bind_ipi(bind.vcpu)?
    };
    guest_memory::write(argument, &bind).or_fault()?;
    Ok(0)
}

fn alloc_unbound(vcpu: &Vcpu, argument: u64) -> Outcome {
    let mut wanted: abi::AllocUnbound = guest_memory::read(argument).or_fault()?;
    if !own(vcpu, wanted.dom) {
        return Err(errno::EPERM);
    }
    let partition = vcpu.partition;
    wanted.port = {
        let _lock = partition.ports_lock.lock();
        partition.ports().alloc_unbound(number_of(vcpu, wanted.remote_dom))?
    };
    guest_memory::write(argument, &wanted).or_fault()?;
    Ok(0)
}

/// Closes a port of a partition; the other end of a connection waits again.
pub fn close_port(partition: &Partition, port: u32) -> Result<(), i64> {
    let other = {
        let _lock = partition.ports_lock.lock();
        partition.ports().close(port, &partition.event_bits())?
    };
    if let Some((number, remote_port)) = other {
        if let Some(remote) = partition::find(number) {
            remote.ports().disconnect(remote_port, partition.number, port);
        }
    }
    Ok(())
}

fn close(vcpu: &Vcpu, argument: u64) -> Outcome {
    let close: abi::PortArgument = guest_memory::read(argument).or_fault()?;
    close_port(vcpu.partition, close.port).map(|()| 0)
}

fn send(vcpu: &Vcpu, argument: u64) -> Outcome {
    let send: abi::PortArgument = guest_memory::read(argument).or_fault()?;
    delivery::send(vcpu.partition, send.port).map(|()| 0)
}

fn status(vcpu: &Vcpu, argument: u64) -> Outcome {
    let mut status: abi::EvtchnStatus = guest_memory::read(argument).or_fault()?;
    if !own(vcpu, status.dom) {
        return Err(errno::EPERM);
    }
    let port = vcpu.partition.ports().port(status.port)?;
    status.vcpu = port.vcpu.into();
    (status.status, status.detail, status.remote_port) = match port.used_for {
        PortUse::Free | PortUse::Reserved => (abi::STATUS_CLOSED, 0, 0),
        PortUse::Unbound { remote } => (abi::STATUS_UNBOUND, remote, 0),
        PortUse::Interdomain { remote, port } => (abi::STATUS_INTERDOMAIN, remote, port),
        PortUse::Virq { virq } => (abi::STATUS_VIRQ, virq, 0),
        PortUse::Ipi => (abi::STATUS_IPI, 0, 0),
    };
    guest_memory::write(argument, &status).or_fault()?;
    Ok(0)
}

fn bind_vcpu(vcpu: &Vcpu, argument: u64) -> Outcome {
    let bind: abi::BindVcpu = guest_memory::read(argument).or_fault()?;
    let partition = vcpu.partition;
    let _lock = partition.ports_lock.lock();
    partition.ports().bind_vcpu(bind.port, bind.vcpu).map(|()| 0)
}

fn unmask(vcpu: &Vcpu, argument: u64) -> Outcome {
    let unmask: abi::PortArgument = guest_memory::read(argument).or_fault()?;
    let partition = vcpu.partition;
    let port = partition.ports().port(unmask.port)?;
    let target = partition.vcpu(port.vcpu.into()).ok_or(errno::EINVAL)?;
    if partition.event_bits().unmask(&partition::upcall(target), unmask.port) {
        delivery::kick(target);
    }
    Ok(0)
}

fn reset(vcpu: &Vcpu, argument: u64) -> Outcome {
    let reset: abi::EvtchnReset = guest_memory::read(argument).or_fault()?;
    if !own(vcpu, reset.dom) {
        return Err(errno::EPERM);
    }
    for port in 1..abi::PORTS_2L as u32 {
        let _ = close_port(vcpu.partition, port);
    }
    Ok(0)
}
