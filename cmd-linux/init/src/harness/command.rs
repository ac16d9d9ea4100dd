//! A command that the harness runs: its process and the three pipes to it.
//!
//! Rule: nothing here blocks. All output that the command wrote is read before its end is reported.
//! The output of children that outlive the command is not waited for.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Command, Stdio};

use harness_protocol::{Packet, Words};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::system;

/// The directories in which commands find programs.
pub const PATH: &str = "/bin:/sbin:/usr/bin:/usr/sbin";
/// Bytes read from a pipe at a time.
const PIECE: usize = 32 * 1024;
/// Bytes that a pipe holds (pipe(7)).
const PIPE_BYTES: usize = 64 * 1024;

/// A running command.
pub struct Running {
    pid: Pid,
    input: Option<OwnedFd>,
    queue: VecDeque<u8>,
    /// Whether the input has ended.
    input_ends: bool,
    output: Stream,
    error: Stream,
    status: Option<i32>,
}

/// The reading end of a pipe from the command.
struct Stream {
    fd: Option<OwnedFd>,
    /// Bytes still to read once the command has ended: at most the capacity of a pipe. So a child
    /// that outlives the command and keeps writing cannot delay the report of the end.
    left: Option<usize>,
}

/// The reason why a command could not be started, with its exit status.
pub struct NotStarted {
    /// 127 if the program does not exist; 126 if it cannot be executed.
    pub status: i32,
    /// A sentence for the standard error of the command.
    pub message: String,
}

impl Running {
    /// Starts a command in the directory `home`, in a session of its own.
    pub fn start(words: &Words, home: &Path) -> Result<Self, NotStarted> {
        let mut names = words.as_slice().iter().map(|word| OsStr::from_bytes(word));
        let program = names.next().unwrap_or_default();
        let mut command = Command::new(program);
        command.args(names).current_dir(home).env_clear();
        command.env("PATH", PATH).env("HOME", home).env("USER", "root").env("TERM", "dumb");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        system::in_own_session(&mut command);
        let child = command.spawn().map_err(|error| not_started(program, &error))?;
        let pid = Pid::from_raw(child.id() as i32);
        Ok(Self {
            pid,
            input: child.stdin.map(OwnedFd::from).and_then(nonblocking),
            queue: VecDeque::new(),
            input_ends: false,
            output: Stream::new(child.stdout.map(OwnedFd::from)),
            error: Stream::new(child.stderr.map(OwnedFd::from)),
            status: None,
        })
    }

    /// The process ID, which is also that of its process group.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Sends its process group a signal.
    pub fn signal(&self, number: i32) -> nix::Result<()> {
        killpg(self.pid, Signal::try_from(number)?)
    }

    /// Queues bytes for the command's standard input; an empty slice is the end.
    pub fn give(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            self.input_ends = true;
        } else if self.input.is_some() && !self.input_ends {
            self.queue.extend(bytes);
        }
    }

    /// Bytes of input that the command has not taken yet.
    pub fn backlog(&self) -> usize {
        self.queue.len()
    }

    /// Writes as much input as the command takes.
    pub fn feed(&mut self) {
        while let Some(input) = &self.input
            && !self.queue.is_empty()
        {
            match nix::unistd::write(input, self.queue.as_slices().0) {
                Ok(written) => drop(self.queue.drain(..written)),
                Err(Errno::EAGAIN) => return,
                Err(Errno::EINTR) => {}
                // The command closed its standard input, so nobody reads the rest.
                Err(_) => {
                    self.queue.clear();
                    self.input = None;
                }
            }
        }
        if self.input_ends {
            self.input = None;
        }
    }

    /// Notes that the command's process ended.
    pub fn ended(&mut self, status: i32) {
        self.status = Some(status);
        self.output.left = Some(PIPE_BYTES);
        self.error.left = Some(PIPE_BYTES);
    }

    /// Reads the command's output, piece by piece, until none is ready or `take` returns false.
    pub fn read_output(&mut self, mut take: impl FnMut(Packet) -> bool) {
        let mut go_on = true;
        while go_on {
            let output = self.output.read().map(Packet::Output);
            let error = self.error.read().map(Packet::Error);
            if output.is_none() && error.is_none() {
                break;
            }
            for packet in [output, error].into_iter().flatten() {
                go_on &= take(packet);
            }
        }
    }

    /// The command's exit status, once the command ended. All its output must have been read
    /// before.
    pub fn status(&self) -> Option<i32> {
        self.status
    }

    /// The command's standard input, if bytes wait for it.
    pub fn wants_input(&self) -> Option<BorrowedFd<'_>> {
        self.input.as_ref().filter(|_| !self.queue.is_empty()).map(AsFd::as_fd)
    }

    /// The command's standard output and error, as far as they are open.
    pub fn outputs(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.output.fd.iter().chain(&self.error.fd).map(AsFd::as_fd)
    }
}

fn not_started(program: &OsStr, error: &io::Error) -> NotStarted {
    let name = program.display();
    if error.kind() == io::ErrorKind::NotFound {
        let message = format!("{name}: no such program; the path is {PATH}\n");
        return NotStarted { status: 127, message };
    }
    NotStarted { status: 126, message: format!("{name}: cannot be run: {error}\n") }
}

impl Stream {
    fn new(fd: Option<OwnedFd>) -> Self {
        Self { fd: fd.and_then(nonblocking), left: None }
    }

    /// Reads a piece of the bytes that are ready. Closes the pipe at the end of file.
    fn read(&mut self) -> Option<Vec<u8>> {
        let mut bytes = vec![0; PIECE.min(self.left.unwrap_or(PIECE))];
        loop {
            // A read into an empty buffer returns nothing, which would count as the end of file.
            match nix::unistd::read(self.fd.as_ref()?, &mut bytes) {
                Ok(0) => self.fd = None,
                Ok(read) => {
                    self.left = self.left.map(|left| left - read);
                    bytes.truncate(read);
                    return Some(bytes);
                }
                Err(Errno::EAGAIN) => return None,
                Err(Errno::EINTR) => {}
                Err(_) => self.fd = None,
            }
        }
    }
}

fn nonblocking(fd: OwnedFd) -> Option<OwnedFd> {
    fcntl(&fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).ok()?;
    Some(fd)
}
