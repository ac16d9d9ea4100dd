//! Writing the memory of a partition that is being built (right BUILD).
//!
//! [`Foreign`] holds window pages with frames of one partition behind them. The partition does not
//! run while it is *building*, so nobody else writes them.
#![expect(unsafe_code, reason = "hypercalls that map pages, and views of those pages")]

use crate::hypercall::{self, Errno};
use crate::window::{Pages, Window};
use alloc::vec::Vec;
use pv_abi::PAGE_SIZE;
use pv_abi::uv::calls::{self, BuildMap};

/// Bytes of a page.
pub type PageBytes = [u8; PAGE_SIZE];

/// Frames of a partition that is being built, mapped.
#[derive(Debug)]
pub struct Foreign {
    pages: Pages,
    used: usize,
    requests: Vec<BuildMap>,
    target: u32,
}

impl Foreign {
    /// Takes `count` window pages for frames of partition `target`; nothing is mapped yet.
    #[must_use]
    pub fn new(window: &mut Window, target: u32, count: usize) -> Option<Self> {
        let pages = window.alloc(count)?;
        Some(Self { pages, used: 0, requests: Vec::with_capacity(count), target })
    }

    /// Frames that fit at a time.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.pages.count()
    }

    /// Maps these machine frames in place of those before. More than fit are left out.
    ///
    /// # Errors
    /// What the monitor refuses with; then nothing is visible, and the pages are of no more use.
    pub fn show(&mut self, frames: impl Iterator<Item = u64>) -> Result<(), Errno> {
        // The monitor maps only where nothing is mapped.
        let before = core::mem::take(&mut self.used);
        self.submit(core::iter::repeat_n(calls::UNMAP, before))?;
        self.used = self.submit(frames)?;
        Ok(())
    }

    /// Has the window pages, from the first one, map these frames; returns how many.
    fn submit(&mut self, frames: impl Iterator<Item = u64>) -> Result<usize, Errno> {
        let pages = &self.pages;
        let places = (0..).map_while(|index| pages.page_va(index));
        self.requests.clear();
        self.requests.extend(places.zip(frames).map(|(va, frame)| BuildMap { va, frame }));
        let (address, count) = (self.requests.as_ptr() as u64, self.requests.len());
        if count > 0 {
            let arguments = [calls::BUILD_MAP, self.target.into(), address, count as u64, 0];
            // SAFETY: the operation reads the requests and changes what is mapped at window pages
            // that this value holds; `&mut self` means that no view of them is left.
            unsafe { hypercall::call(calls::HYPERCALL, arguments)? };
        }
        Ok(count)
    }

    /// The page that the `index`th frame shown is mapped at.
    pub fn page(&mut self, index: usize) -> Option<&mut PageBytes> {
        if index >= self.used {
            return None;
        }
        let va = usize::try_from(self.pages.page_va(index)?).ok()?;
        // SAFETY: mapped writable since `show`; no one else writes it, and the view borrows self.
        Some(unsafe { &mut *core::ptr::with_exposed_provenance_mut(va) })
    }

    /// Unmaps everything and gives the window pages back.
    ///
    /// # Errors
    /// What the monitor refuses with; the pages are then never used again.
    pub fn release(mut self, window: &mut Window) -> Result<(), Errno> {
        self.show(core::iter::empty())?;
        window.free(self.pages);
        Ok(())
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
