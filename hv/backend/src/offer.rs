//! The rings that a front end offers: untrusted nodes to [`Rings`] or a [`Fault`].

use alloc::borrow::Cow;
use alloc::format;
use alloc::vec::Vec;
use core::fmt;

use pv_abi::xen::block::PROTOCOL;

use crate::features::Features;

/// Maximum number of queues that an endpoint can offer.
pub const QUEUES_MAX: u32 = 16;

/// The node with the number of queues, without which there is one.
pub(crate) const QUEUES: &str = "multi-queue-num-queues";
/// The node with the log2 of the pages of a ring, without which a ring has one page.
pub(crate) const ORDER: &str = "ring-page-order";

/// The nodes of a front end.
pub trait Frontend {
    /// The value of a node below the front end's directory; `None` if there is no such node.
    fn read(&self, node: &str) -> Option<&[u8]>;
}

/// A ring that a front end offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Queue {
    /// The grants of the ring's pages, in order: 1 << order of them.
    pub pages: Vec<u32>,
    /// The front end's event port, not 0.
    pub port: u32,
}

/// The rings that a front end offers: at least one, at most what the [`Features`] allow, all of one
/// size, with no grant and no port named twice. Whether the grants and ports exist is seen when the
/// server maps and binds them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rings {
    /// A ring for each queue.
    pub queues: Vec<Queue>,
}

/// Why an offer cannot be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A node is missing.
    Missing {
        /// The node, below the front end's directory.
        node: Cow<'static, str>,
    },
    /// A node is not a number in decimal digits that fits 32 bits.
    NotANumber {
        /// The node, below the front end's directory.
        node: Cow<'static, str>,
    },
    /// A number is outside of its limits.
    Outside {
        /// The node, below the front end's directory.
        node: Cow<'static, str>,
        /// The number.
        value: u32,
        /// The smallest number that is accepted.
        least: u32,
        /// The largest number that is accepted.
        most: u32,
    },
    /// Two nodes name the same page or port.
    Twice {
        /// The second node, below the front end's directory.
        node: Cow<'static, str>,
        /// The number.
        value: u32,
    },
    /// The front end uses other layouts than [`PROTOCOL`].
    Protocol,
    /// The front end's node `state` does not hold a state.
    State,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing { node } => write!(f, "{node}: is missing; write it before state 3"),
            Self::NotANumber { node } => {
                write!(f, "{node}: is not a number from 0 to {}; write decimal digits", u32::MAX)
            }
            Self::Outside { node, value, least, most } => {
                write!(f, "{node}: {value} is not from {least} to {most}; write a number that is")
            }
            Self::Twice { node, value } => {
                write!(f, "{node}: another node names {value} as well; give each ring its own")
            }
            Self::Protocol => write!(f, "protocol: only {PROTOCOL} is served; use a 64-bit kernel"),
            Self::State => write!(f, "state: is not a number from 1 to 6; write 1 to begin again"),
        }
    }
}

impl Rings {
    /// Reads the offer of a front end. Each node is read once.
    ///
    /// # Errors
    /// The first node that cannot be.
    pub fn read(front: &impl Frontend, features: &Features) -> Result<Self, Fault> {
        if front.read("protocol").is_some_and(|protocol| protocol != PROTOCOL.as_bytes()) {
            return Err(Fault::Protocol);
        }
        let count = optional(front, QUEUES, 1, features.queues_max())?.unwrap_or(1);
        let order = optional(front, ORDER, 0, features.ring_order_max())?;
        let mut rings = Self { queues: Vec::new() };
        for index in 0..count {
            let directory =
                if count == 1 { Cow::Borrowed("") } else { format!("queue-{index}/").into() };
            let queue = rings.queue(front, &directory, order)?;
            rings.queues.push(queue);
        }
        Ok(rings)
    }

    /// Reads a ring and compares it with those before it.
    fn queue(
        &self,
        front: &impl Frontend,
        directory: &str,
        order: Option<u32>,
    ) -> Result<Queue, Fault> {
        let mut pages = Vec::new();
        for page in 0..1u32 << order.unwrap_or(0) {
            // A front end that writes no order has one page, whose node has no number.
            let node = match order {
                None => format!("{directory}ring-ref"),
                Some(_) => format!("{directory}ring-ref{page}"),
            };
            let grant = required(front, &node)?;
            let mut before = self.queues.iter().flat_map(|queue| &queue.pages).chain(&pages);
            if before.any(|&other| other == grant) {
                return Err(Fault::Twice { node: node.into(), value: grant });
            }
            pages.push(grant);
        }
        let node = format!("{directory}event-channel");
        let port = required(front, &node)?;
        if port == 0 {
            let (least, most) = (1, u32::MAX);
            return Err(Fault::Outside { node: node.into(), value: port, least, most });
        }
        if self.queues.iter().any(|queue| queue.port == port) {
            return Err(Fault::Twice { node: node.into(), value: port });
        }
        Ok(Queue { pages, port })
    }
}

/// The state that a front end shows.
pub(crate) fn state(front: &impl Frontend) -> Result<Option<u32>, Fault> {
    use pv_abi::xen::xenbus::{CLOSED, INITIALISING};
    let Some(value) = front.read("state") else {
        return Ok(None);
    };
    let known = number(value).filter(|state| (INITIALISING..=CLOSED).contains(state));
    known.map(Some).ok_or(Fault::State)
}

fn required(front: &impl Frontend, node: &str) -> Result<u32, Fault> {
    let value = front.read(node).ok_or_else(|| Fault::Missing { node: owned(node) })?;
    number(value).ok_or_else(|| Fault::NotANumber { node: owned(node) })
}

/// Reads a number that may be missing and has limits.
fn optional(
    front: &impl Frontend,
    node: &'static str,
    least: u32,
    most: u32,
) -> Result<Option<u32>, Fault> {
    let Some(value) = front.read(node) else {
        return Ok(None);
    };
    let value = number(value).ok_or(Fault::NotANumber { node: node.into() })?;
    if !(least..=most).contains(&value) {
        return Err(Fault::Outside { node: node.into(), value, least, most });
    }
    Ok(Some(value))
}

/// Parses a number in decimal digits, the form in which kernels write it.
fn number(value: &[u8]) -> Option<u32> {
    if !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    core::str::from_utf8(value).ok()?.parse().ok()
}

fn owned(node: &str) -> Cow<'static, str> {
    Cow::Owned(node.into())
}
