//! The known leaks of the CPU, as an answer.

use alloc::string::String;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// The known leaks of the CPU, and their mitigations.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IssuesAnswer {
    /// Vendor, family, model and stepping of the CPU.
    pub cpu: String,
    /// Revision of its microcode.
    pub microcode: u32,
    /// Source of that revision, as text.
    pub microcode_update: String,
    /// Whether two threads of a core run.
    pub smt: bool,
    /// Whether devices access memory through an IOMMU.
    pub iommu: bool,
    /// Whether guests may start.
    pub guests_start: bool,
    /// All known issues.
    pub issues: Vec<IssueRow>,
}

/// The verdict on one issue of the CPU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IssueRow {
    /// Its short, stable name.
    pub name: String,
    /// The verdict.
    pub state: IssueState,
    /// The verdict and its reason, as text.
    pub verdict: String,
    /// The way to resolve the issue, if it is open.
    pub way_out: String,
}

/// A verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum IssueState {
    /// The CPU does not have the issue.
    NotAffected,
    /// The CPU has the issue, and it is mitigated.
    Mitigated,
    /// The CPU has the issue, and it is not mitigated.
    Open,
}
