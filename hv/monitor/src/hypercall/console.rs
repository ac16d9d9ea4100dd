//! `console_io`: writes raw text of a partition to the monitor's log, before the partition has a
//! console.

use core::sync::atomic::{AtomicU64, Ordering};

use pv_abi::{uv::database::kind, xen::console};

use super::{Call, Outcome, Refused, errno, require};
use crate::{guest_memory, partition::Partition, platform, time};

/// Maximum number of bytes that one call writes; the call is then continued.
const PIECE: usize = 256;
/// Nanoseconds that each byte of a guest's text costs: 4096 bytes a second.
const BYTE_TIME: u64 = 1_000_000_000 / 4096;
/// How far, in nanoseconds, guests may be ahead of their rate: 32 KiB at once.
const AHEAD: u64 = 8 * 1_000_000_000;

/// `console_io(command, bytes, buffer)`.
pub fn console_io(call: &mut Call) -> Outcome {
    let [command, bytes, buffer, ..] = call.args;
    // Only a partition that controls the host has more of this console under Xen.
    require(command == console::WRITE, errno::EPERM)?;
    let now = bytes.min(PIECE as u64);
    let mut text = [0; PIECE];
    let piece = text.get_mut(..narrow::size(now)).ok_or(errno::EINVAL)?;
    guest_memory::read_bytes(buffer, piece)?;
    let partition = call.vcpu.partition;
    if may_log(partition, now) {
        platform::log_raw(partition.number, piece, partition.kind == kind::GUEST);
    }
    if now < bytes {
        call.args[1] = bytes - now;
        call.args[2] = buffer + now;
        return Err(Refused::Again);
    }
    Ok(0)
}

/// System time up to which the text of all guests is paid for.
static PAID: AtomicU64 = AtomicU64::new(0);

/// Returns whether a partition may write `bytes` bytes now. The monitor drops text that all guests
/// together write beyond their rate, so that the serial line has room for other messages.
fn may_log(partition: &Partition, bytes: u64) -> bool {
    if partition.kind != kind::GUEST {
        return true;
    }
    let now = time::now();
    let paid =
        |until: u64| Some(until.max(now) + bytes * BYTE_TIME).filter(|to| *to <= now + AHEAD);
    PAID.fetch_update(Ordering::Relaxed, Ordering::Relaxed, paid).is_ok()
}
