//! `uvd`: owner of the command partition's command channel.
//!
//! ```text
//! uvtool --/run/uvd.sock--+
//! others -----------------+-- uvd -- shared pages, event port -- ultravisor partition
//! ```
//!
//! The channel is found through the store (`device/uv-command/0`), its pages are mapped with the
//! kernel's grant device and its event port is bound with the event-channel device. Rule: `uvd`
//! decides nothing; it carries requests and answers, and every request ends in one of either.

mod client;
mod daemon;
mod devices;
mod link;
#[cfg(test)]
mod tests;
mod xenbus;

use std::error::Error;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use daemon::{Daemon, End};
use devices::{EventPort, Shared};
use link::Link;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::AcceptConn;
use pv_abi::uv::channel::COMMAND_PAGES;
use xenbus::Store;

/// The channel's directory in the store, below the partition's own.
const STORE_PATH: &str = "device/uv-command/0";
/// Time that clients wait for the channel, from the start or from its loss on.
const PATIENCE: Duration = Duration::from_secs(3);
/// Time between two tries to find the channel within [`PATIENCE`].
const SHORT_RETRY: Duration = Duration::from_millis(50);
/// Time between two tries after it.
const RETRY: Duration = Duration::from_secs(1);

/// Writes a line to standard error, in one piece.
pub(crate) fn log(text: &str) {
    let _ = std::io::stderr().write_all(format!("uvd: {text}\n").as_bytes());
}

fn main() -> ExitCode {
    match run(Path::new(uvd_protocol::SOCKET)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log(&error.to_string());
            ExitCode::FAILURE
        }
    }
}

/// Serves until SIGTERM or SIGINT.
fn run(path: &Path) -> Result<(), Box<dyn Error>> {
    let set: SigSet = [Signal::SIGTERM, Signal::SIGINT].into_iter().collect();
    set.thread_block()?;
    let signals = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC)?;
    let given = given_socket(std::io::stdin().as_fd());
    let own = given.is_none();
    let listener = given.map_or_else(|| listen(path), Ok)?;
    let mut daemon = Daemon::new(listener, signals.as_fd())?;
    while keep_open(&mut daemon) != End::Stopped {}
    if own {
        let _ = std::fs::remove_file(path);
    }
    Ok(())
}

/// Looks for the channel until it is found, and serves clients over it until it breaks.
fn keep_open(daemon: &mut Daemon<'_>) -> End {
    let patience = Instant::now() + PATIENCE;
    let mut said = String::new();
    loop {
        let why = match open_and_serve(daemon) {
            Ok(end) => return end,
            Err(error) => error.to_string(),
        };
        let now = Instant::now();
        let end = if now < patience {
            daemon.pause(now + SHORT_RETRY)
        } else {
            // Once for each reason: it is tried again and again.
            if said != why {
                log(&format!("command channel: {why}; trying again every {RETRY:?}"));
                said.clone_from(&why);
            }
            daemon.refuse(&why, now + RETRY)
        };
        if end == End::Stopped {
            return end;
        }
    }
}

/// Serves clients over the channel until it breaks; an error means that there is none.
fn open_and_serve(daemon: &mut Daemon<'_>) -> Result<End, Box<dyn Error>> {
    let (shared, port) = find()?;
    let link = Link::open(shared.words(), port, first_id())?;
    log("command channel: open");
    let end = daemon.serve(link);
    if let End::Broken(why) = &end {
        log(&format!("command channel: {why}"));
    }
    Ok(end)
}

/// The socket that whoever started us listens on, where standard input is one.
fn given_socket(input: BorrowedFd<'_>) -> Option<UnixListener> {
    match getsockopt(&input, AcceptConn) {
        Ok(true) => Some(input.try_clone_to_owned().ok()?.into()),
        _ => None,
    }
}

/// Finds the channel through the store, maps it and binds its port.
fn find() -> Result<(Shared, EventPort), Box<dyn Error>> {
    let mut store = Store::open()?;
    let mut number = |name: &str| store.number(&format!("{STORE_PATH}/{name}"));
    let backend = number("backend-id")?;
    let (reference, pages) = (number("ring-ref")?, number("pages")?);
    let event = number("event-channel")?;
    if pages as usize != COMMAND_PAGES {
        let way_out = "use a uvd of the ultravisor's version";
        return Err(format!("has {pages} pages, not {COMMAND_PAGES}; {way_out}").into());
    }
    Ok((Shared::map_grants(backend, reference, pages)?, EventPort::bind(backend, event)?))
}

/// Ids of requests begin with the time, so that they are above those of a `uvd` before.
fn first_id() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX / 2)
}

/// Listens on a socket that only root may use. A socket that an earlier `uvd` left is replaced.
fn listen(path: &Path) -> Result<UnixListener, Box<dyn Error>> {
    if UnixStream::connect(path).is_ok() {
        let path = path.display();
        return Err(format!("{path}: another uvd is serving it; stop that one first").into());
    }
    let _ = std::fs::remove_file(path);
    let named = |error| format!("{}: {error}", path.display());
    let listener = UnixListener::bind(path).map_err(named)?;
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o600)).map_err(named)?;
    Ok(listener)
}
