//! The fields of a definition, a row each.
//!
//! The rows are the source of the keys, both syntaxes, limits, suggestions, TOML, JSON, the list of
//! changes, and the check of what `uvd` receives. A new field is a row here, a member of
//! [`Definition`], and a line in the schema and in the book, which a test compares with the row.

use std::borrow::Cow;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use control::command::DiskNumber;
use pv_abi::uv::database::MAX_VCPUS;
use rules::Wrong;

use crate::units::{self, MAX_CPU};
use crate::{Definition, Disk, Policy, disks};

/// The kind of a field's value, and the limits of the value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The name of a partition.
    GuestName,
    /// The name of a policy group.
    GroupName,
    /// The path of a file.
    Path,
    /// One line of text, with an example for messages.
    Line(&'static str),
    /// Bytes of memory.
    Size,
    /// A number within limits.
    Number(RangeInclusive<u32>),
    /// Percent of one CPU, within limits; 0 means no limit.
    Percent(RangeInclusive<u32>),
    /// Physical CPUs; an empty list means all of them.
    Cpus,
    /// Yes or no.
    Truth,
    /// What happens when a partition ends.
    Policy,
    /// Disks, a table each.
    Disks,
}

/// The value of a field, borrowed from a definition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Datum<'d> {
    Text(Cow<'d, str>),
    Path(Cow<'d, Path>),
    Bytes(u64),
    Number(u32),
    Cpus(Cow<'d, [u32]>),
    Truth(bool),
    Policy(Policy),
    Disks(Cow<'d, [Disk]>),
}

/// Builds the [`Datum`] of a member of [`Definition`] of this type.
macro_rules! datum {
    ($($member:ty => $datum:ident($make:expr);)+) => {
        $(impl<'d> From<&'d $member> for Datum<'d> {
            fn from(member: &'d $member) -> Self {
                let make: fn(&'d $member) -> _ = $make;
                Datum::$datum(make(member))
            }
        })+
    };
}

datum! {
    String => Text(|text| text.into());
    PathBuf => Path(|path| path.into());
    u64 => Bytes(|bytes| *bytes);
    u32 => Number(|number| *number);
    Vec<u32> => Cpus(|cpus| cpus.into());
    bool => Truth(|truth| *truth);
    Policy => Policy(|policy| *policy);
    Vec<Disk> => Disks(|disks| disks.into());
}

/// When a change takes effect.
#[derive(Clone, Copy)]
pub(crate) enum Effect {
    /// The change takes effect at once.
    Live,
    /// The change takes effect when the partition is restarted.
    Restart,
    /// At once if the function holds for the old and the new definition; otherwise after a restart.
    LiveIf(fn(&Definition, &Definition) -> bool),
}

/// A field.
pub(crate) struct Row {
    /// The name, with the table that the field stands in, such as `cpu.weight`.
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    /// For a required field, the example that a message shows if the field is missing.
    pub(crate) required: Option<&'static str>,
    /// The field that gives this field its default.
    pub(crate) follows: Option<&'static str>,
    /// The setting of xl.cfg with this meaning, of the same kind.
    pub(crate) xl: Option<&'static str>,
    /// Words that people write for the field.
    pub(crate) synonyms: &'static [&'static str],
    pub(crate) effect: Effect,
    /// Reads the value; `None` if the definition leaves the field out.
    pub(crate) get: Get,
    /// Writes a value of the row's kind.
    pub(crate) set: Set,
}

/// The functions `get` and `set` of a row for a member of [`Definition`].
macro_rules! member {
    ($datum:ident, optional $($path:ident).+) => {
        (
            |definition| definition.$($path).+.as_ref().map(Datum::from),
            |definition, value| if let Datum::$datum(value) = value {
                definition.$($path).+ = Some(value.into());
            },
        )
    };
    ($datum:ident, $($path:ident).+) => {
        (
            |definition| Some(Datum::from(&definition.$($path).+)),
            |definition, value| if let Datum::$datum(value) = value {
                definition.$($path).+ = value.into();
            },
        )
    };
}

type Get = fn(&Definition) -> Option<Datum<'_>>;
type Set = fn(&mut Definition, Datum<'_>);

/// A row that is neither required nor follows another field.
const fn row(
    name: &'static str,
    kind: Kind,
    xl: Option<&'static str>,
    synonyms: &'static [&'static str],
    effect: Effect,
    (get, set): (Get, Set),
) -> Row {
    Row { name, kind, required: None, follows: None, xl, synonyms, effect, get, set }
}

impl Row {
    const fn required(self, example: &'static str) -> Self {
        Self { required: Some(example), ..self }
    }

    const fn follows(self, field: &'static str) -> Self {
        Self { follows: Some(field), ..self }
    }

    /// The table that has the field (empty if none), and the field's key in the table.
    pub(crate) fn place(&self) -> (&'static str, &'static str) {
        self.name.split_once('.').unwrap_or(("", self.name))
    }
}

use Effect::{Live, LiveIf, Restart};

/// All fields, in the order in which a definition is written.
pub(crate) static ROWS: [Row; 22] = [
    row("name", Kind::GuestName, Some("name"), &[], Live, member!(Text, name))
        .required("\"web-1\""),
    row("kernel", Kind::Path, Some("kernel"), &[], Restart, member!(Path, kernel))
        .required("\"/boot/vmlinuz\""),
    row(
        "initrd",
        Kind::Path,
        Some("ramdisk"),
        &["initramfs"],
        Restart,
        member!(Path, optional initrd),
    ),
    row(
        "command_line",
        Kind::Line("\"console=hvc0\""),
        None,
        &["extra", "cmdline", "append", "args", "root"],
        Restart,
        member!(Text, command_line),
    ),
    row(
        "memory",
        Kind::Size,
        Some("memory"),
        &["mem", "ram"],
        // More memory than the partition has now needs a restart, whatever the new limit says.
        LiveIf(|old, new| new.memory <= old.max_memory),
        member!(Bytes, memory),
    )
    .required("\"256M\""),
    row("max_memory", Kind::Size, Some("maxmem"), &[], Restart, member!(Bytes, max_memory))
        .follows("memory"),
    row(
        "vcpus",
        Kind::Number(rules::VCPUS),
        Some("vcpus"),
        &[],
        LiveIf(|old, new| new.vcpus <= old.max_vcpus),
        member!(Number, vcpus),
    ),
    row(
        "max_vcpus",
        Kind::Number(rules::VCPUS),
        Some("maxvcpus"),
        &[],
        Restart,
        member!(Number, max_vcpus),
    )
    .follows("vcpus"),
    row(
        "cpu.weight",
        Kind::Number(rules::WEIGHT),
        Some("cpu_weight"),
        &["weight"],
        Live,
        member!(Number, cpu.weight),
    ),
    row(
        "cpu.cap",
        Kind::Percent(rules::cap(MAX_VCPUS)),
        Some("cap"),
        &[],
        Live,
        member!(Number, cpu.cap),
    ),
    row("cpu.affinity", Kind::Cpus, None, &["cpus", "affinity"], Live, member!(Cpus, cpu.affinity)),
    row("cpu.dedicated", Kind::Truth, None, &["dedicated"], Live, member!(Truth, cpu.dedicated)),
    row(
        "grant_frames",
        Kind::Number(rules::GRANT_FRAMES),
        Some("max_grant_frames"),
        &[],
        Restart,
        member!(Number, grant_frames),
    ),
    row("on.poweroff", Kind::Policy, Some("on_poweroff"), &[], Live, member!(Policy, on.poweroff)),
    row("on.reboot", Kind::Policy, Some("on_reboot"), &[], Live, member!(Policy, on.reboot)),
    row("on.crash", Kind::Policy, Some("on_crash"), &[], Live, member!(Policy, on.crash)),
    row(
        "autostart.enabled",
        Kind::Truth,
        None,
        &["onboot", "on_boot", "auto"],
        Live,
        member!(Truth, autostart.enabled),
    ),
    row(
        "autostart.order",
        Kind::Number(0..=65_535),
        None,
        &["startup", "priority"],
        Live,
        member!(Number, autostart.order),
    ),
    row(
        "autostart.delay",
        Kind::Number(0..=3600),
        None,
        &["startup_delay"],
        Live,
        member!(Number, autostart.delay),
    ),
    row("domain", Kind::GroupName, None, &["group"], Live, member!(Text, optional domain)),
    row(
        "description",
        Kind::Line("\"web server of the shop\""),
        None,
        &["comment", "title"],
        Live,
        member!(Text, optional description),
    ),
    row("disk", Kind::Disks, None, &["disks", "vbd"], LiveIf(keeps_devices), member!(Disks, disks)),
];

/// Whether each device that both definitions have is the same disk: a device is free for another
/// disk only once the old one is gone.
fn keeps_devices(old: &Definition, new: &Definition) -> bool {
    let before = |disk: &Disk| old.disks.iter().find(|other| other.device == disk.device).cloned();
    new.disks.iter().all(|disk| before(disk).is_none_or(|before| before == *disk))
}

/// The field with this name.
pub(crate) fn find(name: &str) -> Option<&'static Row> {
    ROWS.iter().find(|row| row.name == name)
}

/// The field that this setting of xl.cfg gives, if both have the same kind.
pub(crate) fn of_xl(setting: &str) -> Option<&'static Row> {
    ROWS.iter().find(|row| row.xl == Some(setting))
}

