//! Applies the policy of a partition that ended by itself.
//!
//! Rule: a loop of restarts is bounded. The first restart is immediate. Each further restart within
//! a minute waits twice as long as the one before, and after [`MOST`] in a minute the partition
//! stays as it is for an operator to examine.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::time::{Duration, Instant};

use control::command::PartitionRow;
use definition::{Policies, Policy};
use pv_abi::uv::calls::cause;
use pv_abi::uv::database::{kind, state};
use uvd_protocol::{End, Failure, way_out};

use super::batch::{self, Batch, Creation};
use super::{Reporter, defined, partitions};
use crate::context::Context;
use crate::log;

/// The most restarts within [`WINDOW`].
pub const MOST: usize = 5;
/// The time over which restarts are counted.
pub const WINDOW: Duration = Duration::from_secs(60);
/// The wait before the second restart within the window.
const FIRST_WAIT: Duration = Duration::from_secs(1);

/// Reasons of a shutdown (`SHUTDOWN_*` of Xen's public headers).
mod reason {
    pub const POWER_OFF: u32 = 0;
    pub const REBOOT: u32 = 1;
    pub const SUSPEND: u32 = 2;
}

/// How a partition ended, if it ended by itself.
pub fn end_of(row: &PartitionRow) -> Option<End> {
    let ended = matches!(row.state, state::SHUTDOWN | state::CRASHED)
        && !matches!(row.cause, cause::NONE | cause::STOPPED);
    ended.then_some(End { cause: row.cause, detail: row.cause_detail })
}

/// The policy for this end.
pub fn policy(on: &Policies, end: End) -> Policy {
    match (end.cause, end.detail) {
        (cause::SHUTDOWN, reason::POWER_OFF) => on.poweroff,
        (cause::SHUTDOWN, reason::REBOOT) => on.reboot,
        (cause::SHUTDOWN, reason::SUSPEND) => Policy::Preserve,
        _ => on.crash,
    }
}

/// Counts restarts, by name.
#[derive(Debug, Default)]
pub struct Restarts(BTreeMap<String, VecDeque<Instant>>);

impl Restarts {
    /// Counts a restart of a partition. Returns the wait before it; `None` if there were too many.
    pub fn next(&mut self, name: &str, now: Instant) -> Option<Duration> {
        self.0.retain(|_, times| {
            times.retain(|time| now.saturating_duration_since(*time) < WINDOW);
            !times.is_empty()
        });
        let times = self.0.entry(name.into()).or_default();
        if times.len() >= MOST {
            return None;
        }
        times.push_back(now);
        match times.len() {
            1 => Some(Duration::ZERO),
            many => Some(FIRST_WAIT * 2u32.pow(many as u32 - 2)),
        }
    }
}

/// The ends that were handled already.
#[derive(Debug, Default)]
pub struct Watch {
    restarts: Restarts,
    /// Partitions whose end was handled, by number and the version they were created at.
    ended: BTreeSet<(u32, u64)>,
}

/// Takes over all rows after they were read. Each partition that ended is handled once, here,
/// before a waiting client sees its row.
pub fn seen(context: &Rc<Context>, rows: Vec<PartitionRow>) {
    let before = context.guests.rows.replace(rows.iter().cloned().collect()).into_inner();
    let there: BTreeSet<(u32, u64)> = rows.iter().map(|row| (row.number, row.created_at)).collect();
    context.guests.watch.borrow_mut().ended.retain(|one| there.contains(one));
    follow(context, &before, &rows);
}

/// Takes over the rows of partitions with these numbers after they were read again. The time
/// depends on how many these are, and not on how many partitions exist.
pub fn seen_again(context: &Rc<Context>, numbers: &BTreeSet<u32>, rows: Vec<PartitionRow>) {
    let mut before = BTreeMap::new();
    {
        let mut all = context.guests.rows.borrow_mut();
        before.extend(numbers.iter().filter_map(|number| Some((*number, all.remove(*number)?))));
        rows.iter().for_each(|row| all.insert(row.clone()));
    }
    let is_there =
        |number: u32, at: u64| rows.iter().any(|row| (row.number, row.created_at) == (number, at));
    let mut watch = context.guests.watch.borrow_mut();
    for &number in numbers {
        let of_number = (number, 0)..=(number, u64::MAX);
        watch.ended.extract_if(of_number, |&(_, at)| !is_there(number, at)).for_each(drop);
    }
    drop(watch);
    follow(context, &before, &rows);
}

/// Handles the changes of partitions from one reading to the next.
fn follow(context: &Rc<Context>, before: &BTreeMap<u32, PartitionRow>, rows: &[PartitionRow]) {
    defined::follow(context, before, rows);
    let mut watch = context.guests.watch.borrow_mut();
    let mut consoles = context.consoles.borrow_mut();
    for row in rows.iter().filter(|row| row.state == state::DYING) {
        // A mapped page of a partition would keep the partition from being destroyed.
        if consoles.is_connected(&row.name) {
            consoles.disconnect(&row.name);
            consoles.end(&row.name, None);
        }
    }
    drop(consoles);
    for row in rows.iter().filter(|row| row.kind == kind::GUEST) {
        if let Some(end) = end_of(row)
            && watch.ended.insert((row.number, row.created_at))
        {
            deal_with(context, &mut watch.restarts, row, end);
        }
    }
}

