//! TOML text into values.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::issue::Sink;
use crate::value::{Entry, Item, Value};

/// Reads TOML; what is wrong with its syntax goes into `sink`.
pub(crate) fn read(text: &str, sink: &mut Sink<'_>) -> Option<Vec<Entry>> {
    let (table, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        let span = error.span().unwrap_or(0..0);
        let (at, there) = (span.start, text.get(span).unwrap_or(""));
        let message = error.message().replace('\n', ", ");
        if message.starts_with("duplicate key") {
            sink.error(at, there.trim_matches('"'), "is set twice", "leave one of them out");
        } else {
            sink.error(at, "", format!("no TOML here: {message}"), "write KEY = VALUE lines");
        }
    }
    errors.is_empty().then(|| entries(table.into_inner()))
}

/// Whether the text is TOML, with its keys if so.
pub(crate) fn try_read(text: &str) -> Option<Vec<Entry>> {
    DeTable::parse(text).ok().map(|table| entries(table.into_inner()))
}

/// In the order of the file.
fn entries(table: DeTable<'_>) -> Vec<Entry> {
    let mut entries: Vec<Entry> = table
        .into_iter()
        .map(|(key, value)| Entry {
            at: key.span().start,
            key: key.into_inner().into_owned(),
            item: item(value),
        })
        .collect();
    entries.sort_by_key(|entry| entry.at);
    entries
}

fn item(value: Spanned<DeValue<'_>>) -> Item {
    let at = value.span().start;
    let value = match value.into_inner() {
        DeValue::String(text) => Value::Text(text.into_owned()),
        DeValue::Integer(number) => {
            let parsed = i128::from_str_radix(number.as_str(), number.radix());
            Value::Integer(parsed.unwrap_or(i128::MAX))
        }
        DeValue::Boolean(truth) => Value::Boolean(truth),
        DeValue::Array(list) => Value::List(list.into_iter().map(item).collect()),
        DeValue::Table(table) => Value::Table(entries(table)),
        DeValue::Float(_) => Value::Other("a number with a point"),
        DeValue::Datetime(_) => Value::Other("a date"),
    };
    Item { at, value }
}
