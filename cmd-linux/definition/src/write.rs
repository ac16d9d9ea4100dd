//! Definitions as TOML, the way a person would write them, and as JSON for programs.

use serde_json::Value as Json;
use toml::{Table, Value};

use crate::rows::{Datum, Kind, ROWS};
use crate::{Definition, units};

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
