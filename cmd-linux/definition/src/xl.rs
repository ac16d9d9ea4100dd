//! The settings of xl.cfg(5) that a partition has, too.
//!
//! What would change what the guest sees or gets and is not here is refused; what only tunes
//! something that does not exist here is passed over with a warning.

use crate::draft::{At, Draft, Field, check_command_line};
use crate::fields::{missing, name_object};
use crate::finish::{Found, finish};
use crate::issue::{Sink, quoted};
use crate::value::{Entry, Value};
use crate::{Policy, suggest};
use pv_abi::uv::database::{MAX_GRANT_FRAMES, MAX_VCPUS};

/// Settings that are taken.
pub(crate) const TAKEN: [&str; 20] = [
    "name",
    "kernel",
    "ramdisk",
    "cmdline",
    "root",
    "extra",
    "memory",
    "maxmem",
    "vcpus",
    "maxvcpus",
    "cpu_weight",
    "cap",
    "cpus",
    "max_grant_frames",
    "on_poweroff",
    "on_reboot",
    "on_crash",
    "type",
    "builder",
    "bootloader",
];

/// What no partition can be without, and an example.
const REQUIRED: [(&str, &str); 3] =
    [("name", "\"web-1\""), ("kernel", "\"/boot/vmlinuz\""), ("memory", "256")];

/// Devices: a guest would miss them.
const DEVICES: [&str; 13] = [
    "disk", "vif", "vfb", "vtpm", "p9", "pvcalls", "pci", "usbctrl", "usbdev", "vkb", "vsnd",
    "vdispl", "channel",
];

/// Settings without a meaning here, and why.
const PASSED_OVER: [(&str, &str); 12] = [
    ("uuid", "a partition has a name and a number"),
    ("seclabel", "a partition's rights are in its descriptor"),
    ("bootloader_args", "there is no boot loader on the host's side"),
    ("cpus_soft", "there is no soft affinity"),
    ("on_watchdog", "there is no watchdog"),
    ("on_soft_reset", "there is no soft reset"),
    ("pool", "there are no CPU pools"),
    ("localtime", "the clock of a partition is in UTC"),
    ("rtc_timeoffset", "the clock of a partition is in UTC"),
    ("claim_mode", "memory is assigned before a partition is built"),
    ("max_maptrack_frames", "partitions do not map grants of others"),
    ("vuart", "the console is the only serial line"),
];

/// Reads the definition of an xl.cfg file.
pub(crate) fn read(entries: &[Entry], sink: &mut Sink<'_>) -> Vec<Found> {
    sink.object = name_object(entries).unwrap_or_else(|| "partition".to_owned());
    let mut draft = Draft::default();
    for entry in entries {
        setting(entry, &mut draft, sink);
    }
    command_line(entries, &mut draft, sink);
    missing(&REQUIRED, |key| entries.iter().any(|entry| entry.key == key), 0, sink);
    let found = finish(draft, sink);
    sink.object.clear();
    vec![found]
}

/// Whether a key occurs in xl.cfg files only.
pub(crate) fn is_own(key: &str) -> bool {
    let shared = crate::fields::KEYS.contains(&key);
    let passed_over = PASSED_OVER.iter().any(|(known, _)| *known == key);
    !shared && (TAKEN.contains(&key) || DEVICES.contains(&key) || passed_over)
}

fn setting(entry: &Entry, draft: &mut Draft, sink: &mut Sink<'_>) {
    let name = &*entry.key;
    let mut field = Field { name, entry, sink };
    match name {
        "name" => draft.name = field.name(),
        "kernel" => draft.kernel = field.path(),
        "ramdisk" => draft.initrd = field.path(),
        "memory" => draft.memory = field.mebibytes(),
        "maxmem" => draft.max_memory = field.mebibytes(),
        "vcpus" => draft.vcpus = field.loose_number(1..=MAX_VCPUS),
        "maxvcpus" => draft.max_vcpus = field.loose_number(1..=MAX_VCPUS),
        "cpu_weight" => draft.weight = field.loose_number(1..=65_535),
        "cap" => draft.cap = field.loose_number(0..=MAX_VCPUS * 100),
        "cpus" => draft.affinity = field.cpus(),
        "max_grant_frames" => draft.grant_frames = field.loose_number(1..=MAX_GRANT_FRAMES),
        "on_poweroff" => draft.poweroff = policy(&mut field),
        "on_reboot" => draft.reboot = policy(&mut field),
        "on_crash" => draft.crash = policy(&mut field),
        "type" | "builder" => check_type(entry, sink),
        "cmdline" | "root" | "extra" => {}
        _ => other(entry, sink),
    }
}

