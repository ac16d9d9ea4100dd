//! The fields of one partition as the parser finds them. Each field is checked by itself against
//! its limits.
//!
//! Both syntaxes fill a [`Draft`]; checks that involve several fields are made when the draft is
//! [finished](crate::finish). A field keeps the name that it has in the file, for messages.

use std::ops::RangeInclusive;
use std::path::PathBuf;

use crate::issue::{Sink, quoted};
use crate::rows::{Datum, Kind, ROWS, Row};
use crate::units::{self, MAX_CPU, SizeError};
use crate::value::{Entry, Item, Value};
use crate::{Policy, disks};

/// Bytes of a path at most.
pub(crate) const MAX_PATH: usize = 4095;

/// A value that passed its own checks.
#[derive(Clone, Debug)]
pub(crate) struct At<T> {
    pub(crate) value: T,
    pub(crate) at: usize,
    /// The field's name in the file.
    pub(crate) field: String,
}

impl<T> At<T> {
    /// Applies `make` to the value and keeps the field's name and place.
    pub(crate) fn map<U>(self, make: impl FnOnce(T) -> U) -> At<U> {
        At { value: make(self.value), at: self.at, field: self.field }
    }
}

/// The values that a file gives for a partition, one for each of the [`ROWS`].
#[derive(Debug, Default)]
pub(crate) struct Draft([Option<At<Datum<'static>>>; ROWS.len()]);

impl Draft {
    /// Stores the value that was found for a field, if it passed its checks.
    pub(crate) fn put(&mut self, row: &Row, found: Option<At<Datum<'static>>>) {
        let place = ROWS.iter().zip(&mut self.0).find(|(one, _)| one.name == row.name);
        if let (Some((_, place)), Some(found)) = (place, found) {
            *place = Some(found);
        }
    }

    /// The value that was found for a field.
    pub(crate) fn get(&self, name: &str) -> Option<&At<Datum<'static>>> {
        self.rows().find(|(row, _)| row.name == name)?.1
    }

    /// All rows, each with the value that was found for its field.
    pub(crate) fn rows(&self) -> impl Iterator<Item = (&'static Row, Option<&At<Datum<'static>>>)> {
        ROWS.iter().zip(self.0.iter().map(Option::as_ref))
    }

    /// The number that was found for a field.
    pub(crate) fn number(&self, name: &str) -> Option<u32> {
        match self.get(name)?.value {
            Datum::Number(number) => Some(number),
            _ => None,
        }
    }
}

/// Reads values of one entry, under the field name that messages use.
pub(crate) struct Field<'a, 'b> {
    pub(crate) name: &'a str,
    pub(crate) entry: &'a Entry<'a>,
    pub(crate) sink: &'a mut Sink<'b>,
}

impl Field<'_, '_> {
    /// Reads a value of this kind in TOML's notation.
    pub(crate) fn toml(&mut self, kind: &Kind) -> Option<At<Datum<'static>>> {
        Some(match kind {
            Kind::GuestName | Kind::GroupName => {
                self.name(kind)?.map(|name| Datum::Text(name.into()))
            }
            Kind::Path => self.path()?.map(|path| Datum::Path(PathBuf::from(path).into())),
            Kind::Line(example) => self.line(example)?.map(|line| Datum::Text(line.into())),
            Kind::Size => self.size()?.map(Datum::Bytes),
            Kind::Number(limits) | Kind::Percent(limits) => {
                self.number(limits.clone())?.map(Datum::Number)
            }
            Kind::Cpus => self.cpus()?.map(|cpus| Datum::Cpus(cpus.into())),
            Kind::Truth => self.boolean()?.map(Datum::Truth),
            Kind::Policy => self.policy()?.map(Datum::Policy),
            Kind::Disks => disks::read(self.entry, self.sink)?,
        })
    }

    /// Reads a value of this kind in xl.cfg's notation: sizes are in MiB, and numbers may stand in
    /// quotes.
    pub(crate) fn xl(&mut self, kind: &Kind) -> Option<At<Datum<'static>>> {
        match kind {
            Kind::Size => Some(self.mebibytes()?.map(Datum::Bytes)),
            Kind::Number(limits) | Kind::Percent(limits) => {
                Some(self.loose_number(limits.clone())?.map(Datum::Number))
            }
            _ => self.toml(kind),
        }
    }

    fn item(&self) -> &Item<'_> {
        &self.entry.item
    }

    fn ok<T>(&self, value: T) -> Option<At<T>> {
        Some(At { value, at: self.item().at, field: self.name.to_owned() })
    }

    fn refuse<T>(
        &mut self,
        problem: impl Into<String>,
        way_out: impl Into<String>,
    ) -> Option<At<T>> {
        self.sink.error(self.entry.item.at, self.name, problem, way_out);
        None
    }

    fn wrong_kind<T>(&mut self, wanted: &str, example: &str) -> Option<At<T>> {
        let problem = format!("{} is given, {wanted} is needed", self.item().value.kind());
        let key = self.entry.key.clone();
        self.refuse(problem, format!("write {key} = {example}"))
    }

    fn plain_text(&mut self, example: &str) -> Option<String> {
        match &self.item().value {
            Value::Text(text) => Some(text.clone().into_owned()),
            _ => self.wrong_kind::<String>("a text", example).map(|at| at.value),
        }
    }

    /// Reads the name of a partition or a policy group.
    fn name(&mut self, kind: &Kind) -> Option<At<String>> {
        let name = self.plain_text("\"web-1\"")?;
        if let Err(wrong) = kind.check(&Datum::from(&name)) {
            return self.refuse(wrong.problem, wrong.way_out);
        }
        self.ok(name)
    }

    /// Reads the path of a file.
    fn path(&mut self) -> Option<At<String>> {
        let path = self.plain_text("\"/boot/FILE\"")?;
        if path.is_empty() {
            return self.refuse("an empty path", "give the path of a file");
        }
        if path.len() > MAX_PATH {
            let problem = format!("a path of {} bytes", path.len());
            return self.refuse(problem, format!("give at most {MAX_PATH} bytes"));
        }
        if path.contains('\0') {
            return self.refuse("a path with a zero byte in it", "give a path without");
        }
        self.ok(path)
    }

    /// Reads one line of text.
    fn line(&mut self, example: &str) -> Option<At<String>> {
        let text = self.plain_text(example)?;
        check_line(self, text)
    }

    /// Reads a size with its unit.
    fn size(&mut self) -> Option<At<u64>> {
        let text = match &self.item().value {
            Value::Integer(number) => {
                let problem = format!("{number} has no unit");
                let way_out = format!("write {} = \"{number}M\" for MiB", self.entry.key);
                return self.refuse(problem, way_out);
            }
            _ => self.plain_text("\"256M\"")?,
        };
        match units::parse_size(&text) {
            Ok(bytes) => self.memory(bytes, &text),
            Err(SizeError::NoUnit) => {
                let way_out = format!("write \"{}M\" for MiB", text.trim());
                self.refuse(format!("{} has no unit", quoted(&text)), way_out)
            }
            Err(SizeError::Form) => self.refuse(
                format!("{} is not a size", quoted(&text)),
                "give a whole number with B, K, M, G or T, such as \"256M\"",
            ),
            Err(SizeError::TooLarge) => self.memory(u64::MAX, &text),
        }
    }

    /// Reads a size in MiB without a unit.
    fn mebibytes(&mut self) -> Option<At<u64>> {
        if let Value::Text(text) = &self.item().value
            && let Ok(bytes @ 0x10_0000..) = units::parse_size(text)
        {
            let problem = format!("{} has a unit, and xl.cfg counts in MiB", quoted(text));
            let way_out = format!("write {} = {}", self.entry.key, bytes >> 20);
            return self.refuse(problem, way_out);
        }
        let number = self.integer("256")?;
        let bytes = u64::try_from(number).ok().and_then(|mib| mib.checked_mul(1 << 20));
        let shown = format!("{number} MiB");
        self.memory(bytes.unwrap_or(if number < 0 { 0 } else { u64::MAX }), &shown)
    }

    fn memory(&mut self, bytes: u64, shown: &str) -> Option<At<u64>> {
        if let Err(wrong) = rules::memory(bytes, || shown.to_owned()) {
            return self.refuse(wrong.problem, wrong.way_out);
        }
        self.ok(bytes)
    }

    /// Reads a number in xl's notation: it may stand in quotes, and 0x marks base 16.
    fn integer(&mut self, example: &str) -> Option<i128> {
        let text = match &self.item().value {
            Value::Integer(number) => return Some(*number),
            Value::Text(text) => text.trim_start().to_owned(),
            _ => return self.wrong_kind::<i128>("a number", example).map(|at| at.value),
        };
        match units::parse_c_number(&text) {
            Ok(number) => Some(number),
            Err(Some(number)) => {
                let problem = format!("{} is in base 8 for xl, which is {number}", quoted(&text));
                let way_out = format!("write {} = {number}, or leave the 0 out", self.entry.key);
                self.refuse::<i128>(problem, way_out).map(|at| at.value)
            }
            Err(None) => self.wrong_kind::<i128>("a number", example).map(|at| at.value),
        }
    }

    /// Reads a number within limits.
    fn number(&mut self, limits: RangeInclusive<u32>) -> Option<At<u32>> {
        let number = match &self.item().value {
            Value::Integer(number) => *number,
            _ => self.wrong_kind::<i128>("a number", &limits.start().to_string())?.value,
        };
        self.within(number, limits)
    }

    /// Reads a number within limits; quotes are allowed.
    fn loose_number(&mut self, limits: RangeInclusive<u32>) -> Option<At<u32>> {
        let number = self.integer(&limits.start().to_string())?;
        self.within(number, limits)
    }

    fn within(&mut self, number: i128, limits: RangeInclusive<u32>) -> Option<At<u32>> {
        match (rules::within(number, &limits), u32::try_from(number)) {
            (Ok(()), Ok(value)) => self.ok(value),
            (Ok(()), Err(_)) => None,
            (Err(wrong), _) => self.refuse(wrong.problem, wrong.way_out),
        }
    }

    /// Reads `true` or `false`.
    fn boolean(&mut self) -> Option<At<bool>> {
        match self.item().value {
            Value::Boolean(truth) => self.ok(truth),
            _ => self.wrong_kind("true or false", "true"),
        }
    }

    /// Reads physical CPUs: `"0-3,5"`, or a list of numbers.
    fn cpus(&mut self) -> Option<At<Vec<u32>>> {
        let way_out = format!("give numbers from 0 to {MAX_CPU}, such as \"0-3,5\"");
        let found = match &self.item().value {
            Value::Text(text) if ["all", ""].contains(&text.trim()) => Ok(Vec::new()),
            Value::Text(text) => units::parse_cpus(text),
            Value::List(items) => cpus_of_list(items),
            _ => return self.wrong_kind("a list of CPUs", "\"0-3,5\""),
        };
        let mut cpus = match found {
            Ok(cpus) => cpus,
            Err(part) => {
                return self.refuse(format!("{} names no CPU", quoted(&part)), way_out);
            }
        };
        cpus.sort_unstable();
        let twice = cpus.windows(2).find(|pair| pair[0] == pair[1]).map(|pair| pair[0]);
        match twice {
            Some(cpu) => self.refuse(format!("CPU {cpu} is listed twice"), "name each CPU once"),
            None => self.ok(cpus),
        }
    }

    /// Reads the action for the end of a partition.
    fn policy(&mut self) -> Option<At<Policy>> {
        let word = self.plain_text("\"destroy\"")?;
        match Policy::of(&word) {
            Some(policy) => self.ok(policy),
            None => self.refuse(
                format!("{} is not a policy", quoted(&word)),
                "give destroy, restart or preserve",
            ),
        }
    }
}

/// Checks a line of text, whether one field gave it or several.
pub(crate) fn check_line(field: &mut Field<'_, '_>, text: String) -> Option<At<String>> {
    if let Err(wrong) = rules::line(&text) {
        return field.refuse(wrong.problem, wrong.way_out);
    }
    field.ok(text)
}

fn cpus_of_list(items: &[Item<'_>]) -> Result<Vec<u32>, String> {
    let mut cpus = Vec::new();
    for item in items {
        match &item.value {
            Value::Integer(number) => match u32::try_from(*number) {
                Ok(cpu) if cpu <= MAX_CPU => cpus.push(cpu),
                _ => return Err(number.to_string()),
            },
            Value::Text(text) => cpus.extend(units::parse_cpus(text)?),
            other => return Err(other.kind().to_owned()),
        }
    }
    Ok(cpus)
}
