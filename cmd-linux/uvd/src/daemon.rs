//! The event loop that connects clients, jobs, the channels and the consoles.
//!
//! Rule: clients outlive links. Without a command channel, every request is answered at once with
//! the reason, and `uvd` keeps looking for the channel. Consoles are served all the time.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixListener;
use std::rc::Rc;
use std::time::Instant;

use control::command::Body;
use futures_executor::LocalPool;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use uvd_protocol::{
    Answered, Ask, Asked, DEFAULT_TIMEOUT_MS, Failure, MAX_TIMEOUT_MS, ServiceAnswer, Told,
};

use crate::client::Client;
use crate::console::News;
use crate::context::Context;
use crate::context::outbox::Contents;
use crate::link::{Link, Outcome, Port, Tag};
use crate::service;

/// The most clients at a time. A further client takes the place of the one that has been idle
/// longest.
const MOST_CLIENTS: usize = 256;

/// The socket, its clients, and the jobs they started.
pub struct Daemon<'a> {
    listener: UnixListener,
    /// Readable when the daemon shall end.
    stop: BorrowedFd<'a>,
    clients: BTreeMap<u64, Client>,
    next_client: u64,
    /// Requests of clients that wait until a copy of the database has been made.
    held_back: VecDeque<(u64, Ask)>,
    pool: LocalPool,
    context: Rc<Context>,
}

/// Why serving a link ended.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    /// The daemon shall end.
    Stopped,
    /// The channel cannot be used any more, for this reason.
    Broken(String),
    /// It is time to look for a channel.
    Due,
}

