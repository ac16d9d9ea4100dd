//! The features that an endpoint offers, and the nodes that tell a front end about them.
//!
//! All features but the number of sectors stay the same for the endpoint's life, no matter which
//! partition serves it, because a request that was built for one server may be issued again by
//! another.

use core::fmt;

use pv_abi::xen::block::{RING_ORDER_MAX, VDISK_READONLY};

use crate::offer::QUEUES_MAX;

/// Discards of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Discard {
    /// Bytes of the smallest part that is discarded.
    pub granularity: u32,
    /// Bytes from the begin of the endpoint to the first whole part.
    pub alignment: u32,
}

/// The features that an endpoint offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features {
    /// Number of sectors of 512 bytes.
    pub sectors: u64,
    /// Bytes of the smallest request.
    pub sector_bytes: u32,
    /// Bytes that the medium writes as a whole.
    pub physical_sector_bytes: u32,
    /// Whether writes and discards are refused.
    pub read_only: bool,
    /// Discards; `None` if the endpoint does not offer them.
    pub discard: Option<Discard>,
    /// Maximum number of segments of an indirect request; 0 if the endpoint does not offer them.
    pub indirect_segments: u16,
    /// Maximum number of queues.
    pub queues: u32,
    /// Maximum of the log2 of the pages of a ring.
    pub ring_order: u32,
}

/// The value of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value {
    /// A number, written in decimal digits.
    Number(u64),
    /// A word.
    Word(&'static str),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Word(word) => word.fmt(f),
        }
    }
}

impl Features {
    /// The maximum number of queues, which is at least 1 and at most [`QUEUES_MAX`].
    #[must_use]
    pub fn queues_max(&self) -> u32 {
        self.queues.clamp(1, QUEUES_MAX)
    }

    /// The maximum of the log2 of the pages of a ring, which is at most [`RING_ORDER_MAX`].
    #[must_use]
    pub fn ring_order_max(&self) -> u32 {
        self.ring_order.min(RING_ORDER_MAX)
    }

    /// The back end's nodes, except its state and the nodes that name the front end.
    ///
    /// Barriers are not offered, since flushes are. Persistent grants would make the guest copy each
    /// segment. A server discards without a promise that no copy is left.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = (&'static str, Value)> {
        let number = |name, value: u64| (name, Value::Number(value));
        let info = if self.read_only { VDISK_READONLY } else { 0 };
        let fixed = [
            number("online", 1),
            ("mode", Value::Word(if self.read_only { "r" } else { "w" })),
            number("info", info.into()),
            number("sectors", self.sectors),
            number("sector-size", self.sector_bytes.into()),
            number("physical-sector-size", self.physical_sector_bytes.into()),
            number("feature-flush-cache", 1),
            number("feature-persistent", 0),
            number("feature-max-indirect-segments", self.indirect_segments.into()),
            number("multi-queue-max-queues", self.queues_max().into()),
            number("max-ring-page-order", self.ring_order_max().into()),
            number("feature-discard", self.discard.is_some().into()),
        ];
        let discard = self.discard.map(|discard| {
            [
                number("discard-granularity", discard.granularity.into()),
                number("discard-alignment", discard.alignment.into()),
                number("discard-secure", 0),
            ]
        });
        fixed.into_iter().chain(discard.into_iter().flatten())
    }
}
