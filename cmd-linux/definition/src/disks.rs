//! The disks of a partition: tables `[[disk]]`.
//!
//! Rule: [`wrongs`] is the validator of disks, whether they come from a file or from a request to
//! `uvd`. What only the machine knows, such as whether there is such a function, the ultravisor
//! checks.

use std::fmt;

use control::command::{DiskNumber, PciAddress};
use extents::{EXTENTS_MAX, Extent, Layout, Refused};
use rules::{GPT_PARTITIONS, Wrong};
use serde::{Deserialize, Serialize};

use crate::draft::{At, Field};
use crate::fields::missing;
use crate::issue::{Sink, quoted};
use crate::rows::{Datum, Kind};
use crate::suggest;
use crate::value::{Entry, Item, Value};

/// Disks of a partition at most: xvda to xvdz.
pub const MAX_DISKS: usize = 26;
/// The most sectors of a disk: as many as a 64-bit count of bytes can address.
const MAX_SECTORS: u64 = 1 << 55;
/// The keys of a disk, and of an extent.
pub(crate) const KEYS: [&str; 6] =
    ["device", "function", "partition", "extents", "read_only", "shared"];
const EXTENT_KEYS: [&str; 2] = ["start", "sectors"];
/// The keys that a disk needs, each with an example.
const REQUIRED: [(&str, &str); 2] = [("device", "\"xvda\""), ("function", "\"00:05.0\"")];
const DEVICES: &str = "give xvda to xvdz";
const FUNCTIONS: &str =
    "give a PCI address such as \"00:05.0\"; `uvtool resources` shows the functions";

/// A disk of a partition: all sectors of a function's disk, a GPT partition of it, or extents.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// The number of the virtual device; see [`DiskNumber`].
    pub device: u32,
    /// The PCI function whose disk has the sectors.
    pub function: Function,
    /// The GPT partition of that disk, from 1.
    pub partition: Option<u32>,
    /// The extents, in the order in which the partition's disk has them; an empty list means all
    /// sectors of the medium.
    pub extents: Vec<DiskExtent>,
    /// Whether the partition may only read.
    pub read_only: bool,
    /// Whether other disks that are shared, too, may have the same sectors.
    pub shared: bool,
}

/// Consecutive sectors of 512 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskExtent {
    /// The first sector.
    pub start: u64,
    /// Number of sectors.
    pub sectors: u64,
}

/// How a definition names a PCI function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Function {
    /// By its address; see [`PciAddress`].
    Address(u32),
    /// By its index in the device table.
    Index(u32),
}

impl Function {
    /// Reads an address such as `00:05.0` or `0000:00:05.0`.
    #[must_use]
    pub fn of_address(text: &str) -> Option<Self> {
        PciAddress::parse(text).map(|address| Self::Address(address.0))
    }
}

impl fmt::Display for Function {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => write!(f, "{}", PciAddress(*address)),
            Self::Index(index) => write!(f, "function {index}"),
        }
    }
}

impl fmt::Display for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on {}", DiskNumber(self.device), self.function)?;
        if let Some(partition) = self.partition {
            write!(f, " partition {partition}")?;
        }
        if !self.extents.is_empty() {
            let extents = self.extents.iter().map(|one| format!("{}+{}", one.start, one.sectors));
            write!(f, " sectors {}", extents.collect::<Vec<_>>().join(" "))?;
        }
        let words = [(self.read_only, " read-only"), (self.shared, " shared")];
        words.iter().filter(|(is_so, _)| *is_so).try_for_each(|(_, word)| f.write_str(word))
    }
}

/// The number of the virtual device with this name, such as `xvda`.
#[must_use]
pub fn device_number(name: &str) -> Option<u32> {
    let mut letters = name.strip_prefix("xvd")?.chars();
    let number = DiskNumber::of_letter(letters.next()?)?;
    letters.next().is_none().then_some(number.0)
}

