//! The requests of jobs to the ultravisor, and the session that they belong to.
//!
//! Rule: a job that waits for an answer gets one. If the channel breaks, the answer is the failure.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use control::command::{Answer, Body};
use futures_channel::oneshot;
use uvd_protocol::Failure;

use super::refusal::unexpected;
use super::signal::Signal;
use crate::link::Carried;

/// The time limit in milliseconds for a request of `uvd` to the ultravisor.
pub const PATIENCE_MS: u32 = 60_000;

/// An answer of the ultravisor.
#[derive(Debug)]
pub struct Replied {
    /// Version of the database after the request.
    pub version: u64,
    /// The answer.
    pub answer: Answer,
}

/// A request on its way to the channel.
pub struct Outgoing {
    /// Its id.
    pub id: u64,
    /// The request.
    pub body: Body,
    /// Its time limit in milliseconds.
    pub timeout_ms: u32,
}

/// The state of the session with the ultravisor.
#[derive(Clone, PartialEq, Eq)]
enum Session {
    /// There is no session, for this reason.
    None(String),
    /// The session is rolling back the pending transactions of an earlier one.
    Opening,
    /// The session is open, and the ultravisor accepts requests.
    Open,
}

/// Makes ids for requests; ids rise.
pub struct Ids(Cell<u64>);

impl Ids {
    /// Ids from this one on.
    pub fn new(first: u64) -> Self {
        Self(Cell::new(first))
    }

    /// A new id.
    pub fn make(&self) -> u64 {
        let id = self.0.get();
        self.0.set(id + 1);
        id
    }
}

type Asker = oneshot::Sender<Result<Replied, Failure>>;

/// See the module's head.
pub struct Requests {
    ids: Rc<Ids>,
    outgoing: RefCell<VecDeque<Outgoing>>,
    askers: RefCell<BTreeMap<u64, Asker>>,
    session: RefCell<Session>,
    /// Raised when the state of the session changes.
    changed: Rc<Signal>,
    /// The time limit in milliseconds for a request.
    pub patience_ms: Cell<u32>,
}

impl Requests {
    /// No requests, and no session.
    pub fn new(ids: Rc<Ids>, changed: Rc<Signal>) -> Self {
        Self {
            ids,
            outgoing: RefCell::default(),
            askers: RefCell::default(),
            session: RefCell::new(Session::None("not looked for yet".into())),
            changed,
            patience_ms: Cell::new(PATIENCE_MS),
        }
    }

    /// A new id for a request.
    pub fn make_id(&self) -> u64 {
        self.ids.make()
    }

    /// Sends a request to the ultravisor and waits for the answer.
    pub async fn ask(&self, body: Body) -> Result<Replied, Failure> {
        self.ask_as(self.make_id(), body).await
    }

    /// Does what [`Self::ask`] does, with an id that was made before.
    pub async fn ask_as(&self, id: u64, body: Body) -> Result<Replied, Failure> {
        self.has_channel()?;
        let (asker, answer) = oneshot::channel();
        self.askers.borrow_mut().insert(id, asker);
        let timeout_ms = self.patience_ms.get();
        self.outgoing.borrow_mut().push_back(Outgoing { id, body, timeout_ms });
        answer.await.unwrap_or(Err(Failure::ShuttingDown))
    }

    /// Takes the requests to be sent.
    pub fn outgoing(&self) -> VecDeque<Outgoing> {
        self.outgoing.take()
    }

    /// Whether requests wait to be sent.
    pub fn has_outgoing(&self) -> bool {
        !self.outgoing.borrow().is_empty()
    }

    /// Hands an answer to the job that asked.
    pub fn answered(&self, id: u64, result: Result<Carried, Failure>) {
        let Some(asker) = self.askers.borrow_mut().remove(&id) else {
            return;
        };
        let replied = result.and_then(|Carried { version, answer }| {
            let answer = postcard::from_bytes(&answer);
            let answer = answer.map_err(|_| unexpected("what it was asked"))?;
            Ok(Replied { version, answer })
        });
        let _ = asker.send(replied);
    }

    /// Checks that the ultravisor accepts requests. If it does not, the error has the reason.
    pub fn has_channel(&self) -> Result<(), Failure> {
        match &*self.session.borrow() {
            Session::None(why) => Err(Failure::NoChannel(why.clone())),
            Session::Opening | Session::Open => Ok(()),
        }
    }

    /// Whether there is a session, open or opening.
    pub fn has_session(&self) -> bool {
        self.has_channel().is_ok()
    }

    /// Waits until the session is open.
    pub async fn ready(&self) -> Result<(), Failure> {
        loop {
            self.has_channel()?;
            if *self.session.borrow() == Session::Open {
                return Ok(());
            }
            self.changed.wait().await;
        }
    }

    /// Notes that a session begins. Jobs of clients wait until it is open.
    pub fn begin_session(&self) {
        self.set_session(Session::Opening);
    }

    /// Notes that the session is open.
    pub fn open_session(&self) {
        self.set_session(Session::Open);
    }

    /// Ends the session: every request under way fails with the reason.
    pub fn end_session(&self, why: &str) {
        self.outgoing.borrow_mut().clear();
        for asker in self.askers.take().into_values() {
            let _ = asker.send(Err(Failure::NoChannel(why.into())));
        }
        self.set_session(Session::None(why.into()));
    }

    fn set_session(&self, session: Session) {
        self.session.replace(session);
        self.changed.raise();
    }
}
