//! The services that a front end needs from the guest in which it runs.

use core::sync::atomic::AtomicU32;

/// Words of 32 bits in a page.
pub const PAGE_WORDS: usize = pv_abi::PAGE_SIZE / 4;

/// A page that others may write.
pub type Page = [AtomicU32; PAGE_WORDS];

/// Pages, grants, events and a clock. Pages are numbered from 0, and each has one grant of its own.
pub trait Machine {
    /// Number of pages.
    fn pages(&self) -> usize;
    /// A page, whose number is less than [`Machine::pages`].
    fn page(&self, page: usize) -> &Page;
    /// Grants a page to the back end, and returns the grant's number.
    fn grant(&self, page: usize, writable: bool) -> u32;
    /// Whether the grant of a page is in use.
    fn in_use(&self, page: usize) -> bool;
    /// Ends the grant of a page. If the grant is in use, returns false and leaves it as it is.
    fn revoke(&self, page: usize) -> bool;
    /// Raises the back end's event for a ring.
    fn notify(&self, ring: usize);
    /// System time in nanoseconds.
    fn now(&self) -> u64;
}
