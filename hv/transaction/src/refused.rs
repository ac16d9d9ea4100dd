//! Actions that the monitor refused to take back: the database is as it was before a transaction,
//! but the monitor's state is not.
//!
//! For example, a guest may use a frame just before its transaction is undone. The frame is then
//! free in the database, and the guest's in the monitor; `uvtool resources --verify` shows that.
//!
//! Rule: the engine keeps asking the monitor, and logs the begin and the end of this state. It
//! assigns the frames that the monitor did not take back to no partition.

use alloc::format;
use alloc::vec::Vec;

use control::command::Range;
use pv_abi::uv::database::ULTRAVISOR;

use crate::Settled;
use crate::engine::{Engine, Origin};
use crate::reap::LAST_WAIT;
use crate::refusal::from_monitor;
use crate::{Action, Monitor};

/// The refused actions; see the module.
#[derive(Debug, Default)]
pub(crate) struct Refused {
    actions: Vec<Action>,
    /// The number of actions, from the first on, that are in the log.
    logged: usize,
    /// System time of the next attempt.
    pub(crate) due: u64,
}

impl Refused {
    pub(crate) const fn is_empty(&self) -> bool {
        self.actions.is_empty()
    }
}

impl Engine<'_> {
    /// Makes the monitor follow the restored database, and keeps the actions that it refuses.
    pub(crate) fn enforce(&mut self, monitor: &mut dyn Monitor, action: Action) {
        if monitor.perform(action).is_err() && !self.refused.actions.contains(&action) {
            self.refused.actions.push(action);
            self.refused.due = 0;
            self.withhold();
        }
    }

    /// Asks the monitor again.
    pub(crate) fn enforce_again(&mut self, monitor: &mut dyn Monitor, time: u64) {
        if self.refused.is_empty() || self.refused.due > time {
            return;
        }
        let (mut left, logged) = (Vec::new(), self.refused.logged);
        for (index, action) in core::mem::take(&mut self.refused.actions).into_iter().enumerate() {
            let needed = match action {
                Action::Start(number) => self.says_running(number),
                Action::Stop(number) => !self.says_running(number),
                Action::Destroy(number) => !self.index.partitions.contains_key(&number),
                _ => true,
            };
            let result = if needed { monitor.perform(action) } else { Ok(()) };
            match result {
                Ok(()) if index < logged => self.log_taken(action, None, time),
                Ok(()) => {}
                Err(errno) => {
                    if index >= logged {
                        self.log_taken(action, Some(errno), time);
                    }
                    left.push(action);
                }
            }
        }
        self.refused.logged = left.len();
        self.refused.actions = left;
        self.refused.due = time.saturating_add(LAST_WAIT);
        self.withhold();
    }

    fn log_taken(&mut self, action: Action, errno: Option<i32>, time: u64) {
        let why = from_monitor(action, errno.unwrap_or(0));
        let (what, settled) = match errno {
            Some(_) => ("the monitor does not take back", Settled::Refused),
            None => ("the monitor took back", Settled::Committed),
        };
        let reason = if errno.is_some() { why.reason.as_str() } else { "" };
        let what = format!("{what} {}", why.object);
        let origin = Origin::new(ULTRAVISOR, time, 0);
        let mut record = self.new_record(origin, settled, &what, reason);
        record.version = self.database.contents();
        // The monitor is asked again, whether the log has room or not.
        let _ = self.log.record(&mut self.database, record, false);
    }

    /// Withholds the frames that the monitor did not take back from assignment.
    fn withhold(&mut self) {
        let ranges = self.refused.actions.iter().filter_map(|action| match *action {
            Action::Pages { first, frames } => Some(Range { first, frames }),
            _ => None,
        });
        self.index.withheld = ranges.collect();
        self.index.withheld.sort_unstable_by_key(|range| range.first);
    }
}
