//! Devices that are negotiated through the store: this module plays the backend.
//!
//! ```text
//! hvc1:  backend state 2 -> kernel writes ring-ref, port, state 3 -> ring mapped, port bound
//!        -> backend state 4 -> kernel writes state 4
//! ```
//!
//! The command partition has three devices: a second console on the harness line, and two nodes
//! from which `uvd` learns where its command channel and the build channel are. A stock kernel's
//! xenbus reads and writes the same nodes and states.
//!
//! Rule: a value that a kernel wrote into the store is read when it is used, and checked then. It
//! never names a partition other than its writer.

use alloc::format;
use alloc::string::{String, ToString};
use core::fmt::Display;
use core::str::FromStr;
use core::sync::atomic::AtomicU32;

use channel::ring::RingError;
use partition_runtime::events::{self, Port};
use partition_runtime::{grants, log, partition};
use pv_abi::PAGE_SIZE;
use pv_abi::uv::channel::{COMMAND_GRANT, COMMAND_PAGES};
use pv_abi::uv::database::{COMMAND, ChannelEntry, PartitionDescriptor, ULTRAVISOR, kind};
use pv_abi::xen::xenbus;
use store::{Path, Permissions, home};

use crate::command::CommandChannel;
use crate::console::Console;
use crate::services::Services;

/// The usual serial line of the command partition's console.
pub const CONSOLE_LINE: u32 = 0;
/// The serial line of the harness.
pub const HARNESS_LINE: u32 = 1;

