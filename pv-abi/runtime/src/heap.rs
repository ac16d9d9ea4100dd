//! The heap of a Rust partition: the pages that the start block names, and an account of them.
//!
//! The account is there so that a partition that never ends can show that it does not grow. It is
//! kept by what callers ask for; what the allocator puts around that is not in it.
//!
//! Rule: an allocation that fails ends the partition, so nothing that somebody else asked for may
//! fail. Who serves a request looks first whether the heap [`has_room`] for the most that
//! such a request takes, and refuses it otherwise.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use pv_abi::uv::command::Heap;

static BYTES: AtomicU64 = AtomicU64::new(0);
static IN_USE: AtomicU64 = AtomicU64::new(0);
static MOST: AtomicU64 = AtomicU64::new(0);

/// What is in use of the heap; all zero on a host.
#[must_use]
pub fn usage() -> Heap {
    Heap { bytes: BYTES.load(Relaxed), in_use: IN_USE.load(Relaxed), most: MOST.load(Relaxed) }
}

#[cfg(all(target_os = "none", feature = "start"))]
pub(crate) use counted::claim;
#[cfg(all(target_os = "none", feature = "start"))]
pub use counted::has_room;

/// Whether the heap has a free block of so many bytes; on a host always.
#[cfg(not(all(target_os = "none", feature = "start")))]
#[must_use]
pub const fn has_room(_bytes: usize) -> bool {
    true
}

#[cfg(all(target_os = "none", feature = "start"))]
mod counted {
    #![expect(unsafe_code, reason = "the global allocator")]

    use super::{BYTES, IN_USE, MOST, Relaxed};
    use core::alloc::{GlobalAlloc, Layout};
    use talc::TalcLock;
    use talc::source::Manual;

    /// An allocator that counts. One virtual CPU and no upcalls, so the lock is never contended,
    /// and counting needs no locked instruction.
    struct Counted(TalcLock<spinning_top::RawSpinlock, Manual>);

    #[global_allocator]
    static HEAP: Counted = Counted(TalcLock::new(Manual));

    fn add(bytes: usize) {
        let now = IN_USE.load(Relaxed).wrapping_add(bytes as u64);
        IN_USE.store(now, Relaxed);
        MOST.store(MOST.load(Relaxed).max(now), Relaxed);
    }

    fn subtract(bytes: usize) {
        IN_USE.store(IN_USE.load(Relaxed).wrapping_sub(bytes as u64), Relaxed);
    }

    // SAFETY: the allocator behind it keeps the contract, and is asked for the same.
    unsafe impl GlobalAlloc for Counted {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            // SAFETY: the caller keeps the contract.
            let place = unsafe { self.0.alloc(layout) };
            if !place.is_null() {
                add(layout.size());
            }
            place
        }

        unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
            // SAFETY: as above.
            unsafe { self.0.dealloc(place, layout) };
            subtract(layout.size());
        }

        unsafe fn realloc(&self, place: *mut u8, layout: Layout, size: usize) -> *mut u8 {
            // SAFETY: as above.
            let place = unsafe { self.0.realloc(place, layout, size) };
            if !place.is_null() {
                subtract(layout.size());
                add(size);
            }
            place
        }
    }

    /// Whether the heap has a free block of so many bytes.
    #[must_use]
    pub fn has_room(bytes: usize) -> bool {
        let Ok(layout) = Layout::from_size_align(bytes.max(1), 16) else {
            return false;
        };
        // SAFETY: the layout is not empty; the block is given back as it came.
        unsafe {
            let place = HEAP.0.alloc(layout);
            if !place.is_null() {
                HEAP.0.dealloc(place, layout);
            }
            !place.is_null()
        }
    }

    /// Gives the heap its memory; whether that is enough for one.
    ///
    /// # Safety
    /// The memory is mapped writable, and used for nothing else.
    pub unsafe fn claim(address: u64, bytes: u64) -> bool {
        BYTES.store(bytes, Relaxed);
        let heap = core::ptr::with_exposed_provenance_mut(address as usize);
        // SAFETY: the caller's.
        unsafe { HEAP.0.lock().claim(heap, bytes as usize) }.is_some()
    }
}
