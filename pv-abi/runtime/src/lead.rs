//! Calls to the lead monitor (right LEAD) and to the serial ports (right SERIAL), with types.
#![expect(unsafe_code, reason = "hypercalls that fill memory of ours")]

use crate::hypercall::{self, Errno};
use pv_abi::uv::calls::{self, CpuUsage, MonitorEvent, PartitionUsage};
use zerocopy::FromZeros;

/// A call that touches no memory of ours.
fn plain(operation: u64, first: u64, second: u64) -> Result<u64, Errno> {
    // SAFETY: the operations below touch no memory of ours.
    unsafe { hypercall::call(calls::HYPERCALL, [operation, first, second, 0, 0]) }
}

/// Makes the monitor enforce a partition descriptor ([`calls::ACTIVATE_PARTITION`]).
///
/// # Errors
/// What the monitor refuses with.
pub fn activate_partition(number: u32) -> Result<(), Errno> {
    plain(calls::ACTIVATE_PARTITION, number.into(), 0).map(drop)
}

/// Makes the monitor enforce the page map for a range ([`calls::ACTIVATE_PAGES`]).
///
/// # Errors
/// `EBUSY` where a frame that changes owner is referenced.
pub fn activate_pages(first: u64, frames: u64) -> Result<(), Errno> {
    plain(calls::ACTIVATE_PAGES, first, frames).map(drop)
}

/// Makes the monitor enforce a channel table entry ([`calls::ACTIVATE_CHANNEL`]).
///
/// # Errors
/// What the monitor refuses with.
pub fn activate_channel(index: u32) -> Result<(), Errno> {
    plain(calls::ACTIVATE_CHANNEL, index.into(), 0).map(drop)
}

/// Lets a partition run ([`calls::START`]); whether that was all. Else call again.
///
/// # Errors
/// What the monitor refuses with.
pub fn start(number: u32) -> Result<bool, Errno> {
    plain(calls::START, number.into(), 0).map(|left| left == 0)
}

/// Stops scheduling a partition ([`calls::STOP`]).
///
/// # Errors
/// What the monitor refuses with.
pub fn stop(number: u32) -> Result<(), Errno> {
    plain(calls::STOP, number.into(), 0).map(drop)
}

/// Drops what the page tables of a partition in a range of its memory refer to
/// ([`calls::DESTROY`]); whether that was all. Else call again.
///
/// # Errors
/// What the monitor refuses with.
pub fn drop_tables(number: u32, first: u64, frames: u64) -> Result<bool, Errno> {
    let arguments = [calls::DESTROY, number.into(), first, frames, 0];
    // SAFETY: the operation touches no memory of ours.
    unsafe { hypercall::call(calls::HYPERCALL, arguments) }.map(|left| left == 0)
}

/// Drops what else a partition refers to, whose tables are dropped ([`calls::DESTROY`]); whether
/// that was all. Else call again.
///
/// # Errors
/// What the monitor refuses with.
pub fn destroy(number: u32) -> Result<bool, Errno> {
    drop_tables(number, 0, 0)
}

/// Keeps a PCI function from reaching memory ([`calls::QUIESCE_DEVICE`]).
///
/// # Errors
/// What the monitor refuses with.
pub fn quiesce_device(address: u32) -> Result<(), Errno> {
    plain(calls::QUIESCE_DEVICE, address.into(), 0).map(drop)
}

/// What the monitor holds of a frame: owner, and whether it is not RAM
/// ([`calls::FRAME_OWNER`]).
///
/// # Errors
/// What the monitor refuses with.
pub fn frame_owner(frame: u64) -> Result<(u32, bool), Errno> {
    let answer = plain(calls::FRAME_OWNER, frame, 0)?;
    Ok(((answer & 0x3fff_ffff) as u32, answer >> 30 & 1 != 0))
}

/// Whether anything refers to a frame ([`calls::FRAME_OWNER`]).
///
/// # Errors
/// What the monitor refuses with.
pub fn frame_in_use(frame: u64) -> Result<bool, Errno> {
    Ok(plain(calls::FRAME_OWNER, frame, 0)? & calls::FRAME_IN_USE != 0)
}

/// Reads what the monitor did by itself next, if anything, with its number
/// ([`calls::NEXT_EVENT`]). Those up to number `written` are not told again; 0 names none.
///
/// # Errors
/// What the monitor refuses with.
pub fn next_event(written: u64) -> Result<Option<(u64, MonitorEvent)>, Errno> {
    let mut event = MonitorEvent::new_zeroed();
    let arguments = [calls::NEXT_EVENT, (&raw mut event) as u64, written, 0, 0];
    // SAFETY: the operation fills the record.
    let number = unsafe { hypercall::call(calls::HYPERCALL, arguments)? };
    Ok((number != 0).then_some((number, event)))
}

/// Ends the host ([`calls::END_HOST`]); `how` is one of the `END_` values, the rest says which
/// partition is to blame.
///
/// # Errors
/// What the monitor refuses with.
pub fn end_host(how: u64, event: &MonitorEvent) -> Result<(), Errno> {
    let blame = [event.partition, event.cause, event.detail].map(u64::from);
    let arguments = [calls::END_HOST, how, blame[0], blame[1], blame[2]];
    // SAFETY: the operation reads and writes no memory of this partition.
    unsafe { hypercall::call(calls::HYPERCALL, arguments) }.map(drop)
}

/// What a partition used ([`calls::USAGE`]).
///
/// # Errors
/// What the monitor refuses with.
pub fn usage(number: u32) -> Result<PartitionUsage, Errno> {
    let mut usage = PartitionUsage::default();
    let arguments = [calls::USAGE, number.into(), (&raw mut usage) as u64, 0, 0];
    // SAFETY: the operation fills the record.
    unsafe { hypercall::call(calls::HYPERCALL, arguments)? };
    Ok(usage)
}

/// What a physical CPU did ([`calls::CPU_USAGE`]).
///
/// # Errors
/// `ENOENT` past the last CPU.
pub fn cpu_usage(index: u32) -> Result<CpuUsage, Errno> {
    let mut usage = CpuUsage::default();
    let arguments = [calls::CPU_USAGE, index.into(), (&raw mut usage) as u64, 0, 0];
    // SAFETY: the operation fills the record.
    unsafe { hypercall::call(calls::HYPERCALL, arguments)? };
    Ok(usage)
}

/// Writes to serial port `port`; returns how many bytes went out ([`calls::SERIAL_WRITE`]).
///
/// # Errors
/// What the monitor refuses with.
pub fn serial_write(port: u32, bytes: &[u8]) -> Result<usize, Errno> {
    let (address, length) = (bytes.as_ptr() as u64, bytes.len() as u64);
    let arguments = [calls::SERIAL_WRITE, address, length, port.into(), 0];
    // SAFETY: the operation reads the bytes.
    let done = unsafe { hypercall::call(calls::HYPERCALL, arguments)? };
    Ok(usize::try_from(done).unwrap_or(0).min(bytes.len()))
}

/// Reads from serial port `port`; returns how many bytes came in ([`calls::SERIAL_READ`]).
///
/// # Errors
/// What the monitor refuses with.
pub fn serial_read(port: u32, bytes: &mut [u8]) -> Result<usize, Errno> {
    let (address, length) = (bytes.as_mut_ptr() as u64, bytes.len() as u64);
    let arguments = [calls::SERIAL_READ, address, length, port.into(), 0];
    // SAFETY: the operation fills at most `length` bytes.
    let done = unsafe { hypercall::call(calls::HYPERCALL, arguments)? };
    Ok(usize::try_from(done).unwrap_or(0).min(bytes.len()))
}
