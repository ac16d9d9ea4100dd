//! Unpacks and reads untrusted kernel files in a process that can do nothing else.
//!
//! ```text
//! this process                                  child: /proc/self/exe, hidden argument
//!   opens the file     --standard input-->        reads it
//!   makes a memory file <--standard output--      writes the ELF image, or the report
//!   waits              <--standard error---       writes what is wrong, as one line
//! ```
//!
//! Rule: whatever a kernel file contains, the process that was asked to read it goes on. The child
//! has no more memory than [`room`] says, [`CPU_SECONDS`] of CPU time, its three open files, and
//! the system calls that [`child`] lists: it opens nothing, connects to nothing and starts nothing.
//! If the machine still runs short of memory, the kernel ends the child first. Every way in which
//! the child ends is a [`Problem`].

pub(crate) mod child;
mod sealed;

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::libc;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::Signal;

use crate::{Error, MAX_UNPACKED, Problem};

pub use child::serve_if_asked;
use sealed::Sealed;

/// CPU time that a child may take. The slowest compression unpacks [`MAX_UNPACKED`] within this
/// time.
const CPU_SECONDS: u64 = 120;
/// The longest message of a child, in bytes.
const MOST_WORDS: u64 = 2000;
/// The longest report, in bytes.
#[cfg(feature = "check")]
const MOST_REPORT: u64 = 32 << 20;
/// Memory that at least stays free for the rest of the machine.
const RESERVE: u64 = 16 << 20;

/// The result that a child is to make of a kernel file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Job {
    /// The ELF image; standard error says how many frames are needed to start it.
    Elf {
        /// Bytes of the RAM disk that is loaded with the kernel.
        initrd_bytes: u64,
    },
    /// A [`crate::Report`], as JSON.
    #[cfg(feature = "check")]
    Report,
}

impl Job {
    /// The job as words of a command line.
    fn words(self) -> [String; 2] {
        match self {
            Self::Elf { initrd_bytes } => ["elf".to_owned(), initrd_bytes.to_string()],
            #[cfg(feature = "check")]
            Self::Report => ["report".to_owned(), "0".to_owned()],
        }
    }

    fn of(word: &str, initrd_bytes: u64) -> Option<Self> {
        match word {
            "elf" => Some(Self::Elf { initrd_bytes }),
            #[cfg(feature = "check")]
            "report" => Some(Self::Report),
            _ => None,
        }
    }
}

/// Exit statuses of a child.
mod status {
    /// The file has a problem, which standard error describes.
    pub(super) const PROBLEM: u8 = 3;
    /// The memory did not suffice.
    pub(super) const MEMORY: u8 = 4;
}

/// An ELF image in memory that no process can change any more.
#[derive(Debug)]
pub struct Elf {
    file: File,
    bytes: u64,
    frames_needed: u64,
    /// The bytes in place; `None` if the file cannot be mapped.
    sealed: Option<Sealed>,
}

impl Elf {
    /// Wraps the image in a file; `frames_needed` is the least number of frames that a partition
    /// needs to start it.
    ///
    /// # Errors
    /// An error of the system.
    pub fn new(file: File, frames_needed: u64) -> io::Result<Self> {
        let bytes = file.metadata()?.len();
        let sealed = Sealed::map(&file, bytes).ok();
        Ok(Self { file, bytes, frames_needed, sealed })
    }

    /// The least number of frames that a partition needs to start the image, with the RAM disk it
    /// was unpacked for.
    #[must_use]
    pub const fn frames_needed(&self) -> u64 {
        self.frames_needed
    }

    /// Bytes of the image.
    #[must_use]
    pub const fn len(&self) -> u64 {
        self.bytes
    }

    /// Whether the image has no bytes.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// `count` bytes from `offset` on, in place; `None` if the image cannot be read in place, or
    /// ends before.
    #[must_use]
    pub fn part(&self, offset: u64, count: usize) -> Option<&[u8]> {
        let offset = usize::try_from(offset).ok()?;
        self.sealed.as_ref()?.bytes().get(offset..offset.checked_add(count)?)
    }

    /// Fills the buffer with the bytes from `offset` on.
    ///
    /// # Errors
    /// The image ends before the buffer does.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }

    /// Reads the whole image.
    ///
    /// # Errors
    /// There is not enough memory.
    pub fn to_vec(&self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let length = usize::try_from(self.bytes).map_err(io::Error::other)?;
        bytes.try_reserve_exact(length)?;
        bytes.resize(length, 0);
        self.read_at(&mut bytes, 0)?;
        Ok(bytes)
    }
}

/// Unpacks kernel files with a program that calls [`serve_if_asked`] first of all.
#[derive(Clone, Debug)]
pub struct Unpacker {
    program: PathBuf,
    room: Option<u64>,
}

impl Default for Unpacker {
    /// Uses this program.
    fn default() -> Self {
        Self { program: "/proc/self/exe".into(), room: None }
    }
}

impl Unpacker {
    /// Uses another program; `room` is the memory in bytes that it may take beyond its own.
    #[must_use]
    pub fn new(program: impl Into<PathBuf>, room: u64) -> Self {
        Self { program: program.into(), room: Some(room) }
    }

    /// Unpacks a kernel file into an image that the builder can start with a RAM disk of this many
    /// bytes.
    ///
    /// # Errors
    /// The file cannot be read or started, or needs more than the child may use.
    pub fn elf(&self, path: &Path, initrd_bytes: u64) -> Result<Elf, Error> {
        let made = self.run(path, Job::Elf { initrd_bytes }, MAX_UNPACKED);
        let made = made.and_then(|(file, words)| {
            let frames = words.trim().parse();
            let frames = frames.map_err(|_| Problem::Ended("told no frames".to_owned()))?;
            Elf::new(file, frames).map_err(Problem::Read)
        });
        made.map_err(named(path))
    }

