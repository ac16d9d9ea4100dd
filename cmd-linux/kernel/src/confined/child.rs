//! The child's part: it gives up every right that it does not need, and only then reads the file.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::ExitCode;

use nix::libc;
use nix::sys::prctl::set_pdeathsig;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::Signal;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, apply_filter,
};

use super::{CPU_SECONDS, Job, status};
use crate::{MAX_UNPACKED, Problem};

/// The hidden argument that starts a child.
pub(super) const ARGUMENT: &str = "unpack-kernel-of-stranger";
/// Bytes that are moved from the child's memory to the file at a time.
const PIECE: usize = 4 << 20;

/// If [`super::Unpacker`] started this process as a child, does the work and returns the exit code
/// of the process. A program that unpacks kernels calls this function before anything else.
#[must_use]
pub fn serve_if_asked() -> Option<ExitCode> {
    let mut words = std::env::args_os().skip(1);
    (words.next()? == ARGUMENT).then(|| {
        let text = |word: Option<OsString>| word.and_then(|word| word.into_string().ok());
        let number = |word| text(word).and_then(|word| word.parse::<u64>().ok());
        let word = text(words.next()).unwrap_or_default();
        let mut next = || number(words.next()).unwrap_or(0);
        let (initrd_bytes, room, most) = (next(), next(), next());
        match Job::of(&word, initrd_bytes) {
            Some(job) => serve(job, room, most),
            None => ExitCode::FAILURE,
        }
    })
}

fn serve(job: Job, room: u64, most: u64) -> ExitCode {
    let ended = files().and_then(|(input, output)| {
        confine(room, most)?;
        Ok(work(job, input, &output, room))
    });
    match ended {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(Problem::OutOfMemory)) => ExitCode::from(status::MEMORY),
        Ok(Err(problem)) => {
            // The way out has a line of its own.
            let reason = fmt::from_fn(|f| problem.reason(f));
            let _ = writeln!(io::stderr(), "{reason}\n{}", problem.way_out().unwrap_or_default());
            ExitCode::from(status::PROBLEM)
        }
        Err(error) => {
            let _ = writeln!(io::stderr(), "could not be confined: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The kernel file, and the file for the result.
fn files() -> io::Result<(File, File)> {
    let input = io::stdin().as_fd().try_clone_to_owned()?;
    Ok((input.into(), io::stdout().as_fd().try_clone_to_owned()?.into()))
}

/// Gives up everything but the open files, memory and time.
pub(crate) fn confine(room: u64, most: u64) -> io::Result<()> {
    set_pdeathsig(Signal::SIGKILL)?;
    // If memory is short in spite of the limit, the kernel ends the child and no other process.
    let _ = std::fs::write("/proc/self/oom_score_adj", "1000");
    let own = own_memory()?;
    let filter = filter()?;
    let limit = |resource, value| setrlimit(resource, value, value);
    limit(Resource::RLIMIT_AS, own.saturating_add(room))?;
    limit(Resource::RLIMIT_FSIZE, most)?;
    limit(Resource::RLIMIT_CORE, 0)?;
    limit(Resource::RLIMIT_NOFILE, 0)?;
    // Only the soft limit has a signal of its own.
    setrlimit(Resource::RLIMIT_CPU, CPU_SECONDS, CPU_SECONDS + 1)?;
    apply_filter(&filter).map_err(io::Error::other)
}

/// Bytes of address space that this process already uses.
fn own_memory() -> io::Result<u64> {
    let told = std::fs::read_to_string("/proc/self/statm")?;
    let pages = told.split(' ').next().and_then(|word| word.parse::<u64>().ok());
    let pages = pages.ok_or_else(|| io::Error::other("/proc/self/statm: no number"))?;
    Ok(pages * pv_abi::PAGE_SIZE as u64)
}

/// The system calls that remain: memory without code, reading and writing open files, and exit. All
/// others fail.
fn filter() -> io::Result<BpfProgram> {
    const PROTECTION: u8 = 2;
    const FREE: &[i64] = &[
        libc::SYS_read,
        libc::SYS_write,
        libc::SYS_writev,
        libc::SYS_pwrite64,
        libc::SYS_lseek,
        libc::SYS_fstat,
        libc::SYS_close,
        libc::SYS_brk,
        libc::SYS_munmap,
        libc::SYS_mremap,
        libc::SYS_madvise,
        libc::SYS_futex,
        libc::SYS_getrandom,
        libc::SYS_getpid,
        libc::SYS_gettid,
        libc::SYS_tgkill,
        libc::SYS_rt_sigaction,
        libc::SYS_rt_sigprocmask,
        libc::SYS_rt_sigreturn,
        libc::SYS_sigaltstack,
        libc::SYS_exit,
        libc::SYS_exit_group,
    ];
    let make = || {
        let no_code = SeccompCondition::new(
            PROTECTION,
            SeccompCmpArgLen::Dword,
            SeccompCmpOp::MaskedEq(libc::PROT_EXEC as u64),
            0,
        )?;
        let no_code = SeccompRule::new(vec![no_code])?;
        let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
            FREE.iter().map(|call| (*call, Vec::new())).collect();
        rules.insert(libc::SYS_mmap, vec![no_code.clone()]);
        rules.insert(libc::SYS_mprotect, vec![no_code]);
        let refuse = SeccompAction::Errno(libc::EPERM as u32);
        let filter = SeccompFilter::new(rules, refuse, SeccompAction::Allow, TargetArch::x86_64)?;
        filter.try_into()
    };
    make().map_err(|error: seccompiler::BackendError| io::Error::other(error))
}

fn work(job: Job, input: File, output: &File, room: u64) -> Result<(), Problem> {
    let mut bytes = Vec::new();
    input.take(MAX_UNPACKED + 1).read_to_end(&mut bytes).map_err(crate::unpack::reading)?;
    if bytes.len() as u64 > MAX_UNPACKED {
        return Err(Problem::TooLarge);
    }
    // The parent, which knows the file's name, makes the message.
    let file = Path::new("");
    let most = MAX_UNPACKED.min(room);
    let loaded = crate::unpack_within(bytes, file, most).map_err(|error| error.problem)?;
    let made = match job {
        Job::Elf { initrd_bytes } => {
            let kernel = builder::Kernel::parse(&loaded.elf).map_err(Problem::Kernel)?;
            let frames = builder::Plan::frames_needed(&kernel, initrd_bytes);
            let frames = frames.map_err(|error| Problem::Told {
                reason: fmt::from_fn(|f| error.reason(f)).to_string(),
                way_out: error.way_out().map(str::to_owned),
            })?;
            writeln!(io::stderr(), "{frames}").map_err(Problem::Read)?;
            loaded.elf
        }
        #[cfg(feature = "check")]
        Job::Report => {
            let report = crate::check(&loaded);
            drop(loaded);
            serde_json::to_vec(&report).map_err(|error| Problem::Read(error.into()))?
        }
    };
    give(made, output).map_err(Problem::Read)
}

/// Writes the bytes to the file, last piece first, and frees each piece at once, so that no byte is
/// both in memory and in the file for long.
fn give(mut bytes: Vec<u8>, output: &File) -> io::Result<()> {
    while !bytes.is_empty() {
        let from = bytes.len().saturating_sub(PIECE);
        output.write_all_at(&bytes[from..], from as u64)?;
        bytes.truncate(from);
        bytes.shrink_to_fit();
    }
    Ok(())
}
