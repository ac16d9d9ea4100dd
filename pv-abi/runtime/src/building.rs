//! Writing the memory of a partition that is being built (right BUILD).
//!
//! [`Foreign`] has window pages to map frames of a partition at. Frames are mapped only while
//! [`Foreign::write`] runs, so that nothing is held of a partition that goes away meanwhile. The
//! partition does not run while it is *building*, so nobody else writes them.
#![expect(unsafe_code, reason = "hypercalls that map pages, and views of those pages")]

use crate::hypercall::{self, Errno};
use crate::window::{Pages, Window};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering};
use pv_abi::PAGE_SIZE;
use pv_abi::uv::calls::{self, BuildMap};

/// Bytes of a page.
pub type PageBytes = [u8; PAGE_SIZE];

/// Window pages for frames of partitions that are being built; nothing is mapped there.
#[derive(Debug)]
pub struct Foreign {
    pages: Pages,
    requests: Vec<BuildMap>,
}

impl Foreign {
    /// Takes `count` window pages for good.
    #[must_use]
    pub fn new(window: &mut Window, count: usize) -> Option<Self> {
        let pages = window.alloc(count)?;
        Some(Self { pages, requests: Vec::with_capacity(count) })
    }

    /// Maps these machine frames of partition `target`, as many at a time as there are window
    /// pages, has `each` write every one (with its index), and unmaps them again.
    ///
    /// # Errors
    /// What the monitor refuses with; nothing stays mapped then either.
    pub fn write(
        &mut self,
        target: u32,
        frames: &[u64],
        mut each: impl FnMut(usize, &mut PageBytes),
    ) -> Result<(), Errno> {
        let mut first = 0;
        for chunk in frames.chunks(self.pages.count().max(1)) {
            if let Err(errno) = self.submit(target, chunk.iter().copied()) {
                self.unmap(target, chunk.len())?;
                return Err(errno);
            }
            for index in 0..chunk.len() {
                if let Some(page) = self.page(index) {
                    each(first + index, page);
                }
            }
            self.unmap(target, chunk.len())?;
            first += chunk.len();
        }
        Ok(())
    }

    /// Unmaps the first `count` window pages; those where nothing is mapped are passed over.
    fn unmap(&mut self, target: u32, count: usize) -> Result<(), Errno> {
        self.submit(target, core::iter::repeat_n(calls::UNMAP, count))
    }

    /// Has the window pages, from the first one, map these frames.
    fn submit(&mut self, target: u32, frames: impl Iterator<Item = u64>) -> Result<(), Errno> {
        let pages = &self.pages;
        let places = (0..).map_while(|index| pages.page_va(index));
        self.requests.clear();
        self.requests.extend(places.zip(frames).map(|(va, frame)| BuildMap { va, frame }));
        let (address, count) = (self.requests.as_ptr() as u64, self.requests.len() as u64);
        let arguments = [calls::BUILD_MAP, target.into(), address, count, 0];
        // SAFETY: the operation reads the requests and changes what is mapped at window pages
        // that this value holds; `&mut self` means that no view of them is left.
        unsafe { hypercall::call(calls::HYPERCALL, arguments) }.map(drop)
    }

    /// The page that the `index`th frame is mapped at.
    fn page(&mut self, index: usize) -> Option<&mut PageBytes> {
        let va = usize::try_from(self.pages.page_va(index)?).ok()?;
        // SAFETY: `write` has mapped it writable; no one else writes it, and the view borrows self.
        Some(unsafe { &mut *core::ptr::with_exposed_provenance_mut(va) })
    }
}

/// Copies bytes out of pages that another partition writes meanwhile, from byte `at`. What lies
/// past the pages is left as it is.
pub fn copy_shared(words: &[AtomicU32], at: usize, out: &mut [u8]) {
    let word = |index: usize| words.get(index).map(|word| word.load(Ordering::Relaxed));
    let (head, rest) = out.split_at_mut(out.len().min(at.wrapping_neg() % 4));
    for (to, index) in head.iter_mut().zip(at..) {
        if let Some(word) = word(index / 4) {
            *to = word.to_le_bytes()[index % 4];
        }
    }
    let first = (at + head.len()) / 4;
    let (whole, tail) = rest.as_chunks_mut::<4>();
    let there = words.get(first..).unwrap_or_default();
    for (to, word) in whole.iter_mut().zip(there) {
        *to = word.load(Ordering::Relaxed).to_le_bytes();
    }
    if let Some(word) = word(first + whole.len()) {
        for (to, byte) in tail.iter_mut().zip(word.to_le_bytes()) {
            *to = byte;
        }
    }
}

/// Sets the machine-to-physical entries of partition `target` for `count` machine frames from
/// `first`, which are its pseudo-physical frames from `pfn`.
///
/// # Errors
/// What the monitor refuses with.
pub fn set_machine_to_physical(target: u32, first: u64, pfn: u64, count: u64) -> Result<(), Errno> {
    let arguments = [calls::BUILD_M2P, target.into(), first, pfn, count];
    // SAFETY: touches no memory of ours.
    unsafe { hypercall::call(calls::HYPERCALL, arguments) }.map(drop)
}

/// Takes `count` machine frames from `first` of partition `target` out of its populated set:
/// idle frames, which its kernel gets when its balloon driver asks for more.
///
/// # Errors
/// What the monitor refuses with.
pub fn leave_idle(target: u32, first: u64, count: u64) -> Result<(), Errno> {
    set_machine_to_physical(target, first, calls::IDLE, count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn shared_bytes_are_copied_from_anywhere(
            bytes in prop::collection::vec(any::<u8>(), 64),
            at in 0_usize..70,
            length in 0_usize..70,
        ) {
            let (chunks, _) = bytes.as_chunks::<4>();
            let words: Vec<AtomicU32> =
                chunks.iter().map(|c| AtomicU32::new(u32::from_le_bytes(*c))).collect();
            let mut out = std::vec![0xa5; length];
            copy_shared(&words, at, &mut out);
            let expected: Vec<u8> =
                (at..at + length).map(|i| bytes.get(i).copied().unwrap_or(0xa5)).collect();
            prop_assert_eq!(out, expected);
        }
    }
}
