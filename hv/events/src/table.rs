//! A partition's ports.
//!
//! Rules: port 0 is never used. A connection is two ports that name each other. When one of them is
//! closed, the other becomes unbound again for the partition for which it was unbound before: the
//! closer, or the service whose member the closer is. The closer, or another member, may connect
//! again. A virtual interrupt has at most one port: per virtual CPU, or per partition for a
//! partition-wide interrupt.

use crate::port::{Port, PortCell, PortUse};
use crate::sync::{AtomicU32, Ordering};
use crate::{EventBits, Result};
use pv_abi::xen::events;
use refusal::errno;

/// Where an event is delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// To a port of another partition.
    Remote {
        /// The other partition.
        partition: u32,
        /// Its port.
        port: u32,
    },
    /// To the same port of the sender, for virtual CPU `vcpu`.
    Local {
        /// The virtual CPU to notify.
        vcpu: u8,
    },
    /// Nowhere: the port waits for a connection, and the event is dropped.
    Dropped,
}

/// The ports of a partition, in memory of the caller.
#[derive(Clone, Copy, Debug)]
pub struct PortTable<'a> {
    cells: &'a [PortCell],
    /// Port of each virtual interrupt, [`events::NR_VIRQS`] per virtual CPU; 0 for none.
    virqs: &'a [AtomicU32],
    vcpus: u32,
}

impl<'a> PortTable<'a> {
    /// A table over `cells` (at most the first [`events::PORTS_2L`] count) and `virqs`
    /// ([`events::NR_VIRQS`] for each of `vcpus`). Both are all zeros when the partition is made.
    #[must_use]
    pub fn new(cells: &'a [PortCell], virqs: &'a [AtomicU32], vcpus: u32) -> Self {
        let cells = cells.get(..events::PORTS_2L).unwrap_or(cells);
        let room = u32::try_from(virqs.len()).unwrap_or(u32::MAX) / events::NR_VIRQS;
        Self { cells, virqs, vcpus: vcpus.min(room).min(u8::MAX.into()) }
    }

    /// Reads a port. Returns `-EINVAL` if there is no such port.
    pub fn port(&self, port: u32) -> Result<Port> {
        self.cell(port).map(PortCell::load)
    }

    /// Allocates the lowest free port, which notifies virtual CPU 0, for partition `remote` to
    /// connect to. Returns `-ENOSPC` if all are in use.
    pub fn alloc_unbound(&self, remote: u32) -> Result<u32> {
        self.allocate(Port { used_for: PortUse::Unbound { remote }, vcpu: 0 })
    }

    /// Makes the given port wait for partition `remote`, unless it does already, or `remote` has
    /// connected. Returns `-EINVAL` if the port does not exist, `-EBUSY` if it is in use for
    /// something else.
    pub fn set_unbound(&self, port: u32, remote: u32) -> Result<()> {
        match self.port(port)?.used_for {
            PortUse::Unbound { remote: by } | PortUse::Interdomain { remote: by, .. }
                if by == remote =>
            {
                Ok(())
            }
            _ => {
                let new = Port { used_for: PortUse::Unbound { remote }, vcpu: 0 };
                if self.cell(port)?.change(Port::FREE, new) { Ok(()) } else { Err(errno::EBUSY) }
            }
        }
    }

    /// Binds a virtual interrupt to the lowest free port. Returns `-EINVAL` if there is no such
    /// interrupt, or a partition-wide one is for a virtual CPU other than 0; `-ENOENT` if there is
    /// no such virtual CPU; `-EEXIST` if it has a port; `-ENOSPC` if no port is free.
    pub fn bind_virq(&self, virq: u32, vcpu: u32) -> Result<u32> {
        if virq >= events::NR_VIRQS || (!is_per_vcpu(virq) && vcpu != 0) {
            return Err(errno::EINVAL);
        }
        let vcpu = self.vcpu(vcpu)?;
        let slot = self.virq_slot(u32::from(vcpu), virq).ok_or(errno::EINVAL)?;
        if slot.load(Ordering::Acquire) != 0 {
            return Err(errno::EEXIST);
        }
        let used_for = PortUse::Virq { virq };
        let port = self.allocate(Port { used_for, vcpu })?;
        if slot.compare_exchange(0, port, Ordering::AcqRel, Ordering::Relaxed).is_err() {
            if let Ok(cell) = self.cell(port) {
                cell.change(Port { used_for, vcpu }, Port::FREE);
            }
            return Err(errno::EEXIST);
        }
        Ok(port)
    }

