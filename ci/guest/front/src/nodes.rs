//! The nodes of the store: those that a back end offers, and those that a front end writes.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use pv_abi::xen::block::{PROTOCOL, SECTOR_BYTES, VDISK_READONLY};

/// The offer of a back end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// Sectors of 512 bytes.
    pub sectors: u64,
    /// Sectors of the smallest request: 1 to 8.
    pub granule: usize,
    /// Whether writes are refused.
    pub read_only: bool,
    /// Whether the back end accepts flushes.
    pub flush: bool,
    /// Sectors of the smallest discard; `None` if the back end offers no discard.
    pub discard: Option<usize>,
    /// Maximum number of segments of an indirect request; 0 if the back end accepts no indirect
    /// request.
    pub indirect: usize,
    /// Maximum number of rings.
    pub rings: usize,
}

impl Offer {
    /// Reads the back end's offer; `read` returns the value of one of the back end's nodes. The
    /// number of rings and the features are valid before the back end is connected, the sectors
    /// only afterwards.
    ///
    /// # Errors
    /// The node that cannot be.
    pub fn read(mut read: impl FnMut(&str) -> Option<String>) -> Result<Self, String> {
        let mut number = |node: &str, default: Option<u64>| match read(node) {
            Some(text) => {
                text.parse::<u64>().map_err(|_| format!("{node} of the back end is {text:?}"))
            }
            None => default.ok_or_else(|| format!("the back end has no {node}")),
        };
        let bytes = number("sector-size", Some(512))?;
        let sector = SECTOR_BYTES as u64;
        if !bytes.is_power_of_two() || !(sector..=4096).contains(&bytes) {
            return Err(format!("sector-size of the back end is {bytes}"));
        }
        let info = number("info", Some(0))?;
        let discard = number("feature-discard", Some(0))? != 0;
        let granularity = number("discard-granularity", Some(sector))?.max(bytes) / sector;
        Ok(Self {
            sectors: number("sectors", None)?,
            granule: (bytes / sector) as usize,
            read_only: info & u64::from(VDISK_READONLY) != 0,
            flush: number("feature-flush-cache", Some(0))? != 0,
            discard: discard.then_some(granularity.max(1) as usize),
            indirect: number("feature-max-indirect-segments", Some(0))?.min(4096) as usize,
            rings: number("multi-queue-max-queues", Some(1))?.clamp(1, 64) as usize,
        })
    }
}

/// The state in a node's value; 0 if there is none.
#[must_use]
pub fn state_of(value: Option<&str>) -> u32 {
    value.and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// The nodes that a front end writes below its directory, before it shows *initialised*. Each ring
/// has the grant of its page, and a port.
#[must_use]
pub fn write_nodes(rings: &[(u32, u32)]) -> Vec<(String, String)> {
    let mut nodes = Vec::new();
    if rings.len() > 1 {
        nodes.push(("multi-queue-num-queues".into(), rings.len().to_string()));
    }
    for (number, (grant, port)) in rings.iter().enumerate() {
        let directory = if rings.len() > 1 { format!("queue-{number}/") } else { String::new() };
        nodes.push((format!("{directory}ring-ref"), grant.to_string()));
        nodes.push((format!("{directory}event-channel"), port.to_string()));
    }
    nodes.push(("protocol".into(), PROTOCOL.into()));
    nodes
}
