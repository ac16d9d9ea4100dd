//! Random front ends, servers that die anywhere, and a database that changes its mind.
//!
//! The model knows which rings are held: by a server, or by the journal that a dead one left.

mod play;

use std::collections::{BTreeSet, VecDeque};

use backend::{Event, Order, Report, ReportBody, Rings};
use play::{FEATURES, Nodes, Play};
use proptest::prelude::*;

/// Maximum number of actions that one event may cause.
const ACTIONS: usize = 12;

#[derive(Clone, Debug)]
enum Step {
    /// The front end writes a node, or removes it; the back end may look only later.
    Front {
        node: &'static str,
        value: Option<&'static str>,
        seen: bool,
    },
    /// The front end removes all its nodes.
    RemoveAll,
    /// The server carries out its next order; if `well` is true, it does not refuse an attach.
    Serve {
        well: bool,
    },
    /// The ultravisor reads the next report.
    Hear,
    /// The server reports by itself.
    Report(ReportBody),
    /// The server dies, and its reports may be heard later.
    Die,
    /// A successor runs.
    Start,
    /// Nothing of the dead server is left.
    Release,
    /// A refused attach may go well now.
    Again,
    Resize(u64),
    Remove,
    Destroy,
}

#[derive(Debug, Default)]
struct Servers {
    epoch: u32,
    alive: bool,
    orders: VecDeque<Order>,
    reports: VecDeque<Report>,
    /// The incarnation that the server serves.
    serves: Option<u64>,
    /// The incarnations of rings that anybody holds.
    held: BTreeSet<u64>,
    /// The last incarnation that was attached.
    last: Option<u64>,
    /// The last incarnation that the front end was connected to.
    connected: Option<u64>,
}

impl Servers {
    fn say(&mut self, incarnation: u64, body: ReportBody) {
        self.reports.push_back(Report { epoch: self.epoch, incarnation, body });
    }

    fn serve(&mut self, well: bool) {
        if !self.alive {
            return;
        }
        match self.orders.pop_front() {
            Some(Order::Attach { incarnation, .. }) => {
                assert!(self.held.iter().all(|&held| held == incarnation), "two sets of rings");
                assert!(self.last.is_none_or(|last| last <= incarnation), "used again");
                self.last = Some(incarnation);
                if well {
                    self.held.insert(incarnation);
                    self.serves = Some(incarnation);
                    self.say(incarnation, ReportBody::Attached);
                } else {
                    // The journal holds what the front end asked for once it was connected.
                    if self.connected != Some(incarnation) {
                        self.held.clear();
                    }
                    self.say(incarnation, ReportBody::Refused("no".into()));
                }
            }
            Some(Order::Resize { incarnation, sectors }) => {
                self.say(incarnation, ReportBody::Resized(sectors));
            }
            Some(Order::Detach { incarnation }) => {
                self.held.remove(&incarnation);
                self.serves = None;
                self.say(incarnation, ReportBody::Detached);
            }
            None => {}
        }
    }

    fn is_unused(&self) -> bool {
        let attach = |order: &Order| matches!(order, Order::Attach { .. });
        self.held.is_empty() && !self.orders.iter().any(attach)
    }
}

struct Model {
    play: Play,
    servers: Servers,
}

