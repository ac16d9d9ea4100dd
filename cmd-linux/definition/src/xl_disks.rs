//! The setting `disk` of xl.cfg (xl-disk-configuration(5)).
//!
//! In xl, a disk is a file or a block device of the host, whose target is a path. This host has
//! neither; its disks are those of PCI functions. So a target `pci:00:05.0` names the disk of a
//! function, and `pci:00:05.0/2` its second GPT partition. The words beside the target have xl's
//! meaning. Every other target is refused.

use crate::disks::{Disk, Function, device_number, wrongs};
use crate::draft::At;
use crate::issue::{Sink, quoted};
use crate::rows::Datum;
use crate::value::{Entry, Value};

/// The mistake in a disk, and the way out.
type Wrong = (String, String);

const TARGETS: &str = "name the disk of a PCI function, as in \"phy:pci:00:05.0,xvda,w\"; \
    `uvtool resources` shows the functions";
const FORMATS: [&str; 6] = ["raw", "qcow", "qcow2", "vhd", "vhdx", "qed"];

/// Reads the disks.
pub(crate) fn read(entry: &Entry<'_>, sink: &mut Sink<'_>) -> Option<At<Datum<'static>>> {
    let Value::List(items) = &entry.item.value else {
        let problem = format!("{} is given, a list is needed", entry.item.value.kind());
        sink.error(entry.item.at, "disk", problem, "write disk = [\"phy:pci:00:05.0,xvda,w\"]");
        return None;
    };
    let (mut disks, mut places, mut is_whole) = (Vec::new(), Vec::new(), true);
    for item in items {
        let found = match &item.value {
            Value::Text(text) => disk(text),
            other => Err((format!("{} is given, a text is needed", other.kind()), TARGETS.into())),
        };
        match found {
            Ok((disk, ignored)) => {
                for word in ignored {
                    let problem = format!("ignored: {word} only tunes a back end of Linux");
                    sink.warn(item.at, "disk", problem, "");
                }
                disks.push(disk);
                places.push(item.at);
            }
            Err((problem, way_out)) => {
                sink.error(item.at, "disk", problem, way_out);
                is_whole = false;
            }
        }
    }
    for (disk, key, wrong) in wrongs(&disks) {
        let key = if key == "device" { "vdev" } else { key };
        sink.error(places[disk], "disk", format!("{key}: {}", wrong.problem), wrong.way_out);
        is_whole = false;
    }
    let field = "disk".to_owned();
    is_whole.then(|| At { value: Datum::Disks(disks.into()), at: entry.item.at, field })
}

/// The words of a disk, as far as they have been read.
#[derive(Default)]
struct Words<'t> {
    target: Option<&'t str>,
    /// Whether an old prefix stands before the target. The format has no place of its own then.
    has_prefix: bool,
    format: Option<&'t str>,
    vdev: Option<&'t str>,
    access: Option<&'t str>,
    ignored: Vec<&'t str>,
}

/// Reads a disk, and the words that are ignored.
fn disk(text: &str) -> Result<(Disk, Vec<&str>), Wrong> {
    let mut words = Words::default();
    let mut rest = Some(text);
    while let Some(text) = rest {
        let text = text.trim_start();
        // A target that is given by its key goes to the end.
        if let Some(target) = text.strip_prefix("target=") {
            words.target = Some(target.trim());
            break;
        }
        let (word, behind) = text.split_once(',').map_or((text, None), |(a, b)| (a, Some(b)));
        words.take(word.trim())?;
        rest = behind;
    }
    let (function, partition) = function(words.target.unwrap_or_default())?;
    if let Some(format) = words.format.filter(|format| !["raw", ""].contains(format)) {
        let problem = format!("{format} is a format of image files");
        return Err((problem, "give raw, or leave the format out".into()));
    }
    let vdev = words.vdev.unwrap_or_default();
    let vdev = vdev.strip_suffix(":disk").unwrap_or(vdev);
    let Some(device) = device_number(vdev) else {
        let problem = format!("vdev: {} is not a whole disk", quoted(vdev));
        return Err((problem, "give xvda to xvdz".into()));
    };
    let (read_only, shared) = match words.access.unwrap_or("rw") {
        "r" | "ro" => (true, false),
        "w" | "rw" | "" => (false, false),
        "w!" => (false, true),
        other => {
            return Err((format!("access: {} is unknown", quoted(other)), "give r or w".into()));
        }
    };
    let disk = Disk { device, function, partition, extents: Vec::new(), read_only, shared };
    Ok((disk, words.ignored))
}

