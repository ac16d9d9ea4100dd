//! The objects of the attempts: frames of the partition that the program knows by their machine
//! numbers, and frames that it must not reach.
//!
//! ```text
//! uvtool resources --map   ranges by owner: what is foreign
//! setup_table              frames of the own grant table, so where the instance lies
//! gntalloc                 pages whose machine frames stand in the own grant table
//! /proc/self/pagemap       their pseudo-physical frames, so their direct-map addresses
//! ```

use anyhow::{Context, Result};
use pv_abi::uv::database::{INSTANCE_FIXED_FRAMES, INSTANCE_VCPU_FRAMES};
use serde::Deserialize;

/// The address of Linux's map of all its memory when it runs without address randomization, which
/// needs the boot stub that PV kernels skip.
pub const DIRECT_MAP: u64 = 0xffff_8880_0000_0000;

/// A page of the partition that only its kernel's direct map maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page {
    /// Machine frame.
    pub mfn: u64,
    /// Pseudo-physical frame.
    pub pfn: u64,
}

impl Page {
    /// Its address in the kernel's direct map.
    pub fn address(self) -> u64 {
        DIRECT_MAP + (self.pfn << 12)
    }
}

/// A frame that the partition must not reach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Foreign {
    /// The owner, or the kind of frame.
    pub what: String,
    /// Machine frame.
    pub mfn: u64,
    /// Partition number of its owner, if it has one.
    pub owner: Option<u32>,
}

/// Everything that the attempts name.
#[derive(Clone, Debug)]
pub struct Ground {
    /// The partition's own number.
    pub number: u32,
    /// Four pinned tables, one for each level from 1 on; entry 0 of each links to the one before.
    pub tables: [Page; 4],
    /// A page of descriptors that is loaded as the local descriptor table.
    pub descriptors: Page,
    /// An ordinary page, mapped writable by the kernel.
    pub data: Page,
    /// Address of an ordinary page of the program.
    pub page_address: u64,
    /// A grant reference of the partition that is not in use.
    pub grant: u32,
    /// Frames that the partition must not reach.
    pub foreign: Vec<Foreign>,
}

/// A range of the page map, as `uvtool resources --map --json` prints it.
#[derive(Clone, Debug, Deserialize)]
pub struct Range {
    /// First machine frame.
    pub first_frame: u64,
    /// Frames.
    pub frames: u64,
    /// Name of the owner.
    pub owner: String,
}

#[derive(Deserialize)]
struct Owner {
    owner: String,
    number: u32,
}

#[derive(Deserialize)]
struct Resources {
    frames: u64,
    memory: Vec<Owner>,
    map: Vec<Range>,
}

/// The name that frames without an owner have.
const FREE: &str = "free";

/// Frames of others, from the output of `uvtool resources --map --json`: the first and the last of
/// each range, and frames outside the map.
///
/// # Errors
/// The text is not such output.
pub fn foreign_frames(json: &str, own: &str) -> Result<Vec<Foreign>> {
    let resources: Resources =
        serde_json::from_str(json).context("uvtool resources --map --json")?;
    let number_of = |name: &str| {
        let row = resources.memory.iter().find(|row| row.owner == name);
        row.filter(|_| name != FREE).map(|row| row.number)
    };
    let mut found = Vec::new();
    for range in resources.map.iter().filter(|range| range.owner != own) {
        let last = range.first_frame + range.frames.saturating_sub(1);
        for mfn in [Some(range.first_frame), (last != range.first_frame).then_some(last)] {
            found.extend(mfn.map(|mfn| Foreign {
                what: range.owner.clone(),
                mfn,
                owner: number_of(&range.owner),
            }));
        }
    }
    found.extend(nowhere(resources.frames));
    Ok(found)
}

/// Frames of device memory, and frames that do not exist.
fn nowhere(frames: u64) -> Vec<Foreign> {
    let places = [
        ("I/O APIC", 0xfec00),
        ("local APIC", 0xfee00),
        ("first frame past the map", frames),
        ("last frame of 46 bits", (1 << 34) - 1),
        ("last frame that an entry can name", (1 << 40) - 1),
    ];
    let foreign = |(what, mfn): (&str, u64)| Foreign { what: what.into(), mfn, owner: None };
    places.map(foreign).into()
}

/// Frames of the partition's own monitor instance that it must not reach, computed from the place
/// of its grant table: the partition structure, event ports, map records, a virtual CPU, and the
/// in-use marks of its grants.
pub fn instance_frames(grant_table: u64, grant_frames: u64, vcpus: u32) -> Vec<Foreign> {
    let fixed = u64::from(INSTANCE_FIXED_FRAMES);
    let first = grant_table - fixed - u64::from(vcpus * INSTANCE_VCPU_FRAMES);
    let frames = [
        ("own instance: partition", first),
        ("own instance: event ports", first + 2),
        ("own instance: map records", first + 11),
        ("own instance: table of its view", first + 32),
        ("own instance: virtual CPU", first + fixed),
        ("own instance: grants in use", grant_table + grant_frames),
    ];
    let foreign = |(what, mfn): (&str, u64)| Foreign { what: what.into(), mfn, owner: None };
    frames.map(foreign).into()
}

#[cfg(test)]
pub mod samples {
    use super::*;

    /// A ground for tests without a machine.
    pub fn ground() -> Ground {
        let page = |n: u64| Page { mfn: 0x9000 + n, pfn: 0x800 + n };
        let mut foreign = foreign_frames(RESOURCES, "command").expect("well formed");
        foreign.extend(instance_frames(0x5a95, 4, 2));
        Ground {
            number: 3,
            tables: [page(0), page(1), page(2), page(3)],
            descriptors: page(4),
            data: page(5),
            page_address: 0x7f00_0000_0000,
            grant: 9,
            foreign,
        }
    }

    /// The output of `uvtool`, shortened.
    pub const RESOURCES: &str = r#"{ "frames": 524255,
        "memory": [{"owner": "free", "number": 0}, {"owner": "ultravisor", "number": 1},
                   {"owner": "command", "number": 3}],
        "map": [{"first_frame": 23040, "frames": 52, "owner": "ultravisor", "io": false},
                {"first_frame": 34816, "frames": 245760, "owner": "command", "io": false},
                {"first_frame": 280576, "frames": 1, "owner": "free", "io": false}] }"#;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_others_are_foreign_and_own_ones_are_not() {
        let found = foreign_frames(samples::RESOURCES, "command").unwrap();
        let of = |what: &str| -> Vec<(u64, Option<u32>)> {
            let frames = found.iter().filter(|frame| frame.what == what);
            frames.map(|frame| (frame.mfn, frame.owner)).collect()
        };
        assert_eq!(of("ultravisor"), [(23_040, Some(1)), (23_091, Some(1))]);
        assert_eq!(of("free"), [(280_576, None)], "a range of one frame");
        assert!(of("command").is_empty());
        assert_eq!(of("first frame past the map"), [(524_255, None)]);
    }

    #[test]
    fn the_instance_lies_before_and_after_the_grant_table() {
        let frames = instance_frames(0x100 + 48 + 8, 4, 2);
        let mfns: Vec<u64> = frames.iter().map(|frame| frame.mfn).collect();
        assert_eq!(mfns, [0x100, 0x102, 0x10b, 0x120, 0x130, 0x138 + 4]);
    }

    #[test]
    fn other_text_is_an_error() {
        assert!(foreign_frames("{}", "command").is_err());
    }
}
