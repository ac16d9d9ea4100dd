//! `console_io`: raw text from a partition to the monitor's log, before it has a console.

use pv_abi::xen::{console, errno};

use super::{Call, Outcome};
use crate::{guest_memory, platform};

/// Bytes written per call at most; the rest continues.
const PIECE: u64 = 256;

/// `console_io(command, bytes, buffer)`.
pub fn console_io(call: &mut Call) -> Outcome {
    let [command, bytes, buffer, ..] = call.args;
    match command {
        console::WRITE => {}
        console::READ => return Ok(0),
        _ => return Err(errno::ENOSYS),
    }
    let now = bytes.min(PIECE);
    let mut text = [0; PIECE as usize];
    let piece = text.get_mut(..now as usize).ok_or(errno::EINVAL)?;
    guest_memory::read_bytes(buffer, piece)?;
    platform::log_raw(call.vcpu.partition.number, piece);
    if now < bytes {
        call.args[1] = bytes - now;
        call.args[2] = buffer + now;
        return Err(super::AGAIN);
    }
    Ok(0)
}
