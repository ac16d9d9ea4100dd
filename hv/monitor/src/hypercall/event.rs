//! `event_channel_op`: 2-level event channels. The FIFO form is refused from its first call on, so
//! that kernels fall back to this one.

use ::events::{PortUse, bind_interdomain};
use pv_abi::xen::{errno, events as abi};
use spin::mutex::SpinMutexGuard;

use super::{Call, Outcome, is_own, mmu::check_foreign, named, update};
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

fn bind(vcpu: &Vcpu, argument: u64) -> Outcome {
    update(argument, |bind: &mut abi::BindInterdomain| {
        let (local, remote) = (vcpu.partition, named(vcpu, bind.remote_dom)?);
        bind.local_port = {
            let _locks = lock_both(local, remote);
            let (ours, theirs) = (local.ports(), remote.ports());
            bind_interdomain((&ours, local.number), (&theirs, remote.number), bind.remote_port)?
        };
        delivery::raise(local, bind.local_port, 0);
        Ok(())
    })
}

/// Locks the port tables of two partitions, always the lower number first.
fn lock_both<'a>(
    a: &'a Partition,
    b: &'a Partition,
) -> (SpinMutexGuard<'a, ()>, Option<SpinMutexGuard<'a, ()>>) {
    if a.number == b.number {
        return (a.ports_lock.lock(), None);
    }
    let (first, second) = if a.number < b.number { (a, b) } else { (b, a) };
    (first.ports_lock.lock(), Some(second.ports_lock.lock()))
}

fn bind_virq(vcpu: &Vcpu, argument: u64) -> Outcome {
    update(argument, |bind: &mut abi::BindVirq| {
        let _lock = vcpu.partition.ports_lock.lock();
        bind.port = vcpu.partition.ports().bind_virq(bind.virq, bind.vcpu)?;
        Ok(())
    })
}

fn bind_ipi(vcpu: &Vcpu, argument: u64) -> Outcome {
    update(argument, |bind: &mut abi::BindIpi| {
        let _lock = vcpu.partition.ports_lock.lock();
        bind.port = vcpu.partition.ports().bind_ipi(bind.vcpu)?;
        Ok(())
    })
}

fn alloc_unbound(vcpu: &Vcpu, argument: u64) -> Outcome {
    update(argument, |wanted: &mut abi::AllocUnbound| {
        check_foreign(vcpu, wanted.dom.into())?;
        let partition = vcpu.partition;
        let own = is_own(vcpu, wanted.remote_dom);
        let remote = if own { partition.number } else { wanted.remote_dom.into() };
        let _lock = partition.ports_lock.lock();
        wanted.port = partition.ports().alloc_unbound(remote)?;
        Ok(())
    })
}

/// Closes a port of a partition; the other end of a connection waits again.
pub fn close_port(partition: &Partition, port: u32) -> Result<(), i64> {
    let other = {
        let _lock = partition.ports_lock.lock();
        partition.ports().close(port, &partition.event_bits())?
    };
    if let Some((number, remote_port)) = other
        && let Some(remote) = partition::find(number)
    {
        remote.ports().disconnect(remote_port, partition.number, port);
    }
    Ok(())
}

/// The port that an operation with no other argument names.
fn port(argument: u64) -> Result<u32, i64> {
    Ok(guest_memory::read::<abi::PortArgument>(argument)?.port)
}

fn close(vcpu: &Vcpu, argument: u64) -> Outcome {
    close_port(vcpu.partition, port(argument)?).map(|()| 0)
}

fn send(vcpu: &Vcpu, argument: u64) -> Outcome {
    delivery::send(vcpu.partition, port(argument)?).map(|()| 0)
}

fn status(vcpu: &Vcpu, argument: u64) -> Outcome {
    update(argument, |status: &mut abi::EvtchnStatus| {
        check_foreign(vcpu, status.dom.into())?;
        let port = vcpu.partition.ports().port(status.port)?;
        status.vcpu = port.vcpu.into();
        (status.status, status.detail, status.remote_port) = match port.used_for {
            PortUse::Free | PortUse::Reserved => (abi::STATUS_CLOSED, 0, 0),
            PortUse::Unbound { remote } => (abi::STATUS_UNBOUND, remote, 0),
            PortUse::Interdomain { remote, port } => (abi::STATUS_INTERDOMAIN, remote, port),
            PortUse::Virq { virq } => (abi::STATUS_VIRQ, virq, 0),
            PortUse::Ipi => (abi::STATUS_IPI, 0, 0),
        };
        Ok(())
    })
}

fn bind_vcpu(vcpu: &Vcpu, argument: u64) -> Outcome {
    let bind: abi::BindVcpu = guest_memory::read(argument)?;
    let partition = vcpu.partition;
    let _lock = partition.ports_lock.lock();
    partition.ports().bind_vcpu(bind.port, bind.vcpu).map(|()| 0)
}

fn unmask(vcpu: &Vcpu, argument: u64) -> Outcome {
    let number = port(argument)?;
    let partition = vcpu.partition;
    let port = partition.ports().port(number)?;
    let target = partition.vcpu(port.vcpu.into()).ok_or(errno::EINVAL)?;
    if partition.event_bits().unmask(&partition::upcall(target), number) {
        delivery::kick(target);
    }
    Ok(0)
}

fn reset(vcpu: &Vcpu, argument: u64) -> Outcome {
    let reset: abi::EvtchnReset = guest_memory::read(argument)?;
    check_foreign(vcpu, reset.dom.into())?;
    close_all(vcpu.partition);
    Ok(0)
}

/// Closes all ports of a partition.
pub fn close_all(partition: &Partition) {
    let ports = partition.ports();
    for port in 1..abi::PORTS_2L as u32 {
        if ports.port(port).is_ok_and(|port| port.used_for != PortUse::Free) {
            let _ = close_port(partition, port);
        }
    }
}
