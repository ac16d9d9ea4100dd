//! Turns the fields that the parser found into a definition: adds defaults, and checks the limits
//! between fields.

use std::path::{Path, PathBuf};

use crate::draft::Draft;
use crate::issue::Sink;
use crate::rows::{self, Datum};
use crate::{Autostart, Cpu, Definition, Policies, Policy};

/// Default number of frames of a grant table: 4 frames hold 2048 grants.
pub(crate) const GRANT_FRAMES: u32 = 4;
/// Default share of CPU time.
pub(crate) const WEIGHT: u32 = 256;

/// A definition, and the place of its name in the file.
pub(crate) struct Found {
    pub(crate) definition: Definition,
    pub(crate) name_at: usize,
}

/// Makes a definition of the fields that were found. Missing required fields have been reported
/// before; the result then only serves to find more errors.
pub(crate) fn finish(draft: Draft, directory: &Path, sink: &mut Sink<'_>) -> Found {
    let mut definition = Definition::unnamed();
    if draft.get("kernel").is_none() {
        definition.kernel = directory.to_owned();
    }
    for (row, found) in draft.rows() {
        let follows = || draft.get(row.follows?);
        let Some(found) = found.or_else(follows) else { continue };
        let value = match &found.value {
            Datum::Path(path) => Datum::Path(directory.join(path).into()),
            other => other.clone(),
        };
        (row.set)(&mut definition, value);
    }
    let called = |field: &'static str| draft.get(field).map_or(field.into(), |f| f.field.clone());
    for (field, wrong) in rows::conflicts(&definition, &called) {
        // No conflict is reported with a field that was refused.
        if let Some(found) = draft.get(field) {
            sink.error(found.at, &found.field, wrong.problem, wrong.way_out);
        }
    }
    let name_at = draft.get("name").map_or(0, |name| name.at);
    Found { definition, name_at }
}

impl Definition {
    /// A definition of the defaults; a field without a default is empty.
    pub(crate) fn unnamed() -> Self {
        Self {
            name: String::new(),
            kernel: PathBuf::new(),
            initrd: None,
            command_line: String::new(),
            memory: 0,
            max_memory: 0,
            vcpus: 1,
            max_vcpus: 1,
            cpu: Cpu::default(),
            grant_frames: GRANT_FRAMES,
            on: Policies::default(),
            autostart: Autostart::default(),
            domain: None,
            description: None,
            disks: Vec::new(),
        }
    }
}

impl Default for Policies {
    /// A partition that powers off or crashes is destroyed; a partition that reboots is restarted.
    fn default() -> Self {
        Self { poweroff: Policy::Destroy, reboot: Policy::Restart, crash: Policy::Destroy }
    }
}

impl Default for Cpu {
    /// The default share, on any CPU.
    fn default() -> Self {
        Self { weight: WEIGHT, cap: 0, affinity: Vec::new(), dedicated: false }
    }
}

/// The directory that relative paths start from, absolute.
pub(crate) fn directory(file: &Path) -> PathBuf {
    let parent = file.parent().unwrap_or(Path::new(""));
    std::path::absolute(parent.join(".")).unwrap_or_else(|_| Path::new("/").join(parent))
}
