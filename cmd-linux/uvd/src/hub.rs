//! The state that all jobs share: the way to the ultravisor and the boot partition, consoles,
//! definitions.
//!
//! ```text
//! event loop --events--> hub --wakes--> jobs (async functions on one thread)
//!            <-requests-     <-asks----
//! ```
//!
//! A job is straight-line code that waits where it must; the event loop advances it. All jobs run
//! on one thread, so between two waits a job is alone. Rule: nothing here blocks, and a job that
//! waits for an answer gets one, even if the channel breaks.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::Future;
use std::rc::Rc;
use std::time::{Duration, Instant};

use channels::Shared;
use control::command::{Answer, Body, PartitionRow, Query, Refusal};
use futures_channel::oneshot;
use futures_executor::LocalSpawner;
use futures_util::task::LocalSpawnExt;
use uvd_protocol::{Answered, Failure, ServiceAnswer, Told};

use crate::builder::Builder;
use crate::console::Consoles;
use crate::fault::Fault;
use crate::link::{Carried, Port};
use crate::loader::Loader;
use crate::log;
use crate::replica::Replica;
use crate::rows::Rows;
use crate::service::policy::{self, Watch};
use crate::service::session;
use crate::state::State;
use crate::turns::Turns;

/// The time limit in milliseconds for a request of `uvd` to the ultravisor.
pub const PATIENCE_MS: u32 = 60_000;
/// See [`Hub::quiet`].
const QUIET: Duration = Duration::from_millis(200);

/// The resources of other partitions that `uvd` uses.
pub trait Devices {
    /// Maps the console ring of a guest and binds its port.
    fn console(&self, number: u32, port: u32) -> std::io::Result<(Shared, Box<dyn Port>)>;
    /// Maps the build channel and binds its port.
    fn build(&self) -> Result<(Shared, Box<dyn Port>), String>;
}

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

/// A message for a client.
#[derive(Debug)]
pub struct Telling {
    /// The client.
    pub client: u64,
    /// The message.
    pub words: Words,
}

/// The contents of a message for a client.
#[derive(Debug)]
pub enum Words {
    /// A message of `uvd`.
    Told {
        /// The message.
        told: Told,
        /// Whether it is the last answer to its request.
        last: bool,
    },
    /// The ultravisor's answer to the request with this id.
    Carried(u64, Carried),
}

/// The state of the session with the ultravisor.
#[derive(Clone, PartialEq, Eq)]
pub enum Session {
    /// There is no session; the text says why.
    None(String),
    /// The session is clearing up what an earlier one left.
    Opening,
    /// The session is open, and the ultravisor accepts requests.
    Open,
}

type Asker = oneshot::Sender<Result<Replied, Failure>>;

/// See the module's head.
pub struct Hub {
    next_id: Cell<u64>,
    outgoing: RefCell<VecDeque<Outgoing>>,
    askers: RefCell<BTreeMap<u64, Asker>>,
    tellings: RefCell<VecDeque<Telling>>,
    timers: RefCell<BTreeMap<(Instant, u64), oneshot::Sender<()>>>,
    timer_count: Cell<u64>,
    changed: RefCell<Vec<oneshot::Sender<()>>>,
    session: RefCell<Session>,
    spawner: LocalSpawner,
    /// Set when something may have happened that the log records.
    pub news: Cell<bool>,
    /// The id of the request that follows the log, while it is under way.
    pub following: Cell<u64>,
    /// A job holds this from its first change to its last.
    pub changes: Turns,
    /// The job that follows the log holds this. A second follower would find no new record, and go
    /// on with rows that the first has not read again yet.
    pub followers: Turns,
    /// Set while a copy of the database is made; requests that change the database wait (see
    /// [`Daemon`]).
    ///
    /// [`Daemon`]: crate::daemon::Daemon
    pub copying: Cell<bool>,
    /// See [`Rows`].
    pub rows: RefCell<Rows>,
    /// See [`policy::seen`].
    pub watch: RefCell<Watch>,
    /// Names of partitions that a policy is about to restart.
    restarting: RefCell<Vec<String>>,
    /// See [`Consoles`].
    pub consoles: RefCell<Consoles>,
    /// See [`State`].
    pub state: RefCell<State>,
    /// See [`Replica`].
    pub replica: RefCell<Replica>,
    /// See [`Builder`].
    pub builder: RefCell<Builder>,
    /// See [`Loader`].
    pub loader: Loader,
    /// The time limit in milliseconds for a request of `uvd` to the ultravisor.
    pub patience_ms: Cell<u32>,
    /// The time after which a client is told the progress of its request.
    pub quiet: Cell<Duration>,
    /// See [`Fault`].
    pub fault: Fault,
    /// See [`Devices`].
    pub devices: Box<dyn Devices>,
}

