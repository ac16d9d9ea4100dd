//! Events: binds ports, raises events, and waits for them.
//!
//! Upcalls stay masked. [`Events::wait`] blocks the virtual CPU with `SCHEDOP_block`, which unmasks
//! upcalls and returns at once if an event is pending. The upcall that then comes runs a stub that
//! only returns with upcalls masked again. So no event is lost between the last check and the
//! block, and no Rust code ever runs in an upcall.
#![expect(unsafe_code, reason = "hypercalls that read their arguments from memory")]

use crate::hypercall::{self, Errno};
use crate::partition;
use crate::pending::Scan;
use channel::ends::Bell;
use core::sync::atomic::Ordering;
use pv_abi::xen::events::{AllocUnbound, BindInterdomain, BindVirq, PortArgument};
use pv_abi::xen::hypercall::{EVENT_CHANNEL_OP, SCHED_OP};
use pv_abi::xen::{domid, events as op, sched};

pub use pv_abi::xen::events::{VIRQ_CONSOLE, VIRQ_TIMER};

/// A local event port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Port(pub u32);

impl Bell for Port {
    fn ring(&mut self) {
        // If the other end is closed, it needs no event.
        let _ = send(*self);
    }
}

/// The pending ports of this partition. Make one value and keep it.
#[derive(Debug, Default)]
pub struct Events {
    scan: Scan,
}

impl Events {
    /// Makes a value that has read no ports yet.
    #[must_use]
    pub const fn new() -> Self {
        Self { scan: Scan::new() }
    }

    /// Takes a pending, unmasked port, without waiting.
    pub fn take(&mut self) -> Option<Port> {
        self.scan.take(&partition::shared_info().events()).map(Port)
    }

    /// Waits for the next pending port.
    pub fn wait(&mut self) -> Port {
        loop {
            if let Some(port) = self.take() {
                return port;
            }
            block();
        }
    }
}

/// Blocks the virtual CPU until an event is pending.
fn block() {
    let arguments = [sched::BLOCK, 0, 0, 0, 0];
    // SAFETY: touches no memory. The upcall that may follow runs the stub, which keeps every
    // register.
    let _ = unsafe { hypercall::call(SCHED_OP, arguments) };
    partition::shared_info().events().upcall_mask.store(1, Ordering::Release);
}

/// The argument structure of an event channel operation.
///
/// # Safety
/// The operation of this number must read and write at most this structure.
unsafe trait Argument {
    const OPERATION: u64;
}

// SAFETY: the structure of the operation.
unsafe impl Argument for BindInterdomain {
    const OPERATION: u64 = op::BIND_INTERDOMAIN;
}
// SAFETY: the structure of the operation.
unsafe impl Argument for BindVirq {
    const OPERATION: u64 = op::BIND_VIRQ;
}
// SAFETY: the structure of the operation.
unsafe impl Argument for AllocUnbound {
    const OPERATION: u64 = op::ALLOC_UNBOUND;
}

/// Calls `event_channel_op`, which fills in the results in the structure.
fn operate<T: Argument>(argument: &mut T) -> Result<(), Errno> {
    let arguments = [T::OPERATION, core::ptr::from_mut(argument) as u64, 0, 0, 0];
    // SAFETY: the operation reads and writes only the structure.
    unsafe { hypercall::call(EVENT_CHANNEL_OP, arguments) }.map(drop)
}

/// Calls one of the operations on a port.
fn on_port(operation: u64, port: Port) -> Result<(), Errno> {
    let argument = PortArgument { port: port.0 };
    let arguments = [operation, (&raw const argument) as u64, 0, 0, 0];
    // SAFETY: the operations on a port only read the structure.
    unsafe { hypercall::call(EVENT_CHANNEL_OP, arguments) }.map(drop)
}

/// Binds a new local port to port `remote_port` of domain `remote`, which waits for us.
///
/// # Errors
/// The monitor's errno.
pub fn bind_interdomain(remote: u16, remote_port: u32) -> Result<Port, Errno> {
    let mut argument =
        BindInterdomain { remote_dom: remote, remote_port, ..BindInterdomain::default() };
    operate(&mut argument)?;
    Ok(Port(argument.local_port))
}

/// Binds a new local port to a virtual interrupt of virtual CPU 0.
///
/// # Errors
/// The monitor's errno.
pub fn bind_virq(virq: u32) -> Result<Port, Errno> {
    let mut argument = BindVirq { virq, ..BindVirq::default() };
    operate(&mut argument)?;
    Ok(Port(argument.port))
}

/// Makes a local port that domain `remote` may bind to.
///
/// # Errors
/// The monitor's errno.
pub fn alloc_unbound(remote: u16) -> Result<Port, Errno> {
    let mut argument =
        AllocUnbound { dom: domid::SELF, remote_dom: remote, ..AllocUnbound::default() };
    operate(&mut argument)?;
    Ok(Port(argument.port))
}

/// Raises the event at the other end of a port.
///
/// # Errors
/// The monitor's errno.
pub fn send(port: Port) -> Result<(), Errno> {
    on_port(op::SEND, port)
}

/// Closes a port.
///
/// # Errors
/// The monitor's errno.
pub fn close(port: Port) -> Result<(), Errno> {
    on_port(op::CLOSE, port)
}

/// Masks a port: its events stay pending.
pub fn mask(port: Port) {
    let words = partition::shared_info().events();
    if let Some(word) = words.mask.get(port.0 as usize / 64) {
        word.fetch_or(1 << (port.0 % 64), Ordering::AcqRel);
    }
}

/// Unmasks a port; the next check finds its pending event.
///
/// # Errors
/// The monitor's errno.
pub fn unmask(port: Port) -> Result<(), Errno> {
    on_port(op::UNMASK, port)
}