/// The field that a word means, if other tools use that word for it.
pub(crate) fn meant_by(word: &str) -> Option<&'static Row> {
    let means = |row: &&Row| row.synonyms.contains(&word) || row.xl == Some(word);
    ROWS.iter().find(means).filter(|row| row.name != word)
}

/// The keys of a table; an empty name stands for the whole definition, whose tables are among the
/// keys.
pub(crate) fn keys(table: &str) -> Vec<&'static str> {
    let mut keys: Vec<_> = ROWS
        .iter()
        .filter_map(|row| match row.place() {
            (other, key) if other == table => Some(key),
            (other, _) => table.is_empty().then_some(other),
        })
        .collect();
    keys.dedup();
    keys
}

/// Whether some fields stand in a table of this name.
pub(crate) fn is_table(name: &str) -> bool {
    !name.is_empty() && ROWS.iter().any(|row| row.place().0 == name)
}

impl Kind {
    /// Whether a value is within the limits of its kind.
    pub(crate) fn check(&self, value: &Datum<'_>) -> Result<(), Wrong> {
        match (self, value) {
            (Self::GuestName, Datum::Text(name)) => rules::guest_name(name),
            (Self::GroupName, Datum::Text(name)) => rules::name(name),
            (Self::Line(_), Datum::Text(text)) => rules::line(text),
            (Self::Path, Datum::Path(path)) => check_path(path),
            (Self::Size, Datum::Bytes(bytes)) => rules::memory(*bytes, || units::size(*bytes)),
            (Self::Number(limits) | Self::Percent(limits), Datum::Number(number)) => {
                rules::within((*number).into(), limits)
            }
            (Self::Cpus, Datum::Cpus(cpus)) => check_cpus(cpus),
            (Self::Disks, Datum::Disks(disks)) => check_disks(disks),
            _ => Ok(()),
        }
    }

