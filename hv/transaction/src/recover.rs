//! Takes over the database of an ultravisor that has ended.
//!
//! Rule: only work that the log says was settled counts as done, and work that nobody is left to
//! complete is rolled back.

use alloc::format;
use alloc::vec::Vec;

use control::command::{Answer, Reply};
use pv_abi::uv::database::{MONITOR, ULTRAVISOR, state};
use resource_db::{Database, WriteError};

use crate::Settled;
use crate::carry::{action_of, rank};
use crate::change::Change;
use crate::engine::{Engine, Limits, Origin};
use crate::log::{Log, Record};
use crate::pending::Pending;
use crate::under_way::Next;
use crate::{Action, Monitor};

impl<'a> Engine<'a> {
    /// Takes over a database and its log. A record that was begun and not settled is undone and
    /// then activated. There are two exceptions, which are carried out once more instead: an act of
    /// the monitor by itself, and a move of functions from a dead I/O partition. The engine
    /// continues to give up the partitions that were being given up. It rolls back pending
    /// transactions, since no client is left that could complete them. Replies to committed
    /// transactions are kept again, for retries. Returns how many transactions were undone or
    /// rolled back.
    ///
    /// # Errors
    /// The database's error.
    pub fn recover(
        mut database: Database<'a>,
        limits: Limits,
        monitor: &mut dyn Monitor,
        time: u64,
    ) -> Result<(Self, usize), WriteError> {
        database.reclaim()?;
        let log = Log::open(&mut database)?;
        let mut engine = Self::over(database, log, limits);
        let records = engine.log.records(&engine.database);
        let mut undone = 0;
        for record in records.iter().rev().filter(|record| record.settled == Settled::Begun) {
            if record.who == MONITOR {
                for change in &record.changes {
                    engine.write(change, true)?;
                }
                engine.settle(&[record.sequence], Settled::Monitor)?;
                continue;
            }
            let (sequence, changes) = (record.sequence, record.changes.clone());
            if record.is_takeover() {
                engine.queue.push_back(Next::MoveAgain { sequence, changes });
                continue;
            }
            engine.queue.push_back(Next::TakeBack { sequence, changes });
            undone += 1;
        }
        let version = records.iter().filter(|record| record.is_applied()).map(|r| r.version).max();
        if version.is_some_and(|version| version > engine.database.contents()) {
            engine.database.set_contents(version.unwrap_or_default())?;
        }
        for record in records.iter().filter(|record| record.settled == Settled::Committed) {
            if record.request != 0 {
                let Record { request: id, version, .. } = *record;
                let result = Ok(Answer::Applied(record.outcomes.clone()));
                engine.replies.keep(record.who, record.sum, Reply { id, version, result });
            }
        }
        engine.queue.push_back(Next::GiveUp);
        let pending = records.iter().filter(|record| record.settled == Settled::Pending);
        undone += engine.queue_all(pending.map(Pending::of).collect(), time);
        engine.begin_epoch(undone, time)?;
        engine.follow_queue(monitor, time);
        engine.reap(monitor, time);
        engine.free_detached(monitor, time);
        Ok((engine, undone))
    }

    /// Increments the version, so that earlier plans and copies are stale, and logs the reason.
    fn begin_epoch(&mut self, undone: usize, time: u64) -> Result<(), WriteError> {
        let what = format!("the ultravisor restarted, {undone} transactions undone");
        let origin = Origin::new(ULTRAVISOR, time, 0);
        let mut record = self.new_record(origin, Settled::Begun, &what, "");
        record.settled = Settled::Committed;
        let version = record.version;
        self.log.record(&mut self.database, record, false)?;
        self.database.set_contents(version)
    }

    /// The actions that make the monitor follow the database after changes were undone.
    pub(crate) fn again_after_restart(&self, changes: &[Change]) -> Vec<Action> {
        let (mut again, mut starts) = (Vec::new(), Vec::new());
        for change in changes {
            let number = match change {
                Change::Descriptor { before, .. } if before.is_empty() => continue,
                Change::Descriptor { number, .. } | Change::Fields { number, .. } => *number,
                _ => continue,
            };
            // A partition that was started or stopped gets its old state back. The build of one
            // that is being built continues. The state of a partition that was being removed stays.
            let Ok(was) = self.database.reader().descriptor(number) else { continue };
            let after = change.around(&was).map_or(state::FREE, |(_, after)| after.state);
            match (was.vcpus, was.state) {
                (1.., state::RUNNING) => starts.push(Action::Start(number)),
                (1.., state) if state != after => again.push(Action::Stop(number)),
                _ => {}
            }
        }
        let mut follow: Vec<Action> = changes.iter().rev().filter_map(action_of).collect();
        follow.sort_by_key(rank);
        again.extend(follow);
        again.extend(starts);
        again
    }
}
