//! What `uvtool kernel check` tells.

use serde::{Deserialize, Serialize};

use crate::Notes;

/// What a kernel is, what it lacks for a PV start, and the sensitive instructions in it. It is
/// text for people as [`Display`](std::fmt::Display), and JSON for programs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The file.
    pub file: String,
    /// `bzImage` or `ELF image`.
    pub container: String,
    /// How it was compressed, in words.
    pub compression: String,
    /// Bytes of the ELF image.
    pub elf_bytes: u64,
    /// About a PV start.
    pub pv: Pv,
    /// Bytes of executable parts, as far as they were disassembled.
    pub code_bytes: u64,
    /// Instructions in them.
    pub instructions: u64,
    /// Where the names of functions come from.
    pub symbols: String,
    /// Sentences about what the counts mean.
    pub remarks: Vec<String>,
    /// Sensitive instructions, the harmful first.
    pub findings: Vec<Finding>,
}

/// What a kernel says about a PV start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pv {
    /// The builder takes it.
    pub startable: bool,
    /// Why not.
    pub reasons: Vec<String>,
    /// What it says.
    pub notes: Notes,
    /// Sentences about what is special or missing and does not prevent a start.
    pub remarks: Vec<String>,
}

/// A kind of sensitive instruction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// The instruction, such as `mov cr3, reg`.
    pub instruction: String,
    /// What happens to it in a partition.
    pub fate: Fate,
    /// The same, in a sentence.
    pub meaning: String,
    /// How often it occurs.
    pub count: u64,
    /// Where, the function with most of them first.
    pub places: Vec<Place>,
}

/// What happens to an instruction that a partition's kernel executes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fate {
    /// A fault, delivered to the kernel.
    Faults,
    /// A fault, delivered to the kernel; there is a hypercall that does the same.
    Hypercall,
    /// Done without effect.
    Ignored,
    /// The monitor does what it asks, as far as the meaning says.
    Emulated,
    /// Done by the processor in ring 3, with what that means there.
    Native,
}

/// Where an instruction occurs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Virtual address of the first.
    pub address: u64,
    /// The function, or the section or segment where no name is known.
    pub symbol: String,
    /// How often in it.
    pub count: u64,
}