    /// The report of [`crate::check`] about a kernel file.
    ///
    /// # Errors
    /// The file cannot be read, is no kernel, or needs more than the child may use.
    #[cfg(feature = "check")]
    pub fn report(&self, path: &Path) -> Result<crate::Report, Error> {
        let report = self.run(path, Job::Report, MOST_REPORT).and_then(|(file, _)| {
            let text = Elf::new(file, 0).and_then(|file| file.to_vec()).map_err(Problem::Read)?;
            let report = serde_json::from_slice::<crate::Report>(&text);
            report.map_err(|error| Problem::Ended(format!("made no report: {error}")))
        });
        let report =
            report.map(|report| crate::Report { file: path.display().to_string(), ..report });
        report.map_err(named(path))
    }

    /// Runs a child; returns its result and its message.
    fn run(&self, path: &Path, job: Job, most: u64) -> Result<(File, String), Problem> {
        let input = open(path)?;
        let room = self.room.unwrap_or_else(room);
        let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
        let output = memfd_create("kernel", flags).map_err(|error| Problem::Start(error.into()))?;
        let output = File::from(output);
        let [job, initrd_bytes] = job.words();
        let words = [job, initrd_bytes, room.to_string(), most.to_string()];
        let (status, words) = self.child(input, &output, &words).map_err(Problem::Start)?;
        if status.success() {
            // The child has ended. The seals hold even if a copy of its descriptor is still open.
            let _ = fcntl(&output, FcntlArg::F_ADD_SEALS(SealFlag::all()));
            return Ok((output, words));
        }
        Err(problem(status, words, room))
    }

    /// Runs a child to its end. Returns its exit status and its output.
    fn child(
        &self,
        input: File,
        output: &File,
        words: &[String],
    ) -> io::Result<(ExitStatus, String)> {
        let mut command = Command::new(&self.program);
        command.arg(child::ARGUMENT).args(words).env_clear().current_dir("/");
        command.stdin(input).stdout(output.try_clone()?);
        run_to_end(&mut command, MOST_WORDS)
    }
}

/// Runs a child to its end; returns its status and its standard error, of which at most
/// `most_words` bytes are read. A child that writes more finds standard error closed.
///
/// # Errors
/// An error of the system.
pub fn run_to_end(command: &mut Command, most_words: u64) -> io::Result<(ExitStatus, String)> {
    let mut child = command.stderr(Stdio::piped()).spawn()?;
    let mut said = Vec::new();
    let read = match child.stderr.take() {
        Some(stderr) => stderr.take(most_words).read_to_end(&mut said),
        None => Ok(0),
    };
    let status = child.wait()?;
    read?;
    Ok((status, String::from_utf8_lossy(&said).into_owned()))
}

fn named(path: &Path) -> impl FnOnce(Problem) -> Error {
    move |problem| Error { file: path.to_owned(), problem }
}

/// Opens a regular file. Opening a pipe or a device must not block.
pub(crate) fn open(path: &Path) -> Result<File, Problem> {
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY);
    // Opening a directory succeeds; opening a socket fails.
    let file = match options.open(path) {
        Ok(file) => file,
        Err(error) if error.raw_os_error() == Some(libc::ENXIO) => return Err(Problem::NoFile),
        Err(error) => return Err(Problem::Read(error)),
    };
    let about = file.metadata().map_err(Problem::Read)?;
    match about.is_file() {
        false => Err(Problem::NoFile),
        true if about.len() > MAX_UNPACKED => Err(Problem::TooLarge),
        true => Ok(file),
    }
}

/// The memory in bytes that a child may take: what is free now, less an eighth for other processes.
fn room() -> u64 {
    /// The free memory to assume if the kernel does not report it.
    const UNKNOWN: u64 = 1 << 30;
    let told = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let free = told.lines().find_map(|line| {
        let kilobytes = line.strip_prefix("MemAvailable:")?.trim().strip_suffix(" kB")?;
        Some(kilobytes.parse::<u64>().ok()? << 10)
    });
    let free = free.unwrap_or(UNKNOWN);
    free.saturating_sub(RESERVE.max(free / 8))
}

/// The problem with the file that the end of a child shows.
pub(crate) fn problem(status: ExitStatus, words: String, room: u64) -> Problem {
    /// Rust writes this before it ends a process whose allocation failed.
    const NO_MEMORY: &str = "memory allocation of ";
    let signal = status.signal().and_then(|number| Signal::try_from(number).ok());
    let (first, second) = words.trim_start().split_once('\n').unwrap_or((&words, ""));
    let (words, way_out) = (one_line(first), one_line(second));
    match (status.code(), signal) {
        (Some(code), _) if code == i32::from(status::PROBLEM) => {
            let way_out = (!way_out.is_empty()).then_some(way_out);
            Problem::Told { reason: words, way_out }
        }
        (Some(code), _) if code == i32::from(status::MEMORY) => Problem::Memory { room },
        (_, Some(Signal::SIGABRT)) if words.contains(NO_MEMORY) => Problem::Memory { room },
        // The child's own limit has another signal, so the kernel ended the child because memory
        // was short.
        (_, Some(Signal::SIGKILL)) => Problem::Memory { room },
        (_, Some(Signal::SIGXCPU)) => Problem::Time { seconds: CPU_SECONDS },
        _ if words.is_empty() => Problem::Ended(status.to_string()),
        _ => Problem::Ended(format!("{status}, {words}")),
    }
}

/// The first line of a text, without control characters: a child may write anything.
fn one_line(words: &str) -> String {
    const MOST: usize = 600;
    let line = words.trim().lines().next().unwrap_or_default();
    line.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MOST).collect()
}
