//! What the kernel's paths that a hypervisor makes longer cost: system call, page fault, change and
//! removal of mappings, new processes, a switch of processes.
//!
//! It prints a line `NAME TICKS` for each: ticks of the time-stamp counter, for one time. On a
//! machine whose counter counts instructions, ticks are instructions. Every path is walked once
//! before it is measured, so that nothing is done for the first time. All mappings are of 4 KiB
//! pages, which is what a paravirtual guest has: a kernel without a hypervisor that took huge
//! pages would do other work.
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
/// The argument of the program that is executed only to end.
const END: &CStr = c"end";

fn main() -> ExitCode {
    if std::env::args().nth(1).is_some() {
        return ExitCode::SUCCESS;
    }
    match measure().and_then(|_| measure()) {
        Ok(rows) => {
            rows.iter().for_each(|(name, ticks)| println!("{name} {ticks}"));
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("bench-paths: {error}");
            ExitCode::FAILURE
        }
    }
}

/// All paths, with the ticks of each.
fn measure() -> Result<Vec<(&'static str, u64)>, Error> {
    let mut rows = vec![("syscall", time(1000, system_call)?)];
    rows.extend(pages()?);
    rows.push(("map-touch-unmap", time(50, map_touch_unmap)?));
    rows.push(("fork-exit", time(20, || in_child(|| 0))?));
    let program = std::env::current_exe()?;
    let program = CString::new(program.as_os_str().as_bytes())?;
    rows.push(("fork-exec", time(20, || in_child(|| execute(&program)))?));
    rows.push(("pipe-round-trip", round_trips(200)?));
    Ok(rows)
}

/// The time-stamp counter.
fn ticks() -> u64 {
    // SAFETY: every x86-64 CPU has the instruction, and Linux leaves it to its programs.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// The ticks of one of `count` times.
fn time(count: u64, mut action: impl FnMut() -> Result<(), Error>) -> Result<u64, Error> {
    let start = ticks();
    for _ in 0..count {
        action()?;
    }
    Ok((ticks() - start) / count)
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

/// What is done to many pages at once, per page.
fn pages() -> Result<[(&'static str, u64); 3], Error> {
    let mut mapping = Mapping::new(PAGES)?;
    let start = ticks();
    marks::pass::<{ marks::BEGIN }>();
    mapping.touch();
    marks::pass::<{ marks::END }>();
    let touched = ticks();
    mapping.protect(ProtFlags::PROT_READ)?;
    let protected = ticks();
    mapping.protect(ProtFlags::PROT_READ | ProtFlags::PROT_WRITE)?;
    let before_unmap = ticks();
    mapping.unmap()?;
    let unmapped = ticks();
    let each = |from: u64, to: u64| (to - from) / PAGES as u64;
    Ok([
        ("fault", each(start, touched)),
        ("mprotect", each(touched, protected)),
        ("munmap", each(before_unmap, unmapped)),
    ])
}

fn map_touch_unmap() -> Result<(), Error> {
    let mut mapping = Mapping::new(FEW_PAGES)?;
    mapping.touch();
    mapping.unmap()
}

/// Runs `action` in a child, which ends with its status, and waits for it.
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

/// Becomes this program again, which then ends; the status if that fails.
fn execute(program: &CStr) -> i32 {
    execv(program, &[program, END]).map_or(1, |never| match never {})
}

/// Sends a byte to a child and back, so many times; the ticks of one.
fn round_trips(count: u64) -> Result<u64, Error> {
    let ((mut there, mut to_child), (mut back, mut to_parent)) = (pipe()?, pipe()?);
    // SAFETY: this program has one thread, so the child may do what the parent may.
    match unsafe { fork()? } {
        ForkResult::Child => {
            let echoed = (0..count).try_for_each(|_| pass(&mut there, &mut to_parent));
            exit(i32::from(echoed.is_err()))
        }
        ForkResult::Parent { child } => {
            let ticks = time(count, || {
                to_child.write_all(&[1])?;
                Ok(back.read_exact(&mut [0])?)
            })?;
            waitpid(child, None)?;
            Ok(ticks)
        }
    }
}

fn pass(from: &mut PipeReader, to: &mut PipeWriter) -> std::io::Result<()> {
    let mut byte = [0];
    from.read_exact(&mut byte)?;
    to.write_all(&byte)
}
