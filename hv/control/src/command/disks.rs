//! Disks of partitions, as operations name them, and rows of answers about them.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use serde::{Deserialize, Serialize};

/// The sectors that a disk stands for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Medium {
    /// The whole disk of a PCI function.
    Disk {
        /// Its index in the device table.
        function: u32,
    },
    /// A GPT partition of a function's disk.
    Partition {
        /// The function's index in the device table.
        function: u32,
        /// Its number, from 1.
        number: u32,
    },
    /// Extents, in the order of the disk's sectors.
    Extents(Vec<Extent>),
}

/// Consecutive sectors of a function's disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extent {
    /// The function's index in the device table.
    pub function: u32,
    /// First sector of 512 bytes.
    pub start: u64,
    /// Number of sectors.
    pub sectors: u64,
}

/// Limits of a disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskLimits {
    /// Limit of the bytes.
    pub bytes: Rate,
    /// Limit of the operations.
    pub operations: Rate,
}

/// A limit of units per second; zeros for none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rate {
    /// Units per second.
    pub per_second: u64,
    /// Units that can be saved up.
    pub burst: u64,
}

/// The number of a virtual disk, as Linux counts block devices. It is shown by its name, `xvda` to
/// `xvdz`.
///
/// The first 16 have the major number 202 and 16 minor numbers each; the others have the extended
/// form (Xen's `docs/man/xen-vbd-interface.7`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskNumber(pub u32);

impl DiskNumber {
    const MAJOR: u32 = 202 << 8;
    const EXTENDED: u32 = 1 << 28;

    /// The number of the disk with this letter, if it is one of `a` to `z`.
    #[must_use]
    pub const fn of_letter(letter: char) -> Option<Self> {
        match (letter, (letter as u32).wrapping_sub('a' as u32)) {
            ('a'..='p', place) => Some(Self(Self::MAJOR | place << 4)),
            ('q'..='z', place) => Some(Self(Self::EXTENDED | place << 8)),
            _ => None,
        }
    }

    /// The letter of the disk. Returns `None` if the number is that of no whole disk.
    #[must_use]
    pub fn letter(self) -> Option<char> {
        ('a'..='z').find(|&letter| Self::of_letter(letter) == Some(self))
    }
}

impl fmt::Display for DiskNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.letter() {
            Some(letter) => write!(f, "xvd{letter}"),
            None => write!(f, "disk {}", self.0),
        }
    }
}

/// A disk of a partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskRow {
    /// Its index in the endpoint table.
    pub index: u32,
    /// The partition that has the disk.
    pub partition: u32,
    /// The number of the virtual disk; see [`DiskNumber`].
    pub device: u32,
    /// The sectors that the disk consists of.
    pub medium: Medium,
    /// Whether the partition can only read it.
    pub read_only: bool,
    /// Whether other shared disks may have its sectors.
    pub shared: bool,
    /// Its limits.
    pub limits: DiskLimits,
    /// The status of the disk.
    pub status: DiskStatus,
}

/// The status of a disk of a partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskStatus {
    /// The state of the disk.
    pub state: DiskState,
    /// The I/O partition that serves the disk, or would serve it; `None` if no I/O partition drives
    /// its functions.
    pub server: Option<u32>,
    /// Number of its sectors of 512 bytes, as far as an I/O partition has reported its medium.
    pub sectors: Option<u64>,
    /// The reason why the disk is not served, or why its rings were closed last, for people; at
    /// most [`MAX_DISK_CAUSE`] bytes.
    pub cause: Option<String>,
}

/// Maximum number of bytes of [`DiskStatus::cause`].
pub const MAX_DISK_CAUSE: usize = 256;

/// The state of a disk. JSON has the state as its [word](Self::word).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DiskState {
    /// No I/O partition drives its functions, or it cannot be served; the cause says so.
    #[serde(rename = "unserved")]
    Unserved,
    /// The disk is offered, and the partition's kernel has not connected.
    #[serde(rename = "waiting")]
    Waiting,
    /// The partition's kernel is connected.
    #[serde(rename = "attached")]
    Attached,
    /// The partition's kernel is connected, and its requests wait for an I/O partition.
    #[serde(rename = "moving")]
    Moving,
    /// The disk was closed for the cause, until the partition's kernel begins again.
    #[serde(rename = "failed")]
    Failed,
    /// The disk is being detached from the partition.
    #[serde(rename = "detaching")]
    Detaching,
}

impl DiskState {
    /// The word for the state, for people and programs.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Unserved => "unserved",
            Self::Waiting => "waiting",
            Self::Attached => "attached",
            Self::Moving => "moving",
            Self::Failed => "failed",
            Self::Detaching => "detaching",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn disks_have_the_numbers_of_linux() {
        let numbers = [('a', 51_712), ('b', 51_728), ('p', 51_952), ('q', 268_439_552)];
        for (letter, number) in numbers {
            assert_eq!(DiskNumber::of_letter(letter), Some(DiskNumber(number)));
            assert_eq!(DiskNumber(number).to_string(), alloc::format!("xvd{letter}"));
        }
        assert_eq!(DiskNumber::of_letter('A'), None);
        for other in [0, 51_713, 51_968, 268_435_456, 268_439_553, u32::MAX] {
            assert_eq!(DiskNumber(other).letter(), None, "{other}");
        }
        assert_eq!(DiskNumber(768).to_string(), "disk 768");
    }
}
