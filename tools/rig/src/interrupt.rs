//! Handles Ctrl-C, and the other signals that end a program, at any time.
//!
//! Rule: every process that we start is registered here before it runs and until it has been waited
//! for, so that a signal finds all of them. QEMU is killed; other processes get the signal and may
//! clean up after themselves. Then temporary files are removed, the terminal gets its modes back,
//! and this process ends with status 128 + the signal. A second signal kills all processes that
//! still run.
//!
//! The list is locked while a process starts and while an ended one is collected. The thread that
//! handles the first signal takes the lock for ever: nothing starts after it, and no process id
//! that it signals can have been reused.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// Everything that has to be cleaned up.
struct Left {
    processes: Vec<(Pid, OnSignal)>,
    scratch: Vec<PathBuf>,
    /// The terminal's modes, in the words of `stty -g`.
    modes: Option<String>,
}

static LEFT: Mutex<Left> =
    Mutex::new(Left { processes: Vec::new(), scratch: Vec::new(), modes: None });

fn left() -> MutexGuard<'static, Left> {
    LEFT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Which signal a process gets when this process gets a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnSignal {
    /// The signal that this process got.
    Forward,
    /// SIGKILL.
    Kill,
}

/// The signal that arrived, or 0. It is set before any other thread can learn of the signal, even
/// from a child that the same Ctrl-C ended.
fn came() -> &'static Arc<AtomicUsize> {
    static CAME: OnceLock<Arc<AtomicUsize>> = OnceLock::new();
    CAME.get_or_init(Arc::default)
}

/// Begins to handle signals. Call it once, before the first process is started.
///
/// # Errors
/// The operating system refuses.
pub fn install() -> Result<()> {
    const NOT_HANDLED: &str = "cannot handle signals";
    let ignored = ignored_signals();
    let wanted = |signal: &i32| ignored & (1 << (signal - 1)) == 0;
    let signals: Vec<i32> = [SIGHUP, SIGINT, SIGTERM].into_iter().filter(wanted).collect();
    for signal in &signals {
        let number = *signal as usize;
        signal_hook::flag::register_usize(*signal, Arc::clone(came()), number)
            .context(NOT_HANDLED)?;
    }
    let mut signals = Signals::new(signals).context(NOT_HANDLED)?;
    thread::spawn(move || handle(&mut signals));
    Ok(())
}

/// The signals that the parent process wants ignored (`nohup`), with a bit for each, from signal 1.
fn ignored_signals() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

fn handle(signals: &mut Signals) {
    let mut coming = signals.forever();
    let Some(signal) = coming.next() else {
        return;
    };
    let mut held = left();
    let processes = held.processes.clone();
    let (scratch, modes) = (std::mem::take(&mut held.scratch), held.modes.take());
    for (pid, on_signal) in &processes {
        let sent = match on_signal {
            OnSignal::Forward => Signal::try_from(signal).unwrap_or(Signal::SIGTERM),
            OnSignal::Kill => Signal::SIGKILL,
        };
        // This fails only if the process has ended, or if another user runs it (sudo).
        let _ = kill(*pid, sent);
    }
    let pids: Vec<_> = processes.into_iter().map(|(pid, _)| pid).collect();
    let to_wait_for = pids.clone();
    thread::spawn(move || {
        for pid in to_wait_for {
            until_ended(pid);
        }
        for path in scratch {
            remove(&path);
        }
        set_modes(modes.as_deref());
        std::process::exit(128 + signal);
    });
    for _ in coming {
        for pid in &pids {
            let _ = kill(*pid, Signal::SIGKILL);
        }
    }
}

/// Waits until a process has ended, and does not reap it, so that its id is not reused.
fn until_ended(pid: Pid) {
    while waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT) == Err(Errno::EINTR) {}
}

/// Blocks for ever if a signal has arrived, because the handler of the signal ends this process.
/// Call this before reporting an error that the signal may have caused.
pub fn stay_if_signalled() {
    while came().load(Ordering::SeqCst) != 0 {
        thread::park();
    }
}

/// A process that this process started.
pub struct Process {
    child: Child,
}

impl Process {
    /// Starts a process; `on_signal` says what it gets when this process gets a signal.
    ///
    /// # Errors
    /// The process cannot be started.
    pub fn start(command: &mut Command, on_signal: OnSignal) -> io::Result<Self> {
        let mut held = left();
        let child = command.spawn()?;
        held.processes.push((pid_of(&child), on_signal));
        Ok(Self { child })
    }

