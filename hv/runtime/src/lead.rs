//! Typed calls to the lead monitor (right LEAD) and to the serial ports (right SERIAL).
#![expect(unsafe_code, reason = "hypercalls that fill memory of ours")]

use core::mem::MaybeUninit;

use crate::hypercall::{self, Errno};
use pv_abi::uv::calls::{self, CpuUsage, MonitorEvent, PartitionUsage};
use zerocopy::FromZeros;

/// Makes a call that touches no memory of ours.
fn plain(operation: u64, first: u64, second: u64) -> Result<u64, Errno> {
    // SAFETY: the operations below touch no memory of ours.
    unsafe { hypercall::call(calls::HYPERCALL, [operation, first, second, 0, 0]) }
}

/// Makes the monitor enforce a partition descriptor ([`calls::ACTIVATE_PARTITION`]).
///
/// # Errors
/// The monitor's errno.
pub fn activate_partition(number: u32) -> Result<(), Errno> {
    plain(calls::ACTIVATE_PARTITION, number.into(), 0).map(drop)
}

/// Makes the monitor enforce the page map for a range ([`calls::ACTIVATE_PAGES`]).
///
/// # Errors
/// `EBUSY` if a frame that changes its owner is referenced.
pub fn activate_pages(first: u64, frames: u64) -> Result<(), Errno> {
    plain(calls::ACTIVATE_PAGES, first, frames).map(drop)
}

/// Makes the monitor enforce a channel table entry ([`calls::ACTIVATE_CHANNEL`]).
///
/// # Errors
/// The monitor's errno.
pub fn activate_channel(index: u32) -> Result<(), Errno> {
    plain(calls::ACTIVATE_CHANNEL, index.into(), 0).map(drop)
}

/// Makes the monitor enforce a device table entry ([`calls::ACTIVATE_DEVICE`]).
///
/// # Errors
/// `EBUSY` if the partition that had the function runs.
pub fn activate_device(index: u32) -> Result<(), Errno> {
    plain(calls::ACTIVATE_DEVICE, index.into(), 0).map(drop)
}

/// Lets a partition run ([`calls::START`]). Returns whether the work is finished. If not, call
/// again.
///
/// # Errors
/// The monitor's errno.
pub fn start(number: u32) -> Result<bool, Errno> {
    plain(calls::START, number.into(), 0).map(|left| left == 0)
}

/// Stops scheduling a partition ([`calls::STOP`]).
///
/// # Errors
/// The monitor's errno.
pub fn stop(number: u32) -> Result<(), Errno> {
    plain(calls::STOP, number.into(), 0).map(drop)
}

/// Drops the references of a partition's page tables in a range of its memory ([`calls::DESTROY`]).
/// Returns whether the work is finished. If not, call again.
///
/// # Errors
/// The monitor's errno.
pub fn drop_tables(number: u32, first: u64, frames: u64) -> Result<bool, Errno> {
    let arguments = [calls::DESTROY, number.into(), first, frames, 0];
    // SAFETY: the operation touches no memory of ours.
    unsafe { hypercall::call(calls::HYPERCALL, arguments) }.map(|left| left == 0)
}

/// Drops everything else that a partition refers to, once its tables are dropped
/// ([`calls::DESTROY`]). Returns whether the work is finished. If not, call again.
///
/// # Errors
/// The monitor's errno; `ENODEV` while a function owes the partition a reset.
pub fn destroy(number: u32) -> Result<bool, Errno> {
    drop_tables(number, 0, 0)
}

/// The monitor's record of a frame: its owner, and whether it is not RAM ([`calls::FRAME_OWNER`]).
///
/// # Errors
/// The monitor's errno.
pub fn frame_owner(frame: u64) -> Result<(u32, bool), Errno> {
    let answer = plain(calls::FRAME_OWNER, frame, 0)?;
    Ok(((answer & 0x3fff_ffff) as u32, answer >> 30 & 1 != 0))
}

/// Returns whether anything refers to a frame ([`calls::FRAME_OWNER`]).
///
/// # Errors
/// The monitor's errno.
pub fn frame_in_use(frame: u64) -> Result<bool, Errno> {
    Ok(plain(calls::FRAME_OWNER, frame, 0)? & calls::FRAME_IN_USE != 0)
}

