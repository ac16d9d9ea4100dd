//! The Linux side: the hypercall device, the grant devices, the page map, and children.
//!
//! Numbers and layouts are those of `privcmd.h` and `gntalloc.h` among Xen's public headers. The
//! kernel passes hypercalls on unchanged. A call may name addresses of this program, because the
//! kernel's page tables map them, too.
#![expect(unsafe_code, reason = "ioctl, mmap, fork and machine code")]

use std::ffi::c_void;
use std::fs::File;
use std::num::NonZeroUsize;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use anyhow::{Context, Result, bail, ensure};
use channels::request;
use nix::errno::Errno;
use nix::libc;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, mmap_anonymous, mprotect};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork};

use crate::attempt::{Arg, Call, Outcome};

/// Bytes of a page.
const PAGE: usize = 4096;
/// Pages for arguments in memory; the rest is zeros.
const PAGES: usize = 4;

/// `struct privcmd_hypercall`: number and five arguments.
const HYPERCALL: libc::Ioctl = request(b'P', 0, 48);
/// `struct privcmd_mmapbatch_v2`.
const MAP_BATCH: libc::Ioctl = request(b'P', 4, 32);
/// `struct ioctl_gntalloc_alloc_gref`.
const ALLOC_GRANTS: libc::Ioctl = request(b'G', 5, 24);

nix::ioctl_readwrite_bad!(map_batch, MAP_BATCH, [u64; 4]);
nix::ioctl_readwrite_bad!(alloc_grants, ALLOC_GRANTS, u32);

/// Memory of the program, accessed as atomic words, because the kernel, the monitor and others
/// write to it.
pub struct Memory {
    address: NonNull<c_void>,
    bytes: usize,
}

impl Memory {
    /// Address of its first byte.
    pub fn address(&self) -> u64 {
        self.address.as_ptr() as u64
    }

    fn bytes(&self) -> &[AtomicU8] {
        // SAFETY: the mapping is this long, readable and writable, and is never unmapped.
        unsafe { std::slice::from_raw_parts(self.address.as_ptr().cast(), self.bytes) }
    }

    /// The memory, as words.
    pub fn words(&self) -> &[AtomicU64] {
        // SAFETY: as for `bytes`; a mapping is aligned to pages.
        unsafe { std::slice::from_raw_parts(self.address.as_ptr().cast(), self.bytes / 8) }
    }

    fn write_bytes(&self, offset: usize, bytes: &[u8]) {
        for (to, from) in self.bytes().iter().skip(offset).zip(bytes) {
            to.store(*from, Ordering::Relaxed);
        }
    }

    fn get(&self, offset: usize, bytes: usize) -> Vec<u8> {
        let from = self.bytes().iter().skip(offset).take(bytes);
        from.map(|byte| byte.load(Ordering::Relaxed)).collect()
    }

    fn clear(&self) {
        self.words().iter().for_each(|word| word.store(0, Ordering::Relaxed));
    }
}

/// Pages of the program that stay in memory, followed by an unmapped page.
pub fn locked_pages(pages: usize) -> Result<Memory> {
    let bytes = pages * PAGE;
    let all = NonZeroUsize::new(bytes + PAGE).context("no pages")?;
    let (access, flags) = (
        ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
        MapFlags::MAP_PRIVATE | MapFlags::MAP_POPULATE | MapFlags::MAP_LOCKED,
    );
    // SAFETY: a new mapping at an address of the kernel's choice; its last page is ours to close.
    let address = unsafe {
        let address = mmap_anonymous(None, all, access, flags)?;
        mprotect(address.add(bytes), PAGE, ProtFlags::PROT_NONE)?;
        address
    };
    let memory = Memory { address, bytes };
    memory.clear();
    Ok(memory)
}