    /// Allocates the lowest free port for interrupts to `vcpu`. Returns `-ENOENT` if there is no
    /// such virtual CPU, `-ENOSPC` if no port is free.
    pub fn bind_ipi(&self, vcpu: u32) -> Result<u32> {
        let vcpu = self.vcpu(vcpu)?;
        self.allocate(Port { used_for: PortUse::Ipi, vcpu })
    }

    /// Allocates the lowest free port for an interrupt of a device; it notifies virtual CPU 0.
    /// Returns `-ENOSPC` if no port is free.
    pub fn bind_device(&self, interrupt: u32) -> Result<u32> {
        self.allocate(Port { used_for: PortUse::Device { interrupt }, vcpu: 0 })
    }

    /// Sets the virtual CPU that a port notifies. Returns `-ENOENT` if there is no such virtual
    /// CPU, `-EINVAL` if the port may not move.
    pub fn bind_vcpu(&self, port: u32, vcpu: u32) -> Result<()> {
        let vcpu = self.vcpu(vcpu)?;
        let cell = self.cell(port)?;
        loop {
            let old = cell.load();
            match old.used_for {
                PortUse::Unbound { .. } | PortUse::Interdomain { .. } => {}
                PortUse::Virq { virq } if !is_per_vcpu(virq) => {}
                _ => return Err(errno::EINVAL),
            }
            if cell.change(old, Port { vcpu, ..old }) {
                return Ok(());
            }
        }
    }

    /// Frees a port and clears its pending bit. Returns its use: for a connection, the caller passes
    /// the partition and port at the other end to [`Self::disconnect`] of that partition's table.
    /// Returns `-EINVAL` if the port is not in use.
    pub fn close(&self, port: u32, bits: &EventBits) -> Result<PortUse> {
        let cell = self.cell(port)?;
        loop {
            let old = cell.load();
            if matches!(old.used_for, PortUse::Free | PortUse::Reserved) {
                return Err(errno::EINVAL);
            }
            if !cell.change(old, Port { used_for: PortUse::Reserved, vcpu: 0 }) {
                continue;
            }
            if let PortUse::Virq { virq } = old.used_for {
                self.forget_virq(virq, port);
            }
            bits.clear_pending(port);
            cell.change(Port { used_for: PortUse::Reserved, vcpu: 0 }, Port::FREE);
            return Ok(old.used_for);
        }
    }

    /// Makes our port `own` wait for its peer again, after partition `by` closed the other end,
    /// `port`. Does nothing if `own` is connected elsewhere by now.
    pub fn disconnect(&self, own: u32, by: u32, port: u32) {
        let Ok(cell) = self.cell(own) else { return };
        loop {
            let old = cell.load();
            let peer = match old.used_for {
                PortUse::Interdomain { remote, port: at, peer } if (remote, at) == (by, port) => {
                    peer
                }
                _ => return,
            };
            let new = Port { used_for: PortUse::Unbound { remote: peer }, vcpu: old.vcpu };
            if cell.change(old, new) {
                return;
            }
        }
    }

    /// The delivery of an event that the partition sends on `port`. Returns `-EINVAL` if the port
    /// cannot send.
    pub fn send(&self, port: u32) -> Result<Delivery> {
        let Port { used_for, vcpu } = self.port(port)?;
        match used_for {
            PortUse::Interdomain { remote, port, .. } => {
                Ok(Delivery::Remote { partition: remote, port })
            }
            PortUse::Ipi => Ok(Delivery::Local { vcpu }),
            PortUse::Unbound { .. } => Ok(Delivery::Dropped),
            PortUse::Free | PortUse::Reserved | PortUse::Virq { .. } | PortUse::Device { .. } => {
                Err(errno::EINVAL)
            }
        }
    }

    /// The port of a virtual interrupt and the virtual CPU that it notifies, if it is bound. For a
    /// partition-wide interrupt, `vcpu` is 0.
    #[must_use]
    pub fn virq(&self, virq: u32, vcpu: u32) -> Option<(u32, u8)> {
        let port = self.virq_slot(vcpu, virq)?.load(Ordering::Acquire);
        let cell = self.cell(port).ok()?.load();
        (cell.used_for == PortUse::Virq { virq }).then_some((port, cell.vcpu))
    }

    /// Writes `new` to the lowest free port.
    fn allocate(&self, new: Port) -> Result<u32> {
        for (port, cell) in (0..).zip(self.cells).skip(1) {
            if cell.change(Port::FREE, new) {
                return Ok(port);
            }
        }
        Err(errno::ENOSPC)
    }

