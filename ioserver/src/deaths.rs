//! Deaths for tests: an I/O partition ends right after a step of its work.
//!
//! A successor must get along with a death between any two steps. The option
//! `inject=die-at:NUMBER:STEP:COUNT` ends partition NUMBER after it made a step for the COUNTth time.
//! A partition that is built again has the same options: deaths are for its first life alone.

use core::sync::atomic::{AtomicU32, Ordering::Relaxed};
use partition_runtime::hypercall::{Shutdown, shutdown};
use partition_runtime::log;

/// A step, after which an I/O partition can be made to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The ultravisor was told that a function is driven.
    Driving,
    /// A client's ring or a journal's page is mapped.
    Mapped,
    /// A client's port is bound.
    Bound,
    /// A word of a request stands in the journal, which does not name it as taken yet.
    Fetched,
    /// The journal names requests as taken.
    Taken,
    /// Pages of a request are pinned.
    Pinned,
    /// A disk's queue has a piece.
    Issued,
    /// A disk has ended a piece.
    Completed,
    /// Pins are dropped.
    Unpinned,
    /// Two lines of answers stand in the journal.
    Lines,
    /// The journal says that answers are being published.
    Publishing,
    /// A word of a response stands in the ring.
    Slots,
    /// The client can see responses.
    Published,
    /// The journal names the answered requests as taken no more.
    Cleared,
    /// The journal says that nothing is being published.
    Answered,
    /// The client's event is raised.
    Notified,
    /// An order to drive a function was read, and nothing is done for it yet.
    Ordered,
}

/// The steps by their names.
const STEPS: [(&str, Step); 17] = [
    ("driving", Step::Driving),
    ("mapped", Step::Mapped),
    ("bound", Step::Bound),
    ("fetched", Step::Fetched),
    ("taken", Step::Taken),
    ("pinned", Step::Pinned),
    ("issued", Step::Issued),
    ("completed", Step::Completed),
    ("unpinned", Step::Unpinned),
    ("lines", Step::Lines),
    ("publishing", Step::Publishing),
    ("slots", Step::Slots),
    ("published", Step::Published),
    ("cleared", Step::Cleared),
    ("answered", Step::Answered),
    ("notified", Step::Notified),
    ("ordered", Step::Ordered),
];

/// A death that is to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Death {
    /// The partition.
    pub partition: u32,
    /// The step.
    pub step: Step,
    /// How many such steps it makes, not 0.
    pub count: u32,
}

impl Death {
    /// Reads `NUMBER:STEP:COUNT`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (partition, rest) = text.split_once(':')?;
        let (name, count) = rest.split_once(':')?;
        let step = STEPS.iter().find(|(known, _)| *known == name)?.1;
        let count = count.parse().ok().filter(|&count| count > 0)?;
        Some(Self { partition: partition.parse().ok()?, step, count })
    }
}

/// The step of the death that is to come, or a number that no step has.
static STEP: AtomicU32 = AtomicU32::new(u32::MAX);
/// Such steps that are left.
static LEFT: AtomicU32 = AtomicU32::new(0);

/// Prepares a death.
pub fn prepare(death: Death) {
    LEFT.store(death.count, Relaxed);
    STEP.store(death.step as u32, Relaxed);
}

/// Notes that a step was made. Ends the partition if that is its death.
pub fn made(step: Step) {
    if STEP.load(Relaxed) == step as u32 {
        let left = LEFT.load(Relaxed).saturating_sub(1);
        LEFT.store(left, Relaxed);
        if left == 0 {
            log!("injected: it dies after the step {step:?}");
            shutdown(Shutdown::Crash);
        }
    }
}