fn deal_with(context: &Rc<Context>, restarts: &mut Restarts, row: &PartitionRow, end: End) {
    let record = context.state.borrow().records().get(&row.name).cloned();
    context.state.borrow_mut().change(&row.name, |record| record.last_end = Some(end));
    let Some(record) = record else {
        context.consoles.borrow_mut().end(&row.name, Some(end));
        return;
    };
    let wait = match policy(&record.definition.on, end) {
        Policy::Restart => match restarts.next(&row.name, Instant::now()) {
            Some(wait) => wait,
            None => {
                log(&format!(
                    "partition {:?}: started anew {MOST} times within {WINDOW:?}; it stays as it \
                     is, {}",
                    row.name,
                    way_out::with_name(way_out::WHY, &row.name)
                ));
                context.consoles.borrow_mut().end(&row.name, Some(end));
                return;
            }
        },
        policy => {
            context.consoles.borrow_mut().end(&row.name, Some(end));
            if policy == Policy::Destroy {
                context.jobs.spawn(destroy(Rc::clone(context), row.clone()));
            }
            return;
        }
    };
    context.guests.begin_restart(&row.name);
    context.jobs.spawn(restart(Rc::clone(context), row.clone(), wait));
}

fn giving_up(row: &PartitionRow, what: &str) -> Batch {
    let reason = format!("{what} {}", row.name);
    Batch { reason, destroys: vec![row.clone()], ..Batch::default() }
}

/// Whether the partition that ended still exists in the same state.
async fn is_still_there(context: &Rc<Context>, row: &PartitionRow) -> bool {
    // The session may still be opening. Without a session, the end is handled in the next one.
    let Ok(()) = context.requests.ready().await else {
        context.guests.watch.borrow_mut().ended.remove(&(row.number, row.created_at));
        return false;
    };
    let now =
        partitions::read(&context.requests, &row.number.to_string()).await.unwrap_or_default();
    let same = |one: &PartitionRow| (one.number, one.created_at) == (row.number, row.created_at);
    now.is_some_and(|one| same(&one) && end_of(&one).is_some())
}

async fn destroy(context: Rc<Context>, row: PartitionRow) {
    if !is_still_there(&context, &row).await {
        return;
    }
    let batch = giving_up(&row, "policy: destroy");
    let reporter = Reporter::nobody();
    if let Err(failure) = batch::carry_out(&context, batch, &reporter).await {
        log(&format!("partition {:?}: its policy could not destroy it: {failure}", row.name));
    }
}

async fn restart(context: Rc<Context>, row: PartitionRow, wait: Duration) {
    if !wait.is_zero() {
        context.timers.sleep_until(Instant::now() + wait).await;
    }
    let name = row.name.clone();
    if !is_still_there(&context, &row).await {
        context.guests.end_restart(&name, &context.changed);
        return;
    }
    // From here on the partition must be started, whatever happens to this process.
    context.state.borrow_mut().change(&name, |record| record.restarting = true);
    let batch = giving_up(&row, "policy: restart");
    let gone = batch::carry_out(&context, batch, &Reporter::nobody()).await;
    match gone {
        Ok(_) => start_owed(&context, &name).await,
        Err(failure) => {
            log(&format!("partition {name:?}: its policy could not restart it: {failure}"));
            context.state.borrow_mut().change(&name, |record| record.restarting = false);
        }
    }
    context.guests.end_restart(&name, &context.changed);
}

/// Starts a partition that a policy destroyed in order to restart it.
pub async fn start_owed(context: &Rc<Context>, name: &str) {
    let started = start(context, name, format!("policy: restart {name}")).await;
    context.state.borrow_mut().change(name, |record| record.restarting = false);
    if let Err(failure) = started {
        log(&format!("partition {name:?}: not started anew: {failure}"));
    }
}

/// Starts a defined partition. If its definition is gone, does nothing.
pub(super) async fn start(
    context: &Rc<Context>,
    name: &str,
    reason: String,
) -> Result<(), Failure> {
    let record = context.state.borrow().records().get(name).cloned();
    let Some(record) = record else { return Ok(()) };
    let creates = vec![Creation { definition: record.definition, paused: false }];
    let batch = Batch { reason, creates, ..Batch::default() };
    let started = batch::carry_out(context, batch, &Reporter::nobody()).await;
    if started.is_err() {
        context.consoles.borrow_mut().end(name, record.last_end);
    }
    started.map(drop)
}

#[cfg(test)]
mod tests;