impl Model {
    fn event(&mut self, event: Event) {
        let actions = self.play.event(event);
        assert!(actions <= ACTIONS, "{actions} actions");
        let orders = self.play.take_orders();
        assert!(orders.len() <= 2, "{orders:?}");
        assert!(orders.is_empty() || self.servers.alive, "{orders:?} to nobody");
        orders.iter().for_each(check_order);
        for state in self.play.take_states() {
            let servers = &self.servers;
            match state {
                2 => assert!(servers.is_unused(), "waiting with rings"),
                4 => {
                    assert!(servers.alive && servers.serves.is_some(), "connected to nobody");
                    self.servers.connected = self.servers.serves;
                }
                5 => assert!(
                    servers.is_unused() || servers.alive && servers.serves.is_some(),
                    "closing in a failover"
                ),
                6 => assert!(servers.is_unused(), "closed with rings"),
                state => panic!("state {state}"),
            }
        }
        if self.play.gone {
            assert!(self.servers.is_unused(), "gone with rings");
        }
        self.servers.orders.extend(orders);
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Front { node, value, seen } => {
                match value {
                    Some(value) => {
                        self.play.front.0.insert(node.into(), value.as_bytes().to_vec());
                    }
                    None => {
                        self.play.front.0.remove(node);
                    }
                }
                if seen {
                    self.event(Event::Frontend);
                }
            }
            Step::RemoveAll => {
                self.play.front = Nodes::default();
                self.event(Event::Frontend);
            }
            Step::Serve { well } => self.servers.serve(well),
            Step::Hear => self.hear(),
            Step::Report(body) => {
                if let Some(incarnation) = self.servers.serves.filter(|_| self.servers.alive) {
                    self.servers.say(incarnation, body);
                }
            }
            Step::Die => {
                self.servers.alive = false;
                self.servers.serves = None;
                self.servers.orders.clear();
                self.event(Event::Server(None));
            }
            Step::Start if !self.servers.alive => {
                self.servers.alive = true;
                self.servers.epoch += 1;
                self.event(Event::Server(Some(self.servers.epoch)));
            }
            Step::Start => {}
            Step::Release if !self.servers.alive => {
                let mut after = self.play.clone();
                after.event(Event::Released);
                if after.incarnation != self.play.incarnation {
                    self.servers.held.clear();
                }
                self.event(Event::Released);
            }
            Step::Release => {
                let before = self.play.incarnation;
                self.event(Event::Released);
                assert_eq!(before, self.play.incarnation, "a server has the rings");
            }
            Step::Again => self.event(Event::Again),
            Step::Resize(sectors) => self.event(Event::Resize(sectors)),
            Step::Remove => self.event(Event::Remove),
            Step::Destroy => self.event(Event::Destroy),
        }
    }

    fn hear(&mut self) {
        let Some(report) = self.servers.reports.pop_front() else {
            return;
        };
        let stale = report.epoch != self.servers.epoch
            || !self.servers.alive
            || report.incarnation != self.play.incarnation;
        let before = self.play.clone();
        self.event(Event::Report(report));
        assert!(!stale || before == self.play, "a stale report was heard");
    }

    /// Lets the servers carry out all their orders.
    fn settle(&mut self) {
        self.step(Step::Start);
        for _ in 0..64 {
            self.step(Step::Again);
            self.servers.serve(true);
            self.hear();
        }
        assert!(self.servers.orders.is_empty() && self.servers.reports.is_empty(), "no end");
    }

    fn shown(&self) -> &str {
        &self.play.back["state"]
    }

    fn front(&mut self, nodes: &[(&'static str, &'static str)]) {
        for &(node, value) in nodes {
            self.step(Step::Front { node, value: Some(value), seen: true });
        }
        self.settle();
    }
}

/// Checks that the rings are within the offered features, and that no grant or port is named twice.
fn check_order(order: &Order) {
    let Order::Attach { rings: Rings { queues }, .. } = order else {
        return;
    };
    assert!((1..=FEATURES.queues as usize).contains(&queues.len()));
    let pages: Vec<u32> = queues.iter().flat_map(|queue| queue.pages.clone()).collect();
    let ports: BTreeSet<u32> = queues.iter().map(|queue| queue.port).collect();
    assert!(queues.iter().all(|queue| queue.pages.len() == queues[0].pages.len()));
    assert!(queues[0].pages.len() <= 1 << FEATURES.ring_order);
    assert!(pages.len().is_multiple_of(queues.len()));
    assert_eq!(pages.iter().collect::<BTreeSet<_>>().len(), pages.len());
    assert!(ports.len() == queues.len() && !ports.contains(&0));
}

