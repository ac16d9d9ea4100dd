//! What an endpoint offers, from its entry in the database and from the media of its functions.
//!
//! Rule: all of it but the sectors follows from the entry and from what the devices are, whoever drives
//! them, so that each server offers the same.

use alloc::vec::Vec;
use core::fmt;

use backend::{Discard, Features};
use block_service::SEGMENTS_OFFERED;
use control::io::{Extent, Medium};
use extents::{Layout, Refused};
use pv_abi::uv::endpoints::{Endpoint, endpoint_features, endpoint_flags, medium};

/// Bytes of the smallest request.
const SECTOR: u32 = 512;
/// The largest block that a front end is told of.
const LARGEST_BLOCK: u32 = 1 << 16;
/// Queues of an endpoint with several: a stock front end uses four at most.
const QUEUES: u32 = 4;

/// An endpoint that can be served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// Its sectors, in its own order.
    pub extents: Vec<Extent>,
    /// What it offers.
    pub features: Features,
}

/// Why an endpoint cannot be served from these media.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BadMedium {
    /// It is a GPT partition.
    Partition(u32),
    /// The extents do not fit the media.
    Extents(Refused),
}

impl fmt::Display for BadMedium {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Partition(number) => write!(
                f,
                "partition {number} of a disk is not served yet; attach the whole disk, or extents"
            ),
            Self::Extents(Refused::PastEnd { at, device_sectors }) => write!(
                f,
                "extent {at} ends behind the {device_sectors} sectors of the disk; attach it with \
                 extents that end before"
            ),
            Self::Extents(refused) => {
                write!(f, "the extents do not fit the disk ({refused:?}); attach it with others")
            }
        }
    }
}

fn used(entry: &Endpoint) -> impl Iterator<Item = Extent> + '_ {
    entry.used().iter().map(|extent| Extent {
        function: extent.function,
        start: extent.start,
        sectors: extent.sectors,
    })
}

/// Returns what an endpoint offers from these media.
///
/// # Errors
/// [`BadMedium`] says why the endpoint cannot be served.
pub fn disk_of<'m>(
    entry: &Endpoint,
    media: impl Fn(u32) -> Option<&'m Medium>,
) -> Result<Disk, BadMedium> {
    let whole = |extent: Extent| {
        let sectors = media(extent.function).map_or(0, |medium| medium.sectors);
        Extent { start: 0, sectors, ..extent }
    };
    let extents: Vec<Extent> = match entry.medium {
        medium::PARTITION => return Err(BadMedium::Partition(entry.partition)),
        medium::DISK => used(entry).map(whole).collect(),
        _ => used(entry).collect(),
    };
    let sectors = sectors_of(&extents, &media)?;
    let own = || extents.iter().filter_map(|extent| media(extent.function));
    let block = own().map(|medium| medium.block_bytes).max().unwrap_or(SECTOR);
    let is_block = block.is_power_of_two() && (SECTOR..=LARGEST_BLOCK).contains(&block);
    let has = |feature| entry.features & feature != 0;
    let indirect = if has(endpoint_features::INDIRECT) { SEGMENTS_OFFERED } else { 0 };
    let read_only = entry.flags & endpoint_flags::READ_ONLY != 0;
    let read_only = read_only || own().any(|medium| medium.read_only);
    let discards = has(endpoint_features::DISCARD) && !read_only;
    let features = Features {
        sectors,
        sector_bytes: SECTOR,
        physical_sector_bytes: if is_block { block } else { SECTOR },
        read_only,
        discard: discard_of(&extents, &media).filter(|_| discards),
        indirect_segments: u16::try_from(indirect).unwrap_or(u16::MAX),
        queues: if has(endpoint_features::MULTI_QUEUE) { QUEUES } else { 1 },
        ring_order: 0,
    };
    Ok(Disk { extents, features })
}

/// The discards of extents, if all their disks discard. The granularity is the largest of the
/// disks' parts, from the begin of the first extent on: to discard less than a part does no harm.
fn discard_of<'m>(
    extents: &[Extent],
    media: impl Fn(u32) -> Option<&'m Medium>,
) -> Option<Discard> {
    let mut granularity = 0;
    for extent in extents {
        let bytes = media(extent.function).map_or(0, |medium| medium.discard_bytes);
        if bytes == 0 {
            return None;
        }
        granularity = bytes.max(granularity);
    }
    let start = extents.first()?.start.checked_mul(SECTOR.into())?;
    let alignment = start.checked_next_multiple_of(granularity.into())? - start;
    Some(Discard { granularity, alignment: u32::try_from(alignment).ok()? })
}

/// The number of sectors of extents that fit the media.
///
/// # Errors
/// [`BadMedium::Extents`] if an extent does not fit.
pub fn sectors_of<'m>(
    extents: &[Extent],
    media: impl Fn(u32) -> Option<&'m Medium>,
) -> Result<u64, BadMedium> {
    let list: Vec<extents::Extent> = extents
        .iter()
        .map(|extent| extents::Extent {
            device: extent.function,
            start: extent.start,
            sectors: extent.sectors,
        })
        .collect();
    let sectors = |function| media(function).map(|medium| medium.sectors);
    Layout::new(&list, sectors).map(|layout| layout.sectors()).map_err(BadMedium::Extents)
}