/// The connected devices.
#[derive(Debug, Default)]
pub struct Devices {
    /// The port of the harness line's ring.
    harness: Option<Port>,
    /// The port of the command partition's channel.
    channel: Option<Port>,
    /// The boot partition's channel to the command partition.
    build: Option<ChannelEntry>,
    /// The pages of the command channel, allocated once: their address and words.
    pages: Option<(u64, &'static [AtomicU32])>,
}

/// The store path of a partition's second console.
fn front(partition: u32) -> String {
    format!("{}/device/console/1", home(partition))
}

fn back(partition: u32) -> String {
    format!("{}/backend/console/{partition}/1", home(ULTRAVISOR))
}

/// Writes a node. Values written here are well-formed and short.
pub fn put(services: &mut Services, path: &str, value: impl Display) {
    let written =
        Path::new(path).and_then(|path| services.store.write(&path, value.to_string().as_bytes()));
    if let Err(error) = written {
        log!("store: {path}: {}", error.name());
    }
}

/// Makes a node with these permissions.
pub fn make(services: &mut Services, path: &str, permissions: &Permissions) {
    let made = Path::new(path).and_then(|path| services.store.make(&path, permissions));
    if let Err(error) = made {
        log!("store: {path}: {}", error.name());
    }
}

fn get<T: FromStr>(services: &Services, path: &str) -> Option<T> {
    let value = services.store.read(&Path::new(path).ok()?)?;
    core::str::from_utf8(value).ok()?.trim().parse().ok()
}

/// Writes the nodes of the devices that a partition finds when its xenbus comes up.
pub fn introduce(services: &mut Services, client: &PartitionDescriptor) {
    if client.kind == kind::COMMAND {
        // A line has one ring, so that no byte goes to the wrong reader.
        if services.command_console != HARNESS_LINE {
            second_console(services, client.number);
        }
        command_channel(services);
        build_channel(services);
    }
}

/// Keeps the entry of the build channel, and tells the command partition where it is.
pub fn set_build_channel(services: &mut Services, entry: &ChannelEntry) {
    services.devices.build = Some(*entry);
    build_channel(services);
}

fn build_channel(services: &mut Services) {
    let Some(entry) = services.devices.build else {
        return;
    };
    let node = format!("{}/device/uv-build/0", home(COMMAND));
    put(services, &format!("{node}/ring-ref"), entry.grant_a);
    put(services, &format!("{node}/pages"), entry.frames);
    put(services, &format!("{node}/event-channel"), entry.port_a);
    put(services, &format!("{node}/backend-id"), entry.a);
}

fn second_console(services: &mut Services, number: u32) {
    let (front, back) = (front(number), back(number));
    make(services, &back, &Permissions::readable_by(ULTRAVISOR, number));
    // The front end writes its own nodes.
    make(services, &front, &Permissions::private(number));
    for (name, value) in [("frontend", front.as_str()), ("online", "1"), ("protocol", "raw")] {
        put(services, &format!("{back}/{name}"), value);
    }
    put(services, &format!("{back}/frontend-id"), number);
    put(services, &format!("{back}/state"), xenbus::INIT_WAIT);
    for (name, value) in [("backend", back.as_str()), ("type", "xenconsoled")] {
        put(services, &format!("{front}/{name}"), value);
    }
    put(services, &format!("{front}/backend-id"), ULTRAVISOR);
    put(services, &format!("{front}/state"), xenbus::INITIALISING);
    if let Ok(path) = Path::new(&format!("{front}/state")) {
        services.store.observe(path);
    }
}

/// Makes the channel that `uvd` looks for, in pages of this partition.
fn command_channel(services: &mut Services) {
    match make_channel(&mut services.devices) {
        Ok((port, channel)) => {
            services.commands.insert(port, channel);
            services.devices.channel = Some(port);
            let node = format!("{}/device/uv-command/0", home(COMMAND));
            put(services, &format!("{node}/ring-ref"), COMMAND_GRANT);
            put(services, &format!("{node}/pages"), COMMAND_PAGES);
            put(services, &format!("{node}/event-channel"), port.0);
            put(services, &format!("{node}/backend-id"), ULTRAVISOR);
        }
        Err(reason) => log!("command channel of partition {COMMAND}: {reason}"),
    }
}

fn make_channel(devices: &mut Devices) -> Result<(Port, CommandChannel), String> {
    if devices.pages.is_none() {
        devices.pages = partition::shared_pages(COMMAND_PAGES);
    }
    let (address, words) = devices.pages.ok_or("no memory for its pages")?;
    for (page, reference) in (COMMAND_GRANT..).take(COMMAND_PAGES).enumerate() {
        let frame = partition::frame_of(address + (page * PAGE_SIZE) as u64);
        let frame = frame.and_then(|frame| u32::try_from(frame).ok());
        let granted = frame.is_some_and(|f| grants::permit(reference, COMMAND as u16, f));
        if !granted {
            return Err(format!("page {page} cannot be granted"));
        }
    }
    let port = events::alloc_unbound(COMMAND as u16).map_err(|error| error.to_string())?;
    let channel = CommandChannel::own(COMMAND, words, port);
    let channel = channel.map_err(|error: RingError| error.to_string())?;
    Ok((port, channel))
}

/// Closes the channel to a command partition that is destroyed.
fn drop_channel(services: &mut Services) {
    if let Some(port) = services.devices.channel.take() {
        services.commands.remove(&port);
        let _ = events::close(port);
    }
    for reference in (COMMAND_GRANT..).take(COMMAND_PAGES) {
        // The destruction of the partition unmaps what it still has mapped.
        let _ = grants::revoke(reference);
    }
}

/// Handles changes that kernels made to their devices.
pub fn follow(services: &mut Services) {
    while let Some(path) = services.store.take_change() {
        if services.disks.changed(&mut services.store, &path) {
            continue;
        }
        let wanted: Option<u32> = get(services, &format!("{}/state", front(COMMAND)));
        match (wanted, services.devices.harness) {
            (Some(xenbus::INITIALISED | xenbus::CONNECTED), None) => connect(services, COMMAND),
            // A kernel that shuts down waits until this end closes as well.
            (Some(xenbus::CLOSING), Some(_)) => {
                put(services, &format!("{}/state", back(COMMAND)), xenbus::CLOSING);
            }
            (Some(xenbus::CLOSED), Some(_)) => {
                disconnect(services);
                put(services, &format!("{}/state", back(COMMAND)), xenbus::CLOSED);
            }
            (Some(xenbus::INITIALISING), _) => {
                disconnect(services);
                put(services, &format!("{}/state", back(COMMAND)), xenbus::INIT_WAIT);
            }
            _ => {}
        }
    }
}

/// Maps the ring that a kernel offers for its second console.
fn connect(services: &mut Services, number: u32) {
    let front = front(number);
    let (reference, remote) = (format!("{front}/ring-ref"), format!("{front}/port"));
    let (Some(reference), Some(remote)) = (get(services, &reference), get(services, &remote))
    else {
        log!("second console of partition {number}: it names no ring or no port");
        return;
    };
    let ring = match grants::map(&mut services.window, number as u16, &[reference]) {
        Ok(ring) => ring,
        Err(error) => return log!("second console of partition {number}: {error}"),
    };
    let port = match events::bind_interdomain(number as u16, remote) {
        Ok(port) => port,
        Err(error) => {
            log!("second console of partition {number}: port {remote}: {error}");
            return grants::unmap(&mut services.window, ring);
        }
    };
    let console = Console { partition: number, ring, port, serial: Some(HARNESS_LINE) };
    put(services, &format!("{}/state", back(number)), xenbus::CONNECTED);
    console.serve();
    services.consoles.insert(port, console);
    services.devices.harness = Some(port);
}

fn disconnect(services: &mut Services) {
    let Some(port) = services.devices.harness.take() else {
        return;
    };
    if let Some(console) = services.consoles.remove(&port) {
        grants::unmap(&mut services.window, console.ring);
    }
    let _ = events::close(port);
}

/// Drops the state of a partition that is destroyed.
pub fn forget(services: &mut Services, number: u32) {
    if number == COMMAND {
        disconnect(services);
        drop_channel(services);
    }
    if let Ok(path) = Path::new(&format!("{}/backend/console/{number}", home(ULTRAVISOR))) {
        services.store.ignore(&path);
        // A node that does not exist need not be removed.
        let _ = services.store.remove(&path);
    }
}