/// Refuses or passes over what is not taken.
fn other(entry: &Entry, sink: &mut Sink<'_>) {
    let key = &*entry.key;
    let empty = matches!(&entry.item.value, Value::List(items) if items.is_empty());
    if DEVICES.contains(&key) {
        if !empty {
            let problem = "partitions have no devices yet";
            sink.error(entry.at, key, problem, "leave it out, or give an empty list");
        }
    } else if key == "bootloader" {
        let way_out = "the kernel is read from the file that kernel names";
        sink.warn(entry.at, key, "passed over: no boot loader runs on the host", way_out);
    } else if let Some((_, reason)) = PASSED_OVER.iter().find(|(known, _)| *known == key) {
        sink.warn(entry.at, key, format!("passed over: {reason}"), "");
    } else {
        let way_out = match suggest::nearest(key, &TAKEN) {
            Some(meant) => format!("did you mean {meant}?"),
            None => format!("taken are {}", TAKEN.join(", ")),
        };
        sink.error(entry.at, key, "unknown setting of xl.cfg", way_out);
    }
}

fn check_type(entry: &Entry, sink: &mut Sink<'_>) {
    let wanted = if entry.key == "type" { "pv" } else { "generic" };
    match &entry.item.value {
        Value::Text(text) if text == wanted || (text == "linux" && wanted == "generic") => {}
        Value::Text(text) => {
            let problem = format!("{} needs more than a PV partition has", quoted(text));
            let way_out = format!("give \"{wanted}\" and a kernel with CONFIG_XEN_PV");
            sink.error(entry.item.at, &entry.key, problem, way_out);
        }
        other => {
            let problem = format!("{} is given, a text is needed", other.kind());
            let way_out = format!("write {} = \"{wanted}\"", entry.key);
            sink.error(entry.item.at, &entry.key, problem, way_out);
        }
    }
}

/// A policy; those of xl that do two things are named.
fn policy(field: &mut Field<'_, '_>) -> Option<At<Policy>> {
    if let Value::Text(word) = &field.entry.item.value
        && let Some(plain) = match &**word {
            "coredump-destroy" => Some("destroy"),
            "coredump-restart" => Some("restart"),
            "rename-restart" => Some("preserve"),
            _ => None,
        }
    {
        let problem = format!("{} does more than there is here", quoted(word));
        let way_out = format!("give \"{plain}\", or another of destroy, restart and preserve");
        field.sink.error(field.entry.item.at, field.name, problem, way_out);
        return None;
    }
    field.policy()
}

/// Puts the command line together: `cmdline`, or `root=ROOT EXTRA`.
fn command_line(entries: &[Entry], draft: &mut Draft, sink: &mut Sink<'_>) {
    let mut parts = Vec::new();
    let mut first = None;
    let whole = entries.iter().any(|entry| entry.key == "cmdline");
    for key in ["cmdline", "root", "extra"] {
        let Some(entry) = entries.iter().find(|entry| entry.key == key) else { continue };
        let Value::Text(text) = &entry.item.value else {
            let problem = format!("{} is given, a text is needed", entry.item.value.kind());
            sink.error(entry.item.at, key, problem, format!("write {key} = \"...\""));
            continue;
        };
        if whole && key != "cmdline" {
            let way_out = "leave it out, or cmdline";
            sink.warn(entry.at, key, "passed over: cmdline is there, too", way_out);
            continue;
        }
        first.get_or_insert(entry);
        parts.push(if key == "root" { format!("root={text}") } else { text.clone() });
    }
    if let Some(entry) = first {
        let mut field = Field { name: &entry.key, entry, sink };
        draft.command_line = check_command_line(&mut field, parts.join(" "));
    }
}
