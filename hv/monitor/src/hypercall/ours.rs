//! Our own calls: the operation of each, and the right it needs. See `pv_abi::uv::calls`.

use pv_abi::uv::{calls, database::rights};

use super::{Call, Outcome, Refused, build, device, errno, lead, require};
use crate::{guest_memory, lock::SpinLock, platform};

type Operation = fn(&mut Call) -> Outcome;

/// In place of a right: any partition may make the call, about what it owns.
const NONE: u32 = 0;

/// The operation with this number, and the right it needs.
fn find(number: u64) -> Option<(u32, Operation)> {
    Some(match number {
        calls::ACTIVATE_PARTITION => (rights::LEAD, lead::activate_partition),
        calls::ACTIVATE_PAGES => (rights::LEAD, lead::activate_pages),
        calls::ACTIVATE_CHANNEL => (rights::LEAD, lead::activate_channel),
        calls::START => (rights::LEAD, lead::start),
        calls::STOP => (rights::LEAD, lead::stop),
        calls::DESTROY => (rights::LEAD, lead::destroy),
        calls::ACTIVATE_DEVICE => (rights::LEAD, device::activate),
        calls::QUIESCE_DEVICE => (rights::LEAD, device::quiesce),
        calls::NEXT_EVENT => (rights::LEAD, lead::next_event),
        calls::END_HOST => (rights::LEAD, lead::end_host),
        calls::FRAME_OWNER => (rights::LEAD, lead::frame_owner),
        calls::USAGE => (rights::LEAD, lead::usage),
        calls::CPU_USAGE => (rights::LEAD, lead::cpu_usage),
        calls::SERIAL_WRITE => (rights::SERIAL, serial_write),
        calls::SERIAL_READ => (rights::SERIAL, serial_read),
        calls::BUILD_MAP => (rights::BUILD, build::map),
        calls::BUILD_M2P => (rights::BUILD, build::set_m2p),
        calls::DEVICE_READ => (NONE, device::read),
        calls::DEVICE_COMMAND => (NONE, device::command),
        calls::DEVICE_MAP => (NONE, device::map),
        calls::DEVICE_BIND => (NONE, device::bind),
        calls::DEVICE_RESET => (NONE, device::reset),
        calls::DEVICE_CONFIRM => (NONE, device::confirm),
        _ => return None,
    })
}

/// Hypercall 48, whose first argument names the operation.
pub fn operation(call: &mut Call) -> Outcome {
    let (right, run) = find(call.args[0]).ok_or(errno::ENOSYS)?;
    require(right == NONE || call.vcpu.partition.rights() & right != 0, errno::EPERM)?;
    let alone = right == rights::LEAD;
    let _leading = alone.then(|| LEADING.try_lock().ok_or(Refused::Again)).transpose()?;
    run(call)
}

/// Held by the one CPU that follows the database. Another CPU does not wait for it, because the
/// holder may wait for all CPUs to leave the monitor.
static LEADING: SpinLock<()> = SpinLock::new(());

/// Bytes copied in one call.
const PIECE: usize = 512;

/// Reads the port and the number of bytes from the arguments `(_, buffer, bytes, port)`.
fn piece(call: &Call) -> Result<(u32, usize), Refused> {
    let [_, _, bytes, port, ..] = call.args;
    require(port <= 1, errno::EINVAL)?;
    Ok((narrow::low_32(port), narrow::size(bytes).min(PIECE)))
}

fn serial_write(call: &mut Call) -> Outcome {
    let (port, bytes) = piece(call)?;
    let mut piece = [0; PIECE];
    let piece = piece.get_mut(..bytes).ok_or(errno::EINVAL)?;
    guest_memory::read_bytes(call.args[1], piece)?;
    Ok(platform::serial_write(port, piece) as u64)
}

fn serial_read(call: &mut Call) -> Outcome {
    let (port, bytes) = piece(call)?;
    let mut piece = [0; PIECE];
    let piece = piece.get_mut(..bytes).ok_or(errno::EINVAL)?;
    let read = platform::serial_read(port, piece);
    guest_memory::write_bytes(call.args[1], piece.get(..read).ok_or(errno::EINVAL)?)?;
    Ok(read as u64)
}