impl Hub {
    /// A hub without a session. Requests get ids from `first_id` on. It must be above the ids of an
    /// earlier `uvd`, because the ultravisor takes a known id for a retry.
    pub fn new(
        first_id: u64,
        spawner: LocalSpawner,
        state: State,
        fault: Fault,
        devices: Box<dyn Devices>,
        loader: Loader,
    ) -> Rc<Self> {
        Rc::new(Self {
            next_id: Cell::new(first_id),
            outgoing: RefCell::default(),
            askers: RefCell::default(),
            tellings: RefCell::default(),
            timers: RefCell::default(),
            timer_count: Cell::new(0),
            changed: RefCell::default(),
            session: RefCell::new(Session::None("not looked for yet".into())),
            spawner,
            news: Cell::new(false),
            following: Cell::new(0),
            changes: Turns::default(),
            followers: Turns::default(),
            copying: Cell::new(false),
            rows: RefCell::default(),
            watch: RefCell::default(),
            restarting: RefCell::default(),
            consoles: RefCell::default(),
            state: RefCell::new(state),
            replica: RefCell::default(),
            builder: RefCell::default(),
            loader,
            patience_ms: Cell::new(PATIENCE_MS),
            quiet: Cell::new(QUIET),
            fault,
            devices,
        })
    }

    /// Notes that a policy is about to restart a partition. Two restarts of a name may overlap: a
    /// partition that ended at once is handled before the start that it ended after is complete.
    pub fn begin_restart(&self, name: &str) {
        self.restarting.borrow_mut().push(name.into());
    }

    /// Notes that a policy restarted a partition, or gave up.
    pub fn end_restart(&self, name: &str) {
        let mut restarting = self.restarting.borrow_mut();
        if let Some(at) = restarting.iter().position(|one| one == name) {
            restarting.swap_remove(at);
        }
        drop(restarting);
        self.changed();
    }

    /// Whether a policy is about to restart a partition.
    pub fn is_restarting(&self, name: &str) -> bool {
        self.restarting.borrow().iter().any(|one| one == name)
    }

    /// Starts a job.
    pub fn spawn(&self, job: impl Future<Output = ()> + 'static) {
        if self.spawner.spawn_local(job).is_err() {
            log("a job could not be started: shutting down");
        }
    }

    /// A new id for a request; ids rise.
    pub fn take_id(&self) -> u64 {
        let id = self.next_id.get();
        self.next_id.set(id + 1);
        id
    }

    /// Sends a request to the ultravisor and waits for the answer.
    pub async fn ask(&self, body: Body) -> Result<Replied, Failure> {
        self.ask_as(self.take_id(), body).await
    }

    /// Does what [`Self::ask`] does, with an id that was taken before.
    pub async fn ask_as(&self, id: u64, body: Body) -> Result<Replied, Failure> {
        if let Session::None(why) = &*self.session.borrow() {
            return Err(Failure::NoChannel(why.clone()));
        }
        let (asker, answer) = oneshot::channel();
        self.askers.borrow_mut().insert(id, asker);
        let timeout_ms = self.patience_ms.get();
        self.outgoing.borrow_mut().push_back(Outgoing { id, body, timeout_ms });
        answer.await.unwrap_or(Err(Failure::ShuttingDown))
    }

