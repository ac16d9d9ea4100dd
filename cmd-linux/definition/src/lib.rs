//! Definitions of partitions, as people write them.
//!
//! ```text
//! TOML   --toml_text--> values --fields--+
//!                                        +--> draft --finish--> Definition
//! xl.cfg --xl_text----> values --xl------+
//! ```
//!
//! A file in TOML defines one partition with its keys, or several with `[[partition]]` tables; its
//! fields are in [`SCHEMA`]. An xl.cfg file defines one partition, as far as the two formats agree.
//!
//! Rule: a [`Definition`] that was read is within all limits that can be known without the machine,
//! and every mistake in a file is an [`Issue`] that names the place, the object, the field, the
//! limit and a way out. All issues of a file are reported at once. No input panics.
#![forbid(unsafe_code)]

mod changes;
mod check;
mod disks;
mod draft;
mod fields;
mod finish;
mod issue;
mod plain;
mod rows;
mod suggest;
mod toml_text;
mod units;
mod value;
mod write;
mod xl;
mod xl_cpus;
mod xl_disks;
mod xl_settings;
mod xl_text;

use std::collections::HashMap;
use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use changes::{FieldChange, changes};
pub use check::Unfit;
pub use disks::{Disk, DiskExtent, Function, MAX_DISKS, device_number};
pub use issue::{Errors, Issue};
pub use units::{cpus, size};
pub use write::{Map, to_json, to_toml};

use finish::Found;
use issue::{Object, Sink, Source, whole_file};
use value::{Entry, Item, Value};

/// The JSON schema of a file in TOML.
pub const SCHEMA: &str = include_str!("../../../docs/src/definition.schema.json");

/// Bytes of a file at most.
pub const MAX_FILE: u64 = 1 << 20;

/// A partition's definition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Definition {
    /// Unique; 1 to 31 bytes.
    pub name: String,
    /// The kernel, an absolute path.
    pub kernel: PathBuf,
    /// The RAM disk, an absolute path.
    pub initrd: Option<PathBuf>,
    /// One line for the kernel, at most 1023 bytes.
    pub command_line: String,
    /// Bytes that the kernel uses at the start; a multiple of 4 KiB.
    pub memory: u64,
    /// Bytes that the partition is given, at least `memory`.
    pub max_memory: u64,
    /// Virtual CPUs that are up at the start, 1 to `max_vcpus`.
    pub vcpus: u32,
    /// Virtual CPUs that the partition may bring up, 1 to 32.
    pub max_vcpus: u32,
    /// CPU time.
    pub cpu: Cpu,
    /// Frames of the partition's grant table, 1 to 64.
    pub grant_frames: u32,
    /// What happens when the partition ends.
    pub on: Policies,
    /// Whether and when the partition starts with the host.
    #[serde(default)]
    pub autostart: Autostart,
    /// The policy group of the partition; nothing uses it yet.
    pub domain: Option<String>,
    /// One line for people, at most 1023 bytes.
    pub description: Option<String>,
    /// Disks, each with a device of its own.
    #[serde(default)]
    pub disks: Vec<Disk>,
}

/// CPU time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cpu {
    /// Relative share, 1 to 65535.
    pub weight: u32,
    /// Percent of one CPU at most; 0 means no cap.
    pub cap: u32,
    /// Physical CPUs, sorted; an empty list means all.
    pub affinity: Vec<u32>,
    /// Whether nothing else runs on these CPUs.
    pub dedicated: bool,
}

/// What happens when a partition ends by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policies {
    /// When the partition powers off.
    pub poweroff: Policy,
    /// When the partition reboots.
    pub reboot: Policy,
    /// When the partition crashes.
    pub crash: Policy,
}

/// Whether a partition starts with the host, which needs a state of `uvd` that outlives the host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Autostart {
    /// Whether it does.
    pub enabled: bool,
    /// Partitions with a lower number start before it, 0 to 65535.
    pub order: u32,
    /// Seconds from its start to that of the next partition, 0 to 3600.
    pub delay: u32,
}

