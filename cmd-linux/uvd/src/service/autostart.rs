//! Starts the partitions that start with the host, one after the other.
//!
//! When a session begins in a boot of the host that the store has not seen, the store marks the
//! definitions with `autostart` ([`crate::state::State::begin_boot`]). A mark goes when its partition
//! was started, or could not be. Rule: a `uvd` that is killed in between goes on with the marks that
//! are left, and starts no partition twice.

use std::rc::Rc;
use std::time::{Duration, Instant};

use definition::Autostart;
use uvd_protocol::Failure;

use super::policy;
use crate::context::Context;
use crate::log;
use crate::state::State;

/// Starts the marked partitions, unless another session's job is at it.
pub async fn run(context: Rc<Context>) {
    if !context.guests.autostarting.replace(true) {
        start_all(&context).await;
        context.guests.autostarting.set(false);
    }
}

/// Starts the marked partitions: those with a lower number first, and those with the same number in
/// the order of their names. A partition that cannot be started holds up no other.
async fn start_all(context: &Rc<Context>) {
    let all = marked(&context.state.borrow());
    for (name, autostart) in all {
        // The next session goes on.
        if !context.requests.has_session() {
            return;
        }
        let is_there = context.guests.rows.borrow().named(&name).is_some();
        let started = if is_there { Ok(()) } else { start(context, &name).await };
        if let Err(Failure::NoChannel(_) | Failure::ShuttingDown) = started {
            return;
        }
        context.state.borrow_mut().change(&name, |record| record.autostarting = false);
        if let Err(failure) = started {
            log(&format!("partition {name:?}: not started with the host: {failure}"));
        } else if !is_there && autostart.delay > 0 {
            let delay = Duration::from_secs(autostart.delay.into());
            context.timers.sleep_until(Instant::now() + delay).await;
        }
    }
}

async fn start(context: &Rc<Context>, name: &str) -> Result<(), Failure> {
    context.guests.begin_restart(name);
    let started = policy::start(context, name, format!("autostart: start {name}")).await;
    context.guests.end_restart(name, &context.changed);
    started
}

/// The marked partitions, in their order.
fn marked(state: &State) -> Vec<(String, Autostart)> {
    let marked = state.records().iter().filter(|(_, record)| record.autostarting);
    let mut all: Vec<_> =
        marked.map(|(name, record)| (name.clone(), record.definition.autostart)).collect();
    // The sort is stable, and the records are in the order of their names.
    all.sort_by_key(|(_, autostart)| autostart.order);
    all
}
