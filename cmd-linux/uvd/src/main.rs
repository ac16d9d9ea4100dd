//! `uvd`: owner of the command partition's command channel.
//!
//! ```text
//! uvtool --/run/uvd.sock--+
//! others -----------------+-- uvd -- shared pages, event port -- ultravisor partition
//! ```
//!
//! `uvd` finds the channel through the store (`device/uv-command/0`), maps its pages with the
//! kernel's grant device, and binds its event port with the event-channel device.
//!
//! `uvd` carries requests of clients to the ultravisor unchanged, and takes partitions through
//! their lives itself ([`service`]): it plans, has the boot partition build, and keeps consoles,
//! definitions, the audit log and a copy of the database. Rule: every request ends in one answer or
//! failure. However `uvd` ends, each change under way is made as a whole or not at all.

mod builder;
mod client;
mod console;
mod context;
mod daemon;
mod devices;
mod fault;
mod link;
mod loader;
mod options;
mod replica;
mod rows;
mod service;
mod state;
#[cfg(test)]
mod tests;
mod turns;
mod wake;

use std::error::Error;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use context::Context;
use daemon::{Daemon, End};
use fault::Fault;
use futures_executor::LocalPool;
use link::Link;
use loader::Loader;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::AcceptConn;
use options::Options;
use pv_abi::uv::channel::COMMAND_PAGES;
use state::State;
use wake::Wake;

/// A number in this file orders a fault; see [`fault`].
const FAULT: &str = "/run/uvd/abort-at";
/// The limit of open descriptors. It suffices for clients and for the consoles of all partitions
/// that a machine can have.
const DESCRIPTORS: u64 = 40_000;
/// The time that clients wait for the channel, after the start or after its loss.
const PATIENCE: Duration = Duration::from_secs(3);
/// The time between two tries to find the channel within [`PATIENCE`].
const SHORT_RETRY: Duration = Duration::from_millis(50);
/// The time between two tries after [`PATIENCE`].
const RETRY: Duration = Duration::from_secs(1);

/// Writes a line to standard error, in one piece.
pub(crate) fn log(text: &str) {
    let _ = std::io::stderr().write_all(format!("uvd: {text}\n").as_bytes());
}

fn main() -> ExitCode {
    #[cfg(not(test))]
    if let Some(status) = state::check::serve_if_asked() {
        return status;
    }
    if let Some(status) = kernel_image::confined::serve_if_asked() {
        return status;
    }
    /// The exit status for wrong usage.
    const USAGE: u8 = 2;
    let options = match Options::parse(std::env::args_os().skip(1)) {
        Ok(options) => options,
        Err(error) => {
            log(&error);
            return ExitCode::from(USAGE);
        }
    };
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log(&error.to_string());
            ExitCode::FAILURE
        }
    }
}

/// Serves until SIGTERM or SIGINT.
fn run(options: &Options) -> Result<(), Box<dyn Error>> {
    let set: SigSet = [Signal::SIGTERM, Signal::SIGINT].into_iter().collect();
    set.thread_block()?;
    let signals = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC)?;
    let given = given_socket(std::io::stdin().as_fd());
    let own = given.is_none();
    let listener = given.map_or_else(|| listen(&options.socket), Ok)?;
    raise_limit();
    let pool = LocalPool::new();
    let state = State::open(&options.state);
    let loader = Loader::new(Arc::new(Wake::new()?), loader::unpack);
    let fault = Fault::new(FAULT.into());
    let devices = Rc::new(devices::Kernel);
    let context = Context::new(first_id(), pool.spawner(), state, fault, devices, loader);
    let mut daemon = Daemon::new(listener, signals.as_fd(), pool, context)?;
    while keep_open(&mut daemon) != End::Stopped {}
    if own {
        let _ = std::fs::remove_file(&options.socket);
    }
    Ok(())
}

/// Raises the limit of descriptors, because each guest's console and each client takes one.
fn raise_limit() {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return;
    };
    let wanted = soft.max(DESCRIPTORS);
    if setrlimit(Resource::RLIMIT_NOFILE, wanted, hard.max(wanted)).is_err() {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
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
            // Each reason is logged once, although the search goes on.
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

/// Serves clients over the channel until it breaks; the error means that there is no channel.
fn open_and_serve(daemon: &mut Daemon<'_>) -> Result<End, Box<dyn Error>> {
    let (shared, port) = channels::find(channels::COMMAND_PATH, COMMAND_PAGES)?;
    let link = Link::open(shared.words(), port)?;
    log("command channel: open");
    let end = daemon.serve(link);
    if let End::Broken(why) = &end {
        log(&format!("command channel: {why}"));
    }
    Ok(end)
}

/// The listening socket that the parent process passed as standard input, if it did.
fn given_socket(input: BorrowedFd<'_>) -> Option<UnixListener> {
    match getsockopt(&input, AcceptConn) {
        Ok(true) => Some(input.try_clone_to_owned().ok()?.into()),
        _ => None,
    }
}

/// The first id of requests, made from the time, so that it is above those of an earlier `uvd`.
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
