//! Events: ports to bind, to raise and to wait for.
//!
//! Upcalls stay masked. [`wait`] hands the virtual CPU back with `SCHEDOP_block`, which unmasks
//! and returns at once where something is pending; the upcall that then comes runs a stub that
//! does nothing but return with upcalls masked again. So no event is lost between the last look
//! and the block, and no Rust code ever runs in an upcall.
#![expect(
    unsafe_code,
    reason = "hypercalls that read their arguments from memory"
)]

use crate::channel::Bell;
use crate::hypercall::{self, Errno};
use crate::pending::Scan;
use crate::{partition, xen};
use core::sync::atomic::Ordering;

/// `VIRQ_TIMER`: the single-shot timer.
pub const VIRQ_TIMER: u32 = 0;
/// `VIRQ_CONSOLE`: input on a serial port (right SERIAL).
pub const VIRQ_CONSOLE: u32 = 2;

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
    let arguments = [xen::SCHEDOP_BLOCK, 0, 0, 0, 0];
    // SAFETY: touches no memory. The upcall that may follow runs the stub, which keeps every
    // register.
    let _ = unsafe { hypercall::call(xen::SCHED_OP, arguments) };
    partition::shared_info()
        .events()
        .upcall_mask
        .store(1, Ordering::Release);
}

/// Calls `event_channel_op` with an argument structure made of `words`; returns them as the
/// monitor left them.
fn operation<const WORDS: usize>(
    number: u64,
    mut words: [u32; WORDS],
) -> Result<[u32; WORDS], Errno> {
    let arguments = [number, words.as_mut_ptr() as u64, 0, 0, 0];
    // SAFETY: every operation below has an argument structure of just these words.
    unsafe { hypercall::call(xen::EVENT_CHANNEL_OP, arguments)? };
    Ok(words)
}

/// Binds a new local port to port `remote_port` of domain `remote`, which waits for us.
///
/// # Errors
/// What the monitor refuses with.
pub fn bind_interdomain(remote: u16, remote_port: u32) -> Result<Port, Errno> {
    let [_, _, port] = operation(
        xen::EVTCHNOP_BIND_INTERDOMAIN,
        [remote.into(), remote_port, 0],
    )?;
    Ok(Port(port))
}

/// Binds a new local port to a virtual interrupt of virtual CPU 0.
///
/// # Errors
/// What the monitor refuses with.
pub fn bind_virq(virq: u32) -> Result<Port, Errno> {
    let [_, _, port] = operation(xen::EVTCHNOP_BIND_VIRQ, [virq, 0, 0])?;
    Ok(Port(port))
}

/// Makes a local port that domain `remote` may bind to.
///
/// # Errors
/// What the monitor refuses with.
pub fn alloc_unbound(remote: u16) -> Result<Port, Errno> {
    let domains = u32::from(xen::DOMID_SELF) | u32::from(remote) << 16;
    let [_, port] = operation(xen::EVTCHNOP_ALLOC_UNBOUND, [domains, 0])?;
    Ok(Port(port))
}

/// Raises the event at the other end.
///
/// # Errors
/// What the monitor refuses with.
pub fn send(port: Port) -> Result<(), Errno> {
    operation(xen::EVTCHNOP_SEND, [port.0]).map(drop)
}

/// Closes a port.
///
/// # Errors
/// What the monitor refuses with.
pub fn close(port: Port) -> Result<(), Errno> {
    operation(xen::EVTCHNOP_CLOSE, [port.0]).map(drop)
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
    operation(xen::EVTCHNOP_UNMASK, [port.0]).map(drop)
}
