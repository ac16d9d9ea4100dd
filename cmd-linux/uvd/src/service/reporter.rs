//! Reports the progress of a request to the client that sent it.
//!
//! Rule: a request that is over before a person could read a message reports no progress, because
//! each message wakes the client. A longer request reports its present step then, and from there on
//! each step.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Instant;

use futures_channel::oneshot;
use futures_util::future::{Either, select};
use uvd_protocol::{Answered, Progress};

use crate::context::Context;
use crate::context::outbox::Outbox;

/// Reports to a client the progress of its request.
pub struct Reporter {
    /// The client; `None` if no client sent a request.
    told: Option<Told>,
}

struct Told {
    outbox: Rc<Outbox>,
    client: u64,
    /// Id of its request.
    id: u64,
    /// The time from which on each step is reported at once.
    from: Instant,
    /// The last step before that.
    early: Rc<RefCell<Option<Progress>>>,
    /// Dropped with the request.
    _request: oneshot::Sender<()>,
}

impl Reporter {
    /// A reporter for a job that no client started.
    pub fn nobody() -> Self {
        Self { told: None }
    }

    /// A reporter for a client's request that begins now.
    pub fn new(context: &Context, client: u64, id: u64) -> Self {
        let from = Instant::now() + context.outbox.quiet.get();
        let early = Rc::new(RefCell::new(None));
        let (request, ended) = oneshot::channel::<()>();
        let (timers, outbox) = (Rc::clone(&context.timers), Rc::clone(&context.outbox));
        let first = Rc::clone(&early);
        context.jobs.spawn(async move {
            let due = Box::pin(timers.sleep_until(from));
            if let Either::Left(_) = select(due, ended).await
                && let Some(progress) = first.take()
            {
                outbox.send(client, id, Ok(Answered::Progress(progress)), false);
            }
        });
        let outbox = Rc::clone(&context.outbox);
        let told = Told { outbox, client, id, from, early, _request: request };
        Self { told: Some(told) }
    }

    /// The client and the id of its request.
    pub fn to(&self) -> Option<(u64, u64)> {
        self.told.as_ref().map(|told| (told.client, told.id))
    }

    /// Reports a step.
    pub fn tell(&self, name: &str, step: &str, done: u64, of: u64) {
        let Some(told) = &self.told else {
            return;
        };
        let progress = Progress { name: name.into(), step: step.into(), done, of };
        if Instant::now() < told.from {
            told.early.replace(Some(progress));
            return;
        }
        told.early.take();
        told.outbox.send(told.client, told.id, Ok(Answered::Progress(progress)), false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::outbox::Contents;
    use crate::tests::context;
    use futures_executor::LocalPool;
    use std::time::Duration;

    fn told(context: &Context) -> Vec<(String, u64)> {
        let tellings = context.outbox.letters().into_iter();
        let progress = tellings.map(|one| match one.contents {
            Contents::Told { told: uvd_protocol::Told { result, .. }, last: false } => match result
            {
                Ok(Answered::Progress(progress)) => (progress.step, progress.done),
                other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        });
        progress.collect()
    }

    #[test]
    fn what_is_over_soon_says_nothing() {
        let mut pool = LocalPool::new();
        let context = context(&pool);
        context.outbox.quiet.set(Duration::from_secs(3600));
        let reporter = Reporter::new(&context, 1, 2);
        pool.run_until_stalled();
        reporter.tell("web", "building", 0, 9);
        drop(reporter);
        pool.run_until_stalled();
        context.timers.fire_due(Instant::now() + Duration::from_secs(7200));
        pool.run_until_stalled();
        assert_eq!(told(&context), []);
        assert_eq!(context.timers.deadline(), None, "nothing is waited for any more");
    }

    #[test]
    fn what_takes_longer_tells_where_it_is() {
        let mut pool = LocalPool::new();
        let context = context(&pool);
        context.outbox.quiet.set(Duration::from_secs(3600));
        let reporter = Reporter::new(&context, 1, 2);
        pool.run_until_stalled();
        reporter.tell("web", "allocating", 0, 0);
        reporter.tell("web", "building", 4, 9);
        assert_eq!(told(&context), []);
        context.timers.fire_due(Instant::now() + Duration::from_secs(7200));
        pool.run_until_stalled();
        assert_eq!(told(&context), [("building".to_string(), 4)]);
        context.outbox.quiet.set(Duration::ZERO);
        let reporter = Reporter::new(&context, 1, 3);
        reporter.tell("web", "allocating", 0, 0);
        reporter.tell("web", "building", 0, 9);
        pool.run_until_stalled();
        assert_eq!(told(&context), [("allocating".to_string(), 0), ("building".to_string(), 0)]);
    }
}