    /// Brings [`Self::rows`] up to date with the log; returns the version of the database that they
    /// show. Only the partitions that changed are read. The rows may already show a later change; a
    /// plan made for the returned version is then refused as stale.
    pub async fn current(self: &Rc<Self>) -> Result<u64, Failure> {
        session::follow(self).await?;
        Ok(self.replica.borrow().version())
    }

    /// Reads all partitions. The policy of each partition that ended meanwhile is applied before
    /// any client sees the end. If the pages are of several versions, they are read again, a few
    /// times.
    pub async fn read_all(self: &Rc<Self>) -> Result<(), Failure> {
        const TRIES: u32 = 4;
        let mut tries = 0;
        loop {
            let (versions, rows) = self.pages_of_partitions().await?;
            tries += 1;
            if versions.0 == versions.1 || tries == TRIES {
                policy::seen(self, rows);
                return Ok(());
            }
        }
    }

    /// The present row of a partition, by name or number, if it exists.
    pub async fn partition(self: &Rc<Self>, name: &str) -> Result<Option<PartitionRow>, Failure> {
        // No partition has a longer name, and a longer name may not fit a frame.
        if name.len() > rules::MAX_NAME {
            return Ok(None);
        }
        let query = Query::Partition { name: name.into() };
        match self.ask(Body::Query(query)).await?.answer {
            Answer::Partitions { rows, .. } => Ok(rows.into_iter().next()),
            _ => Err(unexpected("a partition")),
        }
    }

    /// Reads the partitions with these numbers again; those that no longer exist are removed.
    pub async fn read_again(self: &Rc<Self>, numbers: &BTreeSet<u32>) -> Result<(), Failure> {
        let mut rows = Vec::new();
        for number in numbers {
            rows.extend(self.partition(&number.to_string()).await?);
        }
        policy::seen_again(self, numbers, rows);
        Ok(())
    }

    /// All partitions, and the versions of the first and last page of rows.
    async fn pages_of_partitions(&self) -> Result<((u64, u64), Vec<PartitionRow>), Failure> {
        let mut all: Vec<PartitionRow> = Vec::new();
        let mut first = None;
        loop {
            let after = all.last().map_or(0, |row| row.number);
            let replied = self.ask(Body::Query(Query::Partitions { after })).await?;
            let Answer::Partitions { rows, more } = replied.answer else {
                return Err(unexpected("partitions"));
            };
            let first = *first.get_or_insert(replied.version);
            // A reply that makes no progress would lead to an endless loop.
            let more = more && rows.last().is_some_and(|row| row.number > after);
            all.extend(rows);
            if !more {
                return Ok(((first, replied.version), all));
            }
        }
    }

    /// Waits until `when`.
    pub async fn sleep_until(&self, when: Instant) {
        let (timer, rung) = oneshot::channel();
        let count = self.timer_count.get();
        self.timer_count.set(count + 1);
        self.timers.borrow_mut().insert((when, count), timer);
        let _ = rung.await;
    }

    /// Waits until partitions, the news or the session changed.
    pub async fn wait_for_change(&self) {
        let (waiter, changed) = oneshot::channel();
        {
            let mut waiters = self.changed.borrow_mut();
            waiters.retain(|waiter| !waiter.is_canceled());
            waiters.push(waiter);
        }
        let _ = changed.await;
    }

    /// Wakes the jobs that wait for a change.
    pub fn changed(&self) {
        for waiter in self.changed.take() {
            let _ = waiter.send(());
        }
    }

