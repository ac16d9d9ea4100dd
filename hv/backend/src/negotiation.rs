//! The state machine of one endpoint.
//!
//! | phase | rings | leaves it by |
//! |---|---|---|
//! | idle | none is attached | an offer, while there is a server: *serving* |
//! | serving | attached, once the present server confirmed it | the front end's close, a new offer, a report: *detaching* |
//! | detaching | the server is to let go | the server's *detached*: *idle* |
//! | gone | none, for ever | nothing |
//!
//! A server that dies changes no phase. Its successor gets the same attach or detach again. A detach
//! also ends without a successor, once nothing of the dead server is left (*released*).

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use pv_abi::xen::xenbus::{CLOSED, CLOSING, CONNECTED, INIT_WAIT, INITIALISED, INITIALISING};

use crate::features::{Features, Value};
use crate::offer::{Fault, Frontend, ORDER, QUEUES, Rings, state};

/// An event to which an endpoint's negotiation reacts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The front end changed nodes, or may have.
    Frontend,
    /// The server with this epoch runs and serves nothing of the endpoint yet; `None`: the server
    /// was declared dead, or gave the endpoint up.
    Server(Option<u32>),
    /// A server reports.
    Report(Report),
    /// No partition has mapped, bound or pinned any part of the rings any more, because the life of
    /// the last server has ended. The event counts while the endpoint has no server.
    Released,
    /// An attach that the present server refused may go well now. It counts if the endpoint
    /// [waits](Negotiation::is_refused) for it.
    Again,
    /// The endpoint has this number of sectors now. The database lets an attached one only grow.
    Resize(u64),
    /// The endpoint has to be removed as soon as its front end has closed.
    Remove,
    /// The endpoint, or its client, has to be removed at once, without waiting for the front end.
    Destroy,
}

/// A report of a server about the endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The epoch of the server that reports.
    pub epoch: u32,
    /// The incarnation of the order that the report is about.
    pub incarnation: u64,
    /// The contents of the report.
    pub body: ReportBody,
}

/// The contents of a report of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReportBody {
    /// The server serves the rings of the [`Order::Attach`].
    Attached,
    /// The server cannot attach the rings now, and holds no part of them. If the front end was
    /// never connected to these rings, they end with that. Otherwise they wait for the next attach,
    /// with their journals.
    Refused(String),
    /// The server stopped a ring for a mistake of the client, and waits for [`Order::Detach`].
    Broken(String),
    /// The medium can no longer be trusted with writes that were flushed. It serves on, with errors.
    MediumFailed(String),
    /// The server lets the client reach this number of sectors.
    Resized(u64),
    /// The server holds no part of the rings any more, or held none when it got the
    /// [`Order::Detach`].
    Detached,
}

/// An action of the caller. Actions are carried out in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Write a node of the back end.
    Write {
        /// The node, below the back end's directory.
        node: &'static str,
        /// Its value.
        value: Value,
    },
    /// Remove a node of the front end.
    RemoveOfFrontend {
        /// The node, below the front end's directory.
        node: &'static str,
    },
    /// Send an order to the present server.
    Order(Order),
    /// Record the next incarnation in the database.
    Incarnation(u64),
    /// Record why the back end closes.
    Record(Cause),
    /// No part of the endpoint is left: remove its nodes and this negotiation.
    Gone,
}

/// An order to a server. A server answers each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// Serve these rings. The answer is *attached* or *refused*.
    Attach {
        /// The incarnation of the rings.
        incarnation: u64,
        /// The rings.
        rings: Rings,
        /// Number of sectors that the client may reach.
        sectors: u64,
    },
    /// Let the client reach this number of sectors. The answer is *resized*.
    Resize {
        /// The incarnation of the rings.
        incarnation: u64,
        /// The number of sectors.
        sectors: u64,
    },
    /// Take no more requests, finish or drop those that were taken, unpin, unmap, unbind. The
    /// answer is *detached*, even if nothing was attached.
    Detach {
        /// The incarnation of the rings.
        incarnation: u64,
    },
}

/// Why the back end closes although its front end does not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// A node of the front end.
    Frontend(Fault),
    /// The server could not attach the rings.
    Refused(String),
    /// The client broke the ring protocol.
    Broken(String),
    /// The medium failed.
    MediumFailed(String),
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Frontend(fault) => fault.fmt(f),
            Self::Refused(reason) => write!(f, "rings cannot be attached: {reason}"),
            Self::Broken(reason) => write!(f, "the front end broke a ring: {reason}"),
            Self::MediumFailed(reason) => write!(f, "the medium failed: {reason}"),
        }
    }
}

/// How far an endpoint has come, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The front end has not connected.
    Waiting,
    /// A server serves the front end's rings.
    Attached,
    /// The front end is connected, and no server serves its rings now.
    Interrupted,
    /// Closed for a [`Cause`], until the front end begins again.
    Barred,
    /// On its way out.
    Leaving,
}