/// Maps the first `bytes` of a file `times` times, at consecutive addresses.
pub fn mapped_again(file: &File, bytes: usize, times: usize) -> Result<u64> {
    let all = NonZeroUsize::new(bytes * times).context("nothing to map")?;
    let length = NonZeroUsize::new(bytes).context("nothing to map")?;
    let flags = MapFlags::MAP_SHARED | MapFlags::MAP_POPULATE | MapFlags::MAP_FIXED;
    // SAFETY: a new mapping at an address of the kernel's choice, then new ones over its parts.
    unsafe {
        let start = mmap_anonymous(None, all, ProtFlags::PROT_READ, MapFlags::MAP_PRIVATE)?;
        for index in 0..times {
            let at = NonZeroUsize::new(start.as_ptr() as usize + index * bytes);
            mmap(at, length, ProtFlags::PROT_READ, flags, file, 0)?;
        }
        Ok(start.as_ptr() as u64)
    }
}

/// Whether pages keep their contents while they are protected from all access, copied for a child,
/// and moved. For these, the kernel writes all kinds of entries that are not present.
pub fn keeps_absent_pages() -> Result<bool> {
    const PAGES: usize = 256;
    let bytes = NonZeroUsize::new(PAGES * PAGE).context("no pages")?;
    let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: a new mapping at an address of the kernel's choice.
    let address = unsafe { mmap_anonymous(None, bytes, access, MapFlags::MAP_PRIVATE)? };
    let memory = Memory { address, bytes: bytes.get() };
    let value = |at: usize| at as u64 ^ 0x5a5a_0000;
    memory
        .words()
        .iter()
        .enumerate()
        .for_each(|(at, word)| word.store(value(at), Ordering::Relaxed));
    let protect = |access| {
        // SAFETY: the mapping is ours, and nothing reads it while it is inaccessible.
        unsafe { mprotect(address, bytes.get(), access) }
    };
    let kept = || {
        memory
            .words()
            .iter()
            .enumerate()
            .all(|(at, word)| word.load(Ordering::Relaxed) == value(at))
    };
    protect(ProtFlags::PROT_NONE)?;
    // SAFETY: the child only reads its memory and ends.
    let child = match unsafe { fork()? } {
        ForkResult::Child => {
            let whole = protect(access).is_ok() && kept();
            // SAFETY: ends the child without running what the parent set up.
            unsafe { libc::_exit(i32::from(!whole)) }
        }
        ForkResult::Parent { child } => child,
    };
    // This triggers migration, if the kernel was built with it.
    let _ = std::fs::write("/proc/sys/vm/compact_memory", "1");
    let ended = waitpid(child, None)?;
    protect(access)?;
    let _ = std::fs::write("/proc/sys/vm/compact_memory", "1");
    Ok(kept() && ended == WaitStatus::Exited(child, 0))
}

/// Binds this thread to one CPU, and so to one virtual CPU, because some state belongs to a virtual
/// CPU.
pub fn stay_on_cpu(cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu)?;
    Ok(sched_setaffinity(Pid::from_raw(0), &set)?)
}

/// Makes hypercalls.
pub struct Hypercalls {
    device: File,
    memory: Memory,
}

fn open(path: &str) -> Result<File> {
    let opened = File::options().read(true).write(true).open(path);
    opened.with_context(|| path.to_owned())
}

impl Hypercalls {
    /// Opens the device.
    pub fn open() -> Result<Self> {
        Ok(Self { device: open("/dev/xen/privcmd")?, memory: locked_pages(PAGES)? })
    }

    /// The address and size in bytes of the memory for arguments.
    pub fn memory(&self) -> (u64, u64) {
        (self.memory.address(), self.memory.bytes as u64)
    }

    /// Makes a call with these arguments, and with zeros in the memory.
    pub fn plain(&self, number: u64, args: [u64; 5]) -> i64 {
        self.memory.clear();
        self.raw(number, args)
    }

    /// Makes a call whose arguments name other memory of the program, which the call only reads.
    pub fn on_own_memory(&self, number: u64, args: [u64; 5]) -> i64 {
        self.raw(number, args)
    }

