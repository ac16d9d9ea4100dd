//! A first-come, first-served lock for jobs.
//!
//! Rule: the job that releases the turn hands it to the job that has waited longest, so a job that
//! comes later cannot overtake. The turn travels through the channel that its next owner waits on.
//! A job that stopped waiting drops the turn, and so hands it on.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use futures_channel::oneshot;

/// The lock.
#[derive(Default)]
pub struct Turns(Rc<Queue>);

#[derive(Default)]
struct Queue {
    taken: Cell<bool>,
    waiting: RefCell<VecDeque<oneshot::Sender<Turn>>>,
}

/// The turn; dropping it releases it.
pub struct Turn(Option<Rc<Queue>>);

impl Turns {
    /// Waits for the turn.
    pub async fn acquire(&self) -> Turn {
        loop {
            if let Some(turn) = self.try_acquire() {
                return turn;
            }
            let (waiter, turn) = oneshot::channel();
            self.0.waiting.borrow_mut().push_back(waiter);
            // The sender stays in the queue until it hands the turn over.
            if let Ok(turn) = turn.await {
                return turn;
            }
        }
    }

    /// Takes the turn if nobody has it.
    pub fn try_acquire(&self) -> Option<Turn> {
        (!self.0.taken.replace(true)).then(|| Turn(Some(Rc::clone(&self.0))))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let Some(queue) = self.0.take() else {
            return;
        };
        loop {
            let next = queue.waiting.borrow_mut().pop_front();
            let Some(next) = next else {
                queue.taken.set(false);
                return;
            };
            match next.send(Turn(Some(Rc::clone(&queue)))) {
                Ok(()) => return,
                // The job does not wait any more, so the turn is still here.
                Err(mut turn) => drop(turn.0.take()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_executor::LocalPool;
    use futures_util::future::abortable;
    use futures_util::task::LocalSpawnExt;

    #[test]
    fn turns_go_by_the_order_of_asking_and_pass_over_those_who_left() {
        let (mut pool, turns) = (LocalPool::new(), Rc::new(Turns::default()));
        let order = Rc::new(RefCell::new(Vec::new()));
        let first = turns.try_acquire().unwrap();
        let mut jobs = Vec::new();
        for number in 0..5 {
            let (turns, order) = (Rc::clone(&turns), Rc::clone(&order));
            let job = async move {
                let _turn = turns.acquire().await;
                order.borrow_mut().push(number);
            };
            let (job, handle) = abortable(job);
            jobs.push(handle);
            pool.spawner().spawn_local(async { _ = job.await }).unwrap();
        }
        pool.run_until_stalled();
        // One job leaves while it waits, the other when the turn is on its way to it.
        jobs[2].abort();
        pool.run_until_stalled();
        drop(first);
        assert!(turns.try_acquire().is_none(), "nobody overtakes");
        jobs[0].abort();
        pool.run_until_stalled();
        assert_eq!(*order.borrow(), [1, 3, 4]);
        assert!(turns.try_acquire().is_some());
    }
}