/// How an endpoint is to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Removal {
    No,
    /// Once its front end has closed.
    Asked,
    /// At once.
    Forced,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Phase {
    Idle,
    Serving(Serving),
    /// Waits for the server's *detached*.
    Detaching {
        /// Whether the front end offered other rings, instead of closing.
        again: bool,
    },
    Gone,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Serving {
    rings: Rings,
    /// The number of sectors in the last attach.
    sectors: u64,
    /// Whether the present server serves the rings.
    confirmed: bool,
    /// Whether the present server refused the rings, after the front end was connected to them.
    refused: bool,
    /// Whether the back end has shown *connected* for these rings.
    shown: bool,
    /// Whether the front end has been connected to these rings, so that it does not show state 3
    /// for them again.
    used: bool,
}

/// The negotiation of one endpoint with its front end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Negotiation {
    features: Features,
    /// The number of the rings that are attached, or are attached next.
    incarnation: u64,
    phase: Phase,
    /// The epoch of the server; `None` during a failover.
    server: Option<u32>,
    /// The back end's state and sectors in the store.
    shown: u32,
    sectors_shown: u64,
    /// Set by a mistake of the front end, until the front end begins again or closes.
    barred: bool,
    removal: Removal,
}

impl Negotiation {
    /// Begins a negotiation whose next rings have the number `incarnation`. The shell has made the
    /// directories, and has written the front end's state 1.
    #[must_use]
    pub fn begin(features: Features, incarnation: u64) -> (Self, Vec<Action>) {
        let this = Self {
            features,
            incarnation,
            phase: Phase::Idle,
            server: None,
            shown: INIT_WAIT,
            sectors_shown: features.sectors,
            barred: false,
            removal: Removal::No,
        };
        let nodes = features.nodes().chain([("state", Value::Number(INIT_WAIT.into()))]);
        (this, nodes.map(|(node, value)| Action::Write { node, value }).collect())
    }

    /// The features that the endpoint offers.
    #[must_use]
    pub const fn features(&self) -> &Features {
        &self.features
    }

    /// Whether a server may hold rings of the endpoint.
    #[must_use]
    pub const fn holds_rings(&self) -> bool {
        matches!(self.phase, Phase::Serving(_) | Phase::Detaching { .. })
    }

    /// Whether the present server refused rings that the front end is connected to, so that
    /// [`Event::Again`] orders the attach again.
    #[must_use]
    pub const fn is_refused(&self) -> bool {
        matches!(&self.phase, Phase::Serving(Serving { refused: true, .. }))
    }

    /// How far the endpoint has come.
    #[must_use]
    pub const fn standing(&self) -> Standing {
        match &self.phase {
            _ if !matches!(self.removal, Removal::No) => Standing::Leaving,
            Phase::Serving(serving) if serving.confirmed => Standing::Attached,
            Phase::Serving(serving) if serving.shown => Standing::Interrupted,
            _ if self.barred => Standing::Barred,
            _ => Standing::Waiting,
        }
    }

    /// Reacts to an event; `front` holds the front end's nodes as they are now.
    #[must_use]
    pub fn handle(&mut self, event: Event, front: &impl Frontend) -> Vec<Action> {
        let mut actions = Vec::new();
        if self.phase == Phase::Gone {
            return actions;
        }
        match event {
            Event::Frontend => {}
            Event::Server(epoch) => self.serve_by(epoch, &mut actions),
            Event::Report(report) => {
                if Some(report.epoch) != self.server || report.incarnation != self.incarnation {
                    return actions;
                }
                self.report(report.body, &mut actions);
            }
            Event::Released => {
                if let (&Phase::Detaching { again }, None) = (&self.phase, self.server) {
                    self.detached(again, &mut actions);
                }
            }
            Event::Again if self.is_refused() => self.order_again(&mut actions),
            Event::Again => {}
            Event::Resize(sectors) => self.resize(sectors, &mut actions),
            Event::Remove if self.removal == Removal::No => {
                self.removal = Removal::Asked;
                write(&mut actions, "online", 0);
            }
            Event::Remove => {}
            Event::Destroy => self.removal = Removal::Forced,
        }
        self.advance(front, &mut actions);
        actions
    }

    /// Gives a new server the order that holds.
    fn serve_by(&mut self, epoch: Option<u32>, actions: &mut Vec<Action>) {
        if self.server == epoch {
            return;
        }
        self.server = epoch;
        self.order_again(actions);
    }