    /// Waits until the session is open.
    pub async fn ready(&self) -> Result<(), Failure> {
        loop {
            match &*self.session.borrow() {
                Session::Open => return Ok(()),
                Session::None(why) => return Err(Failure::NoChannel(why.clone())),
                Session::Opening => {}
            }
            self.wait_for_change().await;
        }
    }

    /// Sets the state of the session.
    pub fn set_session(&self, session: Session) {
        if let Session::None(why) = &session {
            let failure = Failure::NoChannel(why.clone());
            self.outgoing.borrow_mut().clear();
            for asker in self.askers.take().into_values() {
                let _ = asker.send(Err(failure.clone()));
            }
            self.builder.borrow_mut().give_up(&failure);
        }
        *self.session.borrow_mut() = session;
        self.changed();
    }

    /// Whether requests wait to be sent.
    pub fn has_outgoing(&self) -> bool {
        !self.outgoing.borrow().is_empty()
    }

    /// An error with the reason if the ultravisor accepts no requests.
    pub fn usable(&self) -> Result<(), Failure> {
        match &*self.session.borrow() {
            Session::None(why) => Err(Failure::NoChannel(why.clone())),
            Session::Opening | Session::Open => Ok(()),
        }
    }

    /// Whether there is a session, open or opening.
    pub fn has_session(&self) -> bool {
        !matches!(*self.session.borrow(), Session::None(_))
    }

    /// Takes the requests to be sent.
    pub fn outgoing(&self) -> VecDeque<Outgoing> {
        self.outgoing.take()
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

    /// Wakes the timers that are due.
    pub fn ring_timers(&self, now: Instant) {
        let mut timers = self.timers.borrow_mut();
        while let Some(first) = timers.first_entry()
            && first.key().0 <= now
        {
            let _ = first.remove().send(());
        }
    }

    /// The time at which the next timer is due.
    pub fn deadline(&self) -> Option<Instant> {
        let mut timers = self.timers.borrow_mut();
        timers.retain(|_, timer| !timer.is_canceled());
        timers.first_key_value().map(|((when, _), _)| *when)
    }

    /// Sends a message to a client.
    pub fn tell(&self, client: u64, id: u64, result: Result<Answered, Failure>, last: bool) {
        let words = Words::Told { told: Told { id, result }, last };
        self.tellings.borrow_mut().push_back(Telling { client, words });
    }

    /// Passes an answer of the ultravisor on to a client.
    pub fn carry(&self, client: u64, id: u64, reply: Carried) {
        let words = Words::Carried(id, reply);
        self.tellings.borrow_mut().push_back(Telling { client, words });
    }

    /// Sends a client the last answer to a request.
    pub fn finish(&self, client: u64, id: u64, result: Result<ServiceAnswer, Failure>) {
        let mut pieces = match result {
            Ok(answer) => answer.pieces(),
            Err(failure) => return self.tell(client, id, Err(failure), true),
        };
        let last = pieces.pop().unwrap_or(ServiceAnswer::Done);
        for piece in pieces {
            self.tell(client, id, Ok(Answered::Piece(piece)), false);
        }
        self.tell(client, id, Ok(Answered::Service(last)), true);
    }

    /// Takes the messages for clients.
    pub fn tellings(&self) -> VecDeque<Telling> {
        self.tellings.take()
    }
}

/// The failure for an answer of the ultravisor that does not match the request.
pub fn unexpected(what: &str) -> Failure {
    refused(
        "not-understood",
        "ultravisor",
        "answer",
        &format!("is not about {what}"),
        "use a uvd of its version",
    )
}

/// Makes a refusal of `uvd`. All refusals of `uvd` are made here, so their texts are bounded.
pub fn refused(code: &str, object: &str, field: &str, reason: &str, way_out: &str) -> Failure {
    let refusal = Refusal {
        code: code.into(),
        operation: None,
        object: object.into(),
        field: field.into(),
        reason: reason.into(),
        way_out: way_out.into(),
    };
    Failure::Refused(Box::new(refusal.bounded()))
}
