//! The copy of the database, and the state of the jobs that follow the log.

use std::cell::{Cell, RefCell};

use crate::replica::Replica;
use crate::turns::Turns;

/// See the module's head.
#[derive(Default)]
pub struct DatabaseCopy {
    /// See [`Replica`].
    pub replica: RefCell<Replica>,
    /// Set when something may have happened that the log records.
    pub news: Cell<bool>,
    /// The id of the request that follows the log, while it is under way.
    pub following: Cell<u64>,
    /// The job that follows the log holds this. A second follower would find no new record, and go
    /// on with rows that the first has not read again yet.
    pub followers: Turns,
    /// Set while a copy of the database is made; requests that change the database wait (see
    /// [`Daemon`]).
    ///
    /// [`Daemon`]: crate::daemon::Daemon
    pub copying: Cell<bool>,
}
