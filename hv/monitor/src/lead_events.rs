//! What the monitor did to partitions by itself, until the ultravisor has it in the log.

use heapless::Deque;
use pv_abi::{
    uv::{
        calls::MonitorEvent,
        database::{MAX_MACHINE_VCPUS, ULTRAVISOR},
    },
    xen::events::VIRQ_DOM_EXC,
};

use crate::{delivery, ending::Ending, lock::SpinLock, partition, platform};

/// Records kept: one for each partition that the machine has virtual CPUs for, since a partition
/// stops once. The ultravisor writes them down before it destroys partitions.
const KEPT: usize = MAX_MACHINE_VCPUS as usize;

static EVENTS: SpinLock<Events> = SpinLock::new(Events { dropped: 0, kept: Deque::new() });

/// The records that may not be written down yet. The oldest has number `dropped` + 1.
struct Events {
    dropped: u64,
    kept: Deque<MonitorEvent, KEPT>,
}

/// Records why a partition has stopped, and tells the ultravisor.
pub fn record(_: Ending, event: MonitorEvent) {
    if EVENTS.lock().kept.push_back(event).is_err() {
        platform::log_warning(format_args!("a monitor event was lost: {event:?}"));
    }
    if let Some(vcpu) = partition::find(ULTRAVISOR).and_then(|p| p.vcpu(0)) {
        delivery::raise_virq(vcpu, VIRQ_DOM_EXC);
    }
}

/// Drops the records up to number `written`; returns the oldest that is left, with its number.
pub fn next_after(written: u64) -> Option<(u64, MonitorEvent)> {
    let mut events = EVENTS.lock();
    while events.dropped < written && events.kept.pop_front().is_some() {
        events.dropped += 1;
    }
    events.kept.front().map(|event| (events.dropped + 1, *event))
}
