//! Ctrl-C at every stage of `cargo xtask exec` and `run` must leave nothing behind.
//!
//! Each case has its own terminal, waits until a stage has begun, and sends the signal: SIGINT to
//! the whole process group, as a terminal does, and SIGTERM to the one process, as `kill` does. The
//! terminal controls no session, so no hang-up hides leftovers. At the moment `xtask` has ended,
//! QEMU and all temporary files must be gone, and the terminal's modes must be as before.

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitStatus};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::pty::{OpenptyResult, openpty};
use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::termios::tcgetattr;
use nix::unistd::Pid;
use rig::interrupt::Scratch;
use rig::workspace;

use crate::Results;

/// The longest time until a stage is reached.
const STAGE_LIMIT: Duration = Duration::from_secs(180);
/// The longest time from the signal to the end of `xtask`; a package manager would take longest.
const END_LIMIT: Duration = Duration::from_secs(60);
/// A variable that all processes of a case inherit.
const MARK: &str = "UV_INTERRUPTED_CASE";

const BUILD: &str = "xtask: building for";
const BOOT: &str = "uv: CPUs:";
const PROMPT: &str = "command:~#";
const EXEC: &[&str] = &["exec", "--verbose", "--", "true"];
const EXEC_LONG: &[&str] = &["exec", "--", "sh", "-c", "echo begun; sleep 1000"];
const RUN: &[&str] = &["run"];

/// The cases: name, command, output that shows that the stage has begun, and signal.
const CASES: [(&str, &[&str], &str, Signal); 9] = [
    ("exec-build", EXEC, BUILD, Signal::SIGINT),
    ("exec-build-term", EXEC, BUILD, Signal::SIGTERM),
    ("exec-boot", EXEC, BOOT, Signal::SIGINT),
    ("exec-command", EXEC_LONG, "begun", Signal::SIGINT),
    ("exec-command-term", EXEC_LONG, "begun", Signal::SIGTERM),
    ("run-build", RUN, BUILD, Signal::SIGINT),
    ("run-boot", RUN, BOOT, Signal::SIGINT),
    ("run-boot-term", RUN, BOOT, Signal::SIGTERM),
    ("run-command", RUN, PROMPT, Signal::SIGINT),
];

/// Runs the requested cases.
pub fn run_scenarios(results: &mut Results) {
    for (name, words, stage, signal) in CASES {
        let name = format!("interrupt/{name}");
        if results.wanted(&name) {
            let start = Instant::now();
            let result = case(&name, words, stage, signal);
            results.note(&name, start, result);
        }
    }
}

/// An event of an `xtask` on its own terminal.
enum Event {
    Printed(Vec<u8>),
    Ended(std::io::Result<ExitStatus>),
}

fn case(name: &str, words: &[&str], stage: &str, signal: Signal) -> Result<()> {
    let mark = format!("{name}-{}", std::process::id());
    let temporary = std::env::temp_dir().join(mark.replace('/', "-"));
    let temporary = Scratch::new(workspace::directory(temporary)?);
    let OpenptyResult { master, slave } = openpty(None, None)?;
    let modes = tcgetattr(&slave)?;
    let (sender, events) = channel();
    let pid = start(words, &mark, temporary.path(), &slave, sender.clone())?;
    thread::spawn(move || read(File::from(master), &sender));
    let mut printed = String::new();
    until(&events, STAGE_LIMIT, &mut printed, |text| text.contains(stage))
        .and_then(|ended| ensure_none(ended, "before the signal"))
        .and_then(|()| send(pid, signal))
        .and_then(|()| until(&events, END_LIMIT, &mut printed, |_| false))
        .and_then(|ended| check_status(ended, signal))
        .and_then(|()| check_nothing_left(&mark, temporary.path()))
        .with_context(|| format!("xtask printed:\n{printed}"))?;
    ensure!(tcgetattr(&slave)? == modes, "the terminal's modes were not restored");
    Ok(())
}

