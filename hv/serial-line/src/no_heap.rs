//! The allocator for ring 0, which has no heap.
//!
//! Crates shared with partitions link `alloc`, which demands an allocator. The rule: ring 0 never
//! allocates. This allocator has no memory, so an attempt is a panic that names its caller.
#![expect(unsafe_code, reason = "the allocator's trait is unsafe")]

use core::{
    alloc::{GlobalAlloc, Layout},
    ptr,
};

struct NoHeap;

// SAFETY: no memory is ever handed out.
unsafe impl GlobalAlloc for NoHeap {
    unsafe fn alloc(&self, _: Layout) -> *mut u8 {
        ptr::null_mut()
    }

    unsafe fn dealloc(&self, _: *mut u8, _: Layout) {}
}

#[global_allocator]
static NO_HEAP: NoHeap = NoHeap;
