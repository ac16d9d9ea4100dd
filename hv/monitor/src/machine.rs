//! The machine as the page-table rules see it: frames, their contents, and flushes.
#![expect(unsafe_code, reason = "frames are reached through the direct map")]

use core::sync::atomic::{AtomicU64, Ordering};

use frames::Frame;
use page_tables::{Error, Machine, Mfn, Release, Table};

use crate::{
    cpu, device,
    lock::{PATIENCE, relax},
    platform, stay, time,
};

/// See [`Machine::memory_end`].
pub static MEMORY_END: AtomicU64 = AtomicU64::new(0);

/// The physical machine.
pub struct Host;

impl Machine for Host {
    #[inline]
    fn frame(&self, mfn: Mfn) -> Option<&Frame> {
        frame(mfn)
    }

    fn table(&self, mfn: Mfn) -> &Table {
        table(mfn)
    }

    fn flush_before_retype(&self, owner: u32, stamp: u32) {
        if stamp == frames::FLUSH_ALWAYS {
            cpu::flush_partition(owner);
        } else {
            cpu::flush_since(owner, stamp);
        }
    }

    fn stamp(&self) -> u32 {
        cpu::flush_stamp()
    }

    fn monitor_slots(&self) -> &[u64; 16] {
        platform::monitor_l4_slots()
    }

    fn should_yield(&self) -> bool {
        stay::should_yield_now()
    }

    fn memory_end(&self) -> u64 {
        MEMORY_END.load(Ordering::Relaxed)
    }

    fn count_device_entry(&self, device: u8, there: bool) {
        device::count_entry(device, there);
    }

    fn broken(&self, mfn: Mfn) {
        panic!("{mfn:#x?}: a reference is given back that was never taken");
    }
}

/// The record of frame `mfn`. Returns `None` if no RAM is there.
#[inline(always)]
pub fn frame(mfn: Mfn) -> Option<&'static Frame> {
    platform::frame_table().get(usize::try_from(mfn.number()).ok()?)
}

/// The contents of a frame that [`frame`] knows, as words that CPUs may change at any time.
pub fn table(mfn: Mfn) -> &'static Table {
    let address = platform::phys_to_virt(mfn.address()).cast::<Table>();
    // SAFETY: all RAM is mapped at its direct-map address; contents are only accessed atomically.
    unsafe { &*address }
}

/// The address of a frame's bytes in the direct map.
pub fn bytes(mfn: Mfn) -> *mut u8 {
    platform::phys_to_virt(mfn.address())
}

/// Overwrites a frame with zeros.
///
/// # Safety
/// The frame is RAM, and nobody else uses its contents.
pub unsafe fn scrub(mfn: Mfn) {
    // SAFETY: RAM is in the direct map, and the caller made sure that nobody uses it.
    unsafe { bytes(mfn).write_bytes(0, 4096) };
}

/// Overwrites a frame with zeros if any bit is set. A frame of zeros is only read: a host of
/// virtual machines backs memory only once it is written.
///
/// # Safety
/// As for [`scrub`].
pub unsafe fn scrub_used(mfn: Mfn) {
    // SAFETY: RAM is in the direct map, aligned, and the caller made sure that nobody uses it.
    unsafe {
        let lines = &*bytes(mfn).cast::<[[u64; 8]; 64]>();
        if lines.iter().any(|line| line.iter().fold(0, |bits, next| bits | next) != 0) {
            scrub(mfn);
        }
    }
}

/// Takes a reference on a frame of partition `owner`, so that the monitor may read it, or write it
/// if `writable`. If another CPU is changing the frame, waits until it is done, for microseconds at
/// most.
///
/// # Errors
/// The same as [`page_tables::hold`].
pub fn hold(owner: u32, mfn: Mfn, writable: bool) -> Result<Release, Error> {
    let end = time::now() + PATIENCE;
    loop {
        match page_tables::hold(&Host, owner, mfn, writable) {
            Err(Error::Again) if time::now() < end => relax(),
            other => return other,
        }
    }
}

/// Releases the reference that [`hold`] took for writing.
pub fn release_writable(mfn: Mfn) {
    page_tables::release(&Host, Release { mfn, writable: true });
}
