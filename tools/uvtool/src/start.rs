//! The entry point of the program, which the C library calls.
//!
//! Rule: this module does the tasks of the standard library before `main` that a command needs. It
//! opens the three standard streams, so that no socket takes their place. It makes a write to a
//! pipe that nobody reads an error, which does not end the process. No command needs the other
//! tasks; a stack overflow ends the process with SIGSEGV, without a message.
#![expect(unsafe_code, reason = "the entry that the C library calls, and a signal")]

use std::ffi::{c_char, c_int};
use std::fs::File;
use std::os::fd::{AsFd, IntoRawFd};
use std::process::ExitCode;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigHandler, Signal, signal};

/// Runs the command and ends the process.
// SAFETY: the C library calls the function of this name once; no other function has it.
#[unsafe(no_mangle)]
extern "C" fn main(_: c_int, _: *const *const c_char) -> c_int {
    open_streams();
    // SAFETY: to ignore a signal runs no code of this program.
    let _ = unsafe { signal(Signal::SIGPIPE, SigHandler::SigIgn) };
    // `exit` flushes standard output.
    std::process::exit(number(crate::run_words()))
}

/// Opens `/dev/null` for each standard stream that is closed: a file gets the lowest free number.
fn open_streams() {
    let (input, output, error) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    let mut streams = [input.as_fd(), output.as_fd(), error.as_fd()]
        .map(|stream| PollFd::new(stream, PollFlags::empty()));
    if poll(&mut streams, PollTimeout::ZERO).is_ok_and(|count| count == 0) {
        return;
    }
    let is_closed = |stream: &PollFd<'_>| {
        stream.revents().is_some_and(|events| events.contains(PollFlags::POLLNVAL))
    };
    for _ in streams.iter().filter(|stream| is_closed(stream)) {
        let null = File::options().read(true).write(true).open("/dev/null");
        let _ = null.map(IntoRawFd::into_raw_fd);
    }
}

/// The number of a status.
fn number(status: ExitCode) -> i32 {
    let is_status = |number: &u8| ExitCode::from(*number) == status;
    (0..=u8::MAX).find(is_status).map_or(1, i32::from)
}
