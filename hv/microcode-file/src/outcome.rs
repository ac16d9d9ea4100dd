//! The result for a module, as the console and `uvtool doctor` report it.

use core::fmt;

/// The result of loading the module `microcode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// GRUB loaded no such module.
    NoModule,
    /// The CPU loaded the update; it had this revision before.
    Loaded(u32),
    /// The file is cut off at this offset, or it is not a microcode file.
    Damaged(usize),
    /// The file contains nothing for the CPU's manufacturer.
    OtherVendor,
    /// The file has no update for the CPU.
    OtherCpu,
    /// The newest update for the CPU has this revision, and the CPU's revision is at least as new.
    NotNewer(u32),
    /// The update has this revision, but the machine is virtual and its host loads microcode.
    Virtual(u32),
    /// The CPU did not accept the update with this revision.
    NotTaken(u32),
}

impl Outcome {
    /// The result as two words of the machine description; the ultravisor reads them.
    #[must_use]
    pub fn to_words(self) -> [u32; 2] {
        match self {
            Self::NoModule => [0, 0],
            Self::Loaded(before) => [1, before],
            Self::Damaged(at) => [2, u32::try_from(at).unwrap_or(u32::MAX)],
            Self::OtherVendor => [3, 0],
            Self::OtherCpu => [4, 0],
            Self::NotNewer(revision) => [5, revision],
            Self::Virtual(revision) => [6, revision],
            Self::NotTaken(revision) => [7, revision],
        }
    }

    /// The combined result of two modules: that of the module for this CPU's manufacturer, if the
    /// other is for other machines.
    #[must_use]
    pub fn and_then(self, second: Self) -> Self {
        let weight = |outcome| match outcome {
            Self::NoModule => 0,
            Self::OtherVendor => 1,
            Self::Loaded(_) => 3,
            _ => 2,
        };
        if weight(second) >= weight(self) { second } else { self }
    }

    /// Returns whether the operator need not act.
    #[must_use]
    pub const fn is_fine(self) -> bool {
        matches!(self, Self::NoModule | Self::Loaded(_) | Self::NotNewer(_))
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoModule => write!(f, "no module; the revision is the firmware's"),
            Self::Loaded(before) => {
                write!(f, "the CPU took the module's update in place of revision {before:#x}")
            }
            Self::Damaged(at) => {
                write!(f, "the module is damaged at byte {at}; copy the file anew")
            }
            Self::OtherVendor => write!(f, "the module has nothing of this CPU's manufacturer"),
            Self::OtherCpu => write!(f, "the module has no update for this CPU"),
            Self::NotNewer(revision) => {
                write!(f, "the module's revision {revision:#x} is not newer than the CPU's")
            }
            Self::Virtual(revision) => write!(
                f,
                "the module has revision {revision:#x}, which only the host of this virtual \
                machine can load"
            ),
            Self::NotTaken(revision) => {
                write!(f, "the CPU did not take the module's revision {revision:#x}")
            }
        }
    }
}
