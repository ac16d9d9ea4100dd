//! The settings of xl.cfg(5) that a partition has, too.
//!
//! [`xl_settings`] says for each setting whether it is used, ignored or refused. A setting that is
//! used has the meaning that xl gives it.

use crate::draft::{At, Draft, Field, check_line};
use crate::fields::{missing, name_object};
use crate::finish::{Found, directory, finish};
use crate::issue::{Object, Sink, quoted};
use crate::rows::{self, Datum, Kind};
use crate::value::{Entry, Value};
use crate::xl_settings::{self, Fate, TAKEN_OTHERWISE};
use crate::xl_text::Settings;
use crate::{suggest, xl_cpus, xl_disks};

/// The settings that every partition needs, each with an example.
const REQUIRED: [(&str, &str); 3] =
    [("name", "\"web-1\""), ("kernel", "\"/boot/vmlinuz\""), ("memory", "256")];
/// PV GRUB, as Debian has it.
const PV_GRUB: &str = "\"/usr/lib/grub-xen/grub-x86_64-xen.bin\"";

/// Reads the definition of an xl.cfg file.
pub(crate) fn read<'e>(settings: &'e Settings, sink: &mut Sink<'e>) -> Vec<Found> {
    let Settings { entries, broken } = settings;
    sink.object = name_object(entries).unwrap_or(Object::Partition);
    let mut draft = Draft::default();
    for entry in entries {
        setting(entry, &mut draft, sink);
    }
    command_line(entries, &mut draft, sink);
    if let Some(entry) = entries.iter().find(|entry| entry.key == "cpus") {
        let affinity = xl_cpus::read(entry, &draft, sink);
        put(
            &mut draft,
            "cpu.affinity",
            affinity.map(|cpus| cpus.map(|cpus| Datum::Cpus(cpus.into()))),
        );
    }
    let is_set = |key: &str| {
        entries.iter().any(|entry| entry.key == key) || broken.iter().any(|one| one == key)
    };
    let boots = ["bootloader", "firmware"].iter().find(|key| is_set(key));
    if let Some(loader) = boots.filter(|_| !is_set("kernel")) {
        let at = entries.iter().find(|entry| entry.key == *loader).map_or(0, |entry| entry.at);
        let problem = format!(
            "missing: {loader} would find the kernel on a disk, but no boot loader runs on this \
            host"
        );
        let way_out = format!("give the path of a kernel, or PV GRUB: kernel = {PV_GRUB}");
        sink.error(at, "kernel", problem, way_out);
    }
    let found_otherwise = |key: &str| key == "kernel" && boots.is_some();
    missing(REQUIRED.into_iter(), |key| is_set(key) || found_otherwise(key), 0, sink);
    let found = finish(draft, &directory(sink.file()), sink);
    sink.object = Object::File;
    vec![found]
}

/// Whether a key occurs in xl.cfg files only.
pub(crate) fn is_own(key: &str) -> bool {
    !rows::keys("").contains(&key) && xl_settings::find(key).is_some()
}

/// Stores the value of a field that several settings can give.
fn put(draft: &mut Draft, name: &str, found: Option<At<Datum<'static>>>) {
    if let Some(row) = rows::find(name) {
        draft.put(row, found);
    }
}

fn setting(entry: &Entry<'_>, draft: &mut Draft, sink: &mut Sink<'_>) {
    let name = &*entry.key;
    if let Some(row) = rows::of_xl(name) {
        let mut field = Field { name, entry, sink };
        let found = match row.kind {
            Kind::Policy if does_more(&mut field) => None,
            _ => field.xl(&row.kind),
        };
        draft.put(row, found);
        return;
    }
    match name {
        "type" | "builder" => check_type(entry, sink),
        "disk" => put(draft, "disk", xl_disks::read(entry, sink)),
        _ if TAKEN_OTHERWISE.contains(&name) => {}
        _ => other(entry, sink),
    }
}

/// Refuses or ignores a setting that is not taken.
fn other(entry: &Entry<'_>, sink: &mut Sink<'_>) {
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
            sink.warn(entry.at, key, format!("ignored: {reason}"), "");
        }
        None => {
            let way_out = match suggest::nearest(key, &xl_settings::names()) {
                Some(meant) => format!("did you mean {meant}?"),
                None => format!("taken are {}", xl_settings::taken().join(", ")),
            };
            sink.error(entry.at, key, "unknown setting of xl.cfg", way_out);
        }
    }
}

/// Whether the value is `wanted`, or a value that asks for nothing.
fn is_value(value: &Value<'_>, wanted: &str) -> bool {
    match value {
        Value::Integer(number) => *number == 0,
        Value::Text(text) => text == wanted || ["0", "default", ""].contains(&&**text),
        _ => false,
    }
}

fn check_type(entry: &Entry<'_>, sink: &mut Sink<'_>) {
    let wanted = if entry.key == "type" { "pv" } else { "generic" };
    let at = entry.item.at;
    match &entry.item.value {
        Value::Text(text) if text == wanted => {}
        Value::Text(text) if ["hvm", "pvh"].contains(&&**text) => {
            let problem =
                format!("{} is a kind of guest that this host does not have", quoted(text));
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

/// Refuses the policies of xl that ask for two actions.
fn does_more(field: &mut Field<'_, '_>) -> bool {
    let Value::Text(word) = &field.entry.item.value else { return false };
    let plain = match &**word {
        "coredump-destroy" => "destroy",
        "coredump-restart" => "restart",
        "rename-restart" => "preserve",
        _ => return false,
    };
    let problem = format!("{} is an action that this host does not have", quoted(word));
    let way_out = format!("give \"{plain}\", or another of destroy, restart and preserve");
    field.sink.error(field.entry.item.at, field.name, problem, way_out);
    true
}

/// Makes the command line from `cmdline`, or from `root=ROOT EXTRA`.
fn command_line(entries: &[Entry<'_>], draft: &mut Draft, sink: &mut Sink<'_>) {
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
            sink.warn(entry.at, key, "ignored: cmdline is there, too", way_out);
            continue;
        }
        first.get_or_insert(entry);
        parts.push(if key == "root" { format!("root={text}") } else { text.clone().into_owned() });
    }
    if let Some(entry) = first {
        let mut field = Field { name: &entry.key, entry, sink };
        let text = check_line(&mut field, parts.join(" "));
        put(draft, "command_line", text.map(|text| text.map(|text| Datum::Text(text.into()))));
    }
}
