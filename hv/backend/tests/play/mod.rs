//! A store with the two directories of an endpoint, and the shell that carries out actions.
#![allow(dead_code, reason = "each test uses a part")]

use std::collections::BTreeMap;

use backend::{
    Action, Cause, Discard, Event, Features, Frontend, Negotiation, Order, Report, ReportBody,
};

/// The features that the endpoint of the tests offers.
pub const FEATURES: Features = Features {
    sectors: 2048,
    sector_bytes: 512,
    physical_sector_bytes: 4096,
    read_only: false,
    discard: Some(Discard { granularity: 4096, alignment: 0 }),
    indirect_segments: 256,
    queues: 4,
    ring_order: 1,
};

/// The front end's nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Nodes(pub BTreeMap<String, Vec<u8>>);

impl Frontend for Nodes {
    fn read(&self, node: &str) -> Option<&[u8]> {
        self.0.get(node).map(Vec::as_slice)
    }
}

/// An endpoint, its store, and the effects so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Play {
    pub negotiation: Negotiation,
    pub front: Nodes,
    pub back: BTreeMap<&'static str, String>,
    /// The states that the back end wrote since the last take.
    pub states: Vec<u32>,
    /// The orders since the last take.
    pub orders: Vec<Order>,
    pub causes: Vec<Cause>,
    pub incarnation: u64,
    pub gone: bool,
}

impl Play {
    /// An endpoint with a server of epoch 1.
    pub fn new() -> Self {
        let mut play = Self::without_server();
        play.event(Event::Server(Some(1)));
        play
    }

    pub fn without_server() -> Self {
        let (negotiation, actions) = Negotiation::begin(FEATURES, 7);
        let front = Nodes(BTreeMap::from([("state".into(), b"1".to_vec())]));
        let mut play = Self {
            negotiation,
            front,
            back: BTreeMap::new(),
            states: Vec::new(),
            orders: Vec::new(),
            causes: Vec::new(),
            incarnation: 7,
            gone: false,
        };
        play.carry_out(actions);
        play
    }

    pub fn event(&mut self, event: Event) -> usize {
        let actions = self.negotiation.handle(event, &self.front);
        let count = actions.len();
        self.carry_out(actions);
        count
    }

    fn carry_out(&mut self, actions: Vec<Action>) {
        for action in actions {
            assert!(!self.gone, "{action:?} after the end");
            match action {
                Action::Write { node, value } => {
                    if node == "state" {
                        self.states.push(value.to_string().parse().unwrap());
                    }
                    self.back.insert(node, value.to_string());
                }
                Action::RemoveOfFrontend { node } => {
                    self.front.0.remove(node);
                }
                Action::Order(order) => self.orders.push(order),
                Action::Incarnation(number) => self.incarnation = number,
                Action::Record(cause) => self.causes.push(cause),
                Action::Gone => self.gone = true,
            }
        }
    }

    /// The front end writes nodes, of which it hears nothing before the last.
    pub fn writes(&mut self, nodes: &[(&str, &str)]) {
        for (node, value) in nodes {
            self.front.0.insert((*node).into(), value.as_bytes().to_vec());
        }
        self.event(Event::Frontend);
    }

    /// The server of an epoch reports about the present incarnation.
    pub fn reports(&mut self, epoch: u32, body: ReportBody) {
        let incarnation = self.incarnation;
        self.event(Event::Report(Report { epoch, incarnation, body }));
    }

    pub fn take_states(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.states)
    }

    pub fn take_orders(&mut self) -> Vec<Order> {
        std::mem::take(&mut self.orders)
    }
}
