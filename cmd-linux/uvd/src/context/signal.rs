//! A signal that wakes all jobs that wait for it.

use std::cell::RefCell;

use futures_channel::oneshot;

/// The signal.
#[derive(Default)]
pub struct Signal {
    waiters: RefCell<Vec<oneshot::Sender<()>>>,
}

impl Signal {
    /// Waits until the signal is raised.
    pub async fn wait(&self) {
        let (waiter, raised) = oneshot::channel();
        {
            let mut waiters = self.waiters.borrow_mut();
            waiters.retain(|waiter| !waiter.is_canceled());
            waiters.push(waiter);
        }
        let _ = raised.await;
    }

    /// Wakes the jobs that wait.
    pub fn raise(&self) {
        for waiter in self.waiters.take() {
            let _ = waiter.send(());
        }
    }
}
