//! `physdev_op`: a partition without devices can only set its I/O privilege level.

use pv_abi::xen::physdev;

use super::{Call, Outcome, errno, require};
use crate::guest_memory;

/// `physdev_op(command, argument)`.
pub fn physdev_op(call: &mut Call) -> Outcome {
    let [command, argument, ..] = call.args;
    match command {
        physdev::SET_IOPL => {
            let set: physdev::SetIopl = guest_memory::read(argument)?;
            require(set.iopl <= 3, errno::EINVAL)?;
            call.vcpu.iopl.set(set.iopl);
            Ok(0)
        }
        // A partition never reaches a port directly, so there is no bitmap to load.
        physdev::SET_IOBITMAP => Ok(0),
        physdev::APIC_READ
        | physdev::APIC_WRITE
        | physdev::ALLOC_IRQ_VECTOR
        | physdev::PCI_DEVICE_ADD => Err(errno::EPERM),
        _ => Err(errno::ENOSYS),
    }
}
