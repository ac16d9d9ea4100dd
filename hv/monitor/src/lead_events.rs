//! What the monitor did to partitions by itself, until the ultravisor takes it into the log.

use heapless::Deque;
use pv_abi::{
    uv::{
        calls::MonitorEvent,
        database::{MAX_MACHINE_VCPUS, ULTRAVISOR},
    },
    xen::events::VIRQ_DOM_EXC,
};

use crate::{delivery, lock::SpinLock, partition, platform};

/// Records kept: one for each partition that the machine has virtual CPUs for, since a partition
/// stops once. The ultravisor takes them before it destroys partitions.
const KEPT: usize = MAX_MACHINE_VCPUS as usize;

static EVENTS: SpinLock<Deque<MonitorEvent, KEPT>> = SpinLock::new(Deque::new());

/// Records an event and tells the ultravisor.
pub fn record(event: MonitorEvent) {
    if EVENTS.lock().push_back(event).is_err() {
        platform::log_warning(format_args!("a monitor event was lost: {event:?}"));
    }
    if let Some(vcpu) = partition::find(ULTRAVISOR).and_then(|p| p.vcpu(0)) {
        delivery::raise_virq(vcpu, VIRQ_DOM_EXC);
    }
}

/// Takes the oldest record.
pub fn take() -> Option<MonitorEvent> {
    EVENTS.lock().pop_front()
}
