//! What all jobs share: the way to the ultravisor and the boot partition, consoles, definitions.
//!
//! ```text
//! event loop --events--> hub --wakes--> jobs (async functions on one thread)
//!            <-requests-     <-asks----
//! ```
//!
//! A job is a straight line of code that waits where it must; the event loop moves it on. All of
//! it runs on one thread, so between two waits a job is alone. Rule: nothing here blocks, and
//! whoever waits for an answer gets one, also when the channel breaks.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::Future;
use std::rc::Rc;
use std::time::{Duration, Instant};

use channels::Shared;
use futures_channel::oneshot;
use futures_executor::LocalSpawner;
use futures_util::task::LocalSpawnExt;
use pv_abi::uv::command::{Answer, Body, PartitionRow, Query, Refusal};
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

/// Milliseconds that the ultravisor may take for a request of ours.
pub const PATIENCE_MS: u32 = 60_000;
/// See [`Hub::quiet`].
const QUIET: Duration = Duration::from_millis(200);

/// What `uvd` reaches of other partitions.
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
    /// What is asked.
    pub body: Body,
    /// Milliseconds that it may take.
    pub timeout_ms: u32,
}

/// Something to tell a client.
#[derive(Debug)]
pub struct Telling {
    /// Which client.
    pub client: u64,
    /// What.
    pub words: Words,
}

/// What a client is told.
#[derive(Debug)]
pub enum Words {
    /// A message of ours.
    Told {
        /// What.
        told: Told,
        /// It is the last answer to its request.
        last: bool,
    },
    /// The ultravisor's answer to the request with this id.
    Carried(u64, Carried),
}

/// Whether the ultravisor can be asked.
#[derive(Clone, PartialEq, Eq)]
pub enum Session {
    /// No, and why.
    None(String),
    /// What was left from before is being cleared up.
    Opening,
    /// Yes.
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
    /// Something may have happened that the log tells of.
    pub news: Cell<bool>,
    /// The request by which the log is followed, while it is under way.
    pub following: Cell<u64>,
    /// Held by a job from its first change to its last.
    pub changes: Turns,
    /// Who follows the log. Another one that came meanwhile would find no record left, and go on with
    /// rows that the first has not read again yet.
    pub followers: Turns,
    /// A copy of the database is made: what changes the database waits (see [`Daemon`]).
    ///
    /// [`Daemon`]: crate::daemon::Daemon
    pub copying: Cell<bool>,
    /// See [`Rows`].
    pub rows: RefCell<Rows>,
    /// See [`policy::seen`].
    pub watch: RefCell<Watch>,
    /// Names of partitions that a policy is about to start anew.
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
    /// Milliseconds that the ultravisor may take for a request of ours.
    pub patience_ms: Cell<u32>,
    /// How long a request goes on before its client is told how far it is.
    pub quiet: Cell<Duration>,
    /// See [`Fault`].
    pub fault: Fault,
    /// See [`Devices`].
    pub devices: Box<dyn Devices>,
}

impl Hub {
    /// A hub without a session. Requests get ids from `first_id`, which must be above those of
    /// an earlier `uvd`: the ultravisor takes an id that it knows for a retry.
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

    /// A policy is about to start a partition anew. It may be so twice at a time: one that ended
    /// at once is dealt with before the start that it ended after is done.
    pub fn begin_restart(&self, name: &str) {
        self.restarting.borrow_mut().push(name.into());
    }

    /// A policy started a partition anew, or gave it up.
    pub fn end_restart(&self, name: &str) {
        let mut restarting = self.restarting.borrow_mut();
        if let Some(at) = restarting.iter().position(|one| one == name) {
            restarting.swap_remove(at);
        }
        drop(restarting);
        self.changed();
    }

    /// Whether a policy is about to start a partition anew.
    pub fn is_restarting(&self, name: &str) -> bool {
        self.restarting.borrow().iter().any(|one| one == name)
    }

    /// Starts a job.
    pub fn spawn(&self, job: impl Future<Output = ()> + 'static) {
        if self.spawner.spawn_local(job).is_err() {
            log("a job could not be started: shutting down");
        }
    }

    /// An id for a request, rising.
    pub fn take_id(&self) -> u64 {
        let id = self.next_id.get();
        self.next_id.set(id + 1);
        id
    }

