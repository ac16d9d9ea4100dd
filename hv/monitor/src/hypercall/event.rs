//! `event_channel_op`: 2-level event channels. The monitor refuses the first call of the FIFO form,
//! so kernels fall back to the 2-level form.

use core::sync::atomic::Ordering;

use ::events::{PortUse, bind_interdomain};
use pv_abi::xen::events as abi;

use super::{Call, Outcome, Refused, errno, is_own, mmu::check_foreign, named, update};
use crate::{
    delivery, device, guest_memory,
    lock::Guard,
    partition::{self, Partition},
    stay,
    vcpu::Vcpu,
};

type Operation = fn(&Vcpu, u64) -> Outcome;

/// Marks the command of a reset that continues; the bits above the command's hold the next port.
const GOES_ON: u64 = 0x7273_7400_0000_0000;
/// Width of the command of a reset that continues.
const COMMAND_BITS: u32 = 16;

/// `event_channel_op(command, argument)`.
pub fn event_channel_op(call: &mut Call) -> Outcome {
    let [command, argument, ..] = call.args;
    if command & GOES_ON == GOES_ON || command == abi::RESET {
        return reset(call);
    }
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
        _ => return Err(errno::ENOSYS),
    };
    run(call.vcpu, argument)
}

fn bind(vcpu: &Vcpu, argument: u64) -> Outcome {
    update(argument, |bind: &mut abi::BindInterdomain| {
        let (local, remote) = (vcpu.partition, named(vcpu, bind.remote_dom)?);
        bind.local_port = {
            let _locks = lock_both(local, remote)?;
            let (ours, theirs) = (local.ports(), remote.ports());
            let by = local.domids().map(u32::from);
            bind_interdomain((&ours, by), (&theirs, remote.number), bind.remote_port)?
        };
        delivery::raise(local, bind.local_port, 0);
        Ok(())
    })
}

/// Locks the port tables of two partitions, always the lower number first.
fn lock_both<'a>(
    a: &'a Partition,
    b: &'a Partition,
) -> Result<(Guard<'a, ()>, Option<Guard<'a, ()>>), Refused> {
    if a.number == b.number {
        return Ok((a.ports_lock.lock_or_again()?, None));
    }
    let (first, second) = if a.number < b.number { (a, b) } else { (b, a) };
    Ok((first.ports_lock.lock_or_again()?, Some(second.ports_lock.lock_or_again()?)))
}

fn bind_virq(vcpu: &Vcpu, argument: u64) -> Outcome {
    update(argument, |bind: &mut abi::BindVirq| {
        let _lock = vcpu.partition.ports_lock.lock_or_again()?;
        bind.port = vcpu.partition.ports().bind_virq(bind.virq, bind.vcpu)?;
        Ok(())
    })
}

fn bind_ipi(vcpu: &Vcpu, argument: u64) -> Outcome {
    update(argument, |bind: &mut abi::BindIpi| {
        let _lock = vcpu.partition.ports_lock.lock_or_again()?;
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
        let _lock = partition.ports_lock.lock_or_again()?;
        wanted.port = partition.ports().alloc_unbound(remote)?;
        Ok(())
    })
}

/// Closes a port of a partition; the other end of a connection becomes unbound and waits for a new
/// peer.
pub fn close_port(partition: &Partition, port: u32) -> Result<(), Refused> {
    let used_for = {
        let _lock = partition.ports_lock.lock_or_again()?;
        partition.ports().close(port, &partition.event_bits())?
    };
    match used_for {
        PortUse::Interdomain { remote, port: remote_port, .. } => {
            if let Some(remote) = partition::find(remote) {
                remote.ports().disconnect(remote_port, partition.number, port);
            }
        }
        PortUse::Device { interrupt } => device::unbind(partition.number, port, interrupt),
        _ => {}
    }
    Ok(())
}

/// Reads the port from an argument that holds nothing else.
fn port(argument: u64) -> Result<u32, Refused> {
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
            PortUse::Interdomain { peer, port, .. } => (abi::STATUS_INTERDOMAIN, peer, port),
            PortUse::Virq { virq } => (abi::STATUS_VIRQ, virq, 0),
            PortUse::Ipi => (abi::STATUS_IPI, 0, 0),
            PortUse::Device { interrupt } => (abi::STATUS_PIRQ, interrupt, 0),
        };
        Ok(())
    })
}

fn bind_vcpu(vcpu: &Vcpu, argument: u64) -> Outcome {
    let bind: abi::BindVcpu = guest_memory::read(argument)?;
    let partition = vcpu.partition;
    let _lock = partition.ports_lock.lock_or_again()?;
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

fn reset(call: &mut Call) -> Outcome {
    let [command, argument, ..] = call.args;
    let reset: abi::EvtchnReset = guest_memory::read(argument)?;
    check_foreign(call.vcpu, reset.dom.into())?;
    let mut next = (narrow::low_32(command) >> COMMAND_BITS).max(1);
    close_from(call.vcpu.partition, &mut next).map(|()| 0).inspect_err(|_| {
        call.args[0] = GOES_ON | u64::from(next) << COMMAND_BITS | abi::RESET;
    })
}

/// Closes the ports of a partition from `next` on.
///
/// # Errors
/// Returns [`Refused::Again`] if the work is not finished: `next` says where to continue.
fn close_from(partition: &Partition, next: &mut u32) -> Result<(), Refused> {
    let ports = partition.ports();
    while (*next as usize) < abi::PORTS_2L {
        if ports.port(*next).is_ok_and(|port| port.used_for != PortUse::Free)
            && close_port(partition, *next) == Err(Refused::Again)
        {
            return Err(Refused::Again);
        }
        *next += 1;
        if stay::should_yield() {
            return Err(Refused::Again);
        }
    }
    Ok(())
}

/// Closes all ports of a partition that no longer runs.
///
/// # Errors
/// Returns [`Refused::Again`] if the work is not finished; the caller calls again.
pub fn close_all(partition: &Partition) -> Result<(), Refused> {
    let mut next = partition.closed_ports.load(Ordering::Relaxed).max(1);
    let closed = close_from(partition, &mut next);
    partition.closed_ports.store(next, Ordering::Relaxed);
    closed
}
