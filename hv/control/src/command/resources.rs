//! Rows of answers about the resources of the machine.

use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// The resources of the machine, and their owners.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResourcesAnswer {
    /// Number of frames that the page map describes.
    pub frames: u64,
    /// Memory by owner.
    pub memory: Vec<MemoryRow>,
    /// The firmware's memory map: pairs of a type (see `MachineRegion`) and a number of frames.
    pub firmware: Vec<(u32, u64)>,
    /// Physical CPUs.
    pub cpus: Vec<CpuRow>,
    /// Number of arena pages: all, and those in use.
    pub arena: (u32, u32),
    /// Number of channels in use.
    pub channels: u32,
    /// The heap of the ultravisor partition.
    pub heap: Heap,
    /// Maximum number of free frames that may still have to be scrubbed.
    pub unscrubbed: u64,
    /// The loop of the ultravisor partition.
    pub turns: Turns,
}

/// Statistics of an event loop's turns since it started. A turn is the time between two checks for
/// events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Turns {
    /// Nanoseconds of the longest turn, without the time in which others had the CPU.
    pub longest: u64,
    /// Number of turns above 5 ms.
    pub long: u64,
}

/// The usage of a Rust partition's heap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heap {
    /// Size in bytes.
    pub bytes: u64,
    /// Bytes in use.
    pub in_use: u64,
    /// Maximum number of bytes in use since it started.
    pub most: u64,
}

/// Memory of one owner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryRow {
    /// Partition number; 0 if free.
    pub owner: u32,
    /// Whether the memory is I/O memory or a hole rather than RAM.
    pub io: bool,
    /// Number of entries of each tier (4 GiB, 4 MiB, 4 KiB) that name this owner.
    pub tiers: [u64; 3],
    /// Total number of frames.
    pub frames: u64,
}

/// A physical CPU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuRow {
    /// Index.
    pub index: u32,
    /// Local APIC id.
    pub apic_id: u32,
    /// Whether the CPU is online.
    pub online: bool,
    /// Nanoseconds busy.
    pub busy: u64,
    /// Nanoseconds idle.
    pub idle: u64,
}

/// A range of the page map with one owner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MapRow {
    /// First frame.
    pub first: u64,
    /// Number of frames.
    pub frames: u64,
    /// Owner; 0 if free.
    pub owner: u32,
    /// Whether the range is I/O memory or a hole.
    pub io: bool,
}

/// A frame on which the monitor's record and the database differ.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// The frame.
    pub frame: u64,
    /// Its owner in the database, and whether it is I/O memory there.
    pub database: (u32, bool),
    /// The same in the monitor. `None` if the monitor has no record of the frame.
    pub monitor: Option<(u32, bool)>,
}