/// The mistakes in disks: for each, the place of the disk, its key, and the mistake.
pub(crate) fn wrongs(disks: &[Disk]) -> Vec<(usize, &'static str, Wrong)> {
    let wrong = |problem: String, way_out: &str| Wrong { problem, way_out: way_out.into() };
    let mut wrongs = Vec::new();
    for (at, disk) in disks.iter().enumerate() {
        let Disk { device, partition, extents, .. } = disk;
        let name = DiskNumber(*device);
        if name.letter().is_none() {
            wrongs.push((at, "device", wrong(format!("{device} is not a whole disk"), DEVICES)));
        }
        if disks.iter().take(at).any(|other| other.device == *device) {
            let way_out = "give each disk a device of its own";
            wrongs.push((at, "device", wrong(format!("{name} is listed twice"), way_out)));
        }
        if let Some(Err(found)) = partition.map(|one| rules::within(one.into(), &GPT_PARTITIONS)) {
            wrongs.push((at, "partition", found));
        }
        if partition.is_some() && !extents.is_empty() {
            let problem = "stand beside a partition".to_owned();
            wrongs.push((at, "extents", wrong(problem, "leave one of them out")));
        }
        if let Some(problem) = extents_problem(extents) {
            let way_out = "give extents that lie side by side on the disk";
            wrongs.push((at, "extents", wrong(problem, way_out)));
        }
    }
    wrongs
}

/// The mistake in a list of extents, if there is one.
fn extents_problem(extents: &[DiskExtent]) -> Option<String> {
    let all: Vec<Extent> = extents
        .iter()
        .take(EXTENTS_MAX + 1)
        .map(|one| Extent { device: 0, start: one.start, sectors: one.sectors })
        .collect();
    if all.is_empty() {
        return None;
    }
    Some(match Layout::new(&all, |_| Some(MAX_SECTORS)).err()? {
        Refused::Count { .. } => {
            format!("{} extents are more than {EXTENTS_MAX}", extents.len())
        }
        Refused::Empty { at } => format!("extent {at} has no sector"),
        Refused::Overlap { common } => {
            format!("two extents have the sectors from {} on in common", common.start)
        }
        _ => "the extents have more sectors than any disk".into(),
    })
}

/// Reads the disks of a definition.
pub(crate) fn read(entry: &Entry<'_>, sink: &mut Sink<'_>) -> Option<At<Datum<'static>>> {
    let way_out = "head each disk with a line [[disk]], or [[partition.disk]] below [[partition]]";
    let refuse = |at, kind: &str, sink: &mut Sink<'_>| {
        sink.error(at, "disk", format!("{kind} is given, tables are needed"), way_out);
    };
    let Value::List(items) = &entry.item.value else {
        refuse(entry.item.at, entry.item.value.kind(), sink);
        return None;
    };
    let (mut disks, mut places) = (Vec::new(), Vec::new());
    let mut is_whole = true;
    for item in items {
        let Value::Table(table) = &item.value else {
            refuse(item.at, item.value.kind(), sink);
            is_whole = false;
            continue;
        };
        match disk(table, item.at, sink) {
            Some(disk) => {
                disks.push(disk);
                places.push((item.at, table));
            }
            None => is_whole = false,
        }
    }
    for (disk, key, wrong) in wrongs(&disks) {
        let (at, table) = places[disk];
        let at = table.iter().find(|entry| entry.key == key).map_or(at, |entry| entry.item.at);
        sink.error(at, &format!("disk.{key}"), wrong.problem, wrong.way_out);
        is_whole = false;
    }
    let field = "disk".to_owned();
    is_whole.then(|| At { value: Datum::Disks(disks.into()), at: entry.item.at, field })
}

