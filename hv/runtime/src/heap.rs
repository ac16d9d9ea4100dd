//! The heap of a Rust partition, which uses the pages named in the start block, and its statistics.
//!
//! The statistics show that a partition that runs for ever does not leak memory. They count the
//! bytes that callers ask for, without the allocator's overhead.
//!
//! Rule: a failed allocation ends the partition, so no allocation for a client's request may fail.
//! A server checks first whether the heap [`has_room`] for the most that a request needs, and
//! refuses the request otherwise.

use control::command::Heap;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

static BYTES: AtomicU64 = AtomicU64::new(0);
static IN_USE: AtomicU64 = AtomicU64::new(0);
static MOST: AtomicU64 = AtomicU64::new(0);

/// The usage of the heap; all zero on a host.
#[must_use]
pub fn usage() -> Heap {
    Heap { bytes: BYTES.load(Relaxed), in_use: IN_USE.load(Relaxed), most: MOST.load(Relaxed) }
}

#[cfg(all(target_os = "none", feature = "start"))]
pub(crate) use counted::claim;
#[cfg(all(target_os = "none", feature = "start"))]
pub use counted::has_room;

/// Returns whether the heap has a free block of this many bytes; always true on a host.
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

    /// An allocator that counts. There is one virtual CPU and no upcall, so the lock is never
    /// contended, and counting needs no locked instruction.
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

    // SAFETY: the allocator behind it keeps the contract, and gets the same arguments.
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

    /// Returns whether the heap has a free block of this many bytes.
    #[must_use]
    pub fn has_room(bytes: usize) -> bool {
        let Ok(layout) = Layout::from_size_align(bytes.max(1), 16) else {
            return false;
        };
        // SAFETY: the layout is not empty; the block is freed with the layout it was allocated
        // with.
        unsafe {
            let place = HEAP.0.alloc(layout);
            if !place.is_null() {
                HEAP.0.dealloc(place, layout);
            }
            !place.is_null()
        }
    }

    /// Gives the heap its memory. Returns whether that is enough for a heap.
    ///
    /// # Safety
    /// The memory is mapped writable, and used for nothing else.
    pub unsafe fn claim(address: u64, bytes: u64) -> bool {
        BYTES.store(bytes, Relaxed);
        let heap = core::ptr::with_exposed_provenance_mut(address as usize);
        // SAFETY: the caller's promise.
        unsafe { HEAP.0.lock().claim(heap, bytes as usize) }.is_some()
    }
}
