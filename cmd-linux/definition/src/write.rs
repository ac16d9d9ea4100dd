//! Definitions as TOML, the way a person would write them, and as JSON for programs.

use control::command::DiskNumber;
use serde_json::{Value as Json, json};
use toml::{Table, Value};

use crate::rows::{Datum, Kind, ROWS};
use crate::{Definition, Disk, DiskExtent, Function, units};

/// The members of a JSON object.
pub type Map = serde_json::Map<String, Json>;

/// Writes a file that [`parse`](crate::parse) reads back as these definitions. A path that is not
/// UTF-8 is written with replacement characters.
#[must_use]
pub fn to_toml(definitions: &[Definition]) -> String {
    match definitions {
        [one] => table(one).to_string(),
        several => {
            let tables = several.iter().map(|one| Value::Table(table(one))).collect();
            Table::from_iter([("partition".to_owned(), Value::Array(tables))]).to_string()
        }
    }
}

fn table(definition: &Definition) -> Table {
    let mut whole = Table::new();
    for row in &ROWS {
        let Some(value) = (row.get)(definition) else { continue };
        let value = match value {
            Datum::Text(text) => Value::String(text.into_owned()),
            Datum::Path(path) => Value::String(path.to_string_lossy().into_owned()),
            Datum::Bytes(bytes) => Value::String(units::size(bytes)),
            Datum::Number(number) => Value::Integer(number.into()),
            Datum::Cpus(cpus) => Value::String(units::cpus(&cpus)),
            Datum::Truth(truth) => Value::Boolean(truth),
            Datum::Policy(policy) => Value::String(policy.word().to_owned()),
            Datum::Disks(disks) if disks.is_empty() => continue,
            Datum::Disks(disks) => {
                Value::Array(disks.iter().map(|disk| Value::Table(self::disk(disk))).collect())
            }
        };
        let (table, key) = row.place();
        if table.is_empty() {
            whole.insert(key.to_owned(), value);
        } else if let Value::Table(inner) =
            whole.entry(table).or_insert_with(|| Value::Table(Table::new()))
        {
            inner.insert(key.to_owned(), value);
        }
    }
    whole
}

fn disk(disk: &Disk) -> Table {
    let Disk { device, function, partition, extents, read_only, shared } = disk;
    let number = |number: u64| Value::Integer(i64::try_from(number).unwrap_or(i64::MAX));
    let mut table = Table::new();
    let mut put = |key: &str, value| table.insert(key.to_owned(), value);
    put("device", Value::String(DiskNumber(*device).to_string()));
    put(
        "function",
        match function {
            Function::Address(_) => Value::String(function.to_string()),
            Function::Index(index) => Value::Integer((*index).into()),
        },
    );
    if let Some(partition) = partition {
        put("partition", Value::Integer((*partition).into()));
    }
    if !extents.is_empty() {
        let extent = |one: &DiskExtent| {
            let both = [("start", one.start), ("sectors", one.sectors)];
            Value::Table(
                both.map(|(key, value)| (key.to_owned(), number(value))).into_iter().collect(),
            )
        };
        put("extents", Value::Array(extents.iter().map(extent).collect()));
    }
    for (key, truth) in [("read_only", *read_only), ("shared", *shared)] {
        if truth {
            put(key, Value::Boolean(true));
        }
    }
    table
}

/// A disk for programs.
fn disk_json(disk: &Disk) -> Json {
    let function: Json = match disk.function {
        Function::Address(_) => disk.function.to_string().into(),
        Function::Index(index) => index.into(),
    };
    let extent = |one: &DiskExtent| json!({ "start": one.start, "sectors": one.sectors });
    json!({
        "device": DiskNumber(disk.device).to_string(),
        "function": function,
        "partition": disk.partition,
        "extents": disk.extents.iter().map(extent).collect::<Vec<_>>(),
        "read_only": disk.read_only,
        "shared": disk.shared,
    })
}

/// A definition for programs: names of sizes and percentages say the unit, and no cap is `null`.
#[must_use]
pub fn to_json(definition: &Definition) -> Map {
    let mut whole = Map::new();
    for row in &ROWS {
        let json = match (row.get)(definition) {
            None => Json::Null,
            Some(Datum::Text(text)) => text.into(),
            Some(Datum::Path(path)) => path.display().to_string().into(),
            Some(Datum::Bytes(bytes)) => bytes.into(),
            Some(Datum::Number(0)) if matches!(row.kind, Kind::Percent(_)) => Json::Null,
            Some(Datum::Number(number)) => number.into(),
            Some(Datum::Cpus(cpus)) => cpus.into_owned().into(),
            Some(Datum::Truth(truth)) => truth.into(),
            Some(Datum::Policy(policy)) => policy.word().into(),
            Some(Datum::Disks(disks)) => disks.iter().map(disk_json).collect::<Vec<_>>().into(),
        };
        let unit = match row.kind {
            Kind::Size => "_bytes",
            Kind::Percent(_) => "_percent",
            _ => "",
        };
        let (table, key) = row.place();
        let key = format!("{key}{unit}");
        if table.is_empty() {
            whole.insert(key, json);
        } else if let Json::Object(inner) =
            whole.entry(table).or_insert_with(|| Json::Object(Map::new()))
        {
            inner.insert(key, json);
        }
    }
    whole
}