    /// The process, whose streams the caller may take. Wait for it with [`Process::wait`].
    pub fn streams(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Waits until the process ends. After a signal it does not return.
    ///
    /// # Errors
    /// The operating system fails the wait.
    pub fn wait(&mut self) -> io::Result<ExitStatus> {
        loop {
            if let Some(status) = self.try_wait()? {
                return Ok(status);
            }
            until_ended(pid_of(&self.child));
        }
    }

    /// The exit status, if the process has ended. After a signal it does not return.
    ///
    /// # Errors
    /// The operating system fails the wait.
    pub fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        let mut held = left();
        let ended = self.child.try_wait()?;
        if ended.is_some() {
            let pid = pid_of(&self.child);
            held.processes.retain(|(other, _)| *other != pid);
            drop(held);
            stay_if_signalled();
        }
        Ok(ended)
    }

    /// Kills the process and waits for its end.
    pub fn kill(&mut self) {
        // Both calls fail only if the process has ended.
        let _ = self.child.kill();
        let _ = self.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The kernel's process ids fit the type.
fn pid_of(child: &Child) -> Pid {
    Pid::from_raw(child.id() as i32)
}

/// The output of a process, and its exit status.
pub struct Output {
    /// The exit status.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error.
    pub stderr: Vec<u8>,
}

/// Runs a process without input to its end and keeps what it prints.
///
/// # Errors
/// The process cannot be started.
pub fn output(command: &mut Command) -> io::Result<Output> {
    output_with(command, Stdio::null())
}

fn output_with(command: &mut Command, input: Stdio) -> io::Result<Output> {
    command.stdin(input).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut process = Process::start(command, OnSignal::Forward)?;
    let (out, error) = (process.child.stdout.take(), process.child.stderr.take());
    let (stdout, stderr) = thread::scope(|scope| {
        let error = scope.spawn(move || read_all(error));
        (read_all(out), error.join().unwrap_or_default())
    });
    Ok(Output { status: process.wait()?, stdout, stderr })
}

fn read_all(stream: Option<impl Read>) -> Vec<u8> {
    let mut bytes = Vec::new();
    // If a stream breaks off, its output ends there.
    let _ = stream.map(|mut stream| stream.read_to_end(&mut bytes));
    bytes
}

/// A file or directory that is removed when this value is dropped, and on a signal.
pub struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// Registers a path, whether or not it exists yet.
    pub fn new(path: PathBuf) -> Self {
        left().scratch.push(path.clone());
        Self { path }
    }

    /// The path.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let mut held = left();
        remove(&self.path);
        held.scratch.retain(|path| *path != self.path);
    }
}

/// Removes the file or directory at `path`, if there is one.
fn remove(path: &Path) {
    // A path that cannot be removed lies in `build` or in a directory for temporary files, where it
    // does no harm.
    let _ = match path.is_dir() {
        true => fs::remove_dir_all(path),
        false => fs::remove_file(path),
    };
}

/// The modes that the terminal had before something changed them. Dropping this value restores
/// them, and so does a signal.
pub struct Terminal(());

impl Terminal {
    /// Remembers the modes of the terminal on standard input, if standard input is a terminal.
    pub fn remember() -> Self {
        let mut stty = Command::new("stty");
        stty.arg("-g");
        let modes =
            output_with(&mut stty, Stdio::inherit()).ok().filter(|output| output.status.success());
        let modes = modes.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
        left().modes = modes;
        Self(())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let modes = left().modes.take();
        set_modes(modes.as_deref());
    }
}

fn set_modes(modes: Option<&str>) {
    if let Some(modes) = modes {
        // Nothing can be done for a terminal that is gone.
        let _ = Command::new("stty").arg(modes).stderr(Stdio::null()).status();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_streams_and_the_status_are_kept() {
        let mut command = Command::new("sh");
        let output = output(command.args(["-c", "echo out; echo error >&2; exit 3"])).expect("sh");
        assert_eq!((output.stdout, output.stderr), (b"out\n".to_vec(), b"error\n".to_vec()));
        assert_eq!(output.status.code(), Some(3));
    }

    #[test]
    fn a_process_is_noted_until_it_was_waited_for() {
        let mut command = Command::new("cat");
        command.stdin(Stdio::piped()).stdout(Stdio::null());
        let mut cat = Process::start(&mut command, OnSignal::Kill).expect("cat");
        let pid = pid_of(&cat.child);
        let noted = || left().processes.contains(&(pid, OnSignal::Kill));
        assert!(noted());
        assert_eq!(cat.try_wait().expect("ours"), None);
        drop(cat.streams().stdin.take());
        assert!(cat.wait().expect("ours").success());
        assert!(!noted());
    }

    #[test]
    fn what_is_dropped_is_gone() {
        let name = format!("xtask-scratch-{}", std::process::id());
        let scratch = Scratch::new(std::env::temp_dir().join(name));
        let path = scratch.path().to_owned();
        fs::create_dir_all(path.join("below")).expect("a directory for temporary files");
        drop(scratch);
        assert!(!path.exists());
    }
}
