//! Event channels: operations, their arguments, virtual interrupts (`event_channel.h`, `xen.h`).
//!
//! A port numbers an event channel within its domain. Port 0 is never allocated.

use super::domid::DomId;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Connect to an unbound port of another domain: [`BindInterdomain`].
pub const BIND_INTERDOMAIN: u64 = 0;
/// Bind a virtual interrupt: [`BindVirq`].
pub const BIND_VIRQ: u64 = 1;
/// Bind a physical interrupt.
pub const BIND_PIRQ: u64 = 2;
/// Close a port: [`PortArgument`].
pub const CLOSE: u64 = 3;
/// Send an event: [`PortArgument`].
pub const SEND: u64 = 4;
/// Query the status of a port: [`EvtchnStatus`].
pub const STATUS: u64 = 5;
/// Allocate a port that another domain may connect to: [`AllocUnbound`].
pub const ALLOC_UNBOUND: u64 = 6;
/// Allocate a port for interrupts between virtual CPUs: [`BindIpi`].
pub const BIND_IPI: u64 = 7;
/// Set the virtual CPU that a port notifies: [`BindVcpu`].
pub const BIND_VCPU: u64 = 8;
/// Unmask a port: [`PortArgument`].
pub const UNMASK: u64 = 9;
/// Close all ports of a domain.
pub const RESET: u64 = 10;
/// FIFO events: the call is refused, so that kernels use the 2-level bits.
pub const INIT_CONTROL: u64 = 11;
/// FIFO events: refused.
pub const EXPAND_ARRAY: u64 = 12;
/// FIFO events: refused.
pub const SET_PRIORITY: u64 = 13;

/// Number of ports with 2-level bits.
pub const PORTS_2L: usize = 4096;

/// Argument of [`ALLOC_UNBOUND`] (`evtchn_alloc_unbound`); 8 bytes.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct AllocUnbound {
    /// The domain that owns the port.
    pub dom: DomId,
    /// The domain that may connect.
    pub remote_dom: DomId,
    /// Out: the port.
    pub port: u32,
}

/// Argument of [`BIND_INTERDOMAIN`] (`evtchn_bind_interdomain`); 12 bytes.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct BindInterdomain {
    /// The other domain.
    pub remote_dom: DomId,
    /// Padding.
    pub pad: u16,
    /// Its port.
    pub remote_port: u32,
    /// Out: our port.
    pub local_port: u32,
}

/// Argument of [`BIND_VIRQ`] (`evtchn_bind_virq`); 12 bytes.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct BindVirq {
    /// One of the `VIRQ_` constants.
    pub virq: u32,
    /// Virtual CPU; 0 for a domain-wide interrupt.
    pub vcpu: u32,
    /// Out: the port.
    pub port: u32,
}

/// Argument of [`BIND_IPI`] (`evtchn_bind_ipi`); 8 bytes.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct BindIpi {
    /// Virtual CPU that it notifies.
    pub vcpu: u32,
    /// Out: the port.
    pub port: u32,
}

/// Argument of [`CLOSE`], [`SEND`] and [`UNMASK`]; 4 bytes.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PortArgument {
    /// The port.
    pub port: u32,
}

/// Argument of [`BIND_VCPU`] (`evtchn_bind_vcpu`); 8 bytes.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct BindVcpu {
    /// The port.
    pub port: u32,
    /// Virtual CPU that it should notify.
    pub vcpu: u32,
}

/// Argument of [`STATUS`] (`evtchn_status`); 24 bytes.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct EvtchnStatus {
    /// In: the domain that owns the port.
    pub dom: DomId,
    /// Padding.
    pub pad: u16,
    /// In: the port.
    pub port: u32,
    /// Out: one of the `STATUS_` constants.
    pub status: u32,
    /// Out: the virtual CPU that it notifies.
    pub vcpu: u32,
    /// Out: the remote domain (unbound, interdomain) in the low half, or the interrupt's number.
    pub detail: u32,
    /// Out: remote port (interdomain).
    pub remote_port: u32,
}
/// Value of [`EvtchnStatus::status`]: not in use.
pub const STATUS_CLOSED: u32 = 0;
/// Waits for a domain to connect.
pub const STATUS_UNBOUND: u32 = 1;
/// Connected to a port of another domain.
pub const STATUS_INTERDOMAIN: u32 = 2;
/// A physical interrupt.
pub const STATUS_PIRQ: u32 = 3;
/// A virtual interrupt.
pub const STATUS_VIRQ: u32 = 4;
/// For interrupts between virtual CPUs.
pub const STATUS_IPI: u32 = 5;

/// Argument of [`RESET`] (`evtchn_reset`); 2 bytes.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct EvtchnReset {
    /// The domain whose ports are closed.
    pub dom: DomId,
}

/// Per virtual CPU: the timer.
pub const VIRQ_TIMER: u32 = 0;
/// Per virtual CPU: request to print its state.
pub const VIRQ_DEBUG: u32 = 1;
/// Input on the emergency console.
pub const VIRQ_CONSOLE: u32 = 2;
/// An exception of another domain.
pub const VIRQ_DOM_EXC: u32 = 3;
/// Trace buffer.
pub const VIRQ_TBUF: u32 = 4;
/// A domain stopped for its debugger.
pub const VIRQ_DEBUGGER: u32 = 6;
/// Per virtual CPU: profiling.
pub const VIRQ_XENOPROF: u32 = 7;
/// Text in the console ring.
pub const VIRQ_CON_RING: u32 = 8;
/// A physical CPU came up or went down.
pub const VIRQ_PCPU_STATE: u32 = 9;
/// Memory events.
pub const VIRQ_MEM_EVENT: u32 = 10;
/// Argo messages.
pub const VIRQ_ARGO: u32 = 11;
/// Memory is low.
pub const VIRQ_ENOMEM: u32 = 12;
/// Per virtual CPU: performance counters.
pub const VIRQ_XENPMU: u32 = 13;
/// First of eight for the architecture.
pub const VIRQ_ARCH_0: u32 = 16;
/// One past the last virtual interrupt.
pub const NR_VIRQS: u32 = 24;

const _: () = {
    use core::mem::offset_of;
    assert!(size_of::<AllocUnbound>() == 8);
    assert_offsets!(AllocUnbound { dom: 0, remote_dom: 2, port: 4 });
    assert!(size_of::<BindInterdomain>() == 12);
    assert!(offset_of!(BindInterdomain, remote_port) == 4);
    assert!(size_of::<BindVirq>() == 12);
    assert_offsets!(BindVirq { virq: 0, vcpu: 4, port: 8 });
    assert!(size_of::<BindIpi>() == 8);
    assert_offsets!(BindIpi { vcpu: 0, port: 4 });
    assert!(size_of::<PortArgument>() == 4);
    assert_offsets!(PortArgument { port: 0 });
    assert!(size_of::<BindVcpu>() == 8);
    assert_offsets!(BindVcpu { port: 0, vcpu: 4 });
    assert!(size_of::<EvtchnStatus>() == 24);
    assert!(offset_of!(EvtchnStatus, detail) == 16);
    assert!(offset_of!(EvtchnStatus, remote_port) == 20);
    assert!(size_of::<EvtchnReset>() == 2);
    assert_offsets!(EvtchnReset { dom: 0 });
};