    fn raw(&self, number: u64, args: [u64; 5]) -> i64 {
        let [a, b, c, d, e] = args;
        let call = [number, a, b, c, d, e];
        // The wrapper of ioctl would truncate the result to 32 bits. SAFETY: the kernel reads the
        // six words; what the call itself writes is the memory that its arguments name, which only
        // this program's buffer is readable and writable at.
        let result = unsafe {
            libc::syscall(libc::SYS_ioctl, self.device.as_raw_fd(), HYPERCALL, call.as_ptr())
        };
        if result == -1 { -i64::from(Errno::last_raw()) } else { result }
    }

    /// Makes a call and returns its outcome.
    pub fn perform(&self, call: &Call) -> Outcome {
        self.memory.clear();
        let (mut args, mut offset, mut first) = ([0; 5], 0, None);
        for (to, arg) in args.iter_mut().zip(&call.args) {
            let bytes = match arg {
                Arg::Value(value) => {
                    *to = *value;
                    continue;
                }
                Arg::Memory(bytes) | Arg::Linked { bytes, .. } => bytes,
            };
            let address = self.memory.address() + offset as u64;
            self.memory.write_bytes(offset, bytes);
            if let Arg::Linked { pointer, target, .. } = arg {
                let place = address + *target as u64;
                self.memory.write_bytes(offset + pointer, &place.to_le_bytes());
            }
            first.get_or_insert((offset, bytes.len()));
            *to = address;
            offset += bytes.len().next_multiple_of(64);
        }
        let result = self.raw(call.number, args);
        let memory = first.map(|(offset, bytes)| self.memory.get(offset, bytes));
        Outcome { result, memory: memory.unwrap_or_default() }
    }

    /// Maps frames of a partition; returns the memory, and for each frame an errno or 0.
    pub fn map(&self, domid: u16, frames: &[u64]) -> Result<(Memory, Vec<i32>)> {
        let bytes = frames.len() * PAGE;
        let length = NonZeroUsize::new(bytes).context("no frames")?;
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let address = unsafe { mmap(None, length, access, MapFlags::MAP_SHARED, &self.device, 0)? };
        let mut errors = vec![0i32; frames.len()];
        let mut batch = [
            frames.len() as u64 | u64::from(domid) << 32,
            address.as_ptr() as u64,
            frames.as_ptr() as u64,
            errors.as_mut_ptr() as u64,
        ];
        // SAFETY: the kernel reads the four words and the frames and writes the errors, which are
        // as many as the first word says.
        unsafe { map_batch(self.device.as_raw_fd(), &raw mut batch) }
            .context("mapping frames by /dev/xen/privcmd")?;
        Ok((Memory { address, bytes }, errors))
    }
}

/// Pages of the kernel that are granted, but that nobody maps.
pub struct Granted {
    /// Closing the device ends the grants.
    _device: File,
    /// A grant reference for each.
    pub references: Vec<u32>,
    /// A pseudo-physical frame for each.
    pub frames: Vec<u64>,
}

impl Granted {
    /// Allocates pages that are granted to a partition.
    pub fn allocate(domid: u16, count: usize) -> Result<Self> {
        let device = open("/dev/xen/gntalloc")?;
        const WRITABLE: u32 = 1;
        let mut alloc = vec![u32::from(domid) | WRITABLE << 16, count as u32, 0, 0];
        alloc.resize(4 + count.max(2), 0);
        // SAFETY: the kernel reads four words and writes the references after them; the vector
        // has room for all.
        unsafe { alloc_grants(device.as_raw_fd(), alloc.as_mut_ptr()) }
            .context("taking pages by /dev/xen/gntalloc")?;
        let offset = i64::from(alloc[2]) | i64::from(alloc[3]) << 32;
        let frames = frames_of(&device, offset, count)?;
        Ok(Self { _device: device, references: alloc[4..4 + count].to_vec(), frames })
    }
}

