//! The keys of a definition in TOML.

use crate::draft::{Draft, Field};
use crate::finish::{Found, finish};
use crate::issue::{Sink, quoted};
use crate::suggest;
use crate::value::{Entry, Value};
use pv_abi::uv::database::MAX_VCPUS;

/// Keys of a partition.
pub(crate) const KEYS: [&str; 12] = [
    "name",
    "kernel",
    "initrd",
    "command_line",
    "memory",
    "max_memory",
    "vcpus",
    "max_vcpus",
    "cpu",
    "grant_frames",
    "on",
    "domain",
];
/// Keys of the table `cpu`.
pub(crate) const CPU_KEYS: [&str; 4] = ["weight", "cap", "affinity", "dedicated"];
/// Keys of the table `on`.
pub(crate) const ON_KEYS: [&str; 3] = ["poweroff", "reboot", "crash"];
/// The key of the tables in a file with several partitions.
pub(crate) const TABLES: &str = "partition";
/// What no partition can be without, and an example.
pub(crate) const REQUIRED: [(&str, &str); 3] =
    [("name", "\"web-1\""), ("kernel", "\"/boot/vmlinuz\""), ("memory", "\"256M\"")];
/// Partitions in a file at most.
pub(crate) const MAX_PARTITIONS: usize = 1024;

/// Reads the definitions of a file. Where it is not whole, what is missing may stand in a part
/// that could not be read.
pub(crate) fn read(entries: &[Entry], is_whole: bool, sink: &mut Sink<'_>) -> Vec<Found> {
    let Some(tables) = entries.iter().find(|entry| entry.key == TABLES) else {
        return vec![partition(entries, 0, "partition", is_whole, sink)];
    };
    for other in entries.iter().filter(|entry| entry.key != TABLES) {
        let problem = "stands beside [[partition]] tables and belongs to none of them";
        sink.error(other.at, &other.key, problem, "put it below a [[partition]] line");
    }
    let Value::List(items) = &tables.item.value else {
        let problem = format!("{} is given, tables are needed", tables.item.value.kind());
        sink.error(tables.at, TABLES, problem, "head each partition with a line [[partition]]");
        return Vec::new();
    };
    if items.is_empty() || items.len() > MAX_PARTITIONS {
        let problem = format!("{} partitions in a file", items.len());
        sink.error(tables.at, TABLES, problem, format!("give 1 to {MAX_PARTITIONS}"));
        return Vec::new();
    }
    let mut found = Vec::new();
    for (index, item) in items.iter().enumerate() {
        let object = format!("partition {}", index + 1);
        match &item.value {
            Value::Table(table) => {
                found.push(partition(table, item.at, &object, is_whole, sink));
            }
            other => {
                let problem = format!("{} is given, a table is needed", other.kind());
                sink.error(item.at, &object, problem, "head it with a line [[partition]]");
            }
        }
    }
    found
}

/// Reads one partition; `at` is where it starts, `object` what it is called without a name.
fn partition(
    entries: &[Entry],
    at: usize,
    object: &str,
    is_whole: bool,
    sink: &mut Sink<'_>,
) -> Found {
    sink.object = name_object(entries).unwrap_or_else(|| object.to_owned());
    let mut draft = Draft::default();
    for entry in entries {
        match (&*entry.key, &entry.item.value) {
            ("cpu", Value::Table(table)) => sub_table(table, "cpu", &CPU_KEYS, &mut draft, sink),
            ("on", Value::Table(table)) => sub_table(table, "on", &ON_KEYS, &mut draft, sink),
            (key, _) if KEYS.contains(&key) => field(entry, key, &mut draft, sink),
            _ => unknown(entry, "", &KEYS, sink),
        }
    }
    missing(&REQUIRED, |key| !is_whole || entries.iter().any(|entry| entry.key == key), at, sink);
    let found = finish(draft, sink);
    sink.object.clear();
    found
}

/// Says which required fields are missing.
pub(crate) fn missing(
    required: &[(&str, &str)],
    has: impl Fn(&str) -> bool,
    at: usize,
    sink: &mut Sink<'_>,
) {
    for (key, example) in required {
        if !has(key) {
            sink.missing(at, key, example);
        }
    }
}

/// A partition by its name, where it has one that a message can show.
pub(crate) fn name_object(entries: &[Entry]) -> Option<String> {
    let entry = entries.iter().find(|entry| entry.key == "name")?;
    match &entry.item.value {
        Value::Text(name) if !name.is_empty() => Some(format!("partition {}", quoted(name))),
        _ => None,
    }
}

fn sub_table(
    entries: &[Entry],
    table: &str,
    keys: &[&str],
    draft: &mut Draft,
    sink: &mut Sink<'_>,
) {
    for entry in entries {
        if keys.contains(&&*entry.key) {
            field(entry, &format!("{table}.{}", entry.key), draft, sink);
        } else {
            unknown(entry, table, keys, sink);
        }
    }
}

fn unknown(entry: &Entry, table: &str, keys: &[&str], sink: &mut Sink<'_>) {
    let name = if table.is_empty() { entry.key.clone() } else { format!("{table}.{}", entry.key) };
    let name = if name.chars().any(char::is_control) { quoted(&name) } else { name };
    sink.error(entry.at, &name, "unknown key", suggest::way_out(&entry.key, table, keys));
}

/// Takes the value of one known field, by its full name.
fn field(entry: &Entry, name: &str, draft: &mut Draft, sink: &mut Sink<'_>) {
    let mut field = Field { name, entry, sink };
    match name {
        "name" => draft.name = field.name(),
        "kernel" => draft.kernel = field.path(),
        "initrd" => draft.initrd = field.path(),
        "command_line" => draft.command_line = field.command_line(),
        "memory" => draft.memory = field.size(),
        "max_memory" => draft.max_memory = field.size(),
        "vcpus" => draft.vcpus = field.number(rules::VCPUS),
        "max_vcpus" => draft.max_vcpus = field.number(rules::VCPUS),
        "grant_frames" => draft.grant_frames = field.number(rules::GRANT_FRAMES),
        "domain" => draft.domain = field.name(),
        "cpu.weight" => draft.weight = field.number(rules::WEIGHT),
        "cpu.cap" => draft.cap = field.number(0..=MAX_VCPUS * 100),
        "cpu.affinity" => draft.affinity = field.cpus(),
        "cpu.dedicated" => draft.dedicated = field.boolean(),
        "on.poweroff" => draft.poweroff = field.policy(),
        "on.reboot" => draft.reboot = field.policy(),
        "on.crash" => draft.crash = field.policy(),
        table => {
            let problem = format!("{} is given, a table is needed", entry.item.value.kind());
            sink.error(entry.item.at, table, problem, format!("write its fields below [{table}]"));
        }
    }
}
