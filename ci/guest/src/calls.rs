//! Typed wrappers of the hypercalls that the programs need, as an ordinary kernel makes them.
//!
//! Rule: the fuzzer's calls do not go through here; these calls should succeed.
#![expect(unsafe_code, reason = "hypercalls that read and write memory")]

use partition_runtime::hypercall::{Errno, call};
use pv_abi::xen::events::{self, AllocUnbound, BindVirq, EvtchnStatus, PortArgument, VIRQ_TIMER};
use pv_abi::xen::hypercall as number;
use pv_abi::xen::memory::{
    DECREASE_RESERVATION, MACHPHYS_MAPPING, MachphysMapping, MemoryReservation, POPULATE_PHYSMAP,
};
use pv_abi::xen::mmu::{UVMF_ALL, UVMF_INVLPG};
use pv_abi::xen::time::RunstateInfo;
use pv_abi::xen::traps::{
    CALLBACK_EVENT, CALLBACKF_MASK_EVENTS, CALLBACKOP_REGISTER, CallbackRegister,
};
use pv_abi::xen::{console, domid, sched, vcpu};

/// A call whose argument is a structure that it reads or writes.
fn with<T>(number: u64, command: u64, argument: &mut T) -> Result<u64, Errno> {
    // SAFETY: the operation reads and writes the structure that its command is for.
    unsafe { call(number, [command, (&raw mut *argument) as u64, 0, 0, 0]) }
}

/// Sets the entry point for a kind of callback, which masks events.
pub fn register_callback(kind: u16, address: u64) -> Result<(), Errno> {
    let flags = CALLBACKF_MASK_EVENTS;
    let mut callback = CallbackRegister { kind, flags, pad: 0, address };
    with(number::CALLBACK_OP, CALLBACKOP_REGISTER, &mut callback).map(drop)
}

/// Sets the entry point for events.
pub fn register_upcall(address: u64) {
    register_callback(CALLBACK_EVENT, address).expect("the event callback");
}

/// Changes the level-1 entry that maps an address.
pub fn update_va_mapping(address: u64, entry: u64) -> Result<(), Errno> {
    let flags = UVMF_INVLPG | UVMF_ALL;
    // SAFETY: the callers own the page at that address.
    unsafe { call(number::UPDATE_VA_MAPPING, [address, entry, flags, 0, 0]) }.map(drop)
}

/// Yields the virtual CPU until an event is pending.
pub fn block() {
    // SAFETY: touches no memory.
    let _ = unsafe { call(number::SCHED_OP, [sched::BLOCK, 0, 0, 0, 0]) };
}

/// Waits until the event of a port is pending, masked or not, or until the time `timeout`.
pub fn poll(port: u32, timeout: u64) {
    let ports = (&raw const port) as u64;
    let mut poll = sched::Poll { ports, nr_ports: 1, pad: 0, timeout };
    with(number::SCHED_OP, sched::POLL, &mut poll).expect("poll");
}

/// Sets the timer with the older call; 0 stops it.
pub fn set_timer_op(deadline: u64) {
    // SAFETY: touches no memory.
    unsafe { call(number::SET_TIMER_OP, [deadline, 0, 0, 0, 0]) }.expect("set_timer_op");
}

/// Raises the event of a port.
pub fn send(port: u32) {
    // If the other end is closed, it needs no event.
    let _ = with(number::EVENT_CHANNEL_OP, events::SEND, &mut PortArgument { port });
}

/// Closes a port.
pub fn close(port: u32) {
    with(number::EVENT_CHANNEL_OP, events::CLOSE, &mut PortArgument { port }).expect("close");
}

/// Allocates a port that waits for a partner.
pub fn alloc_unbound(wanted: &mut AllocUnbound) -> Result<u64, Errno> {
    with(number::EVENT_CHANNEL_OP, events::ALLOC_UNBOUND, wanted)
}

/// Reads the status of a port.
pub fn port_status(status: &mut EvtchnStatus) -> Result<u64, Errno> {
    with(number::EVENT_CHANNEL_OP, events::STATUS, status)
}

/// Binds the timer of virtual CPU 0; returns its port.
pub fn bind_timer() -> Result<u32, Errno> {
    let mut bind = BindVirq { virq: VIRQ_TIMER, vcpu: 0, port: 0 };
    with(number::EVENT_CHANNEL_OP, events::BIND_VIRQ, &mut bind)?;
    Ok(bind.port)
}

/// Reads the times in each state of this virtual CPU.
pub fn runstate() -> RunstateInfo {
    let mut info = RunstateInfo::default();
    let address = (&raw mut info) as u64;
    // SAFETY: the operation writes the structure.
    let done = unsafe { call(number::VCPU_OP, [vcpu::GET_RUNSTATE_INFO, 0, address, 0, 0]) };
    done.expect("get_runstate_info");
    info
}

/// Writes to the emergency console.
pub fn write_emergency(bytes: &[u8]) {
    let (length, address) = (bytes.len() as u64, bytes.as_ptr() as u64);
    // SAFETY: the operation reads the bytes.
    let _ = unsafe { call(number::CONSOLE_IO, [console::WRITE, length, address, 0, 0]) };
}

fn reservation(command: u64, list: &mut [u64]) -> Result<u64, Errno> {
    let mut argument = MemoryReservation {
        extent_start: list.as_mut_ptr() as u64,
        nr_extents: list.len() as u64,
        domid: domid::SELF,
        ..MemoryReservation::default()
    };
    with(number::MEMORY_OP, command, &mut argument)
}

/// Releases machine frames, which nothing may map; returns how many were released.
pub fn give_back(machine_frames: &mut [u64]) -> Result<u64, Errno> {
    reservation(DECREASE_RESERVATION, machine_frames)
}

/// The last machine frame that has an entry in the machine-to-physical table.
pub fn last_machine_frame() -> u64 {
    let mut mapping = MachphysMapping::default();
    with(number::MEMORY_OP, MACHPHYS_MAPPING, &mut mapping).expect("machphys_mapping");
    mapping.max_mfn
}

/// Populates pseudo-physical frames and replaces their numbers by those of the machine frames.
/// Returns how many frames were populated.
pub fn take_back(frames: &mut [u64]) -> Result<u64, Errno> {
    reservation(POPULATE_PHYSMAP, frames)
}