fn step() -> impl Strategy<Value = Step> {
    let nodes = vec![
        "protocol",
        "multi-queue-num-queues",
        "ring-page-order",
        "ring-ref",
        "ring-ref0",
        "ring-ref1",
        "event-channel",
        "queue-0/ring-ref",
        "queue-0/event-channel",
        "queue-1/ring-ref",
        "queue-1/event-channel",
    ];
    let values = vec!["0", "1", "2", "3", "8", "9", "", "x", "-1", "99999999999", "x86_64-abi"];
    let states = vec!["1", "2", "3", "4", "5", "6", "7", "", "4294967297", "\u{0}4"];
    let maybe = |values| prop::option::weighted(0.9, prop::sample::select(values));
    let front = |node, value, seen| Step::Front { node, value, seen };
    let seen = prop::bool::weighted(0.8);
    let said = vec![
        ReportBody::Attached,
        ReportBody::Refused("unasked".into()),
        ReportBody::Broken("broken".into()),
        ReportBody::MediumFailed("failed".into()),
        ReportBody::Resized(1),
        ReportBody::Resized(4096),
    ];
    prop_oneof![
        6 => (prop::sample::select(nodes), maybe(values), seen)
            .prop_map(move |(node, value, seen)| front(node, value, seen)),
        // Legal states more often than others.
        6 => (prop::sample::select(vec!["1", "3", "4", "6"]), seen)
            .prop_map(move |(value, seen)| front("state", Some(value), seen)),
        2 => (maybe(states), seen).prop_map(move |(value, seen)| front("state", value, seen)),
        1 => Just(Step::RemoveAll),
        8 => prop::bool::weighted(0.9).prop_map(|well| Step::Serve { well }),
        8 => Just(Step::Hear),
        1 => prop::sample::select(said).prop_map(Step::Report),
        2 => Just(Step::Die),
        3 => Just(Step::Start),
        1 => Just(Step::Release),
        1 => Just(Step::Again),
        1 => prop::sample::select(vec![2048, 4096, 8192]).prop_map(Step::Resize),
    ]
}

/// Steps of a front end that offers one ring, so that most runs get as far as an attach.
fn offer() -> Vec<Step> {
    [("ring-ref", "8"), ("event-channel", "5"), ("state", "3")]
        .map(|(node, value)| Step::Front { node, value: Some(value), seen: true })
        .to_vec()
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let part = prop_oneof![9 => step().prop_map(|step| vec![step]), 1 => Just(offer())];
    prop::collection::vec(part, 0..60).prop_map(|parts| parts.concat())
}

fn model() -> Model {
    let mut model = Model { play: Play::without_server(), servers: Servers::default() };
    model.play.take_states();
    model
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// Whatever a front end wrote and wherever servers died, a front end that closes and begins again
    /// is attached.
    #[test]
    fn a_front_end_that_begins_again_is_attached(steps in steps()) {
        let mut model = model();
        steps.into_iter().for_each(|step| model.step(step));
        model.settle();
        model.front(&[("state", "6")]);
        prop_assert_eq!(model.shown(), "6");
        prop_assert!(model.servers.is_unused());
        model.play.front = Nodes::default();
        model.front(&[("state", "1")]);
        prop_assert_eq!(model.shown(), "2");
        let last = model.servers.last;
        model.front(&[("ring-ref", "8"), ("event-channel", "5"), ("state", "3")]);
        prop_assert_eq!(model.shown(), "4");
        prop_assert!(model.servers.serves > last);
        prop_assert_eq!(&model.play.back["sectors"], &model.play.negotiation.features().sectors.to_string());
    }

    /// An endpoint that has to be removed is removed: at once if its client is, else when its front
    /// end closes.
    #[test]
    fn an_endpoint_that_is_to_go_goes(
        before in steps(),
        forced in any::<bool>(),
        after in steps(),
    ) {
        let mut model = model();
        before.into_iter().for_each(|step| model.step(step));
        model.step(if forced { Step::Destroy } else { Step::Remove });
        after.into_iter().for_each(|step| model.step(step));
        model.settle();
        if !forced {
            model.front(&[("state", "6")]);
        }
        prop_assert!(model.play.gone);
        prop_assert!(model.servers.held.is_empty());
    }
}