/// What happens to a partition that ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Policy {
    /// The partition is destroyed: all its resources are released.
    Destroy,
    /// The partition is restarted.
    Restart,
    /// The partition stays as it is.
    Preserve,
}

impl Policy {
    const ALL: [Self; 3] = [Self::Destroy, Self::Restart, Self::Preserve];

    /// The policy as a definition writes it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Destroy => "destroy",
            Self::Restart => "restart",
            Self::Preserve => "preserve",
        }
    }

    fn of(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|policy| policy.word() == word)
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// The contents of a file of definitions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// The definitions, at least one.
    pub definitions: Vec<Definition>,
    /// The settings that were ignored.
    pub warnings: Vec<Issue>,
}

/// A definition in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listed {
    /// A definition by itself.
    Whole(Box<Definition>),
    /// A definition that equals the one before it in the list, except that it has this name.
    Like(Box<str>),
}

impl Listed {
    /// The definition's name.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Whole(definition) => &definition.name,
            Self::Like(name) => name,
        }
    }
}

/// The contents of a file of definitions, as a list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// The definitions, at least one; the first is whole.
    pub definitions: Vec<Listed>,
    /// The settings that were ignored.
    pub warnings: Vec<Issue>,
}

impl From<Listing> for Reading {
    fn from(listing: Listing) -> Self {
        Self { definitions: whole(listing.definitions), warnings: listing.warnings }
    }
}

/// The definitions of a list.
fn whole(listed: Vec<Listed>) -> Vec<Definition> {
    let mut all: Vec<Definition> = Vec::with_capacity(listed.len());
    for one in listed {
        match (one, all.last()) {
            (Listed::Whole(definition), _) => all.push(*definition),
            (Listed::Like(name), Some(last)) => {
                all.push(Definition { name: name.into(), ..last.clone() });
            }
            // The first is whole.
            (Listed::Like(_), None) => {}
        }
    }
    all
}

/// Reads definitions in TOML or xl.cfg; `file` is named in messages, decides the format, and is
/// where relative paths start.
///
/// # Errors
/// All mistakes, each in a sentence that names file, line, field, limit and a way out.
pub fn read(text: &str, file: &Path) -> Result<Reading, Errors> {
    read_into(text, file, Sink::new(text, file, Source::File)).map(Reading::from)
}

fn read_into(text: &str, file: &Path, sink: Sink<'_>) -> Result<Listing, Errors> {
    let (settings, entries);
    // The objects that the sink names live in this block.
    let mut sink = sink;
    let is_xl = is_xl(text, file);
    if !is_xl
        && sink.is_clean()
        && let Some(definitions) = read_plain(text, file)
    {
        return Ok(Listing { definitions, warnings: Vec::new() });
    }
    let found = if is_xl {
        settings = xl_text::read(text, &mut sink);
        xl::read(&settings, &mut sink)
    } else {
        let is_whole;
        (entries, is_whole) = toml_text::read(text, &mut sink);
        fields::read(&entries, is_whole, &mut sink)
    };
    check_names(&found, &mut sink);
    let whole = |found: Found| Listed::Whole(Box::new(found.definition));
    let definitions = found.into_iter().map(whole).collect();
    Ok(Listing { definitions, warnings: sink.finish()? })
}

/// Reads a file of plain lines; `None` if the file is not plain, or has a mistake (see [`plain`]).
fn read_plain(text: &str, file: &Path) -> Option<Vec<Listed>> {
    plain::read(text, &finish::directory(file))
}