impl<'a> Daemon<'a> {
    /// A daemon on a socket; `pool` runs its jobs.
    pub fn new(
        listener: UnixListener,
        stop: BorrowedFd<'a>,
        pool: LocalPool,
        context: Rc<Context>,
    ) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let (clients, held_back) = (BTreeMap::new(), VecDeque::new());
        Ok(Self { listener, stop, clients, next_client: 1, held_back, pool, context })
    }

    /// The parts that its jobs work with.
    #[cfg(test)]
    pub fn context(&self) -> &Rc<Context> {
        &self.context
    }

    /// Serves clients over a link until it breaks or the daemon is stopped. Every request that is
    /// under way then is answered with the failure.
    pub fn serve<P: Port>(&mut self, mut link: Link<'_, P>) -> End {
        self.context.requests.begin_session();
        self.context.jobs.spawn(service::session::run(Rc::clone(&self.context)));
        let end = self.serve_until(&mut link);
        let (failure, why) = match &end {
            End::Broken(why) => (Failure::NoChannel(why.clone()), why.as_str()),
            End::Stopped | End::Due => (Failure::ShuttingDown, "uvd ends"),
        };
        self.tell(link.fail_all(&failure));
        self.context.end_session(why);
        self.turn_others(Instant::now());
        self.tell_news();
        end
    }

    fn serve_until<P: Port>(&mut self, link: &mut Link<'_, P>) -> End {
        // The session's first request goes before those of clients, so that no client sees what an
        // earlier `uvd` left unfinished.
        let mut turned = self.turn_link(link, Instant::now());
        while turned.is_ok() {
            self.tell_news();
            if self.wait(Some(link.port().fd()), link.deadline()) {
                return End::Stopped;
            }
            let now = Instant::now();
            self.accept();
            self.take_asks(Some(&mut *link), now);
            self.turn_others(now);
            turned = self.turn_link(link, now);
        }
        End::Broken(turned.err().unwrap_or_default())
    }

    /// Answers every request with `why`, until it is time to look for a channel.
    pub fn refuse(&mut self, why: &str, until: Instant) -> End {
        self.context.end_session(why);
        loop {
            let now = Instant::now();
            self.accept();
            self.take_asks(None::<&mut Link<'_, Box<dyn Port>>>, now);
            self.turn_others(now);
            self.tell_news();
            if self.wait(None, Some(until)) {
                return End::Stopped;
            }
            if Instant::now() >= until {
                return End::Due;
            }
        }
    }

    /// Lets clients wait for an answer until it is time to look for a channel.
    pub fn pause(&mut self, until: Instant) -> End {
        loop {
            self.turn_others(Instant::now());
            let mut fds = vec![PollFd::new(self.stop, PollFlags::POLLIN)];
            let consoles = self.context.consoles.borrow();
            fds.extend(consoles.fd().map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
            if wait(fds, consoles.deadline().into_iter().chain([until]).min()) {
                return End::Stopped;
            }
            if Instant::now() >= until {
                return End::Due;
            }
        }
    }

    fn accept(&mut self) {
        while self.has_room()
            && let Ok((stream, _)) = self.listener.accept()
        {
            if self.clients.len() >= MOST_CLIENTS
                && let Some(idle) = self.longest_idle()
            {
                self.clients.remove(&idle);
                self.context.consoles.borrow_mut().client_gone(idle);
            }
            if let Ok(client) = Client::new(stream) {
                self.clients.insert(self.next_client, client);
                self.next_client += 1;
            }
        }
    }

    /// Whether another client can be accepted: there is room, or an idle client can be dropped.
    fn has_room(&self) -> bool {
        self.clients.len() < MOST_CLIENTS || self.longest_idle().is_some()
    }

    /// The client that has been idle longest, if any is idle.
    fn longest_idle(&self) -> Option<u64> {
        let idle =
            self.clients.iter().filter_map(|(number, one)| Some((one.idle_since()?, *number)));
        idle.min().map(|(_, number)| number)
    }

    /// Takes all requests that arrived: the first of each client, then the second of each, and so
    /// on. So a client waits for one request of each other client, however many these have sent.
    fn take_asks<P: Port>(&mut self, mut link: Option<&mut Link<'_, P>>, now: Instant) {
        let mut asks = VecDeque::new();
        if !self.context.database.copying.get() {
            asks.append(&mut self.held_back);
        }
        let mut left: Vec<_> = self.clients.iter_mut().collect();
        while !left.is_empty() {
            left.retain_mut(|(number, client)| {
                let ask = client.next_ask();
                let is_more = ask.is_some();
                asks.extend(ask.map(|ask| (**number, ask)));
                is_more
            });
        }
        for (number, ask) in asks {
            if self.context.database.copying.get() && changes_database(&ask) {
                self.held_back.push_back((number, ask));
                continue;
            }
            let id = ask.id;
            if let Err(failure) = submit(&self.context, link.as_deref_mut(), number, ask, now)
                && let Some(client) = self.clients.get_mut(&number)
            {
                client.tell(&Told { id, result: Err(failure) }, true);
            }
        }
        self.flush();
    }

    /// Advances everything but the command channel.
    fn turn_others(&mut self, now: Instant) {
        self.context.loader.wake().take();
        self.context.consoles.borrow_mut().turn(now);
        self.context.builder.turn();
        self.context.timers.fire_due(now);
        self.pool.run_until_stalled();
    }

    /// Sends the requests of jobs, and hands them their answers, until they wait for something
    /// else.
    fn turn_link<P: Port>(&mut self, link: &mut Link<'_, P>, now: Instant) -> Result<(), String> {
        loop {
            for one in self.context.requests.outgoing() {
                let tag = Tag::Job(one.id);
                if let Err(failure) = link.submit(tag, one.id, one.body, one.timeout_ms, now) {
                    self.context.requests.answered(one.id, Err(failure));
                }
            }
            let (rung, outcomes) = link.turn(now).map_err(|error| error.to_string())?;
            self.context.fault.sent();
            if (rung && outcomes.is_empty()) || outcomes.iter().any(|one| self.is_news(one)) {
                self.context.database.news.set(true);
                self.context.changed.raise();
            }
            let quiet = outcomes.is_empty();
            self.tell(outcomes);
            self.pool.run_until_stalled();
            if quiet && !self.context.requests.has_outgoing() {
                return Ok(());
            }
        }
    }

    /// Whether an answer shows that the log has records which the copy of the database lacks.
    fn is_news(&self, (tag, result): &Outcome) -> bool {
        match result {
            _ if *tag == Tag::Job(self.context.database.following.get()) => false,
            Ok(reply) => reply.version != self.context.database.replica.borrow().version(),
            Err(_) => true,
        }
    }

    fn tell(&mut self, outcomes: Vec<Outcome>) {
        for (tag, result) in outcomes {
            match tag {
                Tag::Job(id) => self.context.requests.answered(id, result),
                Tag::Client(client, id) => match result {
                    Ok(reply) => self.context.outbox.pass_on(client, id, reply),
                    Err(failure) => self.context.outbox.send(client, id, Err(failure), true),
                },
            }
        }
    }

    /// Sends clients the news of jobs and consoles.
    fn tell_news(&mut self) {
        let clients = &self.clients;
        let has_room = |client| clients.get(&client).is_some_and(Client::has_room);
        let (news, answers) = {
            let mut consoles = self.context.consoles.borrow_mut();
            (consoles.news(has_room), consoles.answers())
        };
        for (client, id, read) in answers {
            let result = read.map(|()| ServiceAnswer::Done).map_err(service::unread);
            self.context.outbox.finish(client, id, result);
        }
        for ((client, id), one) in news {
            match one {
                News::Output(bytes) => {
                    self.context.outbox.send(client, id, Ok(Answered::Output(bytes)), false);
                }
                News::Ended(end) => {
                    self.context.outbox.finish(client, id, Ok(ServiceAnswer::Ended { end }))
                }
            }
        }
        for letter in self.context.outbox.letters() {
            if let Some(client) = self.clients.get_mut(&letter.client) {
                match letter.contents {
                    Contents::Told { told, last } => client.tell(&told, last),
                    Contents::Carried(id, reply) => client.carry(id, &reply),
                }
            }
        }
        self.flush();
    }

    fn flush(&mut self) {
        let context = &self.context;
        self.clients.retain(|number, client| {
            let stays = client.flush() && !client.has_hung_up();
            if !stays {
                context.consoles.borrow_mut().client_gone(*number);
            }
            stays
        });
    }

    /// Waits for something to do; true if the daemon shall end.
    fn wait(&mut self, port: Option<BorrowedFd<'_>>, until: Option<Instant>) -> bool {
        let consoles = self.context.consoles.borrow();
        let builder = self.context.builder.channel();
        let clients = &self.clients;
        let room = |client| clients.get(&client).is_some_and(Client::has_room);
        let asks_again = !self.held_back.is_empty() && !self.context.database.copying.get();
        if asks_again || consoles.has_news(room) {
            return wait(vec![PollFd::new(self.stop, PollFlags::POLLIN)], Some(Instant::now()));
        }
        let mut fds = vec![PollFd::new(self.stop, PollFlags::POLLIN)];
        if self.has_room() {
            fds.push(PollFd::new(self.listener.as_fd(), PollFlags::POLLIN));
        }
        let others =
            consoles.fd().into_iter().chain([self.context.loader.wake().fd()]).chain(builder.fd());
        fds.extend(port.into_iter().chain(others).map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
        fds.extend(self.clients.values().filter_map(Client::poll_fd));
        let until =
            until.into_iter().chain(self.context.timers.deadline()).chain(consoles.deadline());
        wait(fds, until.min())
    }
}

/// Whether a request may change the database when it is passed on.
fn changes_database(ask: &Ask) -> bool {
    match &ask.body {
        Asked::Ultravisor(body) => !matches!(body, Body::Query(_) | Body::Plan(_)),
        // The requests that `uvd` serves itself wait for their own turn.
        Asked::Service(_) => false,
    }
}

/// Passes a request on; the error, if any, is its answer.
fn submit<P: Port>(
    context: &Rc<Context>,
    link: Option<&mut Link<'_, P>>,
    client: u64,
    ask: Ask,
    now: Instant,
) -> Result<(), Failure> {
    let Ask { id, timeout_ms, body } = ask;
    match body {
        Asked::Service(service) => {
            service::start(context, client, (id, timeout_ms), service);
            Ok(())
        }
        Asked::Ultravisor(body) => {
            context.requests.has_channel()?;
            let Some(link) = link else {
                return Err(Failure::ShuttingDown);
            };
            let timeout_ms = timeout_ms.unwrap_or(DEFAULT_TIMEOUT_MS).min(MAX_TIMEOUT_MS);
            link.submit(Tag::Client(client, id), context.requests.make_id(), body, timeout_ms, now)
        }
    }
}

/// Waits until one of the descriptors is ready; true if the first one is.
fn wait(mut fds: Vec<PollFd<'_>>, until: Option<Instant>) -> bool {
    let timeout = until.map_or(PollTimeout::NONE, |until| {
        let left = until.saturating_duration_since(Instant::now());
        let up = u128::from(!left.is_zero());
        PollTimeout::try_from(left.as_millis() + up).unwrap_or(PollTimeout::MAX)
    });
    // If interrupted, the next round looks at everything.
    poll(&mut fds, timeout).is_ok() && fds[0].any().unwrap_or(false)
}
