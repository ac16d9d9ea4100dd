//! Calls about PCI functions: those of the lead monitor, and those of a function's owner.

use page_tables::{Mfn, map_device};

use super::{Call, Outcome, Refused, errno, lead, require};
use crate::{
    database,
    device::{self, DEVICES, Device},
    lock::Guard,
    machine::Host,
    stay, walk,
};

type Locked = (Device, Guard<'static, ()>);

/// The function that the call names; `absent` is the answer if there is none.
fn named(call: &Call, absent: Refused) -> Result<Locked, Refused> {
    let lock = DEVICES.lock_or_again()?;
    Ok((device::find(call.args[1]).ok_or(absent)?, lock))
}

/// The function that the caller names and owns.
fn own(call: &Call) -> Result<Locked, Refused> {
    let (device, lock) = named(call, errno::EPERM)?;
    require(device.owner() == call.vcpu.partition.number, errno::EPERM)?;
    Ok((device, lock))
}

/// `ACTIVATE_DEVICE(function)`.
pub fn activate(call: &mut Call) -> Outcome {
    let (device, _lock) = named(call, errno::ENOENT)?;
    let entry = database::reader().device(device.index.into()).map_err(lead::refusal)?;
    device.give(entry.owner).map(|()| 0)
}

/// `QUIESCE_DEVICE(function)`.
pub fn quiesce(call: &mut Call) -> Outcome {
    let (device, _lock) = named(call, errno::ENOENT)?;
    device.quiesce();
    Ok(0)
}

/// `DEVICE_READ(function, offset)`.
pub fn read(call: &mut Call) -> Outcome {
    let ((device, _lock), offset) = (own(call)?, call.args[2]);
    require(offset < 256 && offset.is_multiple_of(4), errno::EINVAL)?;
    require(!device.is_in_reset(), errno::EBUSY)?;
    Ok(device.read(narrow::low_16(offset)).into())
}

/// `DEVICE_COMMAND(function, bits)`.
pub fn command(call: &mut Call) -> Outcome {
    let (device, _lock) = own(call)?;
    device.set_command(narrow::low_32(call.args[2])).map(|()| 0)
}

/// `DEVICE_MAP(function, page and BAR, address, count)`.
pub fn map(call: &mut Call) -> Outcome {
    let ((device, _lock), [_, _, place, va, count, _]) = (own(call)?, call.args);
    let mut space = call.vcpu.partition.space.lock_or_again()?;
    for done in 0..count {
        let mapped = page_of(device, place & 7, (place >> 32) + done).and_then(|mfn| {
            let to = walk::place(&space, call.vcpu, va.wrapping_add(done << 12));
            Ok(map_device(&Host, &mut space, to.ok_or(errno::EINVAL)?, mfn, device.index)?)
        });
        match mapped {
            Err(refused) if done == 0 => return Err(refused),
            Err(_) => return Ok(done),
            Ok(()) if stay::should_yield() => return Ok(done + 1),
            Ok(()) => {}
        }
    }
    Ok(count)
}

/// The frame of a page of a BAR.
fn page_of(device: Device, bar: u64, page: u64) -> Result<Mfn, Refused> {
    let record = &device.function.record;
    let bar = record.bars.get(narrow::size(bar)).ok_or(errno::EINVAL)?;
    let pages = (bar.address % 4096 + bar.bytes).div_ceil(4096);
    require(bar.bytes > 0 && page < pages, errno::EINVAL)?;
    let mfn = bar.address / 4096 + page;
    let vectors = u64::from(record.msix_vectors);
    let has = |first: u64, bytes: u64| {
        vectors > 0 && first / 4096 <= mfn && mfn <= (first + bytes - 1) / 4096
    };
    let pending = has(record.msix_pending, vectors.div_ceil(64) * 8);
    require(!pending && !has(record.msix_table, vectors * 16), errno::EPERM)?;
    Ok(Mfn::new(mfn))
}

/// `DEVICE_BIND(function, vector)`.
pub fn bind(call: &mut Call) -> Outcome {
    let ((device, _lock), partition) = (own(call)?, call.vcpu.partition);
    let port = device.bind(call.args[2], |interrupt| {
        let _lock = partition.ports_lock.lock_or_again()?;
        partition.ports().bind_device(interrupt)
    })?;
    Ok(port.into())
}

/// `DEVICE_CONFIRM(function)`.
pub fn confirm(call: &mut Call) -> Outcome {
    let (device, _lock) = own(call)?;
    device.confirm();
    Ok(0)
}

/// `DEVICE_RESET(function)`.
pub fn reset(call: &mut Call) -> Outcome {
    let (device, _lock) = own(call)?;
    device.reset()
}