/// Starts `xtask` as the leader of a process group, and sends an event when `xtask` has ended.
fn start(
    words: &[&str],
    mark: &str,
    temporary: &Path,
    slave: &OwnedFd,
    events: Sender<Event>,
) -> Result<Pid> {
    let cargo: Command = workspace::cargo("run");
    // If a shell runs this in the background, it ignores SIGINT, and `xtask` would inherit that.
    let mut command = workspace::clean_command("env");
    command.envs(cargo.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.arg("--default-signal=INT,TERM,HUP").arg(cargo.get_program()).args(cargo.get_args());
    command.args(["--package", "xtask", "--"]).args(words);
    command.env(MARK, mark).env("TMPDIR", temporary).process_group(0);
    command.stdin(slave.try_clone()?).stdout(slave.try_clone()?).stderr(slave.try_clone()?);
    // It is not registered with `rig::interrupt`, because it must end by itself.
    let mut child = command.spawn().context("cannot start cargo")?;
    let pid = Pid::from_raw(child.id() as i32);
    thread::spawn(move || {
        // If the case has failed, the receiver is gone.
        let _ = events.send(Event::Ended(child.wait()));
    });
    Ok(pid)
}

fn read(mut terminal: File, events: &Sender<Event>) {
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = terminal.read(&mut buffer) {
        if events.send(Event::Printed(buffer[..count].to_vec())).is_err() {
            return;
        }
    }
}

/// Collects output until `enough` returns true or the process ends.
fn until(
    events: &Receiver<Event>,
    limit: Duration,
    printed: &mut String,
    enough: impl Fn(&str) -> bool,
) -> Result<Option<ExitStatus>> {
    let deadline = Instant::now() + limit;
    while !enough(printed) {
        let left = deadline.saturating_duration_since(Instant::now());
        match events.recv_timeout(left).context("nothing more came in time")? {
            Event::Printed(bytes) => printed.push_str(&String::from_utf8_lossy(&bytes)),
            Event::Ended(status) => return Ok(Some(status?)),
        }
    }
    Ok(None)
}

fn ensure_none(ended: Option<ExitStatus>, when: &str) -> Result<()> {
    ended.map_or(Ok(()), |status| bail!("xtask ended {when} with {status}"))
}

fn send(pid: Pid, signal: Signal) -> Result<()> {
    match signal {
        Signal::SIGINT => killpg(pid, signal)?,
        _ => kill(pid, signal)?,
    }
    Ok(())
}

fn check_status(ended: Option<ExitStatus>, signal: Signal) -> Result<()> {
    let status = ended.context("xtask has not ended")?;
    let expected = 128 + signal as i32;
    ensure!(status.code() == Some(expected), "xtask ended with {status}, not {expected}");
    Ok(())
}

fn check_nothing_left(mark: &str, temporary: &Path) -> Result<()> {
    let left = marked_processes(mark)?;
    ensure!(left.is_empty(), "left behind: {}", left.join(", "));
    let files: Vec<_> =
        fs::read_dir(temporary)?.filter_map(|entry| Some(entry.ok()?.path())).collect();
    ensure!(files.is_empty(), "left in the place for temporary files: {files:?}");
    Ok(())
}

/// The running QEMUs of this case.
fn marked_processes(mark: &str) -> Result<Vec<String>> {
    let variable = format!("{MARK}={mark}");
    let marked = |directory: &Path| {
        let environment = fs::read(directory.join("environ")).ok()?;
        let of_case = environment.split(|byte| *byte == 0).any(|one| one == variable.as_bytes());
        let name = fs::read_to_string(directory.join("comm")).ok()?;
        (of_case && name.starts_with("qemu"))
            .then(|| format!("{} {}", directory.display(), name.trim()))
    };
    let entries = fs::read_dir("/proc")?.filter_map(|entry| Some(entry.ok()?.path()));
    Ok(entries.filter_map(|path| marked(&path)).collect())
}
