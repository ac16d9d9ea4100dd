//! The settings of xl.cfg(5) that a partition has, too.
//!
//! What becomes of each setting is in [`xl_settings`]; what is taken has the meaning that xl
//! gives it, or is refused.

use crate::draft::{At, Draft, Field, check_command_line};
use crate::fields::{missing, name_object};
use crate::finish::{Found, finish};
use crate::issue::{Sink, quoted};
use crate::value::{Entry, Value};
use crate::xl_settings::{self, Fate, TAKEN};
use crate::xl_text::Settings;
use crate::{Policy, suggest, xl_cpus};
use pv_abi::uv::database::{MAX_GRANT_FRAMES, MAX_VCPUS};

/// What no partition can be without, and an example.
const REQUIRED: [(&str, &str); 3] =
    [("name", "\"web-1\""), ("kernel", "\"/boot/vmlinuz\""), ("memory", "256")];
/// PV GRUB, as Debian has it.
const PV_GRUB: &str = "\"/usr/lib/grub-xen/grub-x86_64-xen.bin\"";

/// Reads the definition of an xl.cfg file.
pub(crate) fn read(settings: &Settings, sink: &mut Sink<'_>) -> Vec<Found> {
    let Settings { entries, broken } = settings;
    sink.object = name_object(entries).unwrap_or_else(|| "partition".to_owned());
    let mut draft = Draft::default();
    for entry in entries {
        setting(entry, &mut draft, sink);
    }
    command_line(entries, &mut draft, sink);
    if let Some(entry) = entries.iter().find(|entry| entry.key == "cpus") {
        draft.affinity = xl_cpus::read(entry, &draft, sink);
    }
    let is_set = |key: &str| {
        entries.iter().any(|entry| entry.key == key) || broken.iter().any(|one| one == key)
    };
    let boots = ["bootloader", "firmware"].iter().find(|key| is_set(key));
    if let Some(loader) = boots.filter(|_| !is_set("kernel")) {
        let at = entries.iter().find(|entry| entry.key == *loader).map_or(0, |entry| entry.at);
        let problem = format!("missing: {loader} would find it in a disk, and runs not here");
        let way_out = format!("give the path of a kernel, or PV GRUB: kernel = {PV_GRUB}");
        sink.error(at, "kernel", problem, way_out);
    }
    let found_otherwise = |key: &str| key == "kernel" && boots.is_some();
    missing(&REQUIRED, |key| is_set(key) || found_otherwise(key), 0, sink);
    let found = finish(draft, sink);
    sink.object.clear();
    vec![found]
}

/// Whether a key occurs in xl.cfg files only.
pub(crate) fn is_own(key: &str) -> bool {
    !crate::fields::KEYS.contains(&key) && xl_settings::find(key).is_some()
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
        "max_grant_frames" => draft.grant_frames = field.loose_number(1..=MAX_GRANT_FRAMES),
        "on_poweroff" => draft.poweroff = policy(&mut field),
        "on_reboot" => draft.reboot = policy(&mut field),
        "on_crash" => draft.crash = policy(&mut field),
        "type" | "builder" => check_type(entry, sink),
        "cmdline" | "root" | "extra" | "cpus" => {}
        _ => other(entry, sink),
    }
}

/// Refuses or passes over what is not taken.
fn other(entry: &Entry, sink: &mut Sink<'_>) {
    let key = &*entry.key;
    let is_empty = matches!(&entry.item.value, Value::List(items) if items.is_empty());
    match xl_settings::find(key) {
        Some((Fate::Device, _)) if is_empty => {}
        Some((Fate::Device, reason)) => {
            sink.error(entry.at, key, reason, "leave it out, or give an empty list");
        }
        Some((Fate::Only(value), _)) if is_value(&entry.item.value, value) => {}
        Some((Fate::Only(_), reason)) => sink.error(entry.at, key, reason, "leave it out"),
        Some((Fate::PassedOver | Fate::Taken, reason)) => {
            sink.warn(entry.at, key, format!("passed over: {reason}"), "");
        }
        None => {
            let way_out = match suggest::nearest(key, &xl_settings::names()) {
                Some(meant) => format!("did you mean {meant}?"),
                None => format!("taken are {}", TAKEN.join(", ")),
            };
            sink.error(entry.at, key, "unknown setting of xl.cfg", way_out);
        }
    }
}

/// Whether a value is this one, or one that asks for nothing.
fn is_value(value: &Value, wanted: &str) -> bool {
    match value {
        Value::Integer(number) => *number == 0,
        Value::Text(text) => text == wanted || ["0", "default", ""].contains(&text.as_str()),
        _ => false,
    }
}

fn check_type(entry: &Entry, sink: &mut Sink<'_>) {
    let wanted = if entry.key == "type" { "pv" } else { "generic" };
    let at = entry.item.at;
    match &entry.item.value {
        Value::Text(text) if text == wanted => {}
        Value::Text(text) if ["hvm", "pvh"].contains(&&**text) => {
            let problem = format!("{} needs more than a PV partition has", quoted(text));
            let way_out = format!("give \"{wanted}\" and a kernel with CONFIG_XEN_PV");
            sink.error(at, &entry.key, problem, way_out);
        }
        Value::Text(text) if text == "pv" => {
            let way_out = "write type = \"pv\", or builder = \"generic\"";
            sink.error(at, &entry.key, "xl has no builder \"pv\"", way_out);
        }
        Value::Text(text) => {
            let problem = format!("xl has no {} {}", entry.key, quoted(text));
            sink.error(at, &entry.key, problem, format!("write {} = \"{wanted}\"", entry.key));
        }
        other => {
            let problem = format!("{} is given, a text is needed", other.kind());
            sink.error(at, &entry.key, problem, format!("write {} = \"{wanted}\"", entry.key));
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
