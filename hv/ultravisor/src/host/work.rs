//! Transactions that take more than a turn of the loop, and the requests that wait for them.
//!
//! While a transaction is under way, queries are answered. A request that would change the
//! database, or compare it with the monitor, waits; its channel is not read until it has had its
//! turn. So at most one request of each channel waits.
//!
//! Rule: first come, first served, after an I/O partition that is being given up: guests wait for its
//! successor.

use control::command::{Body, Query, Reply, Request};
use partition_runtime::events::Port;
use partition_runtime::time;
use transaction::Begun;

use super::Host;

/// A request that waits.
#[derive(Debug)]
pub struct Waiting {
    port: Port,
    client: u32,
    request: Request,
}

impl Host {
    /// Returns whether there is work that no port stands for.
    pub(super) fn has_work(&self) -> bool {
        let engine = &self.engine;
        engine.is_busy() || !self.waiting.is_empty() || engine.takes_over(time::now())
    }

    /// Returns whether a request of this channel waits.
    pub(super) fn waits(&self, port: Port) -> bool {
        self.waiting.iter().any(|waiting| waiting.port == port)
    }

    /// Returns whether a request must wait for the one under way, or for others that wait.
    pub(super) fn must_wait(&self, body: &Body) -> bool {
        let at_any_time = match body {
            // Copies of the database, and comparisons of owners, must come between two
            // transactions.
            Body::Query(query) => !matches!(query, Query::Arena { .. } | Query::Compare { .. }),
            Body::Plan(_) => true,
            _ => false,
        };
        !at_any_time && self.has_work()
    }

    /// Makes a request wait.
    pub(super) fn wait(&mut self, port: Port, client: u32, request: Request) {
        self.waiting.push_back(Waiting { port, client, request });
    }

    /// Continues the transaction under way, and begins the requests that wait for it, until the
    /// turn is over.
    pub(super) fn go_on(&mut self) {
        if self.engine.is_busy() {
            self.proceed();
        }
        if self.engine.takes_over(time::now()) {
            self.give_back();
        }
        while !self.engine.is_busy()
            && !self.turn_over()
            && let Some(next) = self.waiting.pop_front()
        {
            match self.answer(next.client, &next.request) {
                Begun::Later => return self.waiting.push_front(next),
                begun => {
                    self.answered(next.port, begun);
                    self.queue(next.port);
                }
            }
        }
    }

    fn proceed(&mut self) {
        let (begin, who) = (time::now(), self.engine.asked_by());
        who.into_iter().for_each(crate::inject::asked_by);
        let (engine, mut lead) = self.lead();
        let ended = engine.proceed(&mut lead, time::now());
        if let Some(who) = who {
            let spent = time::now().saturating_sub(begin);
            self.services.budget.spend(who, spent, false);
        }
        if let Some((client, reply)) = ended {
            self.carried_out(client, &reply);
            self.send(client, reply);
        }
        if !self.engine.is_busy() {
            self.monitor_events();
            self.follow_database();
        }
    }

    /// Sends the reply to a request that ended in a later turn.
    pub(super) fn send(&mut self, client: u32, reply: Reply) {
        let mut channels = self.services.commands.values_mut();
        if let Some(channel) = channels.find(|channel| channel.client == client) {
            channel.answer(reply);
        }
    }

    /// Sends the reply to a request, if there is one by now. Returns whether there was.
    pub(super) fn answered(&mut self, port: Port, begun: Begun) -> bool {
        let Begun::Answered(reply) = begun else {
            return false;
        };
        if let Some(channel) = self.services.commands.get_mut(&port) {
            channel.answer(reply);
        }
        true
    }
}
