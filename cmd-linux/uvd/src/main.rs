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
use std::os::fd::AsFd;
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
use pv_abi::uv::channel::COMMAND_PAGES;
use xenbus::Store;

/// The channel's directory in the store, below the partition's own.
const STORE_PATH: &str = "device/uv-command/0";
/// Time between two tries to find the channel.
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
fn run(socket: &Path) -> Result<(), Box<dyn Error>> {
    let set: SigSet = [Signal::SIGTERM, Signal::SIGINT].into_iter().collect();
    set.thread_block()?;
    let signals = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC)?;
    let mut daemon = Daemon::new(listen(socket)?, signals.as_fd())?;
    let mut said = String::new();
    loop {
        let end = match find() {
            Ok((shared, port)) => serve(&mut daemon, &shared, port, &mut said),
            Err(error) => End::Broken(error.to_string()),
        };
        let end = match end {
            End::Broken(why) => {
                // Once for each reason: it is tried again and again.
                if said != why {
                    log(&format!(
                        "command channel: {why}; trying again every {RETRY:?}"
                    ));
                    said.clone_from(&why);
                }
                daemon.refuse(&why, Instant::now() + RETRY)
            }
            other => other,
        };
        if end == End::Stopped {
            let _ = std::fs::remove_file(socket);
            return Ok(());
        }
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
    Ok((
        Shared::map_grants(backend, reference, pages)?,
        EventPort::bind(backend, event)?,
    ))
}

fn serve(daemon: &mut Daemon<'_>, shared: &Shared, port: EventPort, said: &mut String) -> End {
    match Link::open(shared.words(), port, first_id()) {
        Ok(link) => {
            said.clear();
            log("command channel: open");
            daemon.serve(link)
        }
        Err(error) => End::Broken(error.to_string()),
    }
}

/// Ids of requests begin with the time, so that they are above those of a `uvd` before.
fn first_id() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
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
