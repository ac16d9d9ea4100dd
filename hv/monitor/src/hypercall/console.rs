//! `console_io`: raw text from a partition to the monitor's log, before it has a console.

use core::sync::atomic::{AtomicU64, Ordering};

use pv_abi::{
    uv::database::kind,
    xen::{console, errno},
};

use super::{Call, Outcome};
use crate::{guest_memory, partition::Partition, platform, time};

/// Bytes written per call at most; the rest continues.
const PIECE: usize = 256;
/// Nanoseconds that a guest's byte takes of the log: 4096 bytes a second.
const BYTE_TIME: u64 = 1_000_000_000 / 4096;
/// How far guests may be ahead: 32 KiB at once.
const AHEAD: u64 = 8 * 1_000_000_000;

/// `console_io(command, bytes, buffer)`.
pub fn console_io(call: &mut Call) -> Outcome {
    let [command, bytes, buffer, ..] = call.args;
    match command {
        console::WRITE => {}
        console::READ => return Ok(0),
        _ => return Err(errno::ENOSYS),
    }
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
        return Err(super::AGAIN);
    }
    Ok(0)
}

/// System time up to which the text of all guests is paid for.
static PAID: AtomicU64 = AtomicU64::new(0);

/// Whether a partition may write so many bytes now. What all guests together write beyond their
/// rate is lost, so that the line has room for the rest.
fn may_log(partition: &Partition, bytes: u64) -> bool {
    if partition.kind != kind::GUEST {
        return true;
    }
    let now = time::now();
    let paid =
        |until: u64| Some(until.max(now) + bytes * BYTE_TIME).filter(|to| *to <= now + AHEAD);
    PAID.fetch_update(Ordering::Relaxed, Ordering::Relaxed, paid).is_ok()
}
