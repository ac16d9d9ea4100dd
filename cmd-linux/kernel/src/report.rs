//! The report of `uvtool kernel check`.

use serde::{Deserialize, Serialize};

use crate::Notes;

/// The kind of a kernel, the features that it lacks for a PV start, and its sensitive instructions.
/// [`Display`](std::fmt::Display) makes text for people, and serde JSON for programs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The file.
    pub file: String,
    /// `bzImage` or `ELF image`.
    pub container: String,
    /// The compression, in words.
    pub compression: String,
    /// Bytes of the ELF image.
    pub elf_bytes: u64,
    /// The facts about a PV start.
    pub pv: Pv,
    /// Bytes of executable code that were disassembled.
    pub code_bytes: u64,
    /// Instructions in this code.
    pub instructions: u64,
    /// The source of the names of functions.
    pub symbols: String,
    /// Sentences about what the counts mean.
    pub remarks: Vec<String>,
    /// Sensitive instructions, harmful ones first.
    pub findings: Vec<Finding>,
}

/// The facts about a PV start that a kernel states.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pv {
    /// Whether the builder accepts the kernel.
    pub startable: bool,
    /// The reasons why the builder does not accept the kernel.
    pub reasons: Vec<String>,
    /// The way out, if there is one.
    pub way_out: Option<String>,
    /// The kernel's notes.
    pub notes: Notes,
    /// Sentences about special or missing notes that do not prevent a start.
    pub remarks: Vec<String>,
}

/// A kind of sensitive instruction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// The instruction, such as `mov cr3, reg`.
    pub instruction: String,
    /// What a partition's kernel gets when it executes the instruction.
    pub fate: Fate,
    /// The same, in a sentence.
    pub meaning: String,
    /// The number of times that it occurs.
    pub count: u64,
    /// The functions with the instruction, those with most of them first.
    pub places: Vec<Place>,
}

/// What happens when a partition's kernel executes an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fate {
    /// The instruction faults, and the fault is delivered to the kernel.
    Faults,
    /// The instruction faults, and the fault is delivered to the kernel; a hypercall does the same.
    Hypercall,
    /// The instruction has no effect.
    Ignored,
    /// The monitor emulates the instruction, as far as the meaning says.
    Emulated,
    /// The processor executes the instruction in ring 3, with the effect that it has there.
    Native,
}

/// Where an instruction occurs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Virtual address of the first occurrence.
    pub address: u64,
    /// The function, or the section or segment where no name is known.
    pub symbol: String,
    /// The number of times that the instruction occurs in the function.
    pub count: u64,
}
