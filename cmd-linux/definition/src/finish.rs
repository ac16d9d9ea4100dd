//! From what was found to a definition: defaults, and the limits between fields.

use std::path::{Path, PathBuf};

use crate::draft::Draft;
use crate::issue::Sink;
use crate::rows::{self, Datum};
use crate::{Cpu, Definition, Policies, Policy};

/// Frames of a grant table unless the file says otherwise: 2048 grants.
pub(crate) const GRANT_FRAMES: u32 = 4;
/// Share of CPU time unless the file says otherwise.
pub(crate) const WEIGHT: u32 = 256;

/// A definition, and where its name stands.
pub(crate) struct Found {
    pub(crate) definition: Definition,
    pub(crate) name_at: usize,
}

/// Makes a definition of what was found. Where required fields are missing, that was said before;
/// then the result only serves to find more errors.
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
        // What is in conflict with a field that was refused is not told.
        if let Some(found) = draft.get(field) {
            sink.error(found.at, &found.field, wrong.problem, wrong.way_out);
        }
    }
    let name_at = draft.get("name").map_or(0, |name| name.at);
    Found { definition, name_at }
}

impl Definition {
    /// A definition of the defaults, and nothing for what has none.
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
            domain: None,
        }
    }
}

impl Default for Policies {
    /// What powers off or crashes goes, what reboots starts anew.
    fn default() -> Self {
        Self { poweroff: Policy::Destroy, reboot: Policy::Restart, crash: Policy::Destroy }
    }
}

impl Default for Cpu {
    /// The usual share of any CPU.
    fn default() -> Self {
        Self { weight: WEIGHT, cap: 0, affinity: Vec::new(), dedicated: false }
    }
}

/// The directory that relative paths start from, absolute.
pub(crate) fn directory(file: &Path) -> PathBuf {
    let parent = file.parent().unwrap_or(Path::new(""));
    std::path::absolute(parent.join(".")).unwrap_or_else(|_| Path::new("/").join(parent))
}
