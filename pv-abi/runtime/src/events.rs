//! Events: ports to bind, to raise and to wait for.
//!
//! Upcalls stay masked. [`Events::wait`] hands the virtual CPU back with `SCHEDOP_block`, which unmasks
//! and returns at once where something is pending; the upcall that then comes runs a stub that
//! does nothing but return with upcalls masked again. So no event is lost between the last look
//! and the block, and no Rust code ever runs in an upcall.
#![expect(unsafe_code, reason = "hypercalls that read their arguments from memory")]

use crate::channel::Bell;
use crate::hypercall::{self, Errno};
use crate::partition;
use crate::pending::Scan;
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
        // The other end may be closed: it then needs no event.
        let _ = send(*self);
    }
}

/// The pending ports of this partition. Make one and keep it.
#[derive(Debug, Default)]
pub struct Events {
    scan: Scan,
}

impl Events {
    /// None looked at yet.
    #[must_use]
    pub const fn new() -> Self {
        Self { scan: Scan::new() }
    }

    /// Takes a pending port that is not masked, without waiting.
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

/// Hands the virtual CPU back until an event is pending.
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

/// Calls `event_channel_op`, which fills in what the structure returns.
fn operate<T: Argument>(argument: &mut T) -> Result<(), Errno> {
    let arguments = [T::OPERATION, core::ptr::from_mut(argument) as u64, 0, 0, 0];
    // SAFETY: the operation reads and writes the structure alone.
    unsafe { hypercall::call(EVENT_CHANNEL_OP, arguments) }.map(drop)
}

/// Calls one of the operations on a port.
fn on_port(operation: u64, port: Port) -> Result<(), Errno> {
    let argument = PortArgument { port: port.0 };
    let arguments = [operation, (&raw const argument) as u64, 0, 0, 0];
    // SAFETY: the operations on a port read the structure.
    unsafe { hypercall::call(EVENT_CHANNEL_OP, arguments) }.map(drop)
}

/// Binds a new local port to port `remote_port` of domain `remote`, which waits for us.
///
/// # Errors
/// What the monitor refuses with.
pub fn bind_interdomain(remote: u16, remote_port: u32) -> Result<Port, Errno> {
    let mut argument =
        BindInterdomain { remote_dom: remote, remote_port, ..BindInterdomain::default() };
    operate(&mut argument)?;
    Ok(Port(argument.local_port))
}

/// Binds a new local port to a virtual interrupt of virtual CPU 0.
///
/// # Errors
/// What the monitor refuses with.
pub fn bind_virq(virq: u32) -> Result<Port, Errno> {
    let mut argument = BindVirq { virq, ..BindVirq::default() };
    operate(&mut argument)?;
    Ok(Port(argument.port))
}

/// Makes a local port that domain `remote` may bind to.
///
/// # Errors
/// What the monitor refuses with.
pub fn alloc_unbound(remote: u16) -> Result<Port, Errno> {
    let mut argument =
        AllocUnbound { dom: domid::SELF, remote_dom: remote, ..AllocUnbound::default() };
    operate(&mut argument)?;
    Ok(Port(argument.port))
}

/// Raises the event at the other end.
///
/// # Errors
/// What the monitor refuses with.
pub fn send(port: Port) -> Result<(), Errno> {
    on_port(op::SEND, port)
}

/// Closes a port.
///
/// # Errors
/// What the monitor refuses with.
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

/// Unmasks a port; an event that is pending comes at the next look.
///
/// # Errors
/// What the monitor refuses with.
pub fn unmask(port: Port) -> Result<(), Errno> {
    on_port(op::UNMASK, port)
}
