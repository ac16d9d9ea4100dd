//! What `uvtool kernel check` tells.

use std::fmt;

use serde::Serialize;

use crate::Notes;

/// What a kernel is, what it lacks for a PV start, and the sensitive instructions in it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// `bzImage` or `ELF image`.
    pub container: String,
    /// How it was compressed, in words.
    pub compression: String,
    /// Bytes of the ELF image.
    pub elf_bytes: u64,
    /// About a PV start.
    pub pv: Pv,
    /// Bytes of executable sections, and instructions in them.
    pub code_bytes: u64,
    /// Instructions in them.
    pub instructions: u64,
    /// Sensitive instructions, the harmful first.
    pub findings: Vec<Finding>,
}

/// What a kernel says about a PV start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Pv {
    /// The builder takes it.
    pub startable: bool,
    /// Why not.
    pub reasons: Vec<String>,
    /// What it says.
    pub notes: Notes,
    /// Sentences about what is missing and does not prevent a start.
    pub remarks: Vec<String>,
}

/// A kind of sensitive instruction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The instruction, such as `mov cr3, reg`.
    pub instruction: String,
    /// What happens to it in a partition.
    pub fate: Fate,
    /// The same, in a sentence.
    pub meaning: String,
    /// How often it occurs.
    pub count: u64,
    /// Where, by symbol or address.
    pub places: Vec<Place>,
}

/// What happens to an instruction that a partition's kernel executes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fate {
    /// A general protection fault, delivered to the kernel.
    Faults,
    /// Done without effect, or with another than on a bare machine.
    Ignored,
    /// The monitor does what it asks.
    Emulated,
    /// A hypercall does the same; the instruction itself faults.
    Hypercall,
    /// Done by the processor.
    Native,
}

/// Where an instruction occurs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Place {
    /// Virtual address of the first.
    pub address: u64,
    /// The function, or the section where the image has no symbols.
    pub symbol: String,
    /// How often in it.
    pub count: u64,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}, {}", self.container, self.compression)
    }
}
