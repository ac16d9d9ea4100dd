//! The parts of `uvd` that jobs work with, each with one purpose.
//!
//! ```text
//! event loop --answers, timers--> parts --wake--> jobs (async functions on one thread)
//!            <----requests, messages---     <-use--
//! ```
//!
//! A job is straight-line code that waits where it must; the event loop advances it. All jobs run
//! on one thread, so between two waits a job is alone. A function of a job takes the parts that it
//! uses; only a job that changes the system takes all of them. Rule: nothing here blocks, and a job
//! that waits for an answer gets one, even if the channel breaks.

pub mod database;
pub mod functions;
pub mod guests;
pub mod outbox;
pub mod refusal;
pub mod requests;
pub mod signal;
pub mod timers;

use std::cell::RefCell;
use std::future::Future;
use std::rc::Rc;

use channels::Shared;
use database::DatabaseCopy;
use functions::Functions;
use futures_executor::LocalSpawner;
use futures_util::task::LocalSpawnExt;
use guests::Guests;
use outbox::Outbox;
use requests::{Ids, Requests};
use signal::Signal;
use timers::Timers;
use uvd_protocol::Failure;

use crate::builder::Builder;
use crate::console::Consoles;
use crate::fault::Fault;
use crate::link::Port;
use crate::loader::Loader;
use crate::log;
use crate::state::State;
use crate::turns::Turns;

/// The resources of other partitions that `uvd` uses.
pub trait Devices {
    /// Maps the console ring of a guest and binds its port.
    fn console(&self, number: u32, port: u32) -> std::io::Result<(Shared, Box<dyn Port>)>;
    /// Maps the build channel and binds its port.
    fn build(&self) -> Result<(Shared, Box<dyn Port>), String>;
}

/// Starts jobs.
pub struct Jobs(LocalSpawner);

impl Jobs {
    /// Starts a job.
    pub fn spawn(&self, job: impl Future<Output = ()> + 'static) {
        if self.0.spawn_local(job).is_err() {
            log("a job could not be started: shutting down");
        }
    }
}

/// All parts.
pub struct Context {
    /// See [`Jobs`].
    pub jobs: Jobs,
    /// See [`Timers`].
    pub timers: Rc<Timers>,
    /// Raised when partitions, the log or the session may have changed.
    pub changed: Rc<Signal>,
    /// See [`Requests`].
    pub requests: Requests,
    /// See [`Outbox`].
    pub outbox: Rc<Outbox>,
    /// See [`DatabaseCopy`].
    pub database: DatabaseCopy,
    /// See [`Functions`].
    pub functions: Functions,
    /// See [`Guests`].
    pub guests: Guests,
    /// See [`Consoles`].
    pub consoles: RefCell<Consoles>,
    /// See [`State`].
    pub state: RefCell<State>,
    /// See [`Builder`].
    pub builder: Builder,
    /// See [`Loader`].
    pub loader: Loader,
    /// A job holds this turn from its first change of the system to its last.
    pub turns: Turns,
    /// See [`Fault`].
    pub fault: Rc<Fault>,
    /// See [`Devices`].
    pub devices: Rc<dyn Devices>,
}

impl Context {
    /// The parts of a `uvd` without a session. Requests get ids from `first_id` on. It must be
    /// above the ids of an earlier `uvd`, because the ultravisor takes a known id for a retry.
    pub fn new(
        first_id: u64,
        spawner: LocalSpawner,
        state: State,
        fault: Fault,
        devices: Rc<dyn Devices>,
        loader: Loader,
    ) -> Rc<Self> {
        let (timers, changed) = (Rc::new(Timers::default()), Rc::new(Signal::default()));
        let (ids, fault) = (Rc::new(Ids::new(first_id)), Rc::new(fault));
        let builder =
            Builder::new(Rc::clone(&ids), Rc::clone(&timers), fault.clone(), devices.clone());
        Rc::new(Self {
            jobs: Jobs(spawner),
            timers,
            requests: Requests::new(ids, Rc::clone(&changed)),
            changed,
            outbox: Rc::default(),
            database: DatabaseCopy::default(),
            functions: Functions::default(),
            guests: Guests::default(),
            consoles: RefCell::default(),
            state: RefCell::new(state),
            builder,
            loader,
            turns: Turns::default(),
            fault,
            devices,
        })
    }

    /// Ends the session: every request under way, of jobs and of the build, fails with the reason.
    pub fn end_session(&self, why: &str) {
        self.builder.give_up(&Failure::NoChannel(why.into()));
        self.requests.end_session(why);
    }
}