    /// Gives the present server the order that holds.
    fn order_again(&mut self, actions: &mut Vec<Action>) {
        let incarnation = self.incarnation;
        let order = match &mut self.phase {
            Phase::Serving(serving) => {
                (serving.confirmed, serving.refused) = (false, false);
                serving.sectors = self.features.sectors;
                let (rings, sectors) = (serving.rings.clone(), serving.sectors);
                Order::Attach { incarnation, rings, sectors }
            }
            Phase::Detaching { .. } => Order::Detach { incarnation },
            Phase::Idle | Phase::Gone => return,
        };
        self.order(order, actions);
    }

    /// Reacts to a report of the present server about the present incarnation.
    fn report(&mut self, body: ReportBody, actions: &mut Vec<Action>) {
        match (&mut self.phase, body) {
            (Phase::Serving(serving), ReportBody::Attached) if !serving.confirmed => {
                (serving.confirmed, serving.refused) = (true, false);
                let (sectors, first) = (serving.sectors, !serving.shown);
                serving.shown = true;
                self.show_attached(sectors, first, actions);
            }
            (Phase::Serving(serving), ReportBody::Refused(reason)) if !serving.confirmed => {
                if serving.shown {
                    // What the front end asked for before is in the rings and their journals.
                    serving.refused = true;
                    return actions.push(Action::Record(Cause::Refused(reason)));
                }
                self.close_for(Cause::Refused(reason), actions);
                self.detached(false, actions);
            }
            (Phase::Serving(_), ReportBody::Broken(reason)) => {
                self.close_for(Cause::Broken(reason), actions);
                self.detach(false, actions);
            }
            (Phase::Serving(serving), ReportBody::MediumFailed(reason))
                if serving.confirmed && self.shown == CONNECTED =>
            {
                actions.push(Action::Record(Cause::MediumFailed(reason)));
                self.show(CLOSING, actions);
            }
            // Of several changes the last one counts.
            (Phase::Serving(serving), ReportBody::Resized(sectors))
                if serving.confirmed && sectors == self.features.sectors =>
            {
                self.show_attached(sectors, false, actions);
            }
            (&mut Phase::Detaching { again }, ReportBody::Detached) => {
                self.detached(again, actions);
            }
            _ => {}
        }
    }

    fn resize(&mut self, sectors: u64, actions: &mut Vec<Action>) {
        if self.features.sectors == sectors {
            return;
        }
        self.features.sectors = sectors;
        if matches!(self.phase, Phase::Serving(_)) {
            // The front end hears of it after the server.
            let incarnation = self.incarnation;
            self.order(Order::Resize { incarnation, sectors }, actions);
        }
    }

    /// Goes on as far as the front end's present nodes allow.
    fn advance(&mut self, front: &impl Frontend, actions: &mut Vec<Action>) {
        let state = state(front);
        match &mut self.phase {
            Phase::Serving(serving) => {
                serving.used |= matches!(state, Ok(Some(CONNECTED | CLOSING)));
                self.advance_serving(front, state, actions);
            }
            Phase::Idle => self.advance_idle(front, state, actions),
            Phase::Detaching { .. } | Phase::Gone => {}
        }
    }

    fn advance_idle(
        &mut self,
        front: &impl Frontend,
        state: Result<Option<u32>, Fault>,
        actions: &mut Vec<Action>,
    ) {
        if self.removal != Removal::No {
            self.show(CLOSED, actions);
            self.phase = Phase::Gone;
            return actions.push(Action::Gone);
        }
        // Between two attaches of a connected front end it hears of sectors after the server.
        if self.shown != CONNECTED {
            self.show_sectors(self.features.sectors, actions);
        }
        match state {
            Ok(Some(INITIALISED | CONNECTED)) => self.attach(front, actions),
            Ok(Some(INITIALISING)) => {
                self.barred = false;
                self.show(INIT_WAIT, actions);
            }
            Ok(Some(CLOSING)) => self.show(CLOSING, actions),
            Ok(Some(CLOSED)) => {
                self.barred = false;
                self.show_closed(front, actions);
            }
            Ok(None) => {
                self.barred = false;
                self.show(CLOSED, actions);
            }
            // No front end shows *waiting*, nor is connected to nothing.
            Ok(Some(_)) if self.shown == CONNECTED => self.show(CLOSED, actions),
            Ok(Some(_)) => {}
            Err(fault) => self.close_for(Cause::Frontend(fault), actions),
        }
    }

    /// Attaches the rings that a front end offers, if a server is there.
    fn attach(&mut self, front: &impl Frontend, actions: &mut Vec<Action>) {
        if self.barred || self.server.is_none() {
            return;
        }
        let rings = match Rings::read(front, &self.features) {
            Ok(rings) => rings,
            Err(fault) => return self.close_for(Cause::Frontend(fault), actions),
        };
        let (incarnation, sectors) = (self.incarnation, self.features.sectors);
        let order = Order::Attach { incarnation, rings: rings.clone(), sectors };
        self.order(order, actions);
        let (confirmed, refused, shown, used) = (false, false, false, false);
        self.phase = Phase::Serving(Serving { rings, sectors, confirmed, refused, shown, used });
    }

