//! The homes of partitions in the store, from which a kernel reads about its own partition; this
//! module keeps them equal to the database.
//!
//! ```text
//! descriptor: name            -> name, /vm/UUID/name
//!             memory_target   -> memory/target, in KiB      the balloon driver watches it
//!             vcpus_online    -> cpu/N/availability         watched by CPU hotplug
//!             asked           -> control/shutdown           emptied by the kernel that takes it
//! ```
//!
//! A stock kernel's `drivers/xen` reads the same nodes, units and words.
//!
//! A home belongs to the ultravisor, and its partition reads it. A kernel writes only where stock
//! kernels must, and owns those nodes ([`OWN`]). So a reader of a home can trust its name, its
//! number and its memory.
//!
//! Rule: the database decides and the store follows. A kernel that writes into its home changes
//! only its home.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::String;

use pv_abi::uv::database::{PartitionDescriptor, ULTRAVISOR, asked};
use pv_abi::xen::grants::{RESERVED_CONSOLE, RESERVED_STORE};
use resource_db::Reader;
use store::{Path, Permissions, home};

use crate::devices::{make, put};
use crate::services::Services;

/// KiB of a frame.
const FRAME_KIB: u64 = 4;
/// The value of `console/limit`: bytes of output that are kept.
const CONSOLE_LIMIT: u32 = 1 << 20;

/// The nodes of its home that a partition owns, beside the front ends of its devices (`device/…`).
/// Xen's toolstack makes the same nodes (`libxl_create.c`), except those only for HVM guests.
const OWN: [&str; 10] = [
    // The kernel empties it to accept the request.
    "control/shutdown",
    "control/sysrq",
    // The kernel announces what it supports.
    "control/feature-poweroff",
    "control/feature-reboot",
    "control/feature-suspend",
    // For programs in the partition.
    "data",
    "attr",
    "drivers",
    "feature",
    // The kernel reports failed devices below it.
    "error",
];

/// The state of a partition's home.
#[derive(Debug, PartialEq, Eq)]
struct Home {
    /// The generation of the descriptor from which the home was last written.
    generation: u32,
    name: String,
    memory_frames: u64,
    memory_target: u64,
    vcpus: u32,
    vcpus_online: u32,
    asked: u32,
}

/// The homes in the store.
#[derive(Debug, Default)]
pub struct Homes {
    homes: BTreeMap<u32, Home>,
}

/// The store path of the name and UUID of a partition.
fn vm(partition: u32) -> String {
    format!("/vm/00000000-0000-0000-0000-{partition:012x}")
}

/// Writes the home that a kernel finds when its xenbus comes up.
pub fn introduce(services: &mut Services, client: &PartitionDescriptor) {
    let number = client.number;
    let (home, vm) = (home(number), vm(number));
    make(services, &vm, &Permissions::readable_by(ULTRAVISOR, number));
    put(services, &format!("{vm}/uuid"), vm.trim_start_matches("/vm/"));
    make(services, &home, &Permissions::readable_by(ULTRAVISOR, number));
    put(services, &format!("{home}/domid"), number);
    put(services, &format!("{home}/vm"), &vm);
    for directory in ["control", "device"] {
        make(
            services,
            &format!("{home}/{directory}"),
            &Permissions::readable_by(ULTRAVISOR, number),
        );
    }
    for node in OWN {
        make(services, &format!("{home}/{node}"), &Permissions::private(number));
    }
    if client.console_port != 0 {
        put(services, &format!("{home}/console/type"), "xenconsoled");
        put(services, &format!("{home}/console/port"), client.console_port);
        put(services, &format!("{home}/console/ring-ref"), RESERVED_CONSOLE);
        put(services, &format!("{home}/console/limit"), CONSOLE_LIMIT);
    }
    put(services, &format!("{home}/store/port"), client.store_port);
    put(services, &format!("{home}/store/ring-ref"), RESERVED_STORE);
    services.homes.homes.remove(&number);
    show(services, client);
}

/// Updates the homes of these partitions from the database.
pub fn follow(services: &mut Services, reader: &Reader<'_>, numbers: &BTreeSet<u32>) {
    for &number in numbers {
        if services.homes.homes.contains_key(&number)
            && let Ok(descriptor) = reader.descriptor(number)
        {
            show(services, &descriptor);
        }
    }
}

/// Drops the home of a partition that is destroyed.
pub fn forget(services: &mut Services, number: u32) {
    services.homes.homes.remove(&number);
    for path in [home(number), vm(number)] {
        if let Ok(path) = Path::new(&path) {
            services.store.ignore(&path);
            // A node that does not exist need not be removed.
            let _ = services.store.remove(&path);
        }
    }
}

/// Writes the nodes that differ from the descriptor.
fn show(services: &mut Services, descriptor: &PartitionDescriptor) {
    let number = descriptor.number;
    let before = services.homes.homes.get(&number);
    if before.is_some_and(|before| before.generation == descriptor.generation) {
        return;
    }
    let now = Home {
        generation: descriptor.generation,
        name: transaction::name_of(descriptor),
        memory_frames: descriptor.memory_frames,
        memory_target: descriptor.memory_target,
        vcpus: descriptor.vcpus,
        vcpus_online: descriptor.vcpus_online,
        asked: descriptor.asked,
    };
    let before = services.homes.homes.remove(&number);
    write(services, number, before.as_ref(), &now);
    services.homes.homes.insert(number, now);
}

fn write(services: &mut Services, number: u32, before: Option<&Home>, now: &Home) {
    let (home, vm) = (home(number), vm(number));
    let differs = |of: fn(&Home) -> u64| before.is_none_or(|before| of(before) != of(now));
    if before.is_none_or(|before| before.name != now.name) {
        put(services, &format!("{home}/name"), &now.name);
        put(services, &format!("{vm}/name"), &now.name);
    }
    if differs(|home| home.memory_frames) {
        put(services, &format!("{home}/memory/static-max"), now.memory_frames * FRAME_KIB);
    }
    if differs(|home| home.memory_target) && now.memory_target != 0 {
        put(services, &format!("{home}/memory/target"), now.memory_target * FRAME_KIB);
    }
    for vcpu in 0..now.vcpus {
        let up = |home: &Home| home.vcpus_online == 0 || vcpu < home.vcpus_online;
        if before.is_none_or(|before| up(before) != up(now)) {
            let word = if up(now) { "online" } else { "offline" };
            put(services, &format!("{home}/cpu/{vcpu}/availability"), word);
        }
    }
    let word = match now.asked {
        asked::POWER_OFF => "poweroff",
        asked::REBOOT => "reboot",
        _ => return,
    };
    let shutdown = format!("{home}/control/shutdown");
    // If the kernel accepted the request but has not stopped, it is asked again when its descriptor
    // is next written.
    let path = Path::new(&shutdown);
    let waits = path.is_ok_and(|path| services.store.read(&path).is_some_and(|v| !v.is_empty()));
    if differs(|home| home.asked.into()) || !waits {
        own(services, &shutdown, number);
        put(services, &shutdown, word);
    }
}

/// Makes a node that a partition owns, if the partition removed it.
fn own(services: &mut Services, path: &str, number: u32) {
    let there = Path::new(path).is_ok_and(|path| services.store.read(&path).is_some());
    if !there {
        make(services, path, &Permissions::private(number));
    }
}