/// Reads the oldest event that the monitor caused by itself, if any, with its number
/// ([`calls::NEXT_EVENT`]). Drops the events up to number `written`; 0 drops none.
///
/// # Errors
/// The monitor's errno.
pub fn next_event(written: u64) -> Result<Option<(u64, MonitorEvent)>, Errno> {
    let mut event = MonitorEvent::new_zeroed();
    let arguments = [calls::NEXT_EVENT, (&raw mut event) as u64, written, 0, 0];
    // SAFETY: the operation fills the record.
    let number = unsafe { hypercall::call(calls::HYPERCALL, arguments)? };
    Ok((number != 0).then_some((number, event)))
}

/// Ends the host ([`calls::END_HOST`]). `how` is one of the `END_` values; `event` says which
/// partition caused it.
///
/// # Errors
/// The monitor's errno.
pub fn end_host(how: u64, event: &MonitorEvent) -> Result<(), Errno> {
    let blame = [event.partition, event.cause, event.detail].map(u64::from);
    let arguments = [calls::END_HOST, how, blame[0], blame[1], blame[2]];
    // SAFETY: the operation reads and writes no memory of this partition.
    unsafe { hypercall::call(calls::HYPERCALL, arguments) }.map(drop)
}

/// The usage of a partition ([`calls::USAGE`]).
///
/// # Errors
/// The monitor's errno.
pub fn usage(number: u32) -> Result<PartitionUsage, Errno> {
    let mut usage = PartitionUsage::default();
    let arguments = [calls::USAGE, number.into(), (&raw mut usage) as u64, 0, 0];
    // SAFETY: the operation fills the record.
    unsafe { hypercall::call(calls::HYPERCALL, arguments)? };
    Ok(usage)
}

/// The number of virtual CPUs of a partition that are up, and the nanoseconds in which it ran
/// ([`calls::USAGE`]). The rest of the record, which is long, is not copied.
///
/// # Errors
/// The monitor's errno.
pub fn running(number: u32) -> Result<(u32, u64), Errno> {
    let mut usage = MaybeUninit::<PartitionUsage>::uninit();
    let arguments = [calls::USAGE, number.into(), usage.as_mut_ptr() as u64, 0, 0];
    // SAFETY: the operation fills the record.
    unsafe { hypercall::call(calls::HYPERCALL, arguments)? };
    // SAFETY: a call that succeeds has filled the record, and every value of its bytes is valid.
    let usage = unsafe { usage.assume_init_ref() };
    Ok((usage.vcpus_up, usage.cpu_time))
}

/// The usage of a physical CPU ([`calls::CPU_USAGE`]).
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

/// Writes to serial port `port` ([`calls::SERIAL_WRITE`]). Returns how many bytes were taken.
///
/// # Errors
/// The monitor's errno.
pub fn serial_write(port: u32, bytes: &[u8]) -> Result<usize, Errno> {
    let (address, length) = (bytes.as_ptr() as u64, bytes.len() as u64);
    let arguments = [calls::SERIAL_WRITE, address, length, port.into(), 0];
    // SAFETY: the operation reads the bytes.
    let done = unsafe { hypercall::call(calls::HYPERCALL, arguments)? };
    Ok(usize::try_from(done).unwrap_or(0).min(bytes.len()))
}

/// Reads from serial port `port` ([`calls::SERIAL_READ`]). Returns how many bytes were read.
///
/// # Errors
/// The monitor's errno.
pub fn serial_read(port: u32, bytes: &mut [u8]) -> Result<usize, Errno> {
    let (address, length) = (bytes.as_mut_ptr() as u64, bytes.len() as u64);
    let arguments = [calls::SERIAL_READ, address, length, port.into(), 0];
    // SAFETY: the operation fills at most `length` bytes.
    let done = unsafe { hypercall::call(calls::HYPERCALL, arguments)? };
    Ok(usize::try_from(done).unwrap_or(0).min(bytes.len()))
}
