//! The machine as the page-table rules see it: frames, their contents, flushes.
#![expect(unsafe_code, reason = "frames are reached through the direct map")]

use frames::{Acquired, Frame, Refused, Released, Type};
use page_tables::{Machine, Table};

use crate::{cpu, lock::relax, platform, schedule};

/// The one machine.
pub struct Host;

impl Machine for Host {
    #[inline]
    fn frame(&self, mfn: u64) -> Option<&Frame> {
        frame(mfn)
    }

    fn table(&self, mfn: u64) -> &Table {
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
        schedule::should_yield()
    }

    fn broken(&self, mfn: u64) {
        panic!("frame {mfn:#x}: a reference is given back that was never taken");
    }
}

/// What the monitor knows of frame `mfn`; `None`: no RAM there.
#[must_use]
#[inline(always)]
pub fn frame(mfn: u64) -> Option<&'static Frame> {
    platform::frame_table().get(usize::try_from(mfn).ok()?)
}

/// Contents of a frame that [`frame`] knows, as words that CPUs may change at any time.
#[must_use]
pub fn table(mfn: u64) -> &'static Table {
    let address = platform::phys_to_virt(mfn << 12).cast::<Table>();
    // SAFETY: all RAM is mapped at its direct-map address; contents are only accessed atomically.
    unsafe { &*address }
}

/// Bytes of a frame in the direct map.
#[must_use]
pub fn bytes(mfn: u64) -> *mut u8 {
    platform::phys_to_virt(mfn << 12)
}

/// Overwrites a frame with zeros.
pub fn scrub(mfn: u64) {
    // SAFETY: the frame is RAM in the direct map, and the caller made sure that nobody uses it.
    unsafe { bytes(mfn).write_bytes(0, 4096) };
}

/// Takes a writable reference on a frame of partition `owner`, so that the monitor may write it.
#[must_use]
pub fn hold_writable(owner: u32, mfn: u64) -> Option<&'static Frame> {
    let frame = frame(mfn)?;
    match acquire_writable(frame, owner)? {
        Acquired::Ready => {}
        Acquired::Settle { stamp } => {
            Host.flush_before_retype(owner, stamp);
            frame.settle();
        }
        // Not for a type that is not checked.
        Acquired::Validate { .. } => return None,
    }
    Some(frame)
}

/// Another CPU in the middle of a change needs a flush at most: it is waited for, not for ever.
fn acquire_writable(frame: &Frame, owner: u32) -> Option<Acquired> {
    for _ in 0..PATIENCE {
        match frame.get_typed(owner, Type::Writable) {
            Err(Refused::Again) => relax(),
            other => return other.ok(),
        }
    }
    None
}

/// Turns of waiting for another CPU's change of a frame.
const PATIENCE: u32 = 1 << 20;

/// Gives a reference of [`hold_writable`] back.
pub fn release_writable(frame: &Frame) {
    if frame.put_typed(|| Host.stamp()) == Released::Broken {
        Host.broken(0);
    }
}
