//! Reads TOML text into values.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::issue::Sink;
use crate::value::{Entry, Item, Value};

/// Reads TOML; mistakes in its syntax go into `sink`. The second value is true if there was no
/// mistake.
pub(crate) fn read<'t>(text: &'t str, sink: &mut Sink<'_>) -> (Vec<Entry<'t>>, bool) {
    let (table, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        let span = error.span().unwrap_or(0..0);
        let (at, there) = (span.start, text.get(span).unwrap_or(""));
        let message = error.message().replace('\n', ", ");
        if message.starts_with("duplicate key") {
            sink.error(at, there.trim_matches('"'), "is set twice", "leave one of them out");
        } else {
            sink.error(at, "", format!("not TOML: {message}"), way_out(text, at));
        }
    }
    if errors.is_empty() {
        return (entries(table.into_inner()), true);
    }
    // A value on a line with a mistake may not be what its writer meant.
    let lines: Vec<usize> =
        errors.iter().map(|one| line(text, one.span().map_or(0, |at| at.start))).collect();
    let mut entries = entries(table.into_inner());
    entries.retain(|entry| !lines.contains(&line(text, entry.at)));
    (entries, false)
}

/// The line of a byte.
fn line(text: &str, at: usize) -> usize {
    text.bytes().take(at).filter(|byte| *byte == b'\n').count()
}

/// The way out for a syntax mistake on the line of this byte.
fn way_out(text: &str, at: usize) -> String {
    const WAY_OUT: &str = "write KEY = VALUE lines";
    let Some((key, value)) = text.lines().nth(line(text, at)).and_then(|line| line.split_once('='))
    else {
        return WAY_OUT.to_owned();
    };
    let value = value.split('#').next().unwrap_or_default().trim();
    let is_bare = value.chars().all(|c| c.is_alphanumeric() || "./_-+ ".contains(c));
    if value.is_empty() || !is_bare {
        return WAY_OUT.to_owned();
    }
    format!("write {} = \"{value}\"", key.trim())
}

/// Returns the keys if the text is TOML.
pub(crate) fn try_read(text: &str) -> Option<Vec<Entry<'_>>> {
    DeTable::parse(text).ok().map(|table| entries(table.into_inner()))
}

/// The entries in the order of the file.
fn entries(table: DeTable<'_>) -> Vec<Entry<'_>> {
    let mut entries: Vec<Entry<'_>> = table
        .into_iter()
        .map(|(key, value)| Entry {
            at: key.span().start,
            key: key.into_inner(),
            item: item(value),
        })
        .collect();
    entries.sort_by_key(|entry| entry.at);
    entries
}

fn item(value: Spanned<DeValue<'_>>) -> Item<'_> {
    let at = value.span().start;
    let value = match value.into_inner() {
        DeValue::String(text) => Value::Text(text),
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
