//! `sched_op`: yield, wait, shut down.

use core::sync::atomic::Ordering;

use pv_abi::{
    uv::{calls::cause, database::state},
    xen::sched,
};

use super::{Call, Outcome, errno, require};
use crate::{
    failure,
    guest_memory::{self, GuestPointer},
    schedule, time,
    vcpu::{POLL_ANY, Vcpu, run},
};

/// `sched_op(command, argument)`.
pub fn sched_op(call: &mut Call) -> Outcome {
    let [command, argument, ..] = call.args;
    match command {
        sched::YIELD => {
            schedule::yield_now();
            Ok(0)
        }
        sched::BLOCK => {
            schedule::wait_for_event(call.vcpu);
            Ok(0)
        }
        sched::SHUTDOWN => {
            let shutdown: sched::Shutdown = guest_memory::read(argument)?;
            let crashed = shutdown.reason == sched::REASON_CRASH;
            let to = if crashed { state::CRASHED } else { state::SHUTDOWN };
            failure::stop(call.vcpu, cause::SHUTDOWN, shutdown.reason, call.registers.rip, to);
            Ok(0)
        }
        sched::POLL => {
            let wanted: sched::Poll = guest_memory::read(argument)?;
            poll(call.vcpu, &wanted)
        }
        sched::REMOTE_SHUTDOWN | sched::PIN_OVERRIDE => Err(errno::EPERM),
        _ => Err(errno::ENOSYS),
    }
}

/// Waits until an event is pending on one of the ports, masked or not, or until the deadline.
fn poll(vcpu: &Vcpu, wanted: &sched::Poll) -> Outcome {
    require(wanted.nr_ports <= sched::MAX_POLL_PORTS, errno::EINVAL)?;
    let ports = GuestPointer::<u32>::new(wanted.ports, wanted.nr_ports.into())?;
    let single = if wanted.nr_ports == 1 { ports.read(0)? } else { POLL_ANY };
    vcpu.polls.store(single, Ordering::SeqCst);
    schedule::block(vcpu, (wanted.timeout != 0).then_some(wanted.timeout));
    let bits = vcpu.partition.event_bits();
    let is_over = wanted.timeout != 0 && wanted.timeout <= time::now();
    // A fault ends the search and the wait: the other reads may fault too, and each fault costs a
    // thousand instructions.
    let ends = |index| ports.read(index).map_or(true, |port| bits.is_pending(port));
    if is_over || vcpu.event_deliverable() || (0..wanted.nr_ports.into()).any(ends) {
        schedule::wake(vcpu);
    }
    Ok(0)
}

/// `set_timer_op(deadline)`: the single-shot timer in its older form; 0 stops it.
pub fn set_timer(call: &mut Call) -> Outcome {
    let deadline = call.args[0];
    schedule::set_timer(call.vcpu, (deadline != 0).then_some(deadline));
    Ok(0)
}

/// Returns whether a virtual CPU was brought up.
pub fn is_up(vcpu: &Vcpu) -> bool {
    vcpu.state.load(Ordering::Acquire) != run::DOWN
}