/// Reads the definition of one partition from single values under the names of the fields; relative
/// paths are relative to `directory`.
///
/// # Errors
/// All mistakes, in sentences that name the fields as options.
pub fn from_options(options: &[(&str, Given)], directory: &Path) -> Result<Definition, Errors> {
    let entries: Vec<Entry<'_>> = options
        .iter()
        .map(|(key, given)| {
            let value = match given {
                Given::Text(text) => Value::Text(text.into()),
                Given::Number(number) => Value::Integer((*number).into()),
            };
            Entry { key: (*key).into(), at: 0, item: Item { at: 0, value } }
        })
        .collect();
    let file = directory.join("options");
    let mut sink = Sink::new("", &file, Source::Options);
    let mut found = fields::read(&entries, true, &mut sink);
    sink.finish()?;
    // One partition was read without a mistake.
    let nothing = || whole_file(directory, "no partition", "give its name");
    found.pop().map(|found| found.definition).ok_or_else(nothing)
}

/// A value for [`from_options`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Given {
    /// A text, or a size with its unit.
    Text(String),
    /// A number.
    Number(u32),
}

/// Does what [`read`] does, and drops the warnings.
///
/// # Errors
/// See [`read`].
pub fn parse(text: &str, file: &Path) -> Result<Vec<Definition>, Errors> {
    read(text, file).map(|reading| reading.definitions)
}

/// Reads a file of definitions.
///
/// # Errors
/// The file cannot be read or has more than [`MAX_FILE`] bytes; for all others see [`read`].
pub fn load(file: &Path) -> Result<Reading, Errors> {
    load_list(file).map(Reading::from)
}

/// Does what [`load`] does, except that a definition which differs from the one before it only in
/// its name is returned as a name.
///
/// # Errors
/// See [`load`].
pub fn load_list(file: &Path) -> Result<Listing, Errors> {
    let cannot = |error: std::io::Error| {
        whole_file(file, &format!("cannot be read: {error}"), "give a file of definitions")
    };
    let mut bytes = Vec::new();
    let opened = std::fs::File::open(file).map_err(cannot)?;
    opened.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(cannot)?;
    if bytes.len() as u64 > MAX_FILE {
        let problem = format!("has more than {}", size(MAX_FILE));
        return Err(whole_file(file, &problem, "split it into several files"));
    }
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        return Err(whole_file(file, "is UTF-16", "save it as UTF-8"));
    }
    let checked = std::str::from_utf8(&bytes);
    let text = checked.map_or_else(|_| String::from_utf8_lossy(&bytes), Into::into);
    let mut sink = Sink::new(&text, file, Source::File);
    // The first byte that is not UTF-8 stands where the first replacement character stands.
    if let Err(error) = checked {
        let at = error.valid_up_to();
        let byte = bytes.get(at).copied().unwrap_or_default();
        sink.error(at, "", format!("byte {byte:#04x} is not UTF-8"), "save the file as UTF-8");
    }
    read_into(&text, file, sink)
}

/// Whether a file is xl.cfg, by its extension, or else by its contents.
fn is_xl(text: &str, file: &Path) -> bool {
    match file.extension().and_then(|extension| extension.to_str()) {
        Some("toml") => return false,
        Some("cfg" | "xl") => return true,
        _ => {}
    }
    let text = text.trim_start_matches('\u{feff}');
    match toml_text::try_read(text) {
        Some(entries) => entries.iter().any(|entry| xl::is_own(&entry.key)),
        None => text
            .lines()
            .any(|line| line.split_once('=').is_some_and(|(key, _)| xl::is_own(key.trim()))),
    }
}

/// Checks that names are unique in the file.
fn check_names(found: &[Found], sink: &mut Sink<'_>) {
    let mut names = HashMap::new();
    for (index, Found { definition, name_at }) in found.iter().enumerate() {
        if definition.name.is_empty() {
            continue; // Which was told.
        }
        let first = *names.entry(&definition.name).or_insert(index + 1);
        if first != index + 1 {
            sink.object = Object::Numbered(index + 1);
            let name = issue::quoted(&definition.name);
            let problem = format!("partition {first} has the name {name}, too");
            sink.error(*name_at, "name", problem, "give it another name");
        }
    }
    sink.object = Object::File;
}

#[cfg(test)]
mod tests;
