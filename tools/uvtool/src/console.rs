//! Attaching to a console: output of the partition to standard output, keys to the partition.
//!
//! Rule: the terminal is taken only when output may come, and given back before anything else is
//! printed.

use std::io::{Read, Write};
use std::os::fd::AsFd;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use uvd_protocol::{Answered, End, Service, ServiceAnswer};

use crate::answer;
use crate::connection::Uvd;
use crate::source::Error;
use crate::terminal::Raw;

/// The key that detaches: Ctrl-].
const DETACH: u8 = 0x1d;
/// Bytes typed that are sent in one request.
const PIECE: usize = 512;

/// Why a console ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Closed {
    /// The person left.
    Detached,
    /// Its partition ended, or had nothing more to show.
    Ended(Option<End>),
}

/// Shows a console until it ends; with `typing`, keys go to the partition.
pub fn attach(uvd: &mut Uvd, request: Service, typing: bool) -> Result<Closed, Error> {
    let id = uvd.begin(request)?;
    let _raw = typing.then(Raw::take);
    let mut typing = typing;
    loop {
        while let Some(told) = uvd.buffered()? {
            if told.id != id {
                continue;
            }
            match told.result? {
                Answered::Output(bytes) => show(&bytes)?,
                Answered::Service(ServiceAnswer::Ended { end }) => return Ok(Closed::Ended(end)),
                Answered::Progress(_) => {}
                _ => return Err(Error::Other("a console")),
            }
        }
        let (answer, key) = wait(uvd, typing)?;
        if answer {
            uvd.receive()?;
        }
        if key {
            match keys()? {
                Keys::None => typing = false,
                Keys::Detach => return Ok(Closed::Detached),
                Keys::Typed(bytes) => {
                    uvd.begin(Service::Input { console: id, bytes })?;
                }
            }
        }
    }
}

/// Waits for an answer, and for keys; which of them there are.
fn wait(uvd: &Uvd, typing: bool) -> Result<(bool, bool), Error> {
    let input = std::io::stdin();
    let mut fds = vec![PollFd::new(uvd.fd(), PollFlags::POLLIN)];
    if typing {
        fds.push(PollFd::new(input.as_fd(), PollFlags::POLLIN));
    }
    match poll(&mut fds, PollTimeout::NONE) {
        Ok(_) | Err(nix::errno::Errno::EINTR) => {}
        Err(error) => return Err(std::io::Error::from(error).into()),
    }
    let ready = |n: usize| fds.get(n).is_some_and(|fd| fd.any().unwrap_or(false));
    Ok((ready(0), ready(1)))
}

/// What came from the keyboard.
enum Keys {
    /// There will be no more.
    None,
    /// The person wants to leave.
    Detach,
    /// For the partition.
    Typed(Vec<u8>),
}

fn keys() -> Result<Keys, Error> {
    let mut bytes = [0; PIECE];
    let count = std::io::stdin().read(&mut bytes)?;
    let typed = bytes.get(..count).unwrap_or_default();
    Ok(match typed {
        [] => Keys::None,
        _ if typed.contains(&DETACH) => Keys::Detach,
        _ => Keys::Typed(typed.to_vec()),
    })
}

fn show(bytes: &[u8]) -> Result<(), Error> {
    let line = serde_json::json!({ "output": String::from_utf8_lossy(bytes) });
    let line = answer::is_json().then(|| answer::json_line(&line));
    let bytes = line.as_ref().map_or(bytes, String::as_bytes);
    let mut output = std::io::stdout();
    output.write_all(bytes)?;
    Ok(output.flush()?)
}
