//! Files of plain lines, which this module reads in a fraction of the time that general TOML takes.
//!
//! A file of a thousand partitions is `[[partition]]` lines and lines of a key with a text without
//! escapes, a number, `true` or `false`. Rule: what is read here is TOML, has the same meaning as
//! in TOML, and passes the same validators; a file that is not plain, or has a mistake, is read
//! again by the TOML library, from which all messages come.

use std::borrow::Cow;
use std::collections::HashSet;
use std::path::Path;

use crate::fields::MAX_PARTITIONS;
use crate::rows::{self, Datum, Kind, ROWS, Row};
use crate::{Definition, Policy, units};

/// Bytes of a definition at least: its heading, and the required fields with the shortest values.
const LEAST: usize = 48;
/// Digits of a number at most.
const DIGITS: usize = 9;

/// Reads the definitions of a file in this directory; `None` if the file is not plain or has a
/// mistake.
pub(crate) fn read(text: &str, directory: &Path) -> Option<Vec<Definition>> {
    // Memory that is reserved and not used costs nothing; a vector that grows is copied.
    let mut all = Vec::with_capacity(text.len() / LEAST + 1);
    let (mut partition, mut is_headed) = (Partition::new(), false);
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest.bytes().position(|byte| byte == b'\n').unwrap_or(rest.len());
        let line = rest.get(..end)?.trim_matches([' ', '\t']);
        rest = rest.get(end + 1..).unwrap_or_default();
        if line == "[[partition]]" {
            // Keys before the first table belong to no partition.
            let last = std::mem::replace(&mut partition, Partition::new());
            match is_headed {
                true => all.push(last.finish()?),
                false if last.found == 0 => is_headed = true,
                false => return None,
            }
        } else if !line.is_empty() && !line.starts_with('#') {
            partition.line(line, directory)?;
        } else if line.bytes().any(is_control) {
            return None;
        }
    }
    all.push(partition.finish()?);
    let mut names = HashSet::with_capacity(all.len());
    let is_right = all.len() <= MAX_PARTITIONS && all.iter().all(|one| names.insert(&one.name));
    is_right.then_some(all)
}

/// A partition, as far as it has been read.
struct Partition {
    definition: Definition,
    /// The fields that were found: bit N stands for row N.
    found: u32,
}

const _: () = assert!(ROWS.len() <= u32::BITS as usize);

impl Partition {
    fn new() -> Self {
        Self { definition: Definition::unnamed(), found: 0 }
    }

    /// Takes a line `key = value`; `None` if the line is not plain or is wrong.
    fn line(&mut self, line: &str, directory: &Path) -> Option<()> {
        let at = line.bytes().position(|byte| byte == b'=')?;
        let (key, value) = (line.get(..at)?, line.get(at + 1..)?);
        let (key, value) =
            (key.trim_end_matches([' ', '\t']), value.trim_start_matches([' ', '\t']));
        let index = ROWS.iter().position(|row| row.name == key && !key.contains('.'))?;
        let (row, bit) = (ROWS.get(index)?, 1 << index);
        if self.found & bit != 0 {
            return None;
        }
        self.found |= bit;
        let value = datum(row, value, directory)?;
        row.kind.check(&value).ok()?;
        (row.set)(&mut self.definition, value);
        Some(())
    }

    /// Makes the definition of the fields found; `None` if there is a mistake.
    fn finish(mut self) -> Option<Definition> {
        for (index, row) in (0u32..).zip(&ROWS) {
            if self.found & 1 << index != 0 {
                continue;
            }
            if row.required.is_some() {
                return None;
            }
            let Some(source) = row.follows.and_then(rows::find) else { continue };
            let value = match (source.get)(&self.definition)? {
                Datum::Bytes(bytes) => Datum::Bytes(bytes),
                Datum::Number(number) => Datum::Number(number),
                _ => return None,
            };
            (row.set)(&mut self.definition, value);
        }
        let conflicts = rows::conflicts(&self.definition, &str::to_owned);
        conflicts.is_empty().then_some(self.definition)
    }
}

/// Converts a value to the kind of its row.
fn datum<'t>(row: &Row, value: &'t str, directory: &Path) -> Option<Datum<'t>> {
    let Some(rest) = value.strip_prefix('"') else {
        return match (&row.kind, value) {
            (Kind::Truth, "true") => Some(Datum::Truth(true)),
            (Kind::Truth, "false") => Some(Datum::Truth(false)),
            (Kind::Number(_) | Kind::Percent(_), _) => plain_number(value).map(Datum::Number),
            _ => None,
        };
    };
    let text = plain_text(rest)?;
    match row.kind {
        Kind::GuestName | Kind::GroupName | Kind::CommandLine => Some(Datum::Text(text.into())),
        Kind::Path if text.starts_with('/') => Some(Datum::Path(Path::new(text).into())),
        Kind::Path if !text.is_empty() => Some(Datum::Path(Cow::Owned(directory.join(text)))),
        Kind::Size => units::parse_size(text).ok().map(Datum::Bytes),
        Kind::Policy => Policy::of(text).map(Datum::Policy),
        _ => None,
    }
}

/// Reads a text up to its closing quote, without escapes.
fn plain_text(rest: &str) -> Option<&str> {
    let text = rest.strip_suffix('"')?;
    let is_odd = |byte: u8| byte == b'"' || byte == b'\\' || is_control(byte);
    (!text.bytes().any(is_odd)).then_some(text)
}

/// Reads a decimal number without a sign.
fn plain_number(digits: &str) -> Option<u32> {
    let is_plain = digits.len() <= DIGITS && digits.bytes().all(|byte| byte.is_ascii_digit());
    (is_plain && (digits == "0" || !digits.starts_with('0'))).then(|| digits.parse().ok())?
}

const fn is_control(byte: u8) -> bool {
    byte < b' ' || byte == 0x7f
}