    /// Clears the record of `port` for `virq`. The port of a virtual CPU's interrupt never moves,
    /// so exactly one record names it.
    fn forget_virq(&self, virq: u32, port: u32) {
        for vcpu in 0..self.vcpus {
            if let Some(slot) = self.virq_slot(vcpu, virq) {
                let _ = slot.compare_exchange(port, 0, Ordering::AcqRel, Ordering::Relaxed);
            }
        }
    }

    fn cell(&self, port: u32) -> Result<&'a PortCell> {
        let index = usize::try_from(port).map_err(|_| errno::EINVAL)?;
        if index == 0 {
            return Err(errno::EINVAL);
        }
        masked::get(self.cells, index).ok_or(errno::EINVAL)
    }

    fn vcpu(&self, vcpu: u32) -> Result<u8> {
        if vcpu >= self.vcpus {
            return Err(errno::ENOENT);
        }
        u8::try_from(vcpu).map_err(|_| errno::ENOENT)
    }

    fn virq_slot(&self, vcpu: u32, virq: u32) -> Option<&'a AtomicU32> {
        if vcpu >= self.vcpus || virq >= events::NR_VIRQS {
            return None;
        }
        masked::get(self.virqs, usize::try_from(vcpu * events::NR_VIRQS + virq).ok()?)
    }
}

/// Returns whether each virtual CPU has its own port for `virq`.
const fn is_per_vcpu(virq: u32) -> bool {
    use events::{VIRQ_DEBUG, VIRQ_TIMER, VIRQ_XENOPROF, VIRQ_XENPMU};
    matches!(virq, VIRQ_TIMER | VIRQ_DEBUG | VIRQ_XENOPROF | VIRQ_XENPMU)
}

/// Connects the lowest free port of `local` to `remote_port` of partition `remote_number`, which must
/// wait for one of `by`: the number of the local partition, or that of the service whose member it
/// is. Returns `-EINVAL` if it does not wait, `-ENOSPC` if no port is free.
///
/// Afterwards the caller makes an event pending on the new port, so that an event that the other
/// side sent before is not lost.
pub fn bind_interdomain(
    (local, by): (&PortTable, [u32; 2]),
    (remote, remote_number): (&PortTable, u32),
    remote_port: u32,
) -> Result<u32> {
    let waiting = remote.port(remote_port)?;
    let peer = match waiting.used_for {
        PortUse::Unbound { remote } if by.contains(&remote) => remote,
        _ => return Err(errno::EINVAL),
    };
    let used_for =
        PortUse::Interdomain { remote: remote_number, port: remote_port, peer: remote_number };
    let ours = Port { used_for, vcpu: 0 };
    let port = local.allocate(ours)?;
    let used_for = PortUse::Interdomain { remote: by[0], port, peer };
    let theirs = Port { used_for, vcpu: waiting.vcpu };
    if remote.cell(remote_port)?.change(waiting, theirs) {
        return Ok(port);
    }
    if let Ok(cell) = local.cell(port) {
        cell.change(ours, Port::FREE);
    }
    Err(errno::EINVAL)
}

/// Connects two given ports. Each must be free, wait for the other's partition, or be connected
/// this way already. Returns `-EINVAL` if there is no such port, `-EBUSY` if one is in use for
/// something else.
pub fn bind_pair(
    (a, number_a, port_a): (&PortTable, u32, u32),
    (b, number_b, port_b): (&PortTable, u32, u32),
) -> Result<()> {
    let (cell_a, cell_b) = (a.cell(port_a)?, b.cell(port_b)?);
    let (old_a, old_b) = (cell_a.load(), cell_b.load());
    let joined_a = PortUse::Interdomain { remote: number_b, port: port_b, peer: number_b };
    let joined_b = PortUse::Interdomain { remote: number_a, port: port_a, peer: number_a };
    let may_join = |old: Port, joined: PortUse, other: u32| {
        old.used_for == PortUse::Free
            || old.used_for == joined
            || old.used_for == (PortUse::Unbound { remote: other })
    };
    if !may_join(old_a, joined_a, number_b) || !may_join(old_b, joined_b, number_a) {
        return Err(errno::EBUSY);
    }
    let new_a = Port { used_for: joined_a, vcpu: old_a.vcpu };
    if !cell_a.change(old_a, new_a) {
        return Err(errno::EBUSY);
    }
    if !cell_b.change(old_b, Port { used_for: joined_b, vcpu: old_b.vcpu }) {
        cell_a.change(new_a, old_a);
        return Err(errno::EBUSY);
    }
    Ok(())
}
