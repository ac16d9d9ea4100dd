//! What a partition should be, as a person writes it down.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// A partition's definition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Definition {
    /// Unique; 1 to 31 bytes.
    pub name: String,
    /// The kernel, an absolute path.
    pub kernel: PathBuf,
    /// The RAM disk, an absolute path.
    pub initrd: Option<PathBuf>,
    /// For the kernel; at most 1023 bytes.
    pub command_line: String,
    /// Bytes its kernel uses at the start; a multiple of 4 KiB.
    pub memory: u64,
    /// Bytes it is given, at least `memory`.
    pub max_memory: u64,
    /// Virtual CPUs up at the start, 1 to `max_vcpus`.
    pub vcpus: u32,
    /// Virtual CPUs it may bring up, 1 to 32.
    pub max_vcpus: u32,
    /// CPU time.
    pub cpu: Cpu,
    /// Frames of its grant table, 1 to 64.
    pub grant_frames: u32,
    /// What happens when it ends.
    pub on: Policies,
    /// The policy group it belongs to.
    pub domain: Option<String>,
}

/// CPU time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cpu {
    /// Relative share, 1 to 65535.
    pub weight: u32,
    /// Percent of one CPU at most; 0: no cap.
    pub cap: u32,
    /// Physical CPUs; empty: all.
    pub affinity: Vec<u32>,
    /// Nothing else runs on them.
    pub dedicated: bool,
}

/// What happens when a partition ends by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policies {
    /// When it powers off.
    pub poweroff: Policy,
    /// When it reboots.
    pub reboot: Policy,
    /// When it crashes.
    pub crash: Policy,
}

/// What is done with a partition that ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Policy {
    /// All it has is given back.
    Destroy,
    /// It is started anew.
    Restart,
    /// It stays as it is.
    Preserve,
}

/// A field that differs between two definitions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldChange {
    /// The field as it is written, such as `cpu.weight`.
    pub field: String,
    /// Its value before.
    pub from: String,
    /// Its value after.
    pub to: String,
    /// It can be changed while the partition runs.
    pub live: bool,
}

/// What a file of definitions says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// The definitions, at least one.
    pub definitions: Vec<Definition>,
    /// Sentences about what was passed over.
    pub warnings: Vec<String>,
}

/// Everything that is wrong with a file of definitions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Errors(pub Vec<String>);

impl std::fmt::Display for Errors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

impl std::error::Error for Errors {}

/// Reads definitions, TOML or xl.cfg; `file` is for the messages, and relative paths are relative
/// to its directory.
///
/// # Errors
/// All that is wrong, each in a sentence that names file, line, field, limit and a way out.
pub fn read(text: &str, file: &Path) -> Result<Reading, Errors> {
    let _ = text;
    Err(Errors(vec![format!("{}: not yet", file.display())]))
}

/// As [`read`], without its warnings.
///
/// # Errors
/// See [`read`].
pub fn parse(text: &str, file: &Path) -> Result<Vec<Definition>, Errors> {
    read(text, file).map(|reading| reading.definitions)
}

/// Reads a file of definitions.
///
/// # Errors
/// The file cannot be read; else see [`read`].
pub fn load(file: &Path) -> Result<Reading, Errors> {
    read("", file)
}

/// The fields that differ.
#[must_use]
pub fn changes(old: &Definition, new: &Definition) -> Vec<FieldChange> {
    let _ = (old, new);
    Vec::new()
}
