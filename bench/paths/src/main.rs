//! Measures those paths of the kernel that a hypervisor makes longer: system call, page fault,
//! change and removal of mappings, new processes, a switch of processes.
//!
//! It prints a line `NAME TICKS TIMES` for each path: the ticks of the time-stamp counter for one
//! repetition, and the number of repetitions between two marks. On a machine whose counter counts
//! instructions, ticks are instructions. Every path runs once before it is measured, so that
//! first-time work is not counted. All mappings use 4 KiB pages, as a paravirtual guest does; a
//! kernel without a hypervisor that took huge pages would do other work.
#![expect(unsafe_code, reason = "fork, and mappings that no safe type stands for")]

use std::ffi::{CStr, CString};
use std::io::{PipeReader, PipeWriter, Read, Write, pipe};
use std::num::NonZeroUsize;
use std::os::unix::ffi::OsStrExt;
use std::process::{ExitCode, exit};
use std::ptr::NonNull;

use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous, mprotect, munmap};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, execv, fork, getppid};

type Error = Box<dyn std::error::Error>;

const PAGE: usize = 4096;
/// Pages of the large mapping.
const PAGES: usize = 1000;
/// Pages of the small mapping.
const FEW_PAGES: usize = 16;
/// The argument that makes the program end at once.
const END: &CStr = c"end";

fn main() -> ExitCode {
    if std::env::args().nth(1).is_some() {
        return ExitCode::SUCCESS;
    }
    match measure().and_then(|_| measure()) {
        Ok(rows) => {
            rows.iter().for_each(|row| println!("{} {} {}", row.name, row.ticks, row.times));
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("bench-paths: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The cost of a path.
struct Row {
    name: &'static str,
    /// The ticks of one repetition.
    ticks: u64,
    times: u64,
}

/// Measures all paths.
fn measure() -> Result<Vec<Row>, Error> {
    let mut rows = vec![row("syscall", 1000, system_call)?];
    rows.extend(pages()?);
    rows.push(row("map-touch-unmap", 50, map_touch_unmap)?);
    rows.push(row("fork-exit", 20, || in_child(|| 0))?);
    let program = std::env::current_exe()?;
    let program = CString::new(program.as_os_str().as_bytes())?;
    rows.push(row("fork-exec", 20, || in_child(|| execute(&program)))?);
    rows.push(round_trips(200)?);
    Ok(rows)
}

/// Reads the time-stamp counter.
fn ticks() -> u64 {
    // SAFETY: every x86-64 CPU has the instruction, and Linux allows its programs to use it.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// Measures a path; `action` is repeated this many times.
fn row(
    name: &'static str,
    times: u64,
    mut action: impl FnMut() -> Result<(), Error>,
) -> Result<Row, Error> {
    at_once(name, times, || (0..times).try_for_each(|_| action()))
}

/// Measures a path that one call of `action`, between two marks, repeats this many times.
fn at_once(
    name: &'static str,
    times: u64,
    action: impl FnOnce() -> Result<(), Error>,
) -> Result<Row, Error> {
    marks::pass::<{ marks::BEGIN }>();
    let start = ticks();
    action()?;
    let ticks = (ticks() - start) / times;
    marks::pass::<{ marks::END }>();
    Ok(Row { name, ticks, times })
}

/// A mapping of anonymous memory.
struct Mapping {
    start: NonNull<std::ffi::c_void>,
    bytes: usize,
}

impl Mapping {
    fn new(pages: usize) -> Result<Self, Error> {
        let bytes = pages * PAGE;
        let length = NonZeroUsize::new(bytes).ok_or("no pages")?;
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping at an address that the kernel chooses.
        let start = unsafe { mmap_anonymous(None, length, access, MapFlags::MAP_PRIVATE)? };
        // SAFETY: the mapping is ours, and the advice changes no content.
        unsafe { madvise(start, bytes, MmapAdvise::MADV_NOHUGEPAGE)? };
        Ok(Self { start, bytes })
    }

    fn touch(&mut self) {
        for offset in (0..self.bytes).step_by(PAGE) {
            // SAFETY: within the mapping, which is writable when this is called.
            unsafe { self.start.as_ptr().cast::<u8>().add(offset).write_volatile(1) };
        }
    }

    fn protect(&mut self, access: ProtFlags) -> Result<(), Error> {
        // SAFETY: the mapping is ours, and nothing points into it.
        unsafe { mprotect(self.start, self.bytes, access)? };
        Ok(())
    }

    fn unmap(self) -> Result<(), Error> {
        // SAFETY: the mapping is ours, and nothing points into it.
        unsafe { munmap(self.start, self.bytes)? };
        Ok(())
    }
}

fn system_call() -> Result<(), Error> {
    std::hint::black_box(getppid());
    Ok(())
}

/// Measures operations on many pages at once, per page.
fn pages() -> Result<[Row; 3], Error> {
    const TIMES: u64 = PAGES as u64;
    let mut mapping = Mapping::new(PAGES)?;
    let fault = at_once("fault", TIMES, || {
        mapping.touch();
        Ok(())
    })?;
    let protect = at_once("mprotect", TIMES, || mapping.protect(ProtFlags::PROT_READ))?;
    mapping.protect(ProtFlags::PROT_READ | ProtFlags::PROT_WRITE)?;
    let unmap = at_once("munmap", TIMES, || mapping.unmap())?;
    Ok([fault, protect, unmap])
}

fn map_touch_unmap() -> Result<(), Error> {
    let mut mapping = Mapping::new(FEW_PAGES)?;
    mapping.touch();
    mapping.unmap()
}

/// Runs `action` in a child, which ends with the returned status, and waits for it.
fn in_child(action: impl FnOnce() -> i32) -> Result<(), Error> {
    // SAFETY: this program has one thread, so the child may do what the parent may.
    match unsafe { fork()? } {
        ForkResult::Child => exit(action()),
        ForkResult::Parent { child } => match waitpid(child, None)? {
            WaitStatus::Exited(_, 0) => Ok(()),
            other => Err(format!("a child ended with {other:?}").into()),
        },
    }
}

/// Executes this program again, which then ends; returns a status only if that fails.
fn execute(program: &CStr) -> i32 {
    execv(program, &[program, END]).map_or(1, |never| match never {})
}

/// Sends a byte to a child and back, this many times.
fn round_trips(count: u64) -> Result<Row, Error> {
    let ((mut there, mut to_child), (mut back, mut to_parent)) = (pipe()?, pipe()?);
    // SAFETY: this program has one thread, so the child may do what the parent may.
    match unsafe { fork()? } {
        ForkResult::Child => {
            let echoed = (0..count).try_for_each(|_| pass(&mut there, &mut to_parent));
            exit(i32::from(echoed.is_err()))
        }
        ForkResult::Parent { child } => {
            let row = row("pipe-round-trip", count, || {
                to_child.write_all(&[1])?;
                Ok(back.read_exact(&mut [0])?)
            })?;
            waitpid(child, None)?;
            Ok(row)
        }
    }
}

fn pass(from: &mut PipeReader, to: &mut PipeWriter) -> std::io::Result<()> {
    let mut byte = [0];
    from.read_exact(&mut byte)?;
    to.write_all(&byte)
}