/// Pseudo-physical frames of a device's pages, which are mapped only for this question.
fn frames_of(device: &File, offset: i64, count: usize) -> Result<Vec<u64>> {
    let length = NonZeroUsize::new(count * PAGE).context("no pages")?;
    let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    let map = File::open("/proc/self/pagemap").context("/proc/self/pagemap")?;
    // SAFETY: a new mapping at an address of the kernel's choice, unmapped below.
    let address = unsafe { mmap(None, length, access, MapFlags::MAP_SHARED, device, offset)? };
    let mut entries = vec![0; count * 8];
    let read = map.read_exact_at(&mut entries, address.as_ptr() as u64 / PAGE as u64 * 8);
    // SAFETY: the mapping made above, which nothing refers to.
    unsafe { nix::sys::mman::munmap(address, length.get())? };
    read.context("/proc/self/pagemap")?;
    let (words, _) = entries.as_chunks::<8>();
    let frame = |word: &[u8; 8]| {
        let entry = u64::from_le_bytes(*word);
        let (present, frame) = (entry >> 63 != 0, entry & ((1 << 55) - 1));
        ensure!(present && frame != 0, "/proc/self/pagemap shows no frame");
        Ok(frame)
    };
    words.iter().map(frame).collect()
}

/// How a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The child returned from the code.
    Returned,
    /// This signal ended the child.
    Signal(i32),
}

/// Runs machine code in a child. A child that does not end within ten seconds is an error.
pub fn run_code(code: &[u8]) -> Result<Ended> {
    let length = NonZeroUsize::new(PAGE).context("no page")?;
    let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE | ProtFlags::PROT_EXEC;
    // SAFETY: this makes a new page at an address of the kernel's choice. The code is put at its
    // end, so that a truncated instruction meets the end of the page.
    let (page, entry) = unsafe {
        let page = mmap_anonymous(None, length, access, MapFlags::MAP_PRIVATE)?;
        let entry = page.as_ptr().cast::<u8>().add(PAGE - code.len() - 1);
        entry.copy_from_nonoverlapping(code.as_ptr(), code.len());
        entry.add(code.len()).write(0xc3);
        (page, entry)
    };
    // SAFETY: the program has one thread; the child calls the code and ends itself.
    match unsafe { fork()? } {
        ForkResult::Child => {
            nix::unistd::alarm::set(10);
            // SAFETY: the code is ours and ends with a return; damage affects only the child.
            unsafe {
                let run: extern "C" fn() = std::mem::transmute(entry);
                run();
                libc::_exit(0)
            }
        }
        ForkResult::Parent { child } => {
            let status = waitpid(child, None)?;
            // SAFETY: the page made above; the child had its own.
            unsafe { nix::sys::mman::munmap(page, PAGE)? };
            match status {
                WaitStatus::Exited(_, 0) => Ok(Ended::Returned),
                WaitStatus::Signaled(_, signal, _) => Ok(Ended::Signal(signal as i32)),
                other => bail!("a child ended as {other:?}"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_have_the_numbers_of_the_headers() {
        assert_eq!(HYPERCALL, 0x0030_5000);
        assert_eq!(MAP_BATCH, 0x0020_5004);
        assert_eq!(ALLOC_GRANTS, 0x0018_4705);
    }

    #[test]
    fn children_return_or_end_by_a_signal() {
        assert_eq!(run_code(&[0x90]).unwrap(), Ended::Returned);
        assert_eq!(run_code(&[0x0f, 0x0b]).unwrap(), Ended::Signal(libc::SIGILL));
    }

    #[test]
    fn memory_is_zero_until_written() {
        let memory = locked_pages(2).unwrap();
        memory.write_bytes(8, &7u64.to_le_bytes());
        assert_eq!(memory.words()[1].load(Ordering::Relaxed), 7);
        assert_eq!(memory.get(8, 2), [7, 0]);
        memory.clear();
        assert_eq!(memory.get(8, 1), [0]);
    }
}
