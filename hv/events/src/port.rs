//! A port: one atomic word.
//!
//! ```text
//! 63..60 use | 59..52 virtual CPU | 51..32 remote port | 31..0 remote partition or interrupt
//! ```
//!
//! While it is connected, bits 31..16 are the peer and 15..0 the remote partition.

use crate::sync::{AtomicU64, Ordering};

const FREE: u64 = 0;
const RESERVED: u64 = 1;
const UNBOUND: u64 = 2;
const INTERDOMAIN: u64 = 3;
const VIRQ: u64 = 4;
const IPI: u64 = 5;
const DEVICE: u64 = 6;

/// The use of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortUse {
    /// Not in use; it may be allocated.
    Free,
    /// Not in use, and it may not be allocated.
    Reserved,
    /// Waits for partition `remote` to connect.
    Unbound {
        /// The partition that may connect.
        remote: u32,
    },
    /// Connected.
    Interdomain {
        /// The other partition, below 2^16.
        remote: u32,
        /// The port of the other partition.
        port: u32,
        /// For whom the port waits once the other end is closed, below 2^16: for `remote`, or for
        /// the service for which `remote` has connected.
        peer: u32,
    },
    /// Notified by the monitor, for a virtual interrupt.
    Virq {
        /// Virtual interrupt.
        virq: u32,
    },
    /// For interrupts between the partition's virtual CPUs.
    Ipi,
    /// Notified by the monitor, for an interrupt of a device.
    Device {
        /// The monitor's number of the interrupt.
        interrupt: u32,
    },
}

/// The state of a port at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Port {
    /// Its use.
    pub used_for: PortUse,
    /// The virtual CPU that it notifies.
    pub vcpu: u8,
}

impl Port {
    /// A port that is not in use.
    pub const FREE: Self = Self { used_for: PortUse::Free, vcpu: 0 };

    const fn pack(self) -> u64 {
        let (kind, port, low) = match self.used_for {
            PortUse::Free => (FREE, 0, 0),
            PortUse::Reserved => (RESERVED, 0, 0),
            PortUse::Unbound { remote } => (UNBOUND, 0, remote),
            PortUse::Interdomain { remote, port, peer } => {
                (INTERDOMAIN, port, peer << 16 | remote & 0xffff)
            }
            PortUse::Virq { virq } => (VIRQ, 0, virq),
            PortUse::Ipi => (IPI, 0, 0),
            PortUse::Device { interrupt } => (DEVICE, 0, interrupt),
        };
        kind << 60 | (self.vcpu as u64) << 52 | (port as u64 & 0xf_ffff) << 32 | low as u64
    }

    const fn unpack(word: u64) -> Self {
        let low = (word & 0xffff_ffff) as u32;
        let used_for = match word >> 60 {
            FREE => PortUse::Free,
            UNBOUND => PortUse::Unbound { remote: low },
            INTERDOMAIN => {
                let port = (word >> 32) as u32 & 0xf_ffff;
                PortUse::Interdomain { remote: low & 0xffff, port, peer: low >> 16 }
            }
            VIRQ => PortUse::Virq { virq: low },
            IPI => PortUse::Ipi,
            DEVICE => PortUse::Device { interrupt: low },
            _ => PortUse::Reserved,
        };
        Self { used_for, vcpu: (word >> 52 & 0xff) as u8 }
    }
}

/// The word of a port. All zeros is a free port, so that fresh memory is an empty table.
#[derive(Debug)]
#[repr(transparent)]
pub struct PortCell(AtomicU64);

impl Default for PortCell {
    fn default() -> Self {
        Self(AtomicU64::new(0))
    }
}

impl PortCell {
    /// Reads the port.
    #[must_use]
    pub fn load(&self) -> Port {
        Port::unpack(self.0.load(Ordering::Acquire))
    }

    /// Changes the port from `old` to `new` if it still is `old`.
    pub(crate) fn change(&self, old: Port, new: Port) -> bool {
        (self.0)
            .compare_exchange(old.pack(), new.pack(), Ordering::AcqRel, Ordering::Relaxed)
            .is_ok()
    }
}
