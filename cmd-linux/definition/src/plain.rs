//! Files of plain lines, which this module reads in a fraction of the time that general TOML takes.
//!
//! A file of a thousand partitions consists of `[[partition]]` lines, and of lines of a key with a
//! text without escapes, a number, `true` or `false`. Rule: this module reads only TOML, gives it
//! the meaning that TOML gives it, and has the same validators check it. The TOML library reads any
//! file that is not plain, or has a mistake; all messages come from that library.
//!
//! The partitions of a fleet often differ only in their names. So the lines after a name are
//! compared with the lines of the last partition that was read line by line. If they are equal,
//! only the name is read.

use std::borrow::Cow;
use std::path::Path;

use foldhash::fast::RandomState;

use crate::fields::MAX_PARTITIONS;
use crate::rows::{self, Datum, Kind, ROWS, Row};
use crate::{Definition, Listed, Policy, units};

/// The line before each partition.
const HEADING: &str = "[[partition]]";
/// Names, with a hash function for short texts.
type NameSet<'t> = std::collections::HashSet<&'t str, RandomState>;
/// Bytes of a definition at least: its heading, and the required fields with the shortest values.
const LEAST: usize = 48;
/// Digits of a number at most.
const DIGITS: usize = 9;

/// Reads the definitions of a file in this directory; `None` if the file is not plain or has a
/// mistake.
pub(crate) fn read(text: &str, directory: &Path) -> Option<Vec<Listed>> {
    // Memory that is reserved and not used costs nothing; a vector that grows is copied.
    let mut all = Vec::with_capacity(text.len() / LEAST + 1);
    let head = Block::read(text, directory)?;
    let mut rest = head.rest;
    match rest {
        None => all.push(head.partition.finish()?),
        // Keys before the first table belong to no partition.
        Some(_) if head.partition.found != 0 => return None,
        Some(_) => {}
    }
    // The lines behind the name of the last partition that was read line by line.
    let mut last = None;
    while let Some(text) = rest {
        if let Some((name, behind)) = last.and_then(|last| renamed(text, last)) {
            all.push(Listed::Like(name.into()));
            rest = behind;
            continue;
        }
        let block = Block::read(text, directory)?;
        all.push(block.partition.finish()?);
        last = block.lines.and_then(named).map(|(_, lines)| lines);
        rest = block.rest;
    }
    let mut names = NameSet::with_capacity_and_hasher(all.len(), RandomState::default());
    let is_right = all.len() <= MAX_PARTITIONS && all.iter().all(|one| names.insert(one.name()));
    is_right.then_some(all)
}

/// The name in a first line `name = "NAME"`, and the lines behind it.
fn named(text: &str) -> Option<(&str, &str)> {
    let (name, behind) = text.strip_prefix("name = \"")?.split_once('"')?;
    Some((name, behind.strip_prefix('\n')?))
}

/// If a text begins with a named partition whose other lines are `lines`: its name, and the text
/// behind the next heading, if there is one.
fn renamed<'t>(text: &'t str, lines: &str) -> Option<(&'t str, Option<&'t str>)> {
    let (name, behind) = named(text)?;
    let behind = behind.strip_prefix(lines)?;
    let rest = match behind {
        "" => None,
        _ => Some(behind.strip_prefix(HEADING)?.strip_prefix('\n')?),
    };
    let is_right = !name.bytes().any(is_odd) && rules::guest_name(name).is_ok();
    is_right.then_some((name, rest))
}

/// The lines up to the next heading.
struct Block<'t> {
    partition: Partition,
    /// The lines as text; `None` if the last one does not end.
    lines: Option<&'t str>,
    /// The text behind the heading; `None` if there is no other heading.
    rest: Option<&'t str>,
}

impl<'t> Block<'t> {
    fn read(text: &'t str, directory: &Path) -> Option<Self> {
        let (mut partition, mut rest) = (Partition::new(), text);
        while !rest.is_empty() {
            let lines = text.get(..text.len() - rest.len());
            let end = rest.bytes().position(|byte| byte == b'\n').unwrap_or(rest.len());
            let line = rest.get(..end)?.trim_matches([' ', '\t']);
            rest = rest.get(end + 1..).unwrap_or_default();
            if line == HEADING {
                return Some(Self { partition, lines, rest: Some(rest) });
            }
            if !line.is_empty() && !line.starts_with('#') {
                partition.line(line, directory)?;
            } else if line.bytes().any(is_control) {
                return None;
            }
        }
        Some(Self { partition, lines: text.ends_with('\n').then_some(text), rest: None })
    }
}

/// A partition, as far as its lines have been read.
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
    fn finish(mut self) -> Option<Listed> {
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
        conflicts.is_empty().then(|| Listed::Whole(Box::new(self.definition)))
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
        Kind::GuestName | Kind::GroupName | Kind::Line(_) => Some(Datum::Text(text.into())),
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
    (!text.bytes().any(is_odd)).then_some(text)
}

/// Reads a decimal number without a sign.
fn plain_number(digits: &str) -> Option<u32> {
    let is_plain = digits.len() <= DIGITS && digits.bytes().all(|byte| byte.is_ascii_digit());
    (is_plain && (digits == "0" || !digits.starts_with('0'))).then(|| digits.parse().ok())?
}

/// Whether a byte does not stand for itself in a text.
const fn is_odd(byte: u8) -> bool {
    byte == b'"' || byte == b'\\' || is_control(byte)
}

const fn is_control(byte: u8) -> bool {
    byte < b' ' || byte == 0x7f
}