    /// The value in words, for people.
    pub(crate) fn words(&self, value: &Datum<'_>) -> String {
        match (self, value) {
            (Self::Percent(_), Datum::Number(0)) => "none".to_owned(),
            (Self::Percent(_), Datum::Number(percent)) => format!("{percent}%"),
            (_, Datum::Text(text)) => text.clone().into_owned(),
            (_, Datum::Path(path)) => path.display().to_string(),
            (_, Datum::Bytes(bytes)) => units::size(*bytes),
            (_, Datum::Number(number)) => number.to_string(),
            (_, Datum::Cpus(cpus)) if cpus.is_empty() => "all".to_owned(),
            (_, Datum::Cpus(cpus)) => units::cpus(cpus),
            (_, Datum::Truth(truth)) => truth.to_string(),
            (_, Datum::Policy(policy)) => policy.word().to_owned(),
            (_, Datum::Disks(disks)) if disks.is_empty() => "none".to_owned(),
            (_, Datum::Disks(disks)) => {
                disks.iter().map(Disk::to_string).collect::<Vec<_>>().join(", ")
            }
        }
    }
}

fn check_path(path: &Path) -> Result<(), Wrong> {
    let problem = match path.as_os_str().as_encoded_bytes() {
        [] => "an empty path",
        bytes if bytes.contains(&0) => "a path with a zero byte in it",
        bytes if bytes.len() > crate::draft::MAX_PATH => "a path of more than 4095 bytes",
        _ if !path.is_absolute() => "a path that does not begin with a slash",
        _ => return Ok(()),
    };
    Err(Wrong { problem: problem.into(), way_out: "give the absolute path of a file".into() })
}

