//! Events of ports that nobody serves yet.
//!
//! A restarted ultravisor first takes back what its predecessor left open, and attaches the
//! channels after that. Until then, a client may have rung, and it does not ring again for the same
//! request. Rule: an event that comes before its port is served is kept, and the port gets a turn
//! when it is served.

use alloc::collections::BTreeSet;
use alloc::vec::Vec;

use partition_runtime::events::Port;

/// The ports whose events came too early; at most as many as this partition has ports.
#[derive(Debug, Default)]
pub struct EarlyEvents {
    ports: BTreeSet<Port>,
}

impl EarlyEvents {
    /// Keeps the event of a port that nobody serves.
    pub fn note(&mut self, port: Port) {
        self.ports.insert(port);
    }

    /// Removes and returns the ports that are served by now. The others stay.
    pub fn take_served(&mut self, is_served: impl Fn(Port) -> bool) -> Vec<Port> {
        self.ports.extract_if(.., |port| is_served(*port)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_before_its_port_is_served_is_handled_once_it_is() {
        let mut early = EarlyEvents::default();
        [Port(256), Port(300), Port(256)].into_iter().for_each(|port| early.note(port));
        assert_eq!(early.take_served(|_| false), []);
        assert_eq!(early.take_served(|port| port == Port(256)), [Port(256)]);
        assert_eq!(early.take_served(|port| port == Port(256)), []);
        assert_eq!(early.take_served(|_| true), [Port(300)]);
    }
}
