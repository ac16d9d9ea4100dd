//! `uv-init`: the first process of the command partition.
//!
//! ```text
//!                        +-- uvd          (kept running)
//! kernel -- uv-init -----+-- login shell  (on the console hvc0, kept running)
//!                        +-- one command at a time for the harness line hvc1
//! ```
//!
//! One thread runs one event loop: signals arrive through a descriptor, and one poll waits for
//! everything. Rule: only the end of the machine ends this program.

mod backoff;
mod boot;
mod children;
mod harness;
mod line;
mod message;
mod power;
mod service;
mod state_disk;
mod system;
mod terminal;
mod words;

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::rc::Rc;
use std::time::Instant;

use line::Line;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use power::End;
use service::Service;
use state_disk::StateDisk;
use words::Options;

fn main() -> ExitCode {
    if std::process::id() != 1 {
        eprintln!(
            "uv-init: runs only as the first process (PID 1) of the command partition; boot an \
             image that has uv-init as /init"
        );
        return ExitCode::from(2);
    }
    let options = boot::prepare();
    match signals() {
        Ok(signals) => run(Init::new(options), &signals),
        // The kernel stops with a message when the first process ends. There is nothing better to
        // do.
        Err(error) => warning!("signals: {}", error.desc()),
    }
    ExitCode::FAILURE
}

/// The descriptor through which the handled signals arrive.
fn signals() -> nix::Result<SignalFd> {
    let set: SigSet =
        [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT, Signal::SIGUSR1, Signal::SIGUSR2]
            .into_iter()
            .collect();
    set.thread_block()?;
    SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
}

/// Everything that this process serves or supervises.
struct Init {
    services: Vec<Service>,
    line: Option<Line>,
    /// The state disk, while `uvd` waits for it.
    state: Option<StateDisk>,
    /// The socket of `uvd`.
    socket: Option<Rc<OwnedFd>>,
}

impl Init {
    fn new(options: Options) -> Self {
        let now = Instant::now();
        let socket =
            uvd_socket().inspect_err(|error| warning!("{}: {error}", uvd_protocol::SOCKET)).ok();
        let mut services = Vec::new();
        if options.shell {
            let console = options.console;
            services.push(Service::new("shell", now, move || terminal::start_shell(&console)));
        }
        let line = (!options.harness.is_empty()).then(|| Line::new(options.harness, now));
        let state = options
            .state
            .map(|name| StateDisk::new(Path::new("/dev").join(name), now, state_disk::mount));
        let mut init = Self { services, line, state, socket: socket.map(Rc::new) };
        if init.state.is_none() {
            init.provide_uvd(now);
        }
        init
    }

    /// Has `uvd` run from now on.
    fn provide_uvd(&mut self, now: Instant) {
        let socket = self.socket.clone();
        self.services.push(Service::new("uvd", now, move || start_uvd(socket.as_deref())));
    }

    /// Mounts the state disk, and lets `uvd` run once that is settled.
    fn turn_state(&mut self, now: Instant) {
        let Some(outcome) = self.state.as_mut().and_then(|disk| disk.turn(now)) else { return };
        match outcome {
            Ok(()) => notice!("state disk: mounted at {}", state_disk::PLACE),
            Err(why) => warning!(
                "state disk {why}; definitions and the log end with the host: start the host again \
                 to try again"
            ),
        }
        self.state = None;
        self.provide_uvd(now);
    }

    /// Does all that can be done now.
    fn turn(&mut self) -> Option<End> {
        let now = Instant::now();
        while let Some((pid, status)) = children::reap() {
            // A process that belongs to nobody here was an orphan.
            let _ = self.line.as_mut().is_some_and(|line| line.child_ended(pid, status))
                || self.state.as_mut().is_some_and(|disk| disk.child_ended(pid, status))
                || self.services.iter_mut().any(|one| one.child_ended(pid, status, now));
        }
        self.turn_state(now);
        for service in &mut self.services {
            service.tick(now);
        }
        let line = self.line.as_mut()?;
        line.turn(now).then_some(End::PowerOff)
    }

    /// Waits until there is something to do.
    fn wait(&self, signals: &SignalFd) {
        let mut fds = vec![PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        if let Some(line) = &self.line {
            line.poll_fds(&mut fds);
        }
        let deadlines = self.services.iter().filter_map(Service::deadline);
        let deadlines = deadlines.chain(self.state.as_ref().and_then(StateDisk::deadline));
        let deadlines = deadlines.chain(self.line.as_ref().and_then(Line::deadline));
        let timeout = deadlines.min().map_or(PollTimeout::NONE, timeout);
        // An interruption makes no difference: the next turn looks at everything.
        let _ = poll(&mut fds, timeout);
    }
}

/// The time until `deadline`, rounded up, so that the deadline has passed after the wait.
fn timeout(deadline: Instant) -> PollTimeout {
    let left = deadline.saturating_duration_since(Instant::now()).as_millis();
    PollTimeout::try_from(left.saturating_add(1)).unwrap_or(PollTimeout::MAX)
}

fn run(mut init: Init, signals: &SignalFd) {
    loop {
        let mut end = init.turn();
        if end.is_none() {
            init.wait(signals);
        }
        while let Ok(Some(signal)) = signals.read_signal() {
            let signal = Signal::try_from(signal.ssi_signo as i32).ok();
            end = end.or(signal.and_then(End::of_signal));
        }
        if let Some(end) = end {
            init.services.iter().for_each(Service::terminate);
            let _ = power::end(end, signals);
        }
    }
}

/// The socket that `uvd` serves. This process owns it, so that it exists before the first client
/// and stays while `uvd` is restarted. Clients then wait instead of failing.
fn uvd_socket() -> std::io::Result<OwnedFd> {
    let socket = UnixListener::bind(uvd_protocol::SOCKET)?;
    std::fs::set_permissions(uvd_protocol::SOCKET, PermissionsExt::from_mode(0o600))?;
    Ok(socket.into())
}

/// Starts `uvd` with its socket as standard input.
fn start_uvd(socket: Option<&OwnedFd>) -> std::io::Result<Child> {
    let input = socket.map_or_else(|| Ok(Stdio::null()), |fd| fd.try_clone().map(Stdio::from))?;
    let mut uvd = Command::new("uvd");
    uvd.env_clear().env("PATH", harness::PATH).current_dir("/");
    uvd.stdin(input).stdout(message::stdio()).stderr(message::stdio());
    system::in_own_session(&mut uvd);
    uvd.spawn()
}
