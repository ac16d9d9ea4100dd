//! Writes the memory of a partition that is being built (right BUILD).
//!
//! [`Foreign`] has window pages at which it maps frames of a partition. Frames are mapped only
//! while [`Foreign::write`] runs, so that a partition that is destroyed meanwhile loses all its
//! frames. The partition does not run while it is *building*, so no other code writes its frames.
#![expect(unsafe_code, reason = "hypercalls that map pages, and views of those pages")]

use crate::hypercall::{self, Errno};
use crate::window::{Pages, Window};
use alloc::vec::Vec;
use pv_abi::PAGE_SIZE;
use pv_abi::uv::calls::{self, BuildMap};

/// Bytes of a page.
pub type PageBytes = [u8; PAGE_SIZE];

/// Window pages for frames of partitions that are being built; between writes nothing is mapped
/// there.
#[derive(Debug)]
pub struct Foreign {
    pages: Pages,
    requests: Vec<BuildMap>,
}

impl Foreign {
    /// Takes `count` window pages, and never returns them.
    #[must_use]
    pub fn new(window: &mut Window, count: usize) -> Option<Self> {
        let pages = window.alloc(count)?;
        Some(Self { pages, requests: Vec::with_capacity(count) })
    }

    /// Maps these machine frames of partition `target`, as many at a time as there are window
    /// pages, calls `each` to write every one (with its index), and unmaps them again.
    ///
    /// # Errors
    /// The monitor's errno; nothing stays mapped then either.
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

    /// Unmaps the first `count` window pages; skips those where nothing is mapped.
    fn unmap(&mut self, target: u32, count: usize) -> Result<(), Errno> {
        self.submit(target, core::iter::repeat_n(calls::UNMAP, count))
    }

    /// Makes the window pages, from the first one, map these frames.
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

    /// The page at which the `index`th frame is mapped.
    fn page(&mut self, index: usize) -> Option<&mut PageBytes> {
        let va = usize::try_from(self.pages.page_va(index)?).ok()?;
        // SAFETY: `write` has mapped it writable; no one else writes it, and the view borrows self.
        Some(unsafe { &mut *core::ptr::with_exposed_provenance_mut(va) })
    }
}

/// Sets the machine-to-physical entries of partition `target`: the `count` machine frames from
/// `first` become its pseudo-physical frames from `pfn`.
///
/// # Errors
/// The monitor's errno.
pub fn set_machine_to_physical(target: u32, first: u64, pfn: u64, count: u64) -> Result<(), Errno> {
    let arguments = [calls::BUILD_M2P, target.into(), first, pfn, count];
    // SAFETY: the operation touches no memory of ours.
    unsafe { hypercall::call(calls::HYPERCALL, arguments) }.map(drop)
}

/// Removes `count` machine frames from `first` of partition `target` from its populated set. Its
/// kernel gets these idle frames when its balloon driver asks for more.
///
/// # Errors
/// The monitor's errno.
pub fn leave_idle(target: u32, first: u64, count: u64) -> Result<(), Errno> {
    set_machine_to_physical(target, first, calls::IDLE, count)
}
