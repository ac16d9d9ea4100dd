//! The pages, grants and events of the front end.
#![expect(unsafe_code, reason = "pages that others may write, and the grant table")]

use crate::{calls, memory};
use alloc::vec::Vec;
use block_front::{Machine, PAGE_WORDS, Page};
use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};
use partition_runtime::hypercall::call;
use pv_abi::xen::grants::{self as abi, SetupTable};
use pv_abi::xen::{domid, hypercall as number};

/// Frames of the grant table.
const TABLE_FRAMES: u64 = 2;
/// The grant of page 0, after the reserved ones.
const FIRST: u32 = abi::RESERVED_ENTRIES;
/// Grants that belong to no page.
const SPARE: usize = 8;

/// Free pages of the guest: first those for rings, then those for data.
pub struct Ground {
    /// Address of the mapped grant table.
    table: u64,
    /// Address of page 0.
    first: u64,
    count: usize,
    rings: usize,
    partner: u16,
    /// The port of each ring.
    pub ports: Vec<u32>,
}

impl Ground {
    /// Maps the grant table, and takes all free pages.
    pub fn make(partner: u16, rings: usize) -> Self {
        let (first, count) = memory::free_pages();
        let table = memory::BASE + first * memory::PAGE;
        let mut frames = [0_u64; TABLE_FRAMES as usize];
        let mut setup = SetupTable {
            dom: domid::SELF,
            pad0: 0,
            nr_frames: TABLE_FRAMES as u32,
            status: 0,
            pad1: [0; 6],
            frame_list: frames.as_mut_ptr() as u64,
        };
        let argument = (&raw mut setup) as u64;
        // SAFETY: the operation writes the structure and as many frames as the list has.
        let done = unsafe { call(number::GRANT_TABLE_OP, [abi::SETUP_TABLE, argument, 1, 0, 0]) };
        assert_eq!((done, setup.status), (Ok(0), 0), "setting the grant table up");
        for (frame, address) in frames.iter().zip((table..).step_by(memory::PAGE as usize)) {
            let entry = (frame * memory::PAGE) | memory::WRITABLE;
            calls::update_va_mapping(address, entry).expect("mapping the grant table");
        }
        let most = TABLE_FRAMES as usize * abi::ENTRIES_PER_FRAME - FIRST as usize - SPARE;
        let count = ((count - TABLE_FRAMES) as usize).min(most);
        assert!(count > rings + 64, "{count} free pages");
        let first = table + TABLE_FRAMES * memory::PAGE;
        Self { table, first, count, rings, partner, ports: Vec::new() }
    }

    /// The pages for data.
    pub fn data_pages(&self) -> Range<usize> {
        self.rings..self.count
    }

    fn entry(&self, grant: u32) -> &AtomicU64 {
        let address = self.table as usize + grant as usize * 8;
        // SAFETY: the table is mapped for as long as the guest runs; the callers name one of its
        // entries.
        unsafe { &*core::ptr::with_exposed_provenance(address) }
    }

    fn entry_of(&self, page: usize) -> &AtomicU64 {
        self.entry(FIRST + page as u32)
    }

    /// The machine frame of a page, as an entry names it.
    fn frame(&self, page: usize) -> u64 {
        let address = self.first + page as u64 * memory::PAGE;
        memory::machine_frame((address - memory::BASE) / memory::PAGE).expect("a page has a frame")
    }

    /// Clears all grants, used or not.
    pub fn clear_by_force(&self) {
        (0..self.count).for_each(|page| self.entry_of(page).store(0, Ordering::SeqCst));
    }

    /// The first page whose grant is in use.
    pub fn used_page(&self) -> Option<usize> {
        (0..self.count).find(|page| self.in_use(*page))
    }

    /// Ends all grants.
    pub fn clear(&self) -> bool {
        (0..self.count).all(|page| self.revoke(page))
    }

    /// Grants that the partner has no right to use: two of the loader, an empty one, and one for
    /// another partition.
    pub fn foreign(&self) -> [u32; 4] {
        let (empty, other) = (FIRST + self.count as u32, FIRST + self.count as u32 + 1);
        let flags = u64::from(abi::GTF_PERMIT_ACCESS);
        let entry = flags | u64::from(self.partner + 1) << 16 | self.frame(0) << 32;
        self.entry(other).store(entry, Ordering::SeqCst);
        [abi::RESERVED_CONSOLE, abi::RESERVED_STORE, empty, other]
    }
}

impl Machine for Ground {
    fn pages(&self) -> usize {
        self.count
    }

    fn page(&self, page: usize) -> &Page {
        assert!(page < self.count, "page {page}");
        let address = self.first as usize + page * PAGE_WORDS * 4;
        // SAFETY: a free page, mapped writable, which is only used through this reference.
        unsafe { &*core::ptr::with_exposed_provenance(address) }
    }

    fn grant(&self, page: usize, writable: bool) -> u32 {
        let access = if writable { 0 } else { abi::GTF_READONLY };
        let flags = u64::from(abi::GTF_PERMIT_ACCESS | access);
        let entry = flags | u64::from(self.partner) << 16 | self.frame(page) << 32;
        self.entry_of(page).store(entry, Ordering::SeqCst);
        FIRST + page as u32
    }

    fn in_use(&self, page: usize) -> bool {
        let entry = self.entry_of(page).load(Ordering::SeqCst);
        entry & u64::from(abi::GTF_READING | abi::GTF_WRITING) != 0
    }

    fn revoke(&self, page: usize) -> bool {
        let entry = self.entry_of(page).load(Ordering::SeqCst);
        if entry & u64::from(abi::GTF_READING | abi::GTF_WRITING) != 0 {
            return false;
        }
        let cleared =
            self.entry_of(page).compare_exchange(entry, 0, Ordering::SeqCst, Ordering::SeqCst);
        cleared.is_ok()
    }

    fn notify(&self, ring: usize) {
        if let Some(port) = self.ports.get(ring) {
            calls::send(*port);
        }
    }

    fn now(&self) -> u64 {
        memory::now()
    }
}
