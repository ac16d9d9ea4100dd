//! Entries that map the registers of devices.
//!
//! The monitor decides which frames a partition may map. An entry for a device's registers is
//! uncached, and no other entry is ([`crate::bits::CACHE`]), because no value that a partition
//! writes has these bits. So the partition can remove the entry and not change it, and a table that
//! once held the entry can become a table again only without it. The entry names its device, which
//! counts its entries ([`Machine::count_device_entry`]): while the count is not 0, the device keeps
//! its owner.

use crate::entry::{is_present, of_device};
use crate::update::l1_slot;
use crate::walk::Walk;
use crate::{Error, Machine, Mfn, Place, Space};
use core::sync::atomic::Ordering;

/// Maps frame `mfn` of device memory, which belongs to `device`, in the entry at `place`
/// in a validated level-1 table of the partition.
///
/// # Errors
/// [`Error::WrongType`] if `place` is in no such table; [`Error::Busy`] if the entry is
/// present; for others see [`Error`].
pub fn map_device<M: Machine>(
    machine: &M,
    space: &mut Space,
    place: Place,
    mfn: Mfn,
    device: u8,
) -> Result<(), Error> {
    space.finish(machine)?;
    let entry = l1_slot(&Walk::new(machine, space), place)?;
    let new = of_device(mfn, device)?;
    // CPUs change nothing in an entry that is not present.
    if is_present(entry.load(Ordering::Acquire)) {
        return Err(Error::Busy);
    }
    machine.count_device_entry(device, true);
    entry.store(new, Ordering::Release);
    Ok(())
}