fn check_cpus(cpus: &[u32]) -> Result<(), Wrong> {
    if cpus.iter().all(|cpu| *cpu <= MAX_CPU) && cpus.is_sorted_by(|a, b| a < b) {
        return Ok(());
    }
    let problem = format!("{cpus:?} names no CPUs in order");
    Err(Wrong { problem, way_out: format!("give rising numbers from 0 to {MAX_CPU}") })
}

fn check_disks(disks: &[Disk]) -> Result<(), Wrong> {
    let Some((at, key, wrong)) = disks::wrongs(disks).into_iter().next() else { return Ok(()) };
    let of = disks.get(at).map_or_else(String::new, |disk| DiskNumber(disk.device).to_string());
    let problem = format!("{of}: {key}: {}", wrong.problem);
    Err(Wrong { problem, way_out: wrong.way_out })
}

/// Finds conflicts between the fields of a definition; each names the field to change. `called`
/// gives the name of a field in the place where the definition was written.
pub(crate) fn conflicts(
    definition: &Definition,
    called: &dyn Fn(&'static str) -> String,
) -> Vec<(&'static str, Wrong)> {
    let Definition { memory, max_memory, vcpus, max_vcpus, cpu, .. } = definition;
    let mut conflicts = Vec::new();
    if vcpus > max_vcpus {
        let most = called("max_vcpus");
        let problem = format!("{vcpus} is more than {most} = {max_vcpus}");
        let way_out = format!("give 1 to {max_vcpus}, or raise {most}");
        conflicts.push(("vcpus", Wrong { problem, way_out }));
    }
    if memory > max_memory {
        let (most, shown) = (called("max_memory"), units::size(*max_memory));
        let problem = format!("{} is more than {most} = {shown}", units::size(*memory));
        let way_out = format!("give at most {shown}, or raise {most}");
        conflicts.push(("memory", Wrong { problem, way_out }));
    }
    let cap = rules::cap(*max_vcpus);
    if !cap.contains(&cpu.cap) {
        let problem = format!("{}% is more than {max_vcpus} virtual CPU(s) can use", cpu.cap);
        let way_out = format!("give 1 to {}, or 0 for no cap", cap.end());
        conflicts.push(("cpu.cap", Wrong { problem, way_out }));
    }
    // An empty list stands for every CPU, and other partitions need some.
    if cpu.dedicated && cpu.affinity.is_empty() {
        let affinity = called("cpu.affinity");
        let problem = format!("true, and {affinity} names no CPUs");
        let way_out = format!("name the CPUs in {affinity}");
        conflicts.push(("cpu.dedicated", Wrong { problem, way_out }));
    }
    conflicts
}
