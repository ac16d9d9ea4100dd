//! Events that the monitor caused in partitions by itself, kept until the ultravisor has logged
//! them.

use heapless::Deque;
use pv_abi::{
    uv::{
        calls::MonitorEvent,
        database::{MAX_MACHINE_VCPUS, ULTRAVISOR},
    },
    xen::events::VIRQ_DOM_EXC,
};

use crate::{delivery, ending::Ending, lock::SpinLock, partition, platform};

/// Maximum number of events kept: one per partition that the machine has virtual CPUs for, since a
/// partition stops once. The ultravisor logs the events before it destroys the partitions.
const KEPT: usize = MAX_MACHINE_VCPUS as usize;

static EVENTS: SpinLock<Events> = SpinLock::new(Events { dropped: 0, kept: Deque::new() });

/// The events that may not be in the log yet. The oldest has number `dropped` + 1.
struct Events {
    dropped: u64,
    kept: Deque<MonitorEvent, KEPT>,
}

/// Records why a partition has stopped, and notifies the ultravisor.
pub fn record(_: Ending, event: MonitorEvent) {
    if EVENTS.lock().kept.push_back(event).is_err() {
        platform::log_warning(format_args!("a monitor event was lost: {event:?}"));
    }
    if let Some(vcpu) = partition::find(ULTRAVISOR).and_then(|p| p.vcpu(0)) {
        delivery::raise_virq(vcpu, VIRQ_DOM_EXC);
    }
}

/// Drops the events up to number `written`. Returns the oldest one left, with its number.
pub fn next_after(written: u64) -> Option<(u64, MonitorEvent)> {
    let mut events = EVENTS.lock();
    while events.dropped < written && events.kept.pop_front().is_some() {
        events.dropped += 1;
    }
    events.kept.front().map(|event| (events.dropped + 1, *event))
}
