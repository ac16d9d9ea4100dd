//! The keys of a definition in TOML.

use std::borrow::Cow;
use std::path::Path;

use crate::draft::{Draft, Field};
use crate::finish::{Found, directory, finish};
use crate::issue::{Object, Sink, quoted};
use crate::rows::{self, ROWS};
use crate::suggest;
use crate::value::{Entry, Value};

/// The key of the tables in a file with several partitions.
pub(crate) const TABLES: &str = "partition";
/// Partitions in a file at most.
pub(crate) const MAX_PARTITIONS: usize = 1024;

/// Reads the definitions of a file. If the file is not whole, a field that seems missing may stand
/// in a part that could not be read.
pub(crate) fn read<'e>(
    entries: &'e [Entry<'_>],
    is_whole: bool,
    sink: &mut Sink<'e>,
) -> Vec<Found> {
    let directory = directory(sink.file());
    let Some(tables) = entries.iter().find(|entry| entry.key == TABLES) else {
        return vec![partition(entries, (0, Object::Partition), &directory, is_whole, sink)];
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
    let mut found = Vec::with_capacity(items.len());
    for (number, item) in (1..).zip(items) {
        let object = Object::Numbered(number);
        match &item.value {
            Value::Table(table) => {
                found.push(partition(table, (item.at, object), &directory, is_whole, sink));
            }
            other => {
                let problem = format!("{} is given, a table is needed", other.kind());
                let way_out = "head it with a line [[partition]]";
                sink.error(item.at, &object.to_string(), problem, way_out);
            }
        }
    }
    found
}

/// Reads one partition. `at` is the byte at which it starts; messages call it `unnamed` if it has
/// no name.
fn partition<'e>(
    entries: &'e [Entry<'_>],
    (at, object): (usize, Object<'e>),
    directory: &Path,
    is_whole: bool,
    sink: &mut Sink<'e>,
) -> Found {
    sink.object = name_object(entries).unwrap_or(object);
    let mut draft = Draft::default();
    for entry in entries {
        match &entry.item.value {
            Value::Table(table) if rows::is_table(&entry.key) => {
                for inner in table {
                    field(inner, &entry.key, &mut draft, sink);
                }
            }
            _ => field(entry, "", &mut draft, sink),
        }
    }
    let required = ROWS.iter().filter_map(|row| Some((row.name, row.required?)));
    let has = |key: &str| !is_whole || entries.iter().any(|entry| entry.key == key);
    missing(required, has, at, sink);
    let found = finish(draft, directory, sink);
    sink.object = Object::File;
    found
}

/// Says which required fields are missing.
pub(crate) fn missing(
    required: impl Iterator<Item = (&'static str, &'static str)>,
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

/// The partition by its name, if it has a name that a message can show.
pub(crate) fn name_object<'e>(entries: &'e [Entry<'_>]) -> Option<Object<'e>> {
    let entry = entries.iter().find(|entry| entry.key == "name")?;
    match &entry.item.value {
        Value::Text(name) if !name.is_empty() => Some(Object::Named(name)),
        _ => None,
    }
}

/// Reads the value of one entry of a table; an empty table name means the definition itself.
fn field(entry: &Entry<'_>, table: &str, draft: &mut Draft, sink: &mut Sink<'_>) {
    let name: Cow<'_, str> = match table {
        "" => Cow::Borrowed(&entry.key),
        table => format!("{table}.{}", entry.key).into(),
    };
    // A key that contains a point names no field.
    let row = rows::find(&name).filter(|row| row.place() == (table, &entry.key));
    if let Some(row) = row {
        let found = Field { name: row.name, entry, sink }.toml(&row.kind);
        draft.put(row, found);
    } else if table.is_empty() && rows::is_table(&name) {
        let problem = format!("{} is given, a table is needed", entry.item.value.kind());
        sink.error(entry.item.at, &name, problem, format!("write its fields below [{name}]"));
    } else {
        let is_unshown = name.chars().any(char::is_control);
        let name = if is_unshown { quoted(&name).into() } else { name };
        sink.error(entry.at, &name, "unknown key", suggest::way_out(&entry.key, table));
    }
}