/// Reads a disk, as far as each key by itself is right.
fn disk(table: &[Entry<'_>], at: usize, sink: &mut Sink<'_>) -> Option<Disk> {
    missing(REQUIRED.into_iter(), |key| table.iter().any(|entry| entry.key == key), at, sink);
    let (mut device, mut function, mut is_whole) = (None, None, true);
    let (mut partition, mut extents, mut read_only, mut shared) = (None, Vec::new(), false, false);
    for entry in table {
        let name = format!("disk.{}", entry.key);
        let mut field = Field { name: &name, entry, sink };
        let right = match &*entry.key {
            "device" => {
                device = field.device();
                device.is_some()
            }
            "function" => {
                function = field.function();
                function.is_some()
            }
            "partition" => match field.toml(&Kind::Number(GPT_PARTITIONS)).map(|at| at.value) {
                Some(Datum::Number(number)) => {
                    partition = Some(number);
                    true
                }
                _ => false,
            },
            "extents" => self::extents(entry, sink).map(|all| extents = all).is_some(),
            key @ ("read_only" | "shared") => {
                let to = if key == "shared" { &mut shared } else { &mut read_only };
                match field.toml(&Kind::Truth).map(|at| at.value) {
                    Some(Datum::Truth(truth)) => {
                        *to = truth;
                        true
                    }
                    _ => false,
                }
            }
            key => {
                let way_out = suggest::among(key, &KEYS, "disk.");
                sink.error(entry.at, &format!("disk.{}", shown(key)), "unknown key", way_out);
                false
            }
        };
        is_whole &= right;
    }
    let disk = Disk { device: device?, function: function?, partition, extents, read_only, shared };
    is_whole.then_some(disk)
}

/// A key as messages show it.
fn shown(key: &str) -> String {
    if key.chars().any(char::is_control) { quoted(key) } else { key.to_owned() }
}

/// Reads extents.
fn extents(entry: &Entry<'_>, sink: &mut Sink<'_>) -> Option<Vec<DiskExtent>> {
    let extent = |item: &Item<'_>| {
        let Value::Table(table) = &item.value else { return None };
        let number = |key: &str| {
            let value = table.iter().find(|entry| entry.key == key).map(|one| &one.item.value)?;
            match value {
                Value::Integer(number) => u64::try_from(*number).ok(),
                _ => None,
            }
        };
        let is_known = table.iter().all(|entry| EXTENT_KEYS.contains(&&*entry.key));
        let extent = DiskExtent { start: number("start")?, sectors: number("sectors")? };
        is_known.then_some(extent)
    };
    let wrong = match &entry.item.value {
        Value::List(items) => {
            let all: Vec<_> = items.iter().map(|item| extent(item).ok_or(item.at)).collect();
            match all.iter().find_map(|one| one.err()) {
                None if !items.is_empty() => return Some(all.into_iter().flatten().collect()),
                None => entry.item.at,
                Some(at) => at,
            }
        }
        _ => entry.item.at,
    };
    let way_out = "write extents = [{ start = 2048, sectors = 409600 }], in sectors of 512 bytes";
    sink.error(wrong, "disk.extents", "tables of start and sectors are needed", way_out);
    None
}

impl Field<'_, '_> {
    /// Reads the name or the number of a virtual device.
    fn device(&mut self) -> Option<u32> {
        let (number, shown) = match &self.entry.item.value {
            Value::Text(name) => (device_number(name), quoted(name)),
            Value::Integer(number) => {
                let found = u32::try_from(*number).ok();
                (found.filter(|one| DiskNumber(*one).letter().is_some()), number.to_string())
            }
            other => (None, other.kind().to_owned()),
        };
        if number.is_none() {
            let problem = format!("{shown} is not a whole disk");
            self.sink.error(self.entry.item.at, self.name, problem, DEVICES);
        }
        number
    }

    /// Reads the address or the index of a PCI function.
    fn function(&mut self) -> Option<Function> {
        let (function, shown) = match &self.entry.item.value {
            Value::Text(text) => (Function::of_address(text), quoted(text)),
            Value::Integer(number) => {
                (u32::try_from(*number).ok().map(Function::Index), number.to_string())
            }
            other => (None, other.kind().to_owned()),
        };
        if function.is_none() {
            let problem = format!("{shown} is not a PCI function");
            self.sink.error(self.entry.item.at, self.name, problem, FUNCTIONS);
        }
        function
    }
}
