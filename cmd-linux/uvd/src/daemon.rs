//! The event loop between the clients and the command channel.
//!
//! Rule: clients outlive links. Without a channel every request is answered at once with the
//! reason, and the channel is looked for again.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixListener;
use std::time::Instant;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use uvd_protocol::{Ask, Asked, DEFAULT_TIMEOUT_MS, Failure, MAX_TIMEOUT_MS, Told};

use crate::client::Client;
use crate::link::{Link, Outcome, Port};

/// Clients at a time; further ones wait until one goes.
const MOST_CLIENTS: usize = 64;

/// The socket and its clients.
pub struct Daemon<'a> {
    listener: UnixListener,
    /// Readable when the daemon is to end.
    stop: BorrowedFd<'a>,
    clients: BTreeMap<u64, Client>,
    next_client: u64,
}

/// Why serving ended.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    /// The daemon is to end.
    Stopped,
    /// The channel is of no more use, and why.
    Broken(String),
    /// It is time to look for a channel.
    Due,
}

impl<'a> Daemon<'a> {
    /// A daemon on a socket.
    pub fn new(listener: UnixListener, stop: BorrowedFd<'a>) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        Ok(Self { listener, stop, clients: BTreeMap::new(), next_client: 1 })
    }

    /// Serves clients over a link until it breaks or the daemon is stopped. Whatever was under
    /// way then is answered with the failure.
    pub fn serve<P: Port>(&mut self, mut link: Link<'_, P>) -> End {
        let end = loop {
            let now = Instant::now();
            self.accept();
            self.take_asks(|tag, ask| {
                let asked = ask.timeout_ms.unwrap_or(DEFAULT_TIMEOUT_MS);
                let Asked::Ultravisor(body) = ask.body else {
                    return Err(Failure::Malformed("not served yet".into()));
                };
                link.submit(tag, body, asked.min(MAX_TIMEOUT_MS), now)
            });
            match link.turn(now) {
                Ok(outcomes) => self.tell(outcomes),
                Err(error) => break End::Broken(error.to_string()),
            }
            if self.wait(Some(link.port().fd()), link.deadline()) {
                break End::Stopped;
            }
        };
        let failure = match &end {
            End::Broken(why) => Failure::NoChannel(why.clone()),
            End::Stopped | End::Due => Failure::ShuttingDown,
        };
        self.tell(link.fail_all(&failure));
        end
    }

    /// Answers every request with `why`, until it is time to look for a channel.
    pub fn refuse(&mut self, why: &str, until: Instant) -> End {
        loop {
            self.accept();
            self.take_asks(|_, _| Err(Failure::NoChannel(why.into())));
            if self.wait(None, Some(until)) {
                return End::Stopped;
            }
            if Instant::now() >= until {
                return End::Due;
            }
        }
    }

    /// Lets clients wait, until it is time to look for a channel.
    pub fn pause(&mut self, until: Instant) -> End {
        loop {
            if wait(vec![PollFd::new(self.stop, PollFlags::POLLIN)], Some(until)) {
                return End::Stopped;
            }
            if Instant::now() >= until {
                return End::Due;
            }
        }
    }

    fn accept(&mut self) {
        while self.clients.len() < MOST_CLIENTS
            && let Ok((stream, _)) = self.listener.accept()
        {
            if let Ok(client) = Client::new(stream) {
                self.clients.insert(self.next_client, client);
                self.next_client += 1;
            }
        }
    }

    /// Takes all requests that came; `submit` may fail at once.
    fn take_asks(&mut self, mut submit: impl FnMut((u64, u64), Ask) -> Result<(), Failure>) {
        for (number, client) in &mut self.clients {
            while let Some(ask) = client.next_ask() {
                let id = ask.id;
                if let Err(failure) = submit((*number, id), ask) {
                    client.tell(&Told { id, result: Err(failure) });
                }
            }
        }
        self.flush();
    }

    fn tell(&mut self, outcomes: Vec<Outcome>) {
        for ((client, id), result) in outcomes {
            if let Some(client) = self.clients.get_mut(&client) {
                client.tell(&Told { id, result });
            }
        }
        self.flush();
    }

    fn flush(&mut self) {
        self.clients.retain(|_, client| client.flush());
    }

    /// Waits for something to do; true: the daemon is to end.
    fn wait(&self, port: Option<BorrowedFd<'_>>, until: Option<Instant>) -> bool {
        let mut fds = vec![PollFd::new(self.stop, PollFlags::POLLIN)];
        if self.clients.len() < MOST_CLIENTS {
            fds.push(PollFd::new(self.listener.as_fd(), PollFlags::POLLIN));
        }
        fds.extend(port.map(|port| PollFd::new(port, PollFlags::POLLIN)));
        fds.extend(self.clients.values().filter_map(Client::poll_fd));
        wait(fds, until)
    }
}

/// Waits until one of the descriptors is ready; true: the first one is.
fn wait(mut fds: Vec<PollFd<'_>>, until: Option<Instant>) -> bool {
    let timeout = until.map_or(PollTimeout::NONE, |until| {
        let left = until.saturating_duration_since(Instant::now()).as_millis();
        PollTimeout::try_from(left.saturating_add(1)).unwrap_or(PollTimeout::MAX)
    });
    // Interrupted: the next round looks at everything.
    poll(&mut fds, timeout).is_ok() && fds[0].any().unwrap_or(false)
}