impl<'t> Words<'t> {
    /// Takes a word between commas.
    fn take(&mut self, word: &'t str) -> Result<(), Wrong> {
        const IGNORED: [&str; 4] = ["direct-io-safe", "discard", "no-discard", "removable=0"];
        if IGNORED.contains(&word) {
            self.ignored.push(word);
            return Ok(());
        }
        let value = |key: &str| word.strip_prefix(key)?.strip_prefix('=').map(str::trim);
        if let Some(format) = value("format") {
            self.format = Some(format);
        } else if let Some(vdev) = value("vdev") {
            self.vdev = Some(vdev);
        } else if let Some(access) = value("access") {
            self.access = Some(access);
        } else if value("backendtype").is_some() {
            self.ignored.push(word);
        } else if matches!(value("devtype"), Some("disk")) {
        } else if matches!(word, "cdrom" | "devtype=cdrom" | "removable" | "removable=1")
            || word.ends_with(":cdrom")
        {
            let way_out = "leave it out, and give access=ro for a disk that is only read";
            return Err((format!("{word} is only for HVM guests"), way_out.into()));
        } else if let Some((key, _)) = word.split_once('=').filter(|_| self.target.is_some()) {
            let problem = format!("{} does not exist here", quoted(key));
            return Err((problem, "the keys are target, format, vdev, access".into()));
        } else {
            self.place(word)?;
        }
        Ok(())
    }

    /// Takes a word by its place: target, format, vdev, access.
    fn place(&mut self, word: &'t str) -> Result<(), Wrong> {
        if self.target.is_none() {
            let (prefix, target) = match word.split_once(':') {
                Some((prefix @ ("phy" | "file" | "tap" | "tap2" | "aio"), target)) => {
                    (Some(prefix), target)
                }
                _ => (None, word),
            };
            (self.target, self.has_prefix) = (Some(target), prefix.is_some());
        } else if self.format.is_none()
            && !self.has_prefix
            && (word.is_empty() || FORMATS.contains(&word))
        {
            self.format = Some(word);
        } else if self.vdev.is_none() {
            self.vdev = Some(word);
        } else if self.access.is_none() {
            self.access = Some(word);
        } else {
            let problem = format!("{} is one word too many", quoted(word));
            return Err((problem, "write target,format,vdev,access".into()));
        }
        Ok(())
    }
}

/// The function and the GPT partition of a target.
fn function(target: &str) -> Result<(Function, Option<u32>), Wrong> {
    let target = target.strip_prefix("phy:").unwrap_or(target);
    let Some(address) = target.strip_prefix("pci:") else {
        let target = quoted(target);
        let problem = format!("{target} names no PCI function, and files cannot be disks here");
        return Err((problem, TARGETS.into()));
    };
    let (address, partition) =
        address.split_once('/').map_or((address, None), |(a, b)| (a, Some(b)));
    let wrong = |what: &str| (format!("{} is not a {what}", quoted(target)), TARGETS.to_owned());
    let function = Function::of_address(address).ok_or_else(|| wrong("PCI function"))?;
    let number = |text: &str| text.parse().map_err(|_| wrong("GPT partition of a function"));
    Ok((function, partition.map(number).transpose()?))
}
