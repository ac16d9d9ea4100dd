//! Checks whether a state file can be used, in a process that the file may crash.
//!
//! The store's library aborts its process at some damage, and a damaged length may ask for any
//! amount of memory or time. Rule: `uvd` opens a file only after a child has opened it, walked
//! every page, read every value and written to every table. A file at which the child fails is kept
//! under another name, so that no file can end two processes.

use std::io::{self, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
#[cfg(not(test))]
use std::process::ExitCode;
use std::process::{Command, ExitStatus, Stdio};

use kernel_image::confined::run_to_end;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::Signal;

use super::disk::{Disk, Error};

/// The hidden argument that starts a child, before the file's name.
#[cfg(not(test))]
const ARGUMENT: &str = "check-state-file";
/// The most files that are kept under other names.
const MOST_ASIDE: usize = 3;
/// CPU time that a check may take.
const SECONDS: u64 = 60;
/// The limit of address space and of file size, beyond the file's own size.
const ROOM: u64 = 256 << 20;
/// The longest message of a child, in bytes.
const MOST_WORDS: u64 = 1000;

/// Exit statuses of a child.
mod status {
    pub(super) const DAMAGED: u8 = 3;
    pub(super) const UNUSABLE: u8 = 4;
}

/// Why a file cannot be used.
#[derive(Debug, PartialEq, Eq)]
pub enum Wrong {
    /// The contents are damaged.
    Damaged(String),
    /// The place is unusable; the contents may be sound.
    Unusable(String),
}

/// If this process was started to check a file, checks it and returns the exit code.
#[cfg(not(test))]
pub fn serve_if_asked() -> Option<ExitCode> {
    let mut words = std::env::args_os().skip(1);
    (words.next()? == ARGUMENT).then(|| serve(Path::new(&words.next().unwrap_or_default())).into())
}

/// Checks a file within limits; returns the exit status.
pub fn serve(path: &Path) -> u8 {
    let room = ROOM + 4 * std::fs::metadata(path).map_or(0, |about| about.len());
    for (resource, limit) in [
        (Resource::RLIMIT_AS, room),
        (Resource::RLIMIT_FSIZE, room),
        (Resource::RLIMIT_CPU, SECONDS),
        (Resource::RLIMIT_CORE, 0),
    ] {
        // A limit that is already lower stays.
        let _ = setrlimit(resource, limit, limit);
    }
    match Disk::open(path).and_then(|mut disk| disk.exercise()) {
        Ok(()) => 0,
        Err(error) => {
            let _ = writeln!(io::stderr(), "{error}");
            if is_about_place(&error) { status::UNUSABLE } else { status::DAMAGED }
        }
    }
}

/// Whether an error says nothing about the contents of the file.
fn is_about_place(error: &Error) -> bool {
    match error {
        Error::Store(redb::Error::DatabaseAlreadyOpen) => true,
        Error::Store(redb::Error::Io(error)) => !matches!(
            error.kind(),
            io::ErrorKind::InvalidData
                | io::ErrorKind::InvalidInput
                | io::ErrorKind::UnexpectedEof
                | io::ErrorKind::OutOfMemory
        ),
        _ => false,
    }
}

/// Checks a file in a child. A file that is missing or empty becomes a new store.
pub fn check(path: &Path) -> Result<(), Wrong> {
    if std::fs::metadata(path).is_ok_and(|about| about.is_file() && about.len() == 0)
        || matches!(std::fs::metadata(path), Err(error) if error.kind() == io::ErrorKind::NotFound)
    {
        return Ok(());
    }
    let ended = run_to_end(command(path).stdin(Stdio::null()), MOST_WORDS);
    let (status, words) = ended.map_err(|error| Wrong::Unusable(error.to_string()))?;
    judge(status, &words)
}

fn judge(status: ExitStatus, words: &str) -> Result<(), Wrong> {
    let words = words.lines().find(|line| !line.trim().is_empty()).unwrap_or_default().to_owned();
    if status.success() {
        return Ok(());
    }
    // The check's own limits use other signals, so somebody else ended it, or the kernel, because
    // memory was short.
    let ended = [Signal::SIGKILL, Signal::SIGTERM, Signal::SIGINT].map(|signal| signal as i32);
    if status.signal().is_some_and(|signal| ended.contains(&signal)) {
        return Err(Wrong::Unusable(format!("its check ended: {status}")));
    }
    Err(match status.code() {
        Some(code) if code == i32::from(status::UNUSABLE) => Wrong::Unusable(words),
        Some(code) if code == i32::from(status::DAMAGED) => Wrong::Damaged(words),
        _ => Wrong::Damaged(format!("its check ended: {status} {words}").trim_end().into()),
    })
}

#[cfg(not(test))]
fn command(path: &Path) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.arg(ARGUMENT).arg(path).stdout(Stdio::null());
    command
}

/// In tests, the child is the test program, which runs one of its tests.
#[cfg(test)]
fn command(path: &Path) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.args(["--exact", "state::tests::a_child_checks_what_it_is_told", "--nocapture"]);
    command.env(super::tests::CHECKED, path).stdout(Stdio::null());
    command
}

/// Renames a file to `NAME.damaged-N`, removes the oldest of too many such files, and returns the
/// new name.
pub fn set_aside(path: &Path) -> io::Result<PathBuf> {
    let mut there = aside(path)?;
    let number = there.last().map_or(1, |(number, _)| number + 1);
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".damaged-{number}"));
    std::fs::rename(path, &name)?;
    there.push((number, name.clone().into()));
    for (_, old) in &there[..there.len().saturating_sub(MOST_ASIDE)] {
        std::fs::remove_file(old)?;
    }
    Ok(name.into())
}

/// The damaged files that were renamed, with their numbers, in rising order.
pub fn aside(path: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let prefix = format!("{}.damaged-", path.file_name().unwrap_or_default().display());
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory.unwrap_or(Path::new(".")))? {
        let entry = entry?;
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix(&prefix)?.parse().ok());
        found.extend(number.map(|number| (number, entry.path())));
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_the_check_ended_says_whether_the_file_is_damaged() {
        let exit = |code: i32| ExitStatus::from_raw(code << 8);
        assert_eq!(judge(exit(0), ""), Ok(()));
        assert_eq!(judge(exit(3), "bad\n"), Err(Wrong::Damaged("bad".into())));
        assert_eq!(judge(exit(4), "no room\n"), Err(Wrong::Unusable("no room".into())));
        for signal in [Signal::SIGABRT, Signal::SIGSEGV, Signal::SIGXCPU, Signal::SIGXFSZ] {
            let wrong = judge(ExitStatus::from_raw(signal as i32), "\nwhy\nmore").unwrap_err();
            assert!(matches!(&wrong, Wrong::Damaged(why) if why.ends_with("why")), "{wrong:?}");
        }
        let killed = judge(ExitStatus::from_raw(Signal::SIGKILL as i32), "");
        assert!(matches!(killed, Err(Wrong::Unusable(_))), "{killed:?}");
    }
}