    /// Asks the ultravisor.
    pub async fn ask(&self, body: Body) -> Result<Replied, Failure> {
        self.ask_as(self.take_id(), body).await
    }

    /// Asks the ultravisor with an id that was taken before.
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

    /// Brings [`Self::rows`] up to date with the log; the version of the database that they are of.
    /// Partitions that changed are read, and no others. A change that comes meanwhile may be seen
    /// already: what is planned by that version is refused as stale then.
    pub async fn current(self: &Rc<Self>) -> Result<u64, Failure> {
        session::follow(self).await?;
        Ok(self.replica.borrow().version())
    }

    /// Reads all partitions. What ended meanwhile is dealt with as its policy says, before anybody
    /// sees that it ended. Pages of several versions are read anew, a few times.
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

    /// One partition by name or number as it is now, where there is one.
    pub async fn partition(self: &Rc<Self>, name: &str) -> Result<Option<PartitionRow>, Failure> {
        // No partition has a longer name, and a frame may not hold it.
        if name.len() > rules::MAX_NAME {
            return Ok(None);
        }
        let query = Query::Partition { name: name.into() };
        match self.ask(Body::Query(query)).await?.answer {
            Answer::Partitions { rows, .. } => Ok(rows.into_iter().next()),
            _ => Err(unexpected("a partition")),
        }
    }

    /// Reads partitions again of which a few changed; those that are not there any more go.
    pub async fn read_again(self: &Rc<Self>, numbers: &BTreeSet<u32>) -> Result<(), Failure> {
        let mut rows = Vec::new();
        for number in numbers {
            rows.extend(self.partition(&number.to_string()).await?);
        }
        policy::seen_again(self, numbers, rows);
        Ok(())
    }

    /// All partitions, and the versions of the first and the last page of them.
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
            // A reply that does not go on would be asked for without end.
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

    /// Waits until something changed: partitions, news, the session.
    pub async fn wait_for_change(&self) {
        let (waiter, changed) = oneshot::channel();
        {
            let mut waiters = self.changed.borrow_mut();
            waiters.retain(|waiter| !waiter.is_canceled());
            waiters.push(waiter);
        }
        let _ = changed.await;
    }

    /// Wakes who waits for a change.
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

    /// The session is now this.
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

    /// Whether something is to be sent.
    pub fn has_outgoing(&self) -> bool {
        !self.outgoing.borrow().is_empty()
    }

    /// Why the ultravisor cannot be asked, where it cannot.
    pub fn usable(&self) -> Result<(), Failure> {
        match &*self.session.borrow() {
            Session::None(why) => Err(Failure::NoChannel(why.clone())),
            Session::Opening | Session::Open => Ok(()),
        }
    }

    /// Whether the session is there, open or opening.
    pub fn has_session(&self) -> bool {
        !matches!(*self.session.borrow(), Session::None(_))
    }

    /// Takes what is to be sent.
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

    /// Rings the timers that are due.
    pub fn ring_timers(&self, now: Instant) {
        let mut timers = self.timers.borrow_mut();
        while let Some(first) = timers.first_entry()
            && first.key().0 <= now
        {
            let _ = first.remove().send(());
        }
    }

    /// When the next timer is due.
    pub fn deadline(&self) -> Option<Instant> {
        let mut timers = self.timers.borrow_mut();
        timers.retain(|_, timer| !timer.is_canceled());
        timers.first_key_value().map(|((when, _), _)| *when)
    }

    /// Tells a client.
    pub fn tell(&self, client: u64, id: u64, result: Result<Answered, Failure>, last: bool) {
        let words = Words::Told { told: Told { id, result }, last };
        self.tellings.borrow_mut().push_back(Telling { client, words });
    }

    /// Passes what the ultravisor answered on to a client.
    pub fn carry(&self, client: u64, id: u64, reply: Carried) {
        let words = Words::Carried(id, reply);
        self.tellings.borrow_mut().push_back(Telling { client, words });
    }

    /// Tells a client the last there is to a request.
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

    /// Takes what is to be told.
    pub fn tellings(&self) -> VecDeque<Telling> {
        self.tellings.take()
    }
}

/// The ultravisor answered another question.
pub fn unexpected(what: &str) -> Failure {
    refused(
        "not-understood",
        "ultravisor",
        "answer",
        &format!("is not about {what}"),
        "use a uvd of its version",
    )
}

/// A refusal of ours. Each is made here, so the texts of all are bounded.
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
