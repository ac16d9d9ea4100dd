//! Files of plain lines, which are read at a fraction of the time that TOML in general takes.
//!
//! A file of a thousand partitions is `[[partition]]` lines and lines of a key with a text without
//! escapes, a number, `true` or `false`. Rule: what is read here is TOML, and means the same there;
//! whatever is not plain, or not right, is read again by the TOML library, from which all messages
//! come.

use std::borrow::Cow;

use crate::fields::TABLES;
use crate::value::{Entry, Item, Value};

/// Digits of a number at most.
const DIGITS: usize = 18;

/// The keys of a file, their places left open; `None`: it is not plain.
pub(crate) fn read(text: &str) -> Option<Vec<Entry<'_>>> {
    let (mut whole, mut tables): (Vec<Entry<'_>>, Vec<Item<'_>>) = (Vec::new(), Vec::new());
    for line in text.split('\n') {
        let line = line.trim_matches([' ', '\t']);
        if line.is_empty() || (line.starts_with('#') && !line.bytes().any(is_control)) {
            continue;
        }
        if line == "[[partition]]" {
            tables.push(item(Value::Table(Vec::new())));
            continue;
        }
        let (key, value) = setting(line)?;
        let entries = match tables.last_mut() {
            Some(Item { value: Value::Table(entries), .. }) => entries,
            _ => &mut whole,
        };
        if entries.iter().any(|entry| entry.key == key) {
            return None;
        }
        entries.push(Entry { key: Cow::Borrowed(key), at: 0, item: item(value) });
    }
    if !tables.is_empty() {
        if whole.iter().any(|entry| entry.key == TABLES) {
            return None;
        }
        whole.push(Entry { key: TABLES.into(), at: 0, item: item(Value::List(tables)) });
    }
    Some(whole)
}

fn item(value: Value<'_>) -> Item<'_> {
    Item { at: 0, value }
}

/// A line `key = value`.
fn setting(line: &str) -> Option<(&str, Value<'_>)> {
    let (key, value) = line.split_once('=')?;
    let (key, value) = (key.trim_end_matches([' ', '\t']), value.trim_start_matches([' ', '\t']));
    let is_bare = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    if key.is_empty() || !key.bytes().all(is_bare) {
        return None;
    }
    let value = match value {
        "true" => Value::Boolean(true),
        "false" => Value::Boolean(false),
        _ => match value.strip_prefix('"') {
            Some(rest) => Value::Text(Cow::Borrowed(plain_text(rest)?)),
            None => Value::Integer(plain_number(value)?),
        },
    };
    Some((key, value))
}

/// A text up to its closing quote, without escapes.
fn plain_text(rest: &str) -> Option<&str> {
    let text = rest.strip_suffix('"')?;
    let is_odd = |byte: u8| byte == b'"' || byte == b'\\' || is_control(byte);
    (!text.bytes().any(is_odd)).then_some(text)
}

/// A number in decimal, without a sign.
fn plain_number(digits: &str) -> Option<i128> {
    let is_plain = digits.len() <= DIGITS && digits.bytes().all(|byte| byte.is_ascii_digit());
    (is_plain && (digits == "0" || !digits.starts_with('0'))).then(|| digits.parse().ok())?
}

const fn is_control(byte: u8) -> bool {
    byte < b' ' || byte == 0x7f
}