    fn advance_serving(
        &mut self,
        front: &impl Frontend,
        state: Result<Option<u32>, Fault>,
        actions: &mut Vec<Action>,
    ) {
        let Phase::Serving(serving) = &self.phase else {
            return;
        };
        let connected = self.shown == CONNECTED;
        match (self.removal, state) {
            (Removal::Forced, _) => self.detach(false, actions),
            // The front end uses no ring before the back end is connected.
            (Removal::Asked, _) if !serving.shown && !connected => self.detach(false, actions),
            (_, Ok(None | Some(CLOSED | INITIALISING))) => self.detach(false, actions),
            (_, Err(fault)) => {
                self.close_for(Cause::Frontend(fault), actions);
                self.detach(false, actions);
            }
            // What shows an end waits until a server serves.
            _ if !serving.confirmed => {}
            (Removal::Asked, _) if connected => self.show(CLOSING, actions),
            (Removal::Asked, _) => {}
            (Removal::No, Ok(Some(CLOSING))) => self.show(CLOSING, actions),
            (Removal::No, Ok(Some(state @ (INITIALISED | CONNECTED)))) => {
                if offers_others(front, &self.features, serving, state) {
                    self.detach(true, actions);
                }
            }
            (Removal::No, Ok(Some(_))) => {}
        }
    }

    /// Orders the server to let go of the rings.
    fn detach(&mut self, again: bool, actions: &mut Vec<Action>) {
        self.phase = Phase::Detaching { again };
        let incarnation = self.incarnation;
        self.order(Order::Detach { incarnation }, actions);
    }

    /// Notes that no server holds any part of the rings any more: the next incarnation begins.
    fn detached(&mut self, again: bool, actions: &mut Vec<Action>) {
        self.phase = Phase::Idle;
        // A u64 that counts attaches does not come round.
        self.incarnation = self.incarnation.wrapping_add(1);
        actions.push(Action::Incarnation(self.incarnation));
        // A front end that resumes would take *closed* for the end of its disk.
        if !again {
            self.show(CLOSED, actions);
        }
    }

    /// Closes for a mistake of the front end, which is not attached again before it begins anew.
    fn close_for(&mut self, cause: Cause, actions: &mut Vec<Action>) {
        if !self.barred {
            self.barred = true;
            actions.push(Action::Record(cause));
        }
        if self.phase == Phase::Idle {
            self.show(CLOSED, actions);
        }
    }

    /// Shows *closed* to a front end that closed, without the nodes by which a later kernel with one
    /// queue would offer its predecessor's rings.
    fn show_closed(&mut self, front: &impl Frontend, actions: &mut Vec<Action>) {
        for node in [QUEUES, ORDER] {
            if front.read(node).is_some() {
                actions.push(Action::RemoveOfFrontend { node });
            }
        }
        self.show(CLOSED, actions);
    }

    /// Shows a state, unless it is shown already.
    fn show(&mut self, state: u32, actions: &mut Vec<Action>) {
        if self.shown != state {
            self.shown = state;
            write(actions, "state", state.into());
        }
    }

    /// Shows the number of sectors that the server lets the client reach, and *connected* if the rings
    /// are attached for the `first` time. A connected front end reads the sectors when that state is
    /// written again.
    fn show_attached(&mut self, sectors: u64, first: bool, actions: &mut Vec<Action>) {
        let changed = self.show_sectors(sectors, actions);
        if first || changed && self.shown == CONNECTED {
            self.shown = CONNECTED;
            write(actions, "state", CONNECTED.into());
        }
    }

    /// Writes the number of sectors. Returns whether the number has changed.
    fn show_sectors(&mut self, sectors: u64, actions: &mut Vec<Action>) -> bool {
        let changed = self.sectors_shown != sectors;
        if changed {
            self.sectors_shown = sectors;
            write(actions, "sectors", sectors);
        }
        changed
    }

    /// Orders the present server; a later one gets the order that holds then.
    fn order(&self, order: Order, actions: &mut Vec<Action>) {
        if self.server.is_some() {
            actions.push(Action::Order(order));
        }
    }
}

/// Whether a front end offers other rings than the attached ones. If the front end has been
/// connected to these, its state 3 alone shows that. A kernel that resumes may show state 4 with
/// other nodes at once.
fn offers_others(
    front: &impl Frontend,
    features: &Features,
    serving: &Serving,
    state: u32,
) -> bool {
    let offer = Rings::read(front, features);
    match state {
        INITIALISED => serving.used || offer.as_ref() != Ok(&serving.rings),
        _ => offer.is_ok_and(|rings| rings != serving.rings),
    }
}

fn write(actions: &mut Vec<Action>, node: &'static str, value: u64) {
    actions.push(Action::Write { node, value: Value::Number(value) });
}
